"""Predicts what a dispatcher will do under Poisson load; docs/tuning.md derives it.

Times are milliseconds, `load` is entries a millisecond.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from statistics import NormalDist, median
from typing import Any

from ._results import Cell, Measured, Predicted, Setting

# Milliseconds; docs/tuning.md says why. How late the timer that ends a window is on
# average.
TIMER_LATE = 0.5
# How long ago the arrivals were due that are enqueued now, or just missed the batch:
# the producer wakes once a millisecond.
ARRIVAL_LATE = 1.0

# How long after the entry that fills a batch the loop takes it.
LOOP_TURN = 0.1

# Fewer batches than that make no mean, and no percentile.
FEWEST_BATCHES = 30

MIB = 1 << 20

# Bytes that the layout of bytes allocates at least (_entries.arena_bytes).
LEAST_ARENA = 16 * MIB

# What the allocator may hold beyond live objects: it takes memory by the arena, and
# keeps an arena with any live object. Memory is compared where that hardly counts.
ARENA = MIB
MEMORY_LIMIT = 0.15

# How far off a prediction may be, as a share of what was measured.
LIMITS = {
    "entries_per_batch": 0.15,
    "calls_per_second": 0.15,
    "age_p99": 0.25,
    "memory": 0.15,
}

# The size of a reference, in the ring and in a batch.
REFERENCE_BYTES = 8


@dataclass(frozen=True, slots=True)
class _Flow:
    """The terms of the formulas."""

    load: float  # entries that arrive in a millisecond
    delay: float  # from a window's opening to its end
    sink: float  # a call's duration
    slots: int  # calls at once
    largest: int  # batch
    capacity: int
    duration: float  # of the run

    @property
    def slot_time(self) -> float:
        """How long until a slot is free: many slots are one with shorter calls."""
        return self.sink / self.slots

    @property
    def saturated(self) -> bool:
        """Whether more arrives than calls can take."""
        return self.load * self.slot_time > self.largest

    @property
    def fills_ring(self) -> bool:
        """Whether the ring is full when a batch is: later entries are dropped."""
        return self.largest == self.capacity < self.load * self.delay


@dataclass(frozen=True, slots=True)
class _Steady:
    """The figures of a steady flow."""

    per_batch: float
    calls: float
    age_p50: float
    age_p99: float
    peak: float


def predict(setting: Setting, *, sink_ms: float, entry_bytes: float) -> Predicted:
    """Predict a cell from its setting and the duration of a call.

    Args:
        setting: Its rate must be a number: for a cell at the machine's limit, the rate
            that was measured.
        sink_ms: The duration of a call of the dispatch function, milliseconds.
        entry_bytes: Bytes of a pending entry, without its reference in the ring.

    Raises:
        ValueError: the setting has no rate.
    """
    if setting.rate is None:
        raise ValueError("rate=None: put in the rate that was measured")
    flow = _Flow(
        load=setting.rate / 1000,
        delay=setting.delay + TIMER_LATE,
        sink=sink_ms,
        slots=setting.max_in_flight,
        largest=min(setting.max_batch or setting.capacity, setting.capacity),
        capacity=setting.capacity,
        duration=1000 * setting.seconds,
    )
    if flow.saturated:
        steady = _without_end(flow)
    elif flow.load * flow.delay > flow.largest:
        steady = _ended_by_count(flow)
    else:
        steady = _ended_by_delay(flow)
    peak = min(steady.peak, flow.capacity)
    return Predicted(
        entries_per_batch=steady.per_batch,
        calls_per_second=1000 * steady.calls,
        age_p50=steady.age_p50 + ARRIVAL_LATE,
        age_p99=steady.age_p99 + ARRIVAL_LATE,
        peak_pending=peak,
        memory=_memory(setting, flow, steady, peak, entry_bytes),
        saturated=flow.saturated or flow.fills_ring,
    )


def _ended_by_delay(flow: _Flow) -> _Steady:
    """The delay ends windows, or the end of a call that lasts longer.

    A cycle, from batch to batch, is the gap before the next opener and the delay, or
    the time until a slot is free, whichever is longer. The gap is exponential.
    """
    delay, slot = flow.delay, flow.slot_time
    spare = max(slot - delay, 0.0)
    cycle = delay + spare + math.exp(-flow.load * spare) / flow.load

    def age(quantile: float) -> float:
        if quantile * cycle < delay:
            return quantile * cycle
        return max(delay, slot - (1 - quantile) * cycle)

    return _Steady(
        per_batch=flow.load * cycle,
        calls=1 / cycle,
        age_p50=age(0.5),
        age_p99=age(0.99),
        peak=_highest(flow.load * max(delay, slot), flow.duration / cycle),
    )


def _ended_by_count(flow: _Flow) -> _Steady:
    """Full batches go out early.

    If more entries come until a full batch is taken, its window stays open, and the
    rest goes out as a small batch when the delay ends. Else the window closes with it.
    """
    arrive = flow.load * flow.delay
    full = math.floor(arrive / flow.largest)
    rest = arrive - full * flow.largest
    stays = (1 - math.exp(-flow.load * LOOP_TURN)) ** full
    spread = NormalDist(arrive, math.sqrt(arrive))
    most = math.ceil((arrive + 6 * spread.stdev) / flow.largest)
    batches = sum(1 - spread.cdf(each * flow.largest) for each in range(most))
    calls = stays * batches / flow.delay + (1 - stays) * flow.load / flow.largest
    rest *= stays

    def age(quantile: float) -> float:
        """Of `full` windows that last as long as a batch fills, and one of the rest."""
        entries = full * flow.largest + rest
        young = quantile * entries / (full + 1)
        if young < rest:
            return young / flow.load
        return (flow.largest - (1 - quantile) * entries / full) / flow.load

    return _Steady(
        per_batch=flow.load / calls,
        calls=calls,
        age_p50=age(0.5),
        age_p99=age(0.99),
        peak=flow.largest,
    )


def _without_end(flow: _Flow) -> _Steady:
    """More arrives than calls can take: pending entries grow until the ring is full.

    From then on a batch makes room for the next entries, and an accepted entry waits
    for as many calls as there are batches in the ring.
    """
    left = flow.load - flow.largest / flow.slot_time
    peak = min(flow.capacity, flow.largest + left * flow.duration)
    oldest = flow.slot_time * peak / flow.largest
    refill = flow.largest / flow.load
    return _Steady(
        per_batch=flow.largest,
        calls=1 / flow.slot_time,
        age_p50=oldest - 0.50 * refill,
        age_p99=oldest - 0.01 * refill,
        peak=peak,
    )


def _highest(mean: float, cycles: float) -> float:
    """The most entries pending in the longest of so many cycles.

    The expected largest of as many Poisson counts, by Blom's approximation, with the
    skewness of Cornish and Fisher.
    """
    cycles = max(cycles, 1.0)
    score = NormalDist().inv_cdf((cycles - 0.375) / (cycles + 0.25))
    return 1 + mean + score * math.sqrt(mean) + (score * score - 1) / 6


def _memory(
    setting: Setting, flow: _Flow, steady: _Steady, peak: float, entry_bytes: float
) -> float:
    """Bytes at the peak: the ring, pending entries, and entries in calls."""
    in_calls = min(flow.load * flow.sink, flow.slots * steady.per_batch)
    fixed = fixed_bytes(setting, entry_bytes)
    if setting.layout == "records":
        return fixed
    if setting.layout == "bytes":
        return fixed + max(in_calls, steady.per_batch) * entry_bytes
    return fixed + (peak + in_calls) * (entry_bytes + REFERENCE_BYTES)


def fixed_bytes(setting: Setting, entry_bytes: float) -> float:
    """The bytes of an empty ring."""
    capacity = setting.capacity
    ring = REFERENCE_BYTES * power_of_two(capacity)
    if setting.layout == "records":
        return (1 + setting.max_in_flight) * capacity * entry_bytes
    if setting.layout == "bytes":
        return max(LEAST_ARENA, 2 * most_pending(setting) * entry_bytes) + ring / 2
    return ring


def most_pending(setting: Setting) -> int:
    """The most entries that can be pending: no more than the load has."""
    if setting.rate is None:
        return setting.capacity
    return min(setting.capacity, math.ceil(setting.rate * setting.seconds))


def power_of_two(least: float) -> int:
    """The smallest power of two that is no less: the ring's own size."""
    return 1 << (max(math.ceil(least), 1) - 1).bit_length()


