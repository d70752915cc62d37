"""What the tests share: a stepped loop, a sink that records, the books, the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partialmethod
from typing import TYPE_CHECKING, Any

from ringdispatch import BackgroundDispatcher, Statistics
from ringdispatch._letters import Letters
from ringdispatch.testing import SteppedClock

if TYPE_CHECKING:  # races.py does without
    import pytest


WRITE = Letters.write


class _NoThreads:
    def run(self, job: Any) -> None:
        raise RuntimeError("no thread starts")


def _write_here(
    letters: Letters, whole: Any, batch: Any, reason: str, workers: Any, *more: Any
) -> None:
    del workers
    whole(letters, batch, reason, _NoThreads(), *more)


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop on a stepped clock, by which every dispatcher goes meanwhile.

    `await loop.advance(seconds)` inside a test fires every timer on the way, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self._clock = SteppedClock(self)
        self._clock.__enter__()
        # A thread takes real time, so letters are written as where none starts.
        Letters.write = partialmethod(_write_here, WRITE)  # type: ignore[assignment]
        self.block = self._clock.block
        self.advance = self._clock.advance
        self.settle = self._clock.settle
        self.timers = self._clock.timers

    def close(self) -> None:
        if not self.is_closed():
            self._clock.__exit__(None, None, None)
            Letters.write = WRITE  # type: ignore[method-assign]
        super().close()


class Sink:
    """A dispatch function that records its batches, and holds or fails on demand.

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


class Application:
    """Code that uses a dispatcher."""

    def __init__(self, dispatcher: BackgroundDispatcher[Any]) -> None:
        self.dispatcher = dispatcher

    def handle(self, url: str, context: object = None) -> str:
        self.dispatcher.enqueue({"url": url}, context)
        return "Hello World!"


def adds_up(seen: Statistics) -> bool:
    """C8: every entry is somewhere, and in one place."""
    out = seen.dispatched + seen.failed + seen.evicted + seen.abandoned + seen.left
    return seen.accepted == out + seen.pending + seen.in_flight


def books_agree(dispatcher: BackgroundDispatcher[Any]) -> None:
    """C8: the identity holds, and no counter is negative or beyond its bound."""
    seen = dispatcher.statistics()
    assert adds_up(seen), seen
    assert 0 <= seen.pending <= seen.peak_pending <= seen.capacity, seen
    assert 0 <= seen.in_flight <= seen.accepted, seen
    settled = seen.dispatched_batches + seen.failed_batches
    unsettled = seen.in_flight + seen.left
    assert 0 <= settled <= seen.batches <= settled + unsettled, seen


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """The project's log lines of one level."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "ringdispatch" and record.levelno == level
    ]
