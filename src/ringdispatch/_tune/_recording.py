"""Recorded calls of a dispatch function, and recorded ages of entries.

Both are small, however long the run: of calls there are so many at most, and ages are
counted in bins.
"""

import math
import threading
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from time import perf_counter
from typing import Any

# Calls that are kept of one run: the first, in their order.
MOST_CALLS = 4_000
# Ages are counted in bins, each wider than the last by this share.
_BIN = math.log(1.005)
_LEAST_AGE = 0.01  # milliseconds: younger is as old
# A batch whose oldest entry waited so much longer than the delay waited for a call, or
# for the loop. Timers and arrivals are late by less.
LATE = 3.0


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls that were made, in their order.

    Attributes:
        sizes: Entries in each batch.
        times: How long each call took, milliseconds.
        blocked: For how much of that it blocked the event loop, milliseconds.
    """

    sizes: list[int]
    times: list[float]
    blocked: list[float]

    @classmethod
    def constant(cls, milliseconds: float) -> "Calls":
        """Calls that all take that long, and block nothing."""
        return cls([1], [milliseconds], [0.0])

    @classmethod
    def pooled(cls, several: Iterable["Calls"]) -> "Calls":
        """The calls of several runs."""
        pool = cls([], [], [])
        for one in several:
            pool.sizes.extend(one.sizes)
            pool.times.extend(one.times)
            pool.blocked.extend(one.blocked)
        return pool


class CallRecorder:
    """Records calls of a dispatch function, from any thread, in the order they end."""

    def __init__(self) -> None:
        self.slowest = 0.0  # of all calls, milliseconds
        self._lock = threading.Lock()
        self._sizes = array("q")
        self._times = array("d")
        self._blocked = array("d")

    def add(self, size: int, seconds: float, blocked: float) -> None:
        """Record one call."""
        with self._lock:
            self.slowest = max(self.slowest, 1e3 * seconds)
            if len(self._sizes) < MOST_CALLS:
                self._sizes.append(size)
                self._times.append(1e3 * seconds)
                self._blocked.append(1e3 * blocked)

    @property
    def noted_bytes(self) -> int:
        """The size of its own notes, in bytes."""
        notes = (self._sizes, self._times, self._blocked)
        return sum(len(note) * note.itemsize for note in notes)

    def calls(self) -> Calls:
        """The calls so far, to the microsecond."""
        with self._lock:
            return Calls(
                list(self._sizes),
                [round(time, 3) for time in self._times],
                [round(time, 3) for time in self._blocked],
            )

    def call(self, function: Callable[[Any], Any], batch: Any) -> Any:
        """Call an ordinary function, in its worker thread: it blocks no loop."""
        began = perf_counter()
        try:
            return function(batch)
        finally:
            self.add(len(batch), perf_counter() - began, 0.0)

    async def await_(self, function: Callable[[Any], Any], batch: Any) -> None:
        """Await an async function, and time each of its steps on the loop."""
        steps = _Steps(_called(function, batch))
        began, size = perf_counter(), len(batch)
        try:
            await steps
        finally:
            self.add(size, perf_counter() - began, steps.seconds)


async def _called(function: Callable[[Any], Awaitable[object]], batch: Any) -> None:
    """Make a coroutine of a call, whatever kind of awaitable it returns."""
    await function(batch)


class _Steps:
    """Awaits a coroutine, and adds up the seconds that its steps take.

    For that long it blocked the loop. It passes on values, exceptions and cancellation
    as `yield from` would.
    """

    __slots__ = ("_coroutine", "seconds")

    def __init__(self, coroutine: Any) -> None:
        self.seconds = 0.0
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        step, value = self._coroutine.send, None
        while True:
            began = perf_counter()
            try:
                waits_for = step(value)
            except StopIteration as ended:
                return ended.value
            finally:
                self.seconds += perf_counter() - began
            try:
                value = yield waits_for
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as error:
                step, value = self._coroutine.throw, error
            else:
                step = self._coroutine.send


@dataclass(frozen=True, slots=True)
class Ages:
    """How many entries were of which age: counts by bin, the bins ascending.

    Ages of several runs can be pooled, which percentiles can't. A bin is 0.5% wide.
    """

    bins: list[int]
    counts: list[int]

    @classmethod
    def of(cls, milliseconds: Iterable[float], weight: int = 1) -> "Ages":
        """Count ages; each stands for `weight` entries."""
        least, log = _LEAST_AGE, math.log
        found = Counter(
            int(log(age / least) / _BIN) if age > least else 0 for age in milliseconds
        )
        bins = sorted(found)
        return cls(bins, [weight * found[one] for one in bins])

    @classmethod
    def pooled(cls, several: Iterable["Ages"]) -> "Ages":
        """The ages of several runs."""
        found: Counter[int] = Counter()
        for one in several:
            found.update(dict(zip(one.bins, one.counts, strict=True)))
        bins = sorted(found)
        return cls(bins, [found[one] for one in bins])

    @property
    def total(self) -> int:
        """How many entries were counted."""
        return sum(self.counts)

    def percentile(self, percent: float) -> float:
        """The least age, in milliseconds, that `percent` of all do not exceed.

        To the middle of its bin; 0.0 of none.
        """
        if not self.bins:
            return 0.0
        ranks = [*accumulate(self.counts)]
        place = bisect_left(ranks, ranks[-1] * percent / 100)
        one = self.bins[min(place, len(self.bins) - 1)]
        return _LEAST_AGE * math.exp((one + 0.5) * _BIN)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one run, or several of the same setting, recorded."""

    calls: Calls
    ages: Ages

    @classmethod
    def pooled(cls, several: Sequence["Recorded"]) -> "Recorded":
        """What several runs recorded."""
        return cls(
            Calls.pooled(one.calls for one in several),
            Ages.pooled(one.ages for one in several),
        )

    @classmethod
    def read(cls, seen: dict[str, Any]) -> "Recorded":
        """Make it of what `dataclasses.asdict` made of it."""
        return cls(Calls(**seen["calls"]), Ages(**seen["ages"]))


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The least value that `percent` of all values do not exceed; 0.0 of none."""
    if not ascending:
        return 0.0
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]
