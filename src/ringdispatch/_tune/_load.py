"""Open-loop load: entries arrive on a schedule, whether or not the sink keeps up.

The schedule is drawn from a seed before the run: a Poisson process, given its count. A
producer on the event loop wakes about once a millisecond and enqueues all entries that
are due. Any lateness is charged to the entries: their age counts from the schedule. So
a loop that stands still can't hide the entries that would have come meanwhile
(coordinated omission).
"""

import asyncio
import math
import random
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, groupby, islice
from time import perf_counter
from typing import Any

from ._results import Moment

# The shortest sleep of the producer, seconds. Timers of the loop are no finer.
TICK = 0.001
# Entries enqueued before other tasks run: some tenths of a millisecond.
CHUNK = 500
# A producer that holds this share of the rate asked for has held it.
HELD = 0.98
# Seconds that a short run may last instead: the machine stood still, not the producer.
LONGEST_SHORT_RUN = 2.0
# Moments of a run, at most: so many are told apart in a column of the report.
MOMENTS = 120
# No thread makes more entries a second, so a schedule has no more.
MOST_PER_SECOND = 5_000_000
# Fewer entries make no percentiles, nor the rate that was asked for.
FEWEST_ENTRIES = 30

Put = Callable[[Any], object]


def schedule(rate: float, seconds: float, seed: int) -> "array[float]":
    """When entries arrive, in seconds from the start, ascending.

    Exactly `rate * seconds` of them, rounded, so that two seeds differ in the times of
    arrival, not in their number. That is a Poisson process given its count: its
    arrivals are the sums of exponential gaps, scaled to the whole time.
    """
    count = _count(min(rate, MOST_PER_SECOND), seconds)
    draw, log = random.Random(seed).random, math.log
    times = array("d", accumulate(-log(1.0 - draw()) for _ in range(count + 1)))
    scale = count / rate / times.pop()
    # A list would leave memory behind that the entries then take without any growth.
    return array("d", (time * scale for time in times))


def _count(rate: float, seconds: float) -> int:
    return max(1, round(rate * seconds))


