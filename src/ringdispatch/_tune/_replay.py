"""Replays a dispatcher: what it would do with given options, arrivals and calls.

A discrete-event simulation of one dispatcher on one event loop, with `drop_newest`:
entries arrive on a schedule, whether or not anything keeps up; a window opens at an
entry into an empty ring; its timer, or a full batch, ends it; a call takes a slot. The
calls' times are those of recorded calls. Times are milliseconds.

It goes from event to event, not from entry to entry: 100,000 entries in 200 batches
take about 5 ms. docs/tuning.md says what it leaves out.
"""

import random
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush
from math import inf
from statistics import fmean
from typing import overload

from ._load import schedule
from ._recording import LATE, Calls, percentile
from ._results import Setting
from ._sink import Sink

# The producer wakes about once a millisecond, and enqueues what has come since.
TICK = 1.05
# From the end of a call to the next: turns of the loop.
TURN = 0.03
# A timer that fires this much early is on time, as for the dispatcher.
ON_TIME = 0.1

# A prediction is of several runs, or the peaks would be those of one schedule.
RUNS = 5
# Entries in each, about: of faster loads, runs are shorter, and counts are scaled.
_MOST_ENTRIES = 100_000
# But of so many delays or calls at least.
_LEAST_CYCLES = 30
# Entries a second: of faster loads, no schedule is drawn.
_EVEN_RATE = 100_000.0
# About how many ages of a run percentiles are taken of.
_MOST_AGES = 20_000


# ---- one run


@dataclass(slots=True)
class Run:
    """The figures of one replayed run.

    Attributes:
        ages: A sample of entries' ages when their call began, from their arrival on.
        first, last: When the first and the last call began.
        peak_pending: Most entries pending at once.
        peak_in_flight: Most calls at once.
        peak_in_calls: Most entries in calls at once.
        peak_alive: Most entries pending or in calls at once.
        dropped: Entries that found the ring full.
        slow_calls: Batches that had to wait for a call, LATE longer than the delay.
        left_full: Takes that left a full batch behind, and no slot for it.
    """

    ages: list[float]
    batches: int = 0
    entries: int = 0
    first: float = 0.0
    last: float = 0.0
    peak_pending: int = 0
    peak_in_flight: int = 0
    peak_in_calls: int = 0
    peak_alive: int = 0
    dropped: int = 0
    slow_calls: int = 0
    left_full: int = 0


