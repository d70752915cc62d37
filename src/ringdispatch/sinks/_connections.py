"""Connections to an engine: one for each event loop, made when it is first needed."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from ._attempts import Failure

# After a refusal the servers are not asked again for so long, or each batch would log
# in anew.
_FIRST_REFUSAL, _LONGEST_REFUSAL = 1.0, 30.0


class Connection(Protocol):
    """A connection of one event loop."""

    @property
    def usable(self) -> bool:
        """Whether it is open, and works."""

    async def close(self) -> None:
        """Close it, in whatever state it is; it does not raise."""


Made = TypeVar("Made", bound=Connection)


class _Place(Generic[Made]):
    """Where one event loop has its connection."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.connecting = asyncio.Lock()
        self.connection: Made | None = None
        self.refusal: Failure | None = None
        self.refused_until = 0.0
        self.refused_for = _FIRST_REFUSAL


class Connections(Generic[Made]):
    """The connection of each event loop, and another one where it broke.

    Args:
        connect: Makes one, on the running loop, or raises `Failure`.
    """

    def __init__(self, connect: Callable[[], Awaitable[Made]]) -> None:
        self._connect = connect
        self._places: dict[asyncio.AbstractEventLoop, _Place[Made]] = {}
        self._inherited: list[_Place[Made]] = []  # of a fork's parent: never closed

    async def get(self) -> Made:
        """The connection of the running loop; however many ask, one is made.

        Raises:
            Failure: no server is there, or all refuse, as they did a moment ago.
        """
        place = self._place()
        async with place.connecting:
            connection = place.connection
            if connection is not None and connection.usable:
                return connection
            place.connection = None
            if connection is not None:
                await connection.close()
            if place.refusal is not None and time.monotonic() < place.refused_until:
                # Not itself: it would hold the frames, and so the batches, of all that
                # were told.
                raise Failure(str(place.refusal), retryable=False)
            try:
                connection = place.connection = await self._connect()
            except Failure as failure:
                if not failure.retryable:
                    place.refusal = Failure(str(failure), retryable=False)
                    place.refused_until = time.monotonic() + place.refused_for
                    place.refused_for = min(2 * place.refused_for, _LONGEST_REFUSAL)
                raise
            place.refusal, place.refused_for = None, _FIRST_REFUSAL
            return connection

    async def close(self) -> None:
        """Close the connection of the running loop; `get()` makes another."""
        place = self._places.pop(asyncio.get_running_loop(), None)
        if place is not None and place.connection is not None:
            await place.connection.close()

    def _place(self) -> _Place[Made]:
        for loop, place in list(self._places.items()):
            if place.process != os.getpid():
                self._inherited.append(place)
                self._places.pop(loop, None)
            elif loop.is_closed():
                self._places.pop(loop, None)
        return self._places.setdefault(asyncio.get_running_loop(), _Place())
