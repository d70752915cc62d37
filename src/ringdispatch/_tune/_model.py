"""Predicts the figures of a cell, and compares them with what was measured."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from statistics import median
from typing import Any

from ._recording import Calls, Recorded
from ._replay import Replayed, replay
from ._results import Cell, Measured, Predicted, Setting

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
    "entries_per_batch": 0.1,
    "calls_per_second": 0.1,
    "age_p99": 0.1,
    "memory": 0.15,
}

# The size of a reference, in the ring and in a batch.
REFERENCE_BYTES = 8


def predict(
    setting: Setting,
    *,
    calls: Calls,
    entry_bytes: float,
    arrivals: Sequence[float] | None = None,
) -> Predicted:
    """Predict a cell from its setting and recorded calls, by replay.

    Args:
        setting: Its rate must be a number: for a cell at the machine's limit, the rate
            that was measured.
        calls: What calls of the dispatch function take.
        entry_bytes: Bytes of a pending entry, without its reference in the ring.
        arrivals: When entries arrive, milliseconds from the start. None: by chance.

    Raises:
        ValueError: the setting has no rate, and no arrivals were given.
    """
    if setting.rate is None and arrivals is None:
        raise ValueError("rate=None: put in the rate that was measured")
    said = replay(setting, calls, arrivals=arrivals)
    return Predicted(
        entries_per_batch=said.entries_per_batch,
        calls_per_second=said.calls_per_second,
        age_p50=said.age_p50,
        age_p99=said.age_p99,
        peak_pending=said.peak_pending,
        memory=_memory(setting, said, entry_bytes),
        saturated=said.saturated,
        dropped=said.dropped,
        slow_calls=said.slow_calls,
    )


def _memory(setting: Setting, said: Replayed, entry_bytes: float) -> float:
    """Bytes at the peak: the ring, pending entries, and entries in calls."""
    fixed = fixed_bytes(setting, entry_bytes)
    if setting.layout == "records":
        return fixed
    if setting.layout == "bytes":
        return fixed + said.peak_in_calls * entry_bytes
    return fixed + said.peak_alive * (entry_bytes + REFERENCE_BYTES)


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


def with_prediction(
    setting: Setting,
    measured: Measured,
    entry_bytes: float,
    arrivals: Sequence[float] | None = None,
) -> Cell:
    """Make a cell of what was measured and what is predicted.

    The prediction is made of the calls that the cell recorded, else of the mean time of
    a call; for a cell without a rate, also of the rate that it reached.
    """
    given = setting if setting.rate else replace(setting, rate=measured.rate)
    said = predict(
        given, calls=calls_of(measured), entry_bytes=entry_bytes, arrivals=arrivals
    )
    return Cell(setting, measured, said)


def calls_of(measured: Measured) -> Calls:
    """The calls that a cell recorded; published figures have only their mean time."""
    if measured.recorded is not None and measured.recorded.calls.sizes:
        return measured.recorded.calls
    return Calls.constant(measured.sink_mean)


def merged(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for all repeats of a setting, without predictions.

    Figures are medians; ages, batches and slow calls are those of all repeats together.
    Of the dropped entries the most: a delay that dropped once is not recommended.
    """
    repeats: dict[Setting, list[Measured]] = {}
    for cell in cells:
        repeats.setdefault(cell.setting, []).append(cell.measured)
    return [Cell(setting, _middle(several)) for setting, several in repeats.items()]


def _middle(several: Sequence[Measured]) -> Measured:
    figures: dict[str, Any] = {
        field.name: median([getattr(one, field.name) for one in several])
        for field in fields(Measured)
        if field.name not in {"failure", "moments", "recorded"}
    }
    figures["held"] = all(one.held for one in several)
    for name in ("batches", "slow_calls", "failed", "lost"):
        figures[name] = sum(getattr(one, name) for one in several)
    for name in ("age_max", "sink_max", "dropped"):
        figures[name] = max(getattr(one, name) for one in several)
    for name in ("peak_pending", "rss_growth"):
        figures[name] = round(figures[name])
    recorded = recorded_by(several)
    if recorded is not None:
        figures["recorded"] = recorded
        figures["age_p50"] = recorded.ages.percentile(50)
        figures["age_p99"] = recorded.ages.percentile(99)
    figures["failure"] = next((one.failure for one in several if one.failure), "")
    figures["moments"] = several[0].moments
    return Measured(**figures)


def recorded_by(several: Sequence[Measured]) -> Recorded | None:
    """What all repeats of a setting recorded; None where one kept nothing."""
    recorded = [one.recorded for one in several if one.recorded is not None]
    return Recorded.pooled(recorded) if len(recorded) == len(several) else None


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