class _Dispatcher:
    """The ring, the slots and the loop, in the order of the dispatcher's own code."""

    def __init__(
        self, setting: Setting, sink: Sink, arrivals: Sequence[float], seed: int
    ) -> None:
        self.delay = setting.delay
        self.slots = setting.max_in_flight
        self.capacity = setting.capacity
        self.largest = min(setting.max_batch or self.capacity, self.capacity)
        self.sink = sink
        self.arrivals = arrivals
        self.rng = random.Random(seed)
        self.seen = Run([])
        self.step = 1 + len(arrivals) // _MOST_AGES
        # the ring: positions of accepted entries, and the arrivals they are
        self.head = self.tail = self.due = 0
        self.pending: deque[tuple[int, int]] = deque()
        self.next = 0  # the first arrival that is not enqueued
        # the window
        self.opened = self.taken_at = -inf
        self.ends_window = False
        self.timer: float | None = None
        # the calls that run: when they end, and their entries
        self.calls: list[tuple[float, int]] = []
        self.in_calls = 0
        # the loop
        self.now = 0.0
        self.free = 0.0  # until then a call blocks it
        self.enqueued = -inf  # the arrivals up to then are enqueued
        self.produces_at = -inf  # when the producer wakes next

    def run(self) -> Run:
        """Replay all arrivals, until their last call has begun."""
        while self.tail > self.head or self.next < len(self.arrivals):
            if self.tail == self.head:
                self.now = max(self._produced_at(self.next), self.free)
                self._enqueue(self.now)
                self.opened = self.now
            else:
                self._next_event()
            self._end_calls()
            self._pump()
        return self.seen

    def _produced_at(self, arrival: int) -> float:
        """When the producer wakes and enqueues that arrival."""
        at = self.arrivals[arrival]
        if at <= self.produces_at:
            return self.produces_at
        return at + TICK * self.rng.random()

    def _next_event(self) -> None:
        """Go on to what ends the window, or to the end of a call."""
        ends = self.calls[0][0] if self.calls else inf
        timer = inf if self.timer is None else self.timer
        if len(self.calls) < self.slots:
            filling = self.next + self.largest - (self.tail - self.head) - 1
            first = min(ends, timer)
            if filling < len(self.arrivals) and self.arrivals[filling] < first:
                self.now = max(self._produced_at(filling), self.free)
                self._enqueue(self.now)
                return
        self.now = max(self.now, min(ends, timer), self.free)
        if self.now == self.free:
            self._enqueue(self.now)
        elif timer < ends:
            # The loop wakes for both at once, for the timer first.
            self._enqueue(self.now - TICK)
        else:
            self._enqueue(self.now - TICK * self.rng.random())

    def _enqueue(self, until: float) -> None:
        """Enqueue what arrived until then; what finds no room is dropped."""
        if until <= self.enqueued:
            return
        self.enqueued = until
        self.produces_at = until + TICK
        end = bisect_right(self.arrivals, until, self.next)
        count = min(end - self.next, self.capacity - (self.tail - self.head))
        if count:
            self.pending.append((self.next, self.next + count))
            self.tail += count
        self.seen.dropped += end - self.next - count
        self.next = end
        alive = self.tail - self.head + self.in_calls
        self.seen.peak_alive = max(self.seen.peak_alive, alive)

    def _end_calls(self) -> None:
        while self.calls and self.calls[0][0] <= self.now:
            self.in_calls -= heappop(self.calls)[1]

    def _pump(self) -> None:
        """Start what is due and a slot is free for; see Batcher.pump."""
        began = self.now
        if self.now >= self._due_at - ON_TIME:
            self.opened, self.due = self.now, self.tail
            self.ends_window = len(self.calls) < self.slots
        while len(self.calls) < self.slots and self._wants_call:
            self._call()
        fired = self.timer is not None and self.timer <= began
        if fired or self.tail == self.head:
            self.timer = None
        free = len(self.calls) < self.slots
        if self.timer is None and self.tail > self.head and free:
            self.timer, left = self.now, self._due_at - self.now
            if left > 0:
                least, late = min(1.0, self.delay), TICK * self.rng.random()
                self.timer += max(left, least) + late

    @property
    def _due_at(self) -> float:
        return max(self.opened, self.taken_at) + self.delay

    @property
    def _wants_call(self) -> bool:
        pending = self.tail - self.head
        return self.head < min(self.due, self.tail) or pending >= self.largest

    def _call(self) -> None:
        """Take a batch; the call blocks the loop at its beginning, if it does."""
        seen, count = self.seen, self.tail - self.head
        seen.peak_pending = max(seen.peak_pending, count)
        if count < self.largest:
            count = min(count, self.due - self.head)
        count = min(count, self.largest)
        if self.ends_window:
            self.ends_window, self.taken_at = False, self.now
        if not seen.batches:
            seen.first = self.now
        seen.last = self.now
        seen.batches += 1
        seen.entries += count
        self._take(count)
        time, blocked = self.sink.call(count)
        heappush(self.calls, (self.now + time + TURN, count))
        self.in_calls += count
        seen.peak_in_flight = max(seen.peak_in_flight, len(self.calls))
        seen.peak_in_calls = max(seen.peak_in_calls, self.in_calls)
        if blocked:
            self.now += blocked
            self.free = self.now
        pending = self.tail - self.head
        seen.left_full += pending >= self.largest and len(self.calls) == self.slots

    def _take(self, count: int) -> None:
        """Take the oldest entries, and note their ages."""
        oldest = self.now - self.arrivals[self.pending[0][0]]
        self.seen.slow_calls += oldest > self.delay + LATE
        while count:
            first, end = self.pending.popleft()
            if end - first > count:
                self.pending.appendleft((first + count, end))
                end = first + count
            begin = first + -first % self.step
            sample = self.arrivals[begin : end : self.step]
            self.seen.ages += [self.now - one for one in sample]
            self.head += end - first
            count -= end - first