def with_prediction(setting: Setting, measured: Measured, entry_bytes: float) -> Cell:
    """Make a cell of what was measured and what the model predicts.

    The model gets one measured value, the duration of a call, which is up to the sink;
    for a cell without a rate, also the rate.
    """
    given = setting if setting.rate else replace(setting, rate=measured.rate)
    return Cell(
        setting,
        measured,
        predict(given, sink_ms=measured.sink_mean, entry_bytes=entry_bytes),
    )


def merged(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for all repeats of a setting: their medians; batches add up.

    Of the dropped entries the most: a delay that dropped once is not recommended.
    """
    repeats: dict[Setting, list[Cell]] = {}
    for cell in cells:
        repeats.setdefault(cell.setting, []).append(cell)
    return [
        Cell(setting, _middle([one.measured for one in several]), several[0].predicted)
        for setting, several in repeats.items()
    ]


def _middle(several: Sequence[Measured]) -> Measured:
    figures: dict[str, Any] = {
        field.name: median([getattr(one, field.name) for one in several])
        for field in fields(Measured)
        if field.name not in {"failure", "moments"}
    }
    figures["held"] = all(one.held for one in several)
    for name in ("batches", "failed", "lost"):
        figures[name] = sum(getattr(one, name) for one in several)
    figures["dropped"] = max(one.dropped for one in several)
    for name in ("peak_pending", "rss_growth"):
        figures[name] = round(figures[name])
    figures["failure"] = next((one.failure for one in several if one.failure), "")
    figures["moments"] = several[0].moments
    return Measured(**figures)


def errors(cell: Cell) -> dict[str, float] | str:
    """How far off the prediction is, as a share of what was measured.

    Returns:
        By figure of `Predicted`, without memory where it is too small to measure; or,
        where nothing can be compared, the reason: at the machine's limit the loop never
        sleeps, and lateness is up to the machine.
    """
    predicted, measured = cell.predicted, cell.measured
    if predicted is None:
        return "not predicted"
    if not measured.held:
        return "rate not held"
    if cell.setting.rate is None:
        return "all it holds"
    if predicted.saturated:
        return "saturated"
    if measured.batches < FEWEST_BATCHES:
        return "too few"
    pairs = {
        "entries_per_batch": measured.entries_per_batch,
        "calls_per_second": measured.calls_per_second,
        "age_p50": measured.age_p50,
        "age_p99": measured.age_p99,
        "peak_pending": measured.peak_pending,
        "memory": measured.rss_growth,
    }
    if MEMORY_LIMIT * predicted.memory < ARENA:
        del pairs["memory"]
    return {
        name: getattr(predicted, name) / seen - 1
        for name, seen in pairs.items()
        if seen > 0
    }
