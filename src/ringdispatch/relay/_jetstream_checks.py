"""Whether a stream is such that a relay can empty it, and loses nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from ._source import SourceError


def warnings_of(where: str, config: StreamConfig, replicas: int = 1) -> Iterator[str]:
    """What a stream's settings may do to messages; `replicas` are asked for."""
    bounded = any((bound or 0) > 0 for bound in (config.max_bytes, config.max_msgs))
    ages = (config.max_age or 0) > 0
    if not bounded and not ages:
        yield f"{where}: keeps all without a bound: set its max_bytes, and discard=new"
    elif ages or config.discard != DiscardPolicy.NEW:
        yield (
            f"{where}: removes messages that were not relayed, by its bounds: with "
            "retention=workqueue, discard=new and no max_age gateways keep what does "
            "not fit"
        )
    elif config.retention in {None, RetentionPolicy.LIMITS}:
        yield (
            f"{where}: retention=limits keeps what was relayed, so that it fills up "
            "and gateways wait for ever: make it anew with retention=workqueue"
        )
    if config.storage == StorageType.MEMORY:
        yield f"{where}: is in memory only: a server that ends takes it along"
    has = config.num_replicas or 1
    if has < replicas:
        yield (
            f"{where}: was there already, with num_replicas={has}, not {replicas}: "
            "change that by `nats stream edit`"
        )
    if config.no_ack:
        yield f"{where}: has no_ack: a gateway never knows that a batch arrived"


def check_takes(where: str, config: StreamConfig, subject: str) -> None:
    """See that a stream that is there takes the subject that one is made for.

    Raises:
        SourceError: it does not.
    """
    subjects = config.subjects or []
    if not any(_matches(subject, each) for each in subjects):
        takes = ", ".join(map(repr, subjects)) or "no subject"
        raise SourceError(
            f"{where} takes {takes}, not {subject!r}: add the subject to it, or name "
            "another stream"
        )


def _matches(subject: str, pattern: str) -> bool:
    """Whether a subject, which has no wildcards, is one of a pattern's."""
    words, wanted = subject.split("."), pattern.split(".")
    if wanted[-1] == ">":
        del wanted[-1]
        if len(words) <= len(wanted):
            return False
        words = words[: len(wanted)]
    return len(words) == len(wanted) and all(
        each in {"*", word} for word, each in zip(words, wanted, strict=True)
    )


def check_bytes(count: Any, create: object) -> None:
    """Check how many bytes the stream may have that is made.

    Raises:
        TypeError, ValueError: it is no such number, or no stream is made.
    """
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"create_bytes={count!r}: must be an integer")
    if count < 1:
        raise ValueError(f"create_bytes={count!r}: must be at least 1")
    if create is None:
        raise ValueError(
            f"create_bytes={count!r}: is of the stream that is made: give its subject, "
            "too, by create"
        )


def in_units(count: int) -> str:
    """Bytes, for people."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count % unit == 0:
            return f"{count // unit:,} {name}"
    return f"{count:,} B"


def check_consumer(where: str, config: Any, wanted: Mapping[str, Any]) -> None:
    """See that a consumer that is there is as ours.

    Raises:
        SourceError: it is not.
    """
    differences = [
        f"{name}={_plain(found)}, and must have {_plain(value)}"
        for name, value in wanted.items()
        if (found := getattr(config, name, None)) != value and (found or value)
    ]
    if differences:
        raise SourceError(
            f"{where} has {'; '.join(differences)}: remove it, or name another with "
            "--consumer"
        )


def _plain(value: object) -> object:
    return getattr(value, "value", value)
