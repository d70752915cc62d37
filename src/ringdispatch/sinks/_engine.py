"""Sinks that hand batches to an engine, such as NATS, from which a relay takes them."""

import asyncio
import math
import time
from functools import partial
from typing import Generic, Protocol

from . import _checks
from ._attempts import Failure, Outage, key_of, repeat, send_in_parts
from ._connections import Connection, Connections
from ._messages import Encoded, Message, encode
from ._types import Batch

# So long before dispatch_timeout a call ends by itself, and says why.
_MARGIN_SECONDS = 1.0
SLOWEST = 2**20  # B/s that a large message may take beside its timeout


class Publisher(Connection, Protocol):
    """A connection of one event loop, to send messages by."""

    async def send(self, message: Message, seconds: float) -> None:
        """Send a message, and wait so long until it is acknowledged.

        Raises:
            Failure: it was not.
        """


class EngineSink(Generic[Batch]):
    """One message a batch, tried again until the engine acknowledges it.

    Subclasses say how to connect.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = _checks.check_seconds("timeout", timeout)
        self._separator: bytes | None = None  # of the layout Bytes
        self._seconds = math.inf  # for one call
        self._least = self._timeout / 10  # for what a call does at its end
        self._connections = Connections(self._connect)
        self._outage = Outage()

    def prepare(self, layout: object, dispatch_timeout: float | None) -> None:
        """Note the dispatcher's options."""
        self._separator = getattr(layout, "separator", None)
        self._seconds = math.inf
        if dispatch_timeout is not None:
            margin = min(_MARGIN_SECONDS, dispatch_timeout / 10)
            self._seconds = dispatch_timeout - margin
            self._least = margin / 4

    async def __call__(self, batch: Batch) -> None:
        """Send a batch.

        Raises:
            SinkError: it was not acknowledged, or not all of it.
        """
        deadline = time.monotonic() + self._seconds
        key = key_of(batch)
        encoded = await encode(batch, key, self._separator)
        await send_in_parts(partial(self._send, encoded, deadline), key, len(encoded))

    async def aclose(self) -> None:
        """Close the connection of the running loop; later calls open another."""
        await self._connections.close()

    async def _connect(self) -> Publisher:
        """Connect, on the running loop.

        Raises:
            Failure: the engine is not there, or refuses.
        """
        raise NotImplementedError

    async def _send(
        self, encoded: Encoded, deadline: float, key: str, start: int, end: int
    ) -> Failure | None:
        """Send a range of the entries as one message."""
        del key  # the message's own has the range in it
        message = encoded.message(start, end)
        return await repeat(partial(self._attempt, message, deadline), deadline)

    async def _attempt(self, message: Message, deadline: float) -> Failure | None:
        try:
            publisher = await self._publisher(deadline)
            left = max(deadline - time.monotonic(), self._least)
            takes = self._timeout + len(message.body) / SLOWEST
            await publisher.send(message, min(takes, left))
        except Failure as failure:
            self._outage.note(self, failure)
            return failure
        self._outage.note(self, None)
        return None

    async def _publisher(self, deadline: float) -> Publisher:
        left = max(deadline - time.monotonic(), self._least)
        try:
            async with asyncio.timeout(None if left == math.inf else left):
                return await self._connections.get()
        except TimeoutError:
            raise Failure(
                f"{self!r}: no connection within {left:.3g} s", retryable=True
            ) from None