def run(setting: Setting, sink: Sink, arrivals: Sequence[float], seed: int = 0) -> Run:
    """Replay one run.

    Args:
        setting: The dispatcher's options; its rate and seconds are not looked at.
        sink: What calls take.
        arrivals: When entries arrive, milliseconds, ascending.
        seed: Of what is late by chance.
    """
    return _Dispatcher(setting, sink, arrivals, seed).run()


# ---- a prediction


@dataclass(frozen=True, slots=True)
class Replayed:
    """The figures of several runs: rates and ages of all, peaks as means.

    Units and names as in Measured; those of peaks as in Run.

    Attributes:
        saturated: Whether more arrives than calls can take, or than there is room for.
    """

    entries_per_batch: float
    calls_per_second: float
    age_p50: float
    age_p99: float
    peak_pending: float
    peak_in_flight: int
    peak_in_calls: float
    peak_alive: float
    dropped: float
    slow_calls: float
    saturated: bool


def replay(
    setting: Setting,
    calls: Calls,
    *,
    arrivals: Sequence[float] | None = None,
    seed: int = 0,
) -> Replayed:
    """Replay several runs of a setting.

    Args:
        setting: The load and the dispatcher's options.
        calls: Recorded calls; each run begins at another of them.
        arrivals: When entries arrive in each of the runs, milliseconds, ascending.
            None: schedules of the setting's rate, which must be a number.
        seed: Of the schedules, and of what is late by chance.
    """
    if arrivals is None:
        loads, times = _loads(setting, fmean(calls.times), seed)
    else:
        loads, times = [arrivals] * RUNS, 1.0
    sink, runs = Sink(calls), []
    for one, load in enumerate(loads):
        sink.begin(one / RUNS)
        runs.append(run(setting, sink, load, seed + one))
    return pooled(runs, times)


def _loads(
    setting: Setting, call: float, seed: int
) -> tuple[list[Sequence[float]], float]:
    """Schedules for each run, and how many times as long the setting has load."""
    rate = setting.rate
    assert rate is not None
    cycle = setting.delay + 1000 / rate + call
    enough = max(_MOST_ENTRIES / rate, _LEAST_CYCLES * cycle / 1000)
    seconds = min(setting.seconds, enough)
    loads = [arrivals_of(rate, seconds, seed + one) for one in range(RUNS)]
    return loads, setting.seconds / seconds


@lru_cache(maxsize=10 * RUNS)
def arrivals_of(rate: float, seconds: float, seed: int) -> Sequence[float]:
    """When entries of that rate arrive, by chance, in milliseconds from the start."""
    if rate > _EVEN_RATE:
        return _Even(1000 / rate, range(round(rate * seconds)))
    return array("d", (1000 * one for one in schedule(rate, seconds, seed)))


class _Even(Sequence[float]):
    """Arrivals at even intervals: of so many in a millisecond, chance moves few."""

    def __init__(self, gap: float, places: range) -> None:
        self._gap = gap
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> float: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[float]: ...
    def __getitem__(self, place: int | slice) -> float | Sequence[float]:
        if isinstance(place, slice):
            return _Even(self._gap, self._places[place])
        return self._gap * self._places[place]

    def __iter__(self) -> Iterator[float]:
        return (self._gap * one for one in self._places)


def pooled(runs: Sequence[Run], times: float = 1.0) -> Replayed:
    """The figures of runs of the same setting; counts those of so many times a run."""
    batches = sum(one.batches for one in runs)
    ages = sorted(age for one in runs for age in one.ages)
    spans = sum(one.last - one.first for one in runs)
    gaps = sum(one.batches - 1 for one in runs)
    left_full = sum(one.left_full for one in runs)
    return Replayed(
        entries_per_batch=sum(one.entries for one in runs) / max(1, batches),
        calls_per_second=1000 * gaps / spans if spans else 0.0,
        age_p50=percentile(ages, 50),
        age_p99=percentile(ages, 99),
        peak_pending=fmean(one.peak_pending for one in runs),
        peak_in_flight=max(one.peak_in_flight for one in runs),
        peak_in_calls=fmean(one.peak_in_calls for one in runs),
        peak_alive=fmean(one.peak_alive for one in runs),
        dropped=times * fmean(one.dropped for one in runs),
        slow_calls=times * fmean(one.slow_calls for one in runs),
        saturated=any(one.dropped for one in runs) or 2 * left_full > batches,
    )
