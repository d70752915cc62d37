"""The measured costs of each delay, and how much of them is noise."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ._model import ARENA, MIB, REFERENCE_BYTES, calls_of, power_of_two, recorded_by
from ._recording import Calls
from ._results import Cell, Measured, Setting

# The ring has room for this many times the entries of the longest cycle.
HEADROOM = 2
LEAST_CAPACITY = 1024

# Of a figure, if no setting was measured twice.
ASSUMED_NOISE = 0.2
# Of a figure, at least: repeats may agree by chance.
LEAST_NOISE = 0.1
# Milliseconds: on an idle loop, runs differ by as much in what a request took.
REQUEST_GRAIN = 0.2
# Noise is a share of the median, but of no less: of requests that take 0.1 ms, noise is
# many times that, and means nothing of those that take 2 ms.
LEAST_MEDIAN = {"request_p99": 1.0}

# The figures that decide.
NOISY = ("age_p99", "rss_growth", "calls_per_second", "request_p99")


@dataclass(frozen=True, slots=True)
class Noise:
    """By how much repeats differ, as a share; assumed where there are none."""

    share: float
    assumed: bool

    def __str__(self) -> str:
        return f"{'an assumed' if self.assumed else 'the'} noise of {self.share:.0%}"


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of one delay: the worst of the rates, and by how much repeats differ."""

    value: float
    noise: float

    @property
    def most(self) -> float:
        """With the noise on top."""
        return self.value + self.noise

    @property
    def least(self) -> float:
        """Without the noise."""
        return self.value - self.noise


@dataclass(frozen=True, slots=True)
class Candidate:
    """A delay that was measured, and its costs.

    Attributes:
        setting: One of the settings measured with it.
        slots: `max_in_flight`.
        grown: MiB, as measured.
        peak: Entries pending at most, in any run.
        dropped: Whether any entries were dropped.
        entry_bytes: Bytes of a pending entry.
        made: The calls that were made at the highest rate.
    """

    delay: float
    setting: Setting
    rate: float
    sink: float
    slots: int
    age: Figure
    grown: Figure
    calls: Figure
    request: Figure
    per_batch: float
    peak: int
    dropped: bool
    entry_bytes: float
    made: Calls

    @property
    def per_cycle(self) -> float:
        """Entries from one batch to the next, at the highest rate."""
        return self.rate / 1000 * (self.delay + self.sink / self.slots)

    @property
    def pending(self) -> float:
        """Entries to have room for: those, or the most that were pending at once."""
        return max(self.peak, self.per_cycle)

    @property
    def room(self) -> int:
        """The capacity to have: a power of two, as the ring's own size is."""
        return max(LEAST_CAPACITY, power_of_two(HEADROOM * self.pending))

    @property
    def entry_bytes_full(self) -> float:
        """Bytes for each entry of the capacity, when ring and calls are full."""
        return (1 + self.slots) * (self.entry_bytes + REFERENCE_BYTES)

    @property
    def memory(self) -> Figure:
        """MiB that a budget must have room for: also where the sink stands still."""
        usual = self.memory_with(self.room)
        still = self.entry_bytes_full * self.pending / MIB
        return Figure(max(usual, still), self.grown.noise)

    def memory_with(self, capacity: int) -> float:
        """MiB, as measured, with a ring of that capacity instead."""
        if self.setting.layout != "objects":
            return self.grown.value
        ring, measured = (
            REFERENCE_BYTES * power_of_two(each) / MIB
            for each in (capacity, self.setting.capacity)
        )
        return max(ring, self.grown.value + ring - measured)


def _noise(cells: Sequence[Cell], name: str) -> Noise:
    """By how much repeats of a setting differ in a figure, as a share of the median.

    The widest of all settings: to report a difference that is noise would be worse than
    to overlook one.
    """
    ranges = []
    for repeats in _repeats(cells):
        seen = [getattr(one, name) for one in repeats]
        middle = max(median(seen), LEAST_MEDIAN.get(name, 0.0))
        if len(seen) > 1 and middle > 0:
            ranges.append((max(seen) - min(seen)) / middle)
    if not ranges:
        return Noise(ASSUMED_NOISE, assumed=True)
    return Noise(max(LEAST_NOISE, *ranges), assumed=False)


def _repeats(cells: Iterable[Cell]) -> list[list[Measured]]:
    """The measurements of each setting."""
    found: dict[object, list[Measured]] = {}
    for cell in cells:
        found.setdefault(cell.setting, []).append(cell.measured)
    return list(found.values())


def _median(repeats: Sequence[Measured], name: str) -> float:
    """The median of the repeats; the ages' percentile is that of all of them."""
    recorded = recorded_by(repeats)
    if name == "age_p99" and recorded is not None:
        return recorded.ages.percentile(99)
    return float(median([getattr(one, name) for one in repeats]))


def candidates(
    cells: Sequence[Cell], entry_bytes: float
) -> tuple[list[Candidate], Noise]:
    """Return a candidate for each delay, ascending, and the noise of requests."""
    noises = {name: _noise(cells, name) for name in NOISY}
    delays = sorted({cell.setting.delay for cell in cells})
    found = [
        _candidate(
            [cell for cell in cells if cell.setting.delay == delay], noises, entry_bytes
        )
        for delay in delays
    ]
    return found, noises["request_p99"]


def _candidate(
    cells: Sequence[Cell], noises: dict[str, Noise], entry_bytes: float
) -> Candidate:
    setting = cells[0].setting
    rates = _repeats(cells)

    def worst(name: str) -> float:
        return max(_median(each, name) for each in rates)

    def figure(name: str, least: float = 0.0, unit: float = 1.0) -> Figure:
        value = worst(name) / unit
        return Figure(value, max(noises[name].share * value, least / unit))

    return Candidate(
        delay=setting.delay,
        setting=setting,
        rate=worst("rate"),
        sink=worst("sink_mean"),
        slots=setting.max_in_flight,
        age=figure("age_p99"),
        grown=figure("rss_growth", ARENA, MIB),
        calls=figure("calls_per_second"),
        request=figure("request_p99", REQUEST_GRAIN),
        per_batch=worst("entries_per_batch"),
        peak=max(cell.measured.peak_pending for cell in cells),
        dropped=any(cell.measured.dropped for cell in cells),
        entry_bytes=entry_bytes,
        made=Calls.pooled(calls_of(one) for one in max(rates, key=_rate)),
    )


def _rate(repeats: Sequence[Measured]) -> float:
    return _median(repeats, "rate")
