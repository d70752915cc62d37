"""What a choice of options promises: replays, with the calls of all runs so far."""

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from ._recording import Calls
from ._replay import Replayed, arrivals_of, pooled, run
from ._results import Cell, Setting
from ._sink import Sink
from ._tried import Choice

# Cycles in a run, measured or replayed, at least.
CYCLES = 40
# A proposal must do with so many recordings made of the calls by chance, one aside: a
# few slow calls more or less are not to decide.
RESAMPLES = 8
STRETCHES = 50
# A replay is of so many entries and delays at most.
ENTRIES, DELAYS = 40_000, 300
# Milliseconds by which replays may be off, as runs showed. More is up to the calls.
OFFSETS = (-1.0, 3.0)


class Forecast:
    """Replays of choices, with what was measured so far.

    Args:
        load: A setting for each rate, with the capacity to measure with.
        cells: What was measured so far.
        arrivals: When entries arrive, milliseconds; None: by chance, at each rate.
        longest: No choice has a longer delay, milliseconds.
    """

    def __init__(
        self,
        load: Sequence[Setting],
        cells: Sequence[Cell],
        arrivals: Sequence[float] | None,
        longest: float,
    ) -> None:
        self._load = load
        self._cells = cells
        self._recorded_arrivals = arrivals
        self._longest = longest
        self._recorded_calls = _recorded(load, cells)
        self._sinks: dict[int, Sink] = {}
        self._said: dict[tuple[Choice, float | None, int], Replayed] = {}
        self._offsets = self._learned()

    def is_young(self, choice: Choice, most: float) -> bool:
        """Whether entries are young enough with all recordings by chance but one."""
        limit = most - self._offset(choice.max_in_flight)
        missed = 0
        for load in self._load:
            for which in range(RESAMPLES):
                said = self._replayed(choice, load, which)
                missed += said.dropped > 0 or said.age_p99 > limit
                if missed > 1:
                    return False
        return True

    def calls(self, choice: Choice) -> float:
        """Calls a second, at the worst of the rates."""
        return max(
            self._replayed(choice, load, 0).calls_per_second for load in self._load
        )

    def age(self, choice: Choice) -> float:
        """99th percentile, at the worst of the rates."""
        offset = self._offset(choice.max_in_flight)
        return offset + max(
            median(self._replayed(choice, load, which).age_p99 for which in range(3))
            for load in self._load
        )

    def _learned(self) -> dict[int, float]:
        """By how much entries were older than in a replay, by calls in flight."""
        off: dict[int, list[float]] = {}
        for cell in self._cells:
            choice = Choice.of(cell.setting)
            said = self._replayed(choice, cell.setting, 0)
            seen = cell.measured.age_p99 - said.age_p99
            off.setdefault(choice.max_in_flight, []).append(seen)
        least, most = OFFSETS
        return {
            slots: min(max(median(each), least), most) for slots, each in off.items()
        }

    def _offset(self, slots: int) -> float:
        """The same, for calls in flight that were not measured as for others."""
        return self._offsets.get(slots, max(self._offsets.values(), default=0.0))

    def _replayed(self, choice: Choice, load: Setting, which: int) -> Replayed:
        """A replay with one of the recordings made by chance; the first is the own."""
        key = choice, load.rate, which
        if key not in self._said:
            setting = replace(
                load,
                delay=choice.delay,
                max_in_flight=choice.max_in_flight,
                max_batch=choice.max_batch,
            )
            times = self._arrivals(setting, which)
            self._said[key] = pooled([run(setting, self._sink(which), times, which)])
        return self._said[key]

    def _arrivals(self, setting: Setting, which: int) -> Sequence[float]:
        """When entries arrive: of one schedule as much as the delay takes.

        So delays differ by what they do, not by chance.
        """
        if self._recorded_arrivals is not None:
            return self._recorded_arrivals
        assert setting.rate is not None
        longest = max(self._longest, setting.delay)
        times = arrivals_of(setting.rate, self._seconds(setting.rate, longest), which)
        seconds = self._seconds(setting.rate, setting.delay)
        return times[: bisect_right(times, 1000 * seconds)]

    def _seconds(self, rate: float, delay: float) -> float:
        """How long a replay is."""
        cycle = delay / 1000 + 1 / rate
        return max(min(ENTRIES / rate, DELAYS * cycle), CYCLES * cycle)

    def _sink(self, which: int) -> Sink:
        if which not in self._sinks:
            calls = self._recorded_calls
            self._sinks[which] = Sink(_resampled(calls, which) if which else calls)
        return self._sinks[which]


def _recorded(load: Sequence[Setting], cells: Sequence[Cell]) -> Calls:
    """The calls of all runs."""
    made = [
        cell.measured.recorded.calls
        for cell in cells
        if cell.measured.recorded is not None
    ]
    if not made:
        return Calls.constant(load[0].sink or 0.0)
    return Calls.pooled(made)


def _resampled(calls: Calls, seed: int) -> Calls:
    """As many of the calls, drawn by chance with repetition.

    In stretches: slow calls often follow each other.
    """
    draw, count = random.Random(seed), len(calls.sizes)
    length = max(1, count // STRETCHES)
    chosen = [
        (begin + one) % count
        for begin in (draw.randrange(count) for _ in range(STRETCHES))
        for one in range(length)
    ]
    return Calls(
        [calls.sizes[one] for one in chosen],
        [calls.times[one] for one in chosen],
        [calls.blocked[one] for one in chosen],
    )
