"""A clock that stands still until a test moves it."""

import asyncio
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from ringdispatch._batcher import Batcher

# Steps of the loop within which everything that can run has run. A program that never
# waits would run for ever.
_LEAST_STEPS = 20
_MOST_STEPS = 10_000
_RESOLUTION = 1e-6  # seconds within which a timer is due

# The clock that every dispatcher follows now, if any.
_entered: list["SteppedClock"] = []


class SteppedClock:
    """Time that moves only when a test says so.

        with SteppedClock() as clock:
            dispatcher.enqueue({"status": 200})
            await clock.advance(0.1)  # ms_delay=100 has passed

    While it is entered, the event loop and every dispatcher of the process follow it:
    one clock at a time. `asyncio.sleep`, `call_later` and `asyncio.timeout` wait for
    `advance`. When the clock is left, it runs on from where it stands, so that time
    never goes back for a dispatcher that outlives the test.

    Threads and sockets take real time: `advance` waits neither for an ordinary dispatch
    function nor for a real server. `await dispatcher.aflush()` waits for both; its
    timeout, like that of `aclose`, waits for `advance`. A dispatcher that lives on
    another loop, or on the background thread, stands still: its windows are due by this
    clock, its loop wakes by its own.

    Args:
        loop: A loop of asyncio's own. None: the running one when the clock is entered.

    Raises:
        TypeError: the loop is not asyncio's own: uvloop's clock can't be stepped.
        RuntimeError: on entering it: no loop is running, this clock was entered before,
            or another one is entered.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop: Any = None if loop is None else _steppable(loop)
        self._elapsed: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds in all by which `advance` and `block` have moved the clock."""
        return self._elapsed or 0.0

    def __enter__(self) -> Self:
        if self._elapsed is not None:
            raise RuntimeError(f"{self!r} was entered before: make another")
        if _entered:
            raise RuntimeError(
                f"{_entered[0]!r} is entered, and all dispatchers follow one clock: "
                "leave it first"
            )
        if self._loop is None:
            self._loop = _steppable(asyncio.get_running_loop())
        self._elapsed = 0.0
        # Floats are no finer than this some months after the clock's start.
        self._resolution = self._loop._clock_resolution
        self._loop._clock_resolution = _RESOLUTION
        _entered.append(self)
        _set_clocks(
            self._loop,
            _stepped(self, self._loop.time()),
            _stepped(self, Batcher.now()),
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _entered.remove(self)
        self._loop._clock_resolution = self._resolution
        own = type(self._loop).time.__get__(self._loop)
        _set_clocks(
            self._loop,
            _ahead(own, self._loop.time()),
            _ahead(time.monotonic, Batcher.now()),
        )

    async def settle(self) -> None:
        """Run everything that can run without time passing."""
        for step in range(_MOST_STEPS):
            await asyncio.sleep(0)
            if step >= _LEAST_STEPS and not self._loop._ready:
                return

    async def advance(self, seconds: float) -> None:
        """Move the clock on, stopping at each timer on the way.

        Args:
            seconds: How far, >= 0.

        Raises:
            ValueError: `seconds` is negative, infinite or NaN.
        """
        end = self.elapsed + _checked(seconds)
        await self.settle()
        while (left := self.next_timer()) is not None:
            if self.elapsed + left > end + 1e-9:
                break
            self._elapsed = min(self.elapsed + max(0.0, left), end)
            await self.settle()
        self._elapsed = max(end, self.elapsed)
        await self.settle()

    def block(self, seconds: float) -> None:
        """Let time pass while nothing runs, like code that blocks the loop.

        Args:
            seconds: How long, >= 0.

        Raises:
            ValueError: `seconds` is negative, infinite or NaN.
        """
        self._elapsed = self.elapsed + _checked(seconds)

    def timers(self) -> list[asyncio.TimerHandle]:
        """The loop's timers that are set and not cancelled."""
        return [each for each in self._loop._scheduled if not each.cancelled()]

    def next_timer(self) -> float | None:
        """Seconds until the next timer of the loop is due; None where there is none."""
        due = min((timer.when() for timer in self.timers()), default=None)
        return None if due is None else due - self._loop.time()


def _checked(seconds: float) -> float:
    if not 0 <= seconds < math.inf:
        raise ValueError(
            f"seconds={seconds!r}: must be a finite number >= 0; time does not go back"
        )
    return seconds


def _steppable(loop: Any) -> Any:
    if not isinstance(loop, asyncio.BaseEventLoop):
        raise TypeError(
            f"loop={loop!r}: must be a loop of asyncio's own; run the test on "
            "asyncio.new_event_loop() instead"
        )
    return loop


def _set_clocks(
    loop: Any, loop_time: Callable[[], float], now: Callable[[], float]
) -> None:
    loop.time = loop_time
    # The one private name of the package that is used here: the dispatchers' clock.
    Batcher.now = staticmethod(now)


def _stepped(clock: SteppedClock, origin: float) -> Callable[[], float]:
    return lambda: origin + clock.elapsed


def _ahead(clock: Callable[[], float], now: float) -> Callable[[], float]:
    """Return a clock that shows `now` at this moment, and runs as `clock` does."""
    ahead = now - clock()
    return lambda: clock() + ahead