@dataclass(slots=True)
class Load:
    """A load, and what arrived of it.

    Attributes:
        rate: Entries a second; None: as many as the machine holds, which then arrive
            when they are enqueued.
        seconds: For how long.
        seed: Of the schedule.
        recorded: When entries arrive instead, in seconds from the start, ascending.
        began: When it began, on `time.perf_counter`'s clock.
        offered: Entries handed to `put`.
        elapsed: Seconds it took.
        own_lateness: Seconds by which the producer made itself late, summed over all
            entries: its own work since it was last up to date, without that of other
            tasks on the loop.
        due: When entries arrive, seconds from the start; empty without a rate.
    """

    rate: float | None
    seconds: float
    seed: int
    recorded: "array[float] | None" = None
    began: float = 0.0
    offered: int = 0
    elapsed: float = 0.0
    own_lateness: float = 0.0
    due: "array[float]" = field(default_factory=lambda: array("d"))
    # Of each chunk: how many were offered, how many accepted, and when.
    _offered: "array[int]" = field(default_factory=lambda: array("q"))
    _accepted: "array[int]" = field(default_factory=lambda: array("q"))
    _moments: "array[float]" = field(default_factory=lambda: array("d"))

    def __post_init__(self) -> None:
        if self.recorded is not None:
            self.due = self.recorded
        elif self.rate is not None:
            self.due = schedule(self.rate, self.seconds, self.seed)

    async def offer(self, put: Put, entries: Iterator[Any]) -> None:
        """Enqueue the entries by `put`, which returns False for a refused entry."""
        self.began = perf_counter()
        try:
            if self.rate is None:
                await self._flat_out(put, entries)
            else:
                await self._on_schedule(put, entries)
        finally:
            self.elapsed = perf_counter() - self.began

    async def _flat_out(self, put: Put, entries: Iterator[Any]) -> None:
        end = self.began + self.seconds
        while perf_counter() < end:
            self._put(put, entries, CHUNK)
            await asyncio.sleep(0)

    async def _on_schedule(self, put: Put, entries: Iterator[Any]) -> None:
        due, count = self.due, len(self.due)
        longest = max(2 * self.seconds, LONGEST_SHORT_RUN)
        own = 0.0  # seconds of its own work since it was last up to date
        while self.offered < count:
            now = perf_counter() - self.began
            if now >= self.seconds and (
                own > (1 - HELD) * self.seconds or now > longest
            ):
                return  # the producer can't keep up
            come = bisect_right(due, now, self.offered)
            chunk = min(come - self.offered, CHUNK)
            if chunk:
                self._put(put, entries, chunk)
                after = perf_counter() - self.began
                own += after - now
                self.own_lateness += own * chunk
            if self.offered < come:
                await asyncio.sleep(0)
            elif come < count:
                own = 0.0
                await asyncio.sleep(max(TICK, due[come] - now))

    def _put(self, put: Put, entries: Iterator[Any], count: int) -> None:
        accepted = 0
        self._moments.append(perf_counter())
        for entry in islice(entries, count):
            if put(entry) is not False:
                accepted += 1
        self.offered += count
        self._offered.append(count)
        self._accepted.append(accepted)

    @property
    def _asked(self) -> int:
        """Entries of the whole load; a schedule has no more than a thread makes."""
        if self.recorded is not None or self.rate is None:
            return len(self.due)
        return _count(self.rate, self.seconds)

    @property
    def accepted(self) -> int:
        """Entries that `put` did not refuse."""
        return sum(self._accepted)

    @property
    def noted_bytes(self) -> int:
        """The size of its own notes of the run, in bytes."""
        notes = (self._offered, self._accepted, self._moments)
        return sum(len(note) * note.itemsize for note in notes)

    @property
    def reached(self) -> float:
        """Entries a second that arrived."""
        if self.rate is not None and self.offered == self._asked:
            return self.rate
        return self.offered / self.elapsed

    def held(self, mean_age: float) -> bool:
        """Whether the load was the one asked for, not a slower or a later one.

        Args:
            mean_age: Of the entries, in seconds. If the producer's own lateness is more
                than half of it, the run measures the producer.
        """
        if self.rate is None:
            return True
        if self.offered < HELD * self._asked:
            return False
        return self.own_lateness <= mean_age / 2 * self.offered

    def arrivals(self) -> "array[float]":
        """When each accepted entry arrived, in seconds from `began`, in their order.

        A ring that is full stays full while a chunk is enqueued, so the first of a
        chunk are those that were accepted.
        """
        arrived = array("d")
        first = 0
        for count, accepted, moment in zip(
            self._offered, self._accepted, self._moments, strict=True
        ):
            if self.rate is None:
                arrived.extend(array("d", [moment - self.began]) * accepted)
            else:
                arrived.extend(self.due[first : first + accepted])
            first += count
        return arrived


def moments(
    load: Load, calls: Iterable[tuple[float, int]], shortest: float
) -> list[Moment]:
    """Divide a run into moments.

    Args:
        load: It has been offered.
        calls: When each call began, by the load's clock, and how many entries it took.
        shortest: Seconds that a moment lasts at least.
    """
    count = max(1, min(MOMENTS, int(load.seconds / shortest)))
    each = load.seconds / count

    def place(at: float) -> int:
        return min(int(at / each), count - 1)

    rates = Counter(map(place, load.due))
    oldest = [0.0] * count
    arrived, first = load.arrivals(), 0
    for began, taken in calls:
        # The first of a moment is its oldest in this call.
        for one, several in groupby(arrived[first : first + taken], place):
            age = began - load.began - next(several)
            oldest[one] = max(oldest[one], age)
        first += taken
    return [
        Moment(each * (one + 0.5), rates[one] / each, 1e3 * oldest[one])
        for one in range(count)
    ]
