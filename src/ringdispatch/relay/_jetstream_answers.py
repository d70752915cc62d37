"""What JetStream answers to a relay, and what its errors mean."""

import re
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import nats.errors
import nats.js.errors

from ringdispatch.sinks._attempts import Failure
from ringdispatch.sinks._nats import NatsConnection

from ._source import AwayError, SourceError

ANSWER_SECONDS = 5.0

Answer = TypeVar("Answer")


# What nats-server says where it makes no stream, and what to do then.
_WAYS_OUT = {
    "non-clustered mode": "--replicas 1, or a cluster",
    "no suitable peers": "fewer --replicas, or more servers",
    "insufficient storage": "fewer --create-bytes, or more room for JetStream",
}


class OneConsumerError(SourceError):
    """A work queue has another consumer."""


class NotAllowedError(AwayError):
    """The user has no right to ask; somebody may give it, while the relay runs."""


async def ask(
    connection: NatsConnection, request: Coroutine[Any, Any, Answer]
) -> Answer:
    """Wait for the answer of the server.

    Raises:
        NotAllowedError: none came, and what it refuses is told beside its answers.
        AwayError: none came, or one with nothing in it.
    """
    before = connection.error
    try:
        return await connection.request(request, ANSWER_SECONDS)
    except TypeError:  # of nats-py: the answer has only the name of its kind
        raise AwayError(f"{connection}: its answer is empty: a removal?") from None
    except nats.errors.TimeoutError:
        error = connection.error
        if error is not before and "permissions violation" in str(error).lower():
            raise NotAllowedError(str(error)) from None
        why = error or f"no answer within {ANSWER_SECONDS:g} s"
        raise AwayError(f"{connection}: {why}") from None


def with_way_out(words: str, *names: str) -> str:
    """What a server says, and where it is that a right is missing, what to do.

    Args:
        words: Its own.
        names: Of streams and consumers: nats-py has lowered the case of what it says.
    """
    if "permissions violation" not in words.lower():
        return words
    known = {name.lower(): name for name in names}

    def in_case(found: re.Match[str]) -> str:
        parts = found[0].split(".")
        return ".".join(known.get(part, part.upper()) for part in parts)

    words = re.sub(r'_inbox\.[^"]*', "_INBOX.>", words.removeprefix("nats: "))
    words = re.sub(r'\$js\.[^"]*', in_case, words)
    return f"{words}: give the user the right to it"


@contextmanager
def refused(what: str, subject: str = "") -> Iterator[None]:
    """What the server refuses to make; that it is away is no refusal.

    Raises:
        OneConsumerError: a work queue has another consumer.
        SourceError: instead of the server's error.
    """
    try:
        yield
    except nats.js.errors.ServiceUnavailableError:
        raise
    except nats.js.errors.APIError as error:
        why = error.description or ""
        if "workqueue" in why:
            raise OneConsumerError(
                f"{what}: a work queue has one consumer only"
            ) from None
        if "subjects overlap" in why:
            why = f"another stream takes {subject!r} already: name that by --stream"
        for words, way_out in _WAYS_OUT.items():
            if words in why:
                why += f": {way_out}"
        raise SourceError(f"{what}: {why}") from None


@contextmanager
def in_words(where: str) -> Iterator[None]:
    """What nats-py and the server say, as one line.

    Raises:
        AwayError: instead of theirs.
    """
    try:
        yield
    except nats.js.errors.ServiceUnavailableError:
        raise AwayError(_joined(where, "no JetStream answers there")) from None
    except (Failure, nats.errors.Error) as error:
        words = getattr(error, "description", None) or str(error)
        raise AwayError(_joined(where, words or type(error).__name__)) from None


def _joined(where: str, words: str) -> str:
    return f"{where}: {words}" if where else words
