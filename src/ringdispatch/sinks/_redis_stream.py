"""Batches as messages of a Redis stream."""

import asyncio
import ssl
from typing import Any

import redis.exceptions

from ._attempts import Failure
from ._engine import SLOWEST, EngineSink
from ._messages import Message
from ._redis import BODY, LARGEST, RedisConnection, RedisServer, check_key, failure_of
from ._types import Batch


class RedisStreamSink(EngineSink[Batch]):
    """Adds each batch as one message to a Redis stream.

    A batch counts as dispatched when Redis has answered. Until then it is sent again,
    until `dispatch_timeout`; with None, for ever. A message whose answer was lost is
    there twice, with the same ids: the service drops doubles by them. A batch larger
    than 16 MiB goes in pieces.

    Entries are sent as by `JetStreamSink`. `ringdispatch.relay` reads them, and removes
    them: nothing else trims the stream. What survives is up to Redis: with `appendonly
    no`, as Debian has it, a kill loses all since the last snapshot, a minute or more.

    Args:
        url: `redis://host:port/database` or `rediss://`, without credentials in it.
        stream: The stream's key.
        username: With `password`; else from REDIS_USERNAME and REDIS_PASSWORD.
        password: The password.
        tls: For certificates of your own. None: the system's are trusted.
        timeout: Seconds to wait for one answer, > 0.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    def __init__(
        self,
        url: str,
        stream: str,
        *,
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = 5.0,
    ) -> None:
        super().__init__(timeout)
        self._stream = check_key("stream", stream)
        self._server = RedisServer(
            url,
            username=username,
            password=password,
            tls=tls,
            timeout=timeout + LARGEST / SLOWEST,  # each call has its own, below that
        )

    def __repr__(self) -> str:
        return f"RedisStreamSink({str(self._server)!r}, {self._stream!r})"

    async def _connect(self) -> "_Publisher":
        return _Publisher(await self._server.connect(), self._stream)


class _Publisher:
    """Adds messages to a stream."""

    def __init__(self, connection: RedisConnection, stream: str) -> None:
        self.usable = True
        self._connection = connection
        self._stream = stream
        self.close = connection.close

    async def send(self, message: Message, seconds: float) -> None:
        """Add a message, and wait for the answer.

        Raises:
            Failure: there was none, or an error.
        """
        where = f"{self._connection}: stream {self._stream!r}"
        size = len(message.body)
        if size > LARGEST:
            raise Failure(
                f"{size:,} B of entry {message.id} are more than the {LARGEST:,} B "
                "that a message may have",
                retryable=False,
                too_large=True,
            )
        fields: dict[Any, Any] = {**message.headers, BODY: message.body}
        try:
            async with asyncio.timeout(seconds):
                await self._connection.client.xadd(self._stream, fields)
        except TimeoutError:
            raise Failure(
                f"{where}: no answer within {seconds:.3g} s", retryable=True
            ) from None
        except (redis.exceptions.RedisError, OSError) as error:
            # By the next get(), which does not ask again at every batch.
            self.usable = not isinstance(error, redis.exceptions.AuthenticationError)
            raise failure_of(where, error) from None
