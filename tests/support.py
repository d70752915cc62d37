"""What the tests share: a loop whose time they step, a sink that records, the books."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ringdispatch import BackgroundDispatcher


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until a test moves it.

    `await loop.advance(seconds)` inside a test fires every timer on the way, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self._time = 1000.0

    def time(self) -> float:
        return self._time

    async def settle(self) -> None:
        """Let everything run that can run without time passing."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Move the clock on, stopping at each timer on the way."""
        end = self._time + seconds
        await self.settle()
        while (due := self.next_timer()) is not None and due <= end + 1e-9:
            self._time = max(self._time, due)
            await self.settle()
        self._time = end
        await self.settle()

    def timers(self) -> list[asyncio.TimerHandle]:
        """The timers that are set and not cancelled."""
        return [handle for handle in self._scheduled if not handle.cancelled()]

    def next_timer(self) -> float | None:
        return min((handle.when() for handle in self.timers()), default=None)


class Sink:
    """A dispatch function that records its batches and does what it is told.

    `hold()` makes calls wait for `release()`; `error` is raised instead of returning.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.batches: list[list[Any]] = []
        self.times: list[float] = []
        self.error: BaseException | None = None
        self.running = 0
        self.most_running = 0
        self._now = now
        self._gate: asyncio.Event | None = None

    async def __call__(self, batch: list[Any]) -> None:
        self.batches.append(list(batch))
        self.times.append(self._now())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self._gate is not None:
                await self._gate.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.running -= 1

    @property
    def entries(self) -> list[Any]:
        return [entry for batch in self.batches for entry in batch]

    def hold(self) -> None:
        self._gate = asyncio.Event()

    def forget(self) -> None:
        """Let later calls through; those that wait went down with their loop."""
        self._gate = None

    def release(self) -> None:
        assert self._gate is not None
        self._gate.set()
        self._gate = None


def books_agree(dispatcher: BackgroundDispatcher[Any]) -> None:
    """C8: the identity holds, and no counter is negative or beyond its bound."""
    seen = dispatcher.statistics()
    assert seen.accepted == (
        seen.dispatched
        + seen.failed
        + seen.evicted
        + seen.abandoned
        + seen.pending
        + seen.in_flight
    ), seen
    assert 0 <= seen.pending <= seen.peak_pending <= seen.capacity, seen
    assert 0 <= seen.in_flight <= seen.accepted, seen
    assert 0 <= seen.failed_batches <= seen.batches, seen
