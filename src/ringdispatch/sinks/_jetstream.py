"""Batches as messages of NATS JetStream."""

import os
import ssl
from collections.abc import Iterable

import nats.errors
import nats.js.errors

from ._attempts import Failure
from ._engine import EngineSink
from ._messages import Message
from ._nats import NatsConnection, Servers, check_subject, size_of
from ._types import Batch

_ID = "Nats-Msg-Id"
_PARKING = 2_048  # bytes kept free, for what a relay adds to a message that it parks

# JetStream's own numbers of errors: a message is larger than the stream takes; and what
# is over as soon as there is room again, though the status may be 400.
_TOO_LARGE = 10054
_PASSING = {
    10002,  # the account has no resources left
    10023,  # nor has the server
    10028,  # of memory
    10047,  # of storage
    10077,  # the stream is full
}


class JetStreamSink(EngineSink[Batch]):
    """Publishes each batch as one message to a subject that a stream takes.

    A batch counts as dispatched when the stream has acknowledged it. Until then it is
    sent again, with the same id: where a server is gone, another is tried, and where
    none is there, it waits, until `dispatch_timeout`; with None, for ever. The stream
    drops a message that it had before, within its `duplicate_window` (2 minutes). A
    batch that is larger than the server or the stream takes goes in pieces.

    Entries of `Objects` are sent as JSON, where what JSON doesn't know is encoded by
    `str`; those of `Bytes` as they were encoded; those of `Records` in numpy's format.
    `ringdispatch.relay` reads them.

    The stream is neither made nor changed here.

    Args:
        servers: Urls of one cluster: `nats://host:port` or `tls://`, without
            credentials in them.
        subject: Where to publish; a stream has to take it.
        user: With `password`; else from NATS_USER and NATS_PASSWORD.
        password: With `user`.
        token: Instead of both; else from NATS_TOKEN.
        credentials: The path of a `.creds` file; else from NATS_CREDS.
        tls: For certificates of your own. None: the system's are trusted.
        timeout: Seconds to wait for one acknowledgement, > 0.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    def __init__(
        self,
        servers: str | Iterable[str],
        subject: str,
        *,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        credentials: "str | os.PathLike[str] | None" = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = 5.0,
    ) -> None:
        super().__init__(timeout)
        self._subject = check_subject("subject", subject)
        self._servers = Servers(
            servers,
            user=user,
            password=password,
            token=token,
            credentials=credentials,
            tls=tls,
        )

    def __repr__(self) -> str:
        return f"JetStreamSink({str(self._servers)!r}, {self._subject!r})"

    async def _connect(self) -> "_Publisher":
        return _Publisher(await self._servers.connect(), self._subject)


class _Publisher:
    """Publishes messages over one connection."""

    def __init__(self, connection: NatsConnection, subject: str) -> None:
        self._connection = connection
        self._jetstream = connection.client.jetstream()
        self._subject = subject
        self.close = connection.close

    @property
    def usable(self) -> bool:
        """Whether it is open, and works."""
        return self._connection.usable

    async def send(self, message: Message, seconds: float) -> None:
        """Publish a message, and wait so long until it is acknowledged.

        Raises:
            Failure: it was not.
        """
        # A stream may take several subjects, and a batch be sent to each.
        headers = {_ID: f"{message.id}@{self._subject}", **message.headers}
        most = self._connection.client.max_payload
        room = most - size_of(headers) - min(_PARKING, most // 4)
        if len(message.body) > room:  # the server would close the connection
            raise _too_large(message, f"{room:,} B that {self._connection} takes")
        publish = self._jetstream.publish(
            self._subject, message.body, timeout=seconds, headers=headers
        )
        try:
            await self._connection.request(publish, seconds)
        except nats.errors.Error as error:
            raise self._failure(message, error, seconds) from None
        except (ValueError, TypeError, KeyError):  # it is no answer of JetStream's
            raise Failure(
                f"{self._connection}: subject {self._subject!r}: what answers there is "
                "no stream",
                retryable=True,
            ) from None
        self._connection.error = None

    def _failure(
        self, message: Message, error: nats.errors.Error, seconds: float
    ) -> Failure:
        where = f"{self._connection}: subject {self._subject!r}"
        if isinstance(error, nats.js.errors.NoStreamResponseError):
            return Failure(
                f"{where}: no stream takes it, or none of its servers is there",
                retryable=True,
            )
        if isinstance(error, nats.js.errors.APIError):
            if error.err_code == _TOO_LARGE:
                return _too_large(message, "what the stream takes (max_msg_size)")
            retryable = error.code is None or error.code >= 500 or error.code == 429
            retryable |= error.err_code in _PASSING
            return Failure(f"{where}: {error.description}", retryable=retryable)
        if isinstance(error, TimeoutError):
            why = f"no acknowledgement within {seconds:.3g} s"
            beside = str(self._connection.error or "")
            if beside:  # such as that we may not publish there
                why += f" ({beside})"
            refused = f'permissions violation for publish to "{self._subject}"'.lower()
            return Failure(f"{where}: {why}", retryable=refused not in beside.lower())
        return Failure(f"{where}: {str(error) or type(error).__name__}", retryable=True)


def _too_large(message: Message, than: str) -> Failure:
    return Failure(
        f"{len(message.body):,} B of entry {message.id} are more than the {than}",
        retryable=False,
        too_large=True,
    )
