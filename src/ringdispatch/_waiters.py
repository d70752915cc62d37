"""Those who wait until entries are settled: openers, flush, close."""

import asyncio
from collections.abc import Collection, Generator
from concurrent.futures import Future
from typing import Any

from ._call import Call
from ._ring import Ring, Take

_GONE = object()


class Waiter:
    """Waits until every entry with a position in [start, end) is settled.

    `exclude` is the call that it is waited from: it can't be waited for.
    """

    __slots__ = ("end", "exclude", "future", "start", "urgent")

    def __init__(
        self, start: int, end: int, *, exclude: Call | None = None, urgent: bool = True
    ) -> None:
        self.start = start
        self.end = end
        self.exclude = exclude
        self.urgent = urgent  # the entries are to go out now, not when they are due
        self.future: Future[bool] = Future()

    def finish(self, settled: bool) -> None:
        """Let the waiter go on, unless it has gone already; called once."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(settled)


class Opener(Waiter):
    """Waits for the one entry that opened a window, for its context's sake."""

    __slots__ = ("context",)

    def __init__(self, position: int, context: Any) -> None:
        super().__init__(position, position + 1, urgent=False)
        self.context = context


class Receipt:
    """What `wait_until` is given: awaitable on any loop, by several tasks, or never."""

    __slots__ = ("_future",)

    def __init__(self, future: Future[bool]) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, None]:
        if not self._future.done():
            # Shielded: a task that is cancelled here must not end it for the others.
            yield from asyncio.shield(asyncio.wrap_future(self._future)).__await__()


class Waiters:
    """All who wait on one dispatcher.

    Single operations of a dict are atomic, and may come from any thread.

    Args:
        ring: Where entries wait to be taken.
        calls: Those that hold a place, kept up to date by the dispatcher.
        max_in_flight: How many places there are.
    """

    def __init__(self, ring: Ring, calls: Collection[Call], max_in_flight: int) -> None:
        self._ring = ring
        self._calls = calls
        self._max_in_flight = max_in_flight
        self._waiting: dict[Waiter, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiter: Waiter) -> None:
        """Have it finished when its entries are settled."""
        self._waiting[waiter] = None

    def urgent_end(self) -> int:
        """The position below which entries are to go out now."""
        return max((w.end for w in list(self._waiting) if w.urgent), default=0)

    def contexts(self, take: Take) -> list[Any]:
        """The contexts of the openers whose entries are in the batch."""
        return [
            waiter.context
            for waiter in list(self._waiting)
            if isinstance(waiter, Opener) and take.start <= waiter.start < take.end
        ]

    def is_settled(self, waiter: Waiter) -> bool:
        """Whether all that it waits for is settled."""
        # In this order: an entry that has left the ring is known by its call.
        if self._ring.head < waiter.end and waiter.start < self._ring.tail:
            return False
        return not any(
            call is not waiter.exclude and call.covers(waiter.start, waiter.end)
            for call in list(self._calls)
        )

    def is_stuck(self, waiter: Waiter) -> bool:
        """Whether only the call that waits could make room for what it waits for."""
        calls = list(self._calls)
        return (
            waiter.exclude in calls
            and self._ring.places >= self._max_in_flight
            and all(call is waiter.exclude for call in calls)
        )

    def finish(self) -> None:
        """Let those go on whose wait is over."""
        for waiter in list(self._waiting):
            settled = self.is_settled(waiter)
            if (settled or self.is_stuck(waiter)) and self._waiting.pop(
                waiter, _GONE
            ) is not _GONE:
                waiter.finish(settled)

    def block(self, waiter: Waiter, timeout: float | None) -> bool:
        """Block until it is finished; returns whether all was settled."""
        try:
            return waiter.future.result(timeout)
        except TimeoutError:
            return self.is_settled(waiter)
        finally:
            self._waiting.pop(waiter, None)

    async def wait(self, waiter: Waiter, timeout: float | None) -> bool:
        """Wait until it is finished; returns whether all was settled."""
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(waiter.future)
        except TimeoutError:
            return self.is_settled(waiter)
        finally:
            self._waiting.pop(waiter, None)
