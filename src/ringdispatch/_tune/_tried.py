"""What was measured of each choice of options: pooled over runs, the worst rate's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ._model import MIB, REFERENCE_BYTES, power_of_two
from ._recording import Ages
from ._results import Cell, Measured, Setting

# The ring has room for this many times the entries that may be pending.
HEADROOM = 2
LEAST_CAPACITY = 1024


@dataclass(frozen=True, slots=True)
class Choice:
    """The options that decide, capacity aside."""

    delay: float
    max_in_flight: int = 1
    max_batch: int | None = None

    @classmethod
    def of(cls, setting: Setting) -> "Choice":
        """The options of a setting."""
        return cls(setting.delay, setting.max_in_flight, setting.max_batch)

    def __str__(self) -> str:
        options = []
        if self.max_in_flight > 1:
            options.append(f"{self.max_in_flight} in flight")
        if self.max_batch is not None:
            options.append(f"batches of {self.max_batch:,}")
        delay = f"{self.delay:g} ms"
        return f"{delay} with {' and '.join(options)}" if options else delay


@dataclass(frozen=True, slots=True)
class Tried:
    """A choice that was measured, and its costs at the worst of the rates.

    Attributes:
        setting: One of the settings measured with it.
        entry_bytes: Bytes of a pending entry.
        runs: At the rate that has the fewest; 0: not measured at each rate.
        rate: The highest, entries a second.
        age: 99th percentile, milliseconds, of all runs of a rate together.
        calls: A second.
        request: What requests on the loop took, 99th percentile, milliseconds.
        grown: MiB, as measured.
        per_batch: Entries.
        sink: The mean call, milliseconds.
        slowest: The longest call.
        slow_calls: Batches that waited for a call, in all runs.
        peak: Entries pending at most, in any run.
        dropped: Entries, in any run.
    """

    choice: Choice
    setting: Setting
    entry_bytes: float
    runs: int
    rate: float
    age: float
    calls: float
    request: float
    grown: float
    per_batch: float
    sink: float
    slowest: float
    slow_calls: int
    peak: int
    dropped: int

    def capacity(self, slowest: float = 0.0) -> int:
        """The capacity to have: a power of two, as the ring's own size is.

        Args:
            slowest: The longest call of any run, milliseconds: it may last as long
                with these options, too.
        """
        longest = self.choice.delay + max(slowest, self.slowest)
        pending = max(self.peak, self.rate / 1000 * longest)
        return max(LEAST_CAPACITY, power_of_two(HEADROOM * pending))

    @property
    def bytes_when_full(self) -> float:
        """Bytes for each entry of the capacity, when ring and calls are full."""
        return (1 + self.choice.max_in_flight) * (self.entry_bytes + REFERENCE_BYTES)

    @property
    def memory(self) -> float:
        """MiB that a budget must have room for: also where the sink stands still."""
        still = self.bytes_when_full * self.peak / MIB
        return max(self.memory_with(self.capacity()), still)

    def memory_with(self, capacity: int) -> float:
        """MiB, as measured, with a ring of that capacity instead."""
        if self.setting.layout != "objects":
            return self.grown
        ring, measured = (
            REFERENCE_BYTES * power_of_two(each) / MIB
            for each in (capacity, self.setting.capacity)
        )
        return max(ring, self.grown + ring - measured)


def tried(cells: Iterable[Cell], entry_bytes: float) -> list[Tried]:
    """What was measured of each choice, the shortest delay first."""
    found: dict[Choice, list[Cell]] = {}
    for cell in cells:
        found.setdefault(Choice.of(cell.setting), []).append(cell)
    rates = len({one.setting.rate for each in found.values() for one in each})
    several = [
        _tried(choice, each, rates, entry_bytes) for choice, each in found.items()
    ]
    return sorted(several, key=lambda one: (one.choice.delay, one.choice.max_in_flight))


def _tried(
    choice: Choice, cells: Sequence[Cell], every: int, entry_bytes: float
) -> Tried:
    """Of its cells; `every` is the number of all rates."""
    rates: dict[float | None, list[Measured]] = {}
    for cell in cells:
        rates.setdefault(cell.setting.rate, []).append(cell.measured)
    measured = [cell.measured for cell in cells]

    def worst(name: str) -> float:
        return max(
            float(median(getattr(one, name) for one in runs)) for runs in rates.values()
        )

    return Tried(
        choice=choice,
        setting=cells[-1].setting,
        entry_bytes=entry_bytes,
        runs=min(map(len, rates.values())) if len(rates) == every else 0,
        rate=worst("rate"),
        age=max(_age(runs) for runs in rates.values()),
        calls=worst("calls_per_second"),
        request=worst("request_p99"),
        grown=worst("rss_growth") / MIB,
        per_batch=worst("entries_per_batch"),
        sink=worst("sink_mean"),
        slowest=max(one.sink_max for one in measured),
        slow_calls=sum(one.slow_calls for one in measured),
        peak=max(one.peak_pending for one in measured),
        dropped=max(one.dropped for one in measured),
    )


def _age(runs: Sequence[Measured]) -> float:
    """The percentile of all runs' entries, not of their percentiles."""
    recorded = [one.recorded for one in runs if one.recorded is not None]
    if not recorded:
        return median(one.age_p99 for one in runs)
    return Ages.pooled(one.ages for one in recorded).percentile(99)
