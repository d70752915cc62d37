"""What to measure next: the settings that promise to meet the budgets with few calls.

The search proposes by replay, with the calls of all runs so far. It stops when the best
that it can think of has been measured. The recommendation is chosen from what was
measured alone, by `_recommend`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor, inf

from ._forecast import CYCLES, Forecast
from ._recommend import TIE, Budgets, best_of, guarded
from ._results import Cell, Measured, Setting
from ._tried import Choice, Tried, tried

# Calls at once; more only where none of these will do.
SLOTS, MORE_SLOTS = (1, 2, 4), (8, 16)
# Milliseconds: so far at least the delay stays below the budget of age.
LATE = 0.5
SHORTEST = 1.0
# The longest without a budget of age: the one that is advised for lower traffic.
USUAL_DELAY = 100.0
# The delays that are thought of: each shorter by this share, near the longest by less.
STEP, FINE_STEP, FINE = 0.15, 0.02, 0.1
# Halvings of the step between one that will not do and one that will.
HALVINGS = 4
# Runs of what is recommended, at each rate.
RUNS = 3
# A proposal is tried if it saves so many of the calls of the best that was measured.
WORTH_IT = 0.015
# To see a tail takes so many calls, or seconds.
LEARN_CALLS, LEARN_SECONDS = 500, 10.0
LEARNING = 2  # runs
# Delays that differ by less, as a share or in milliseconds, are the same.
SAME, SAME_MS = 0.003, 0.2
# What grows with the delay, whatever calls take.
GROW = {"request", "memory"}
# A budget that is missed by more than this share is not a matter of the delay alone.
NEAR = 0.05


@dataclass(frozen=True, slots=True)
class Trial:
    """A run to make.

    Attributes:
        setting: What to measure.
        why: In a few words, for the progress bar and the report.
    """

    setting: Setting
    why: str


@dataclass(slots=True)
class Proposal:
    """A choice, and what the replay says of it."""

    choice: Choice
    calls: float
    age: float

    @property
    def promise(self) -> str:
        """In a few words."""
        return f"the replay says {self.calls:.1f} calls/s, {self.age:.1f} ms"


@dataclass(slots=True)
class Search:
    """A search for the setting with the fewest calls that meets the budgets.

    Attributes:
        load: A setting for each rate, with the capacity to measure with.
        budgets: The user's limits.
        entry_bytes: Bytes of a pending entry.
        delays: The only delays to try, ascending; None: any.
        arrivals: When entries arrive, milliseconds; None: by chance, at each rate.
        cells: What was measured so far.
    """

    load: Sequence[Setting]
    budgets: Budgets
    entry_bytes: float
    delays: Sequence[float] | None = None
    arrivals: Sequence[float] | None = None
    cells: list[Cell] = field(default_factory=list)

    def add(self, setting: Setting, measured: Measured) -> None:
        """Learn from a run."""
        self.cells.append(Cell(setting, measured))

    def next(self) -> Trial | None:
        """The run to make now; None: there is nothing better to try."""
        trial = self._learning()
        if trial is not None:
            return trial
        return _Round(self).trial()

    @property
    def learning(self) -> int:
        """How many runs are to learn; of a stand-in, which never varies, none."""
        return LEARNING if self.load[0].sink is None else 0

    def _learning(self) -> Trial | None:
        """Calls with large batches first, then many calls, at the highest rate."""
        if len(self.cells) >= self.learning:
            return None
        fastest = max(self.load, key=lambda one: one.rate or inf)
        long, short = self._ends
        if not self.cells:
            setting = replace(fastest, delay=long)
            return Trial(self.long_enough(setting), "how long large batches take")
        seconds = min(LEARN_SECONDS, LEARN_CALLS * short / 1000)
        setting = replace(fastest, delay=short, max_in_flight=SLOTS[-1])
        return Trial(self.long_enough(setting, seconds), "how many calls are slow")

    def long_enough(self, setting: Setting, least: float = 0.0) -> Setting:
        """The setting, for as many seconds and cycles as make a percentile.

        Recorded arrivals last as long as they do.
        """
        if self.arrivals is not None:
            return setting
        cycle = setting.delay / 1000 + 1 / (setting.rate or inf)
        return replace(setting, seconds=max(setting.seconds, CYCLES * cycle, least))

    @property
    def _ends(self) -> tuple[float, float]:
        """A long and a short delay, to learn from."""
        if self.delays is not None:
            return self._given[-1], self._given[0]
        long = max(SHORTEST, 0.9 * self.longest)
        return _rounded(long), _rounded(max(SHORTEST, long / 20))

    @property
    def longest(self) -> float:
        """The longest delay that may do."""
        if self.delays is not None:
            return self._given[-1]
        if self.budgets.age == inf:
            return USUAL_DELAY
        return max(SHORTEST, self.budgets.age - LATE)

    @property
    def _given(self) -> list[float]:
        """The given delays that leave room for a timer's lateness."""
        assert self.delays is not None
        return [one for one in self.delays if one + LATE <= self.budgets.age]


class _Round:
    """One look at all that was measured, to choose the next run."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.tried = tried(search.cells, search.entry_bytes)
        self.able = [one for one in self.tried if not one.dropped]
        self.limits = guarded(search.budgets, self.able)
        self.forecast = Forecast(
            search.load, search.cells, search.arrivals, search.longest
        )

    # ---- the next run

    def trial(self) -> Trial | None:
        """The run to make now; None: the best that it can think of was measured."""
        good = [one for one in self.able if self.limits.fits(one)]
        best = best_of(good) if good else None
        if best is not None and best.choice == self._hoped and best.runs < RUNS:
            return self._run(best.choice, f"as good as hoped, run {best.runs + 1}")
        found = self._proposal(self.limits.calls)
        least = inf if best is None else (1 - WORTH_IT) * best.calls
        if found and found.calls < least and not self._is_known(found.choice):
            return self._run(found.choice, found.promise)
        if best is not None:
            if best.runs >= RUNS:
                return None
            return self._run(best.choice, f"the best so far, run {best.runs + 1}")
        return self._at_odds()

    @property
    def _hoped(self) -> Choice | None:
        """What was measured last, if it was not to learn."""
        cells = self.search.cells
        if len(cells) <= self.search.learning:
            return None
        return Choice.of(cells[-1].setting)

    def _at_odds(self) -> Trial | None:
        """Nothing meets the budgets: measure the least of each with the other met."""
        found = self._youngest()
        if found is not None and self._is_new("age", found):
            return self._nearest(found, "the youngest entries with the calls met")
        if self.limits.calls == inf:
            return None
        found = self._proposal(inf)
        if found is not None and self._is_new("calls", found):
            return self._nearest(found, "the fewest calls with the age met")
        return None

    def _nearest(self, found: Proposal, why: str) -> Trial:
        known = self._known(found.choice, NEAR)
        return self._run(known.choice if known else found.choice, why)

    def _is_new(self, name: str, found: Proposal) -> bool:
        """Whether a proposal promises less of a budget than was measured."""
        others = replace(self.limits, **{name: inf})
        least = min(
            (
                getattr(one, name)
                for one in self.tried
                if one.runs >= RUNS and not others.missed_by(one)
            ),
            default=inf,
        )
        known = self._known(found.choice, NEAR)
        done = known is not None and known.runs >= RUNS
        return not done and getattr(found, name) < (1 - NEAR) * least

    def _run(self, choice: Choice, why: str) -> Trial:
        """A run of a choice, at the rate that has the fewest of it."""
        known = self._known(choice)
        choice = choice if known is None else known.choice

        def runs(load: Setting) -> int:
            return sum(
                Choice.of(cell.setting) == choice and cell.setting.rate == load.rate
                for cell in self.search.cells
            )

        load = min(self.search.load, key=lambda one: (runs(one), -(one.rate or inf)))
        setting = replace(
            load,
            delay=choice.delay,
            max_in_flight=choice.max_in_flight,
            max_batch=choice.max_batch,
        )
        return Trial(self.search.long_enough(setting), why)

    def _known(self, choice: Choice, share: float = SAME) -> Tried | None:
        """What was measured of that choice, or of one hardly different."""
        alike = [
            one
            for one in self.tried
            if replace(one.choice, delay=choice.delay) == choice
            and abs(one.choice.delay - choice.delay)
            <= max(share * choice.delay, SAME_MS)
        ]
        return max(alike, key=lambda one: one.runs, default=None)

    def _is_known(self, choice: Choice) -> bool:
        known = self._known(choice)
        return known is not None and known.runs >= RUNS

    # ---- proposals

    def _proposal(self, most_calls: float) -> Proposal | None:
        """The choice with the fewest calls of those with young enough entries.

        Of two alike it is the one with fewer calls in flight.
        """
        for several in (SLOTS, MORE_SLOTS):
            found: list[Proposal] = []
            for slots in several:
                # With the longest delay it makes the fewest calls.
                least = self.forecast.calls(Choice(self.search.longest, slots))
                if found and found[0].calls <= (1 + TIE) * least:
                    continue
                one = self._longest(slots, most_calls)
                if one is not None:
                    found.append(one)
            if found:
                fewest = min(one.calls for one in found)
                return next(one for one in found if one.calls <= (1 + TIE) * fewest)
        return None

    def _longest(self, slots: int, most_calls: float) -> Proposal | None:
        """The longest delay that will do, found from above: ages may have gaps.

        A shorter delay makes more calls.
        """
        longer, shorter = inf, 0.0
        for delay in self._delays(min(self.search.longest, self._ceiling(slots))):
            choice = Choice(delay, slots)
            if self.forecast.calls(choice) > most_calls:
                break
            if self.forecast.is_young(choice, self.limits.age):
                shorter = delay
                break
            longer = delay
        if not shorter:
            return None
        halvings = 0 if longer == inf or self.search.delays is not None else HALVINGS
        for _ in range(halvings):
            between = _rounded((shorter + longer) / 2)
            if not shorter < between < longer:
                break
            if self.forecast.is_young(Choice(between, slots), self.limits.age):
                shorter = between
            else:
                longer = between
        return self._as_proposal(Choice(shorter, slots))

    def _as_proposal(self, choice: Choice) -> Proposal:
        return Proposal(choice, self.forecast.calls(choice), self.forecast.age(choice))

    def _delays(self, ceiling: float) -> Iterator[float]:
        """The delays to think of, from the longest on."""
        if self.search.delays is not None:
            yield from (one for one in reversed(self.search.delays) if one <= ceiling)
            return
        delay, last = ceiling, inf
        while delay >= SHORTEST:
            if (one := _rounded(delay)) < last:
                yield one
                last = one
            near = delay > (1 - FINE) * ceiling
            delay *= 1 - (FINE_STEP if near else STEP)

    def _ceiling(self, slots: int) -> float:
        """Below the delays that were measured and missed a limit."""
        same = [one for one in self.tried if one.choice.max_in_flight == slots]
        ceiling = inf
        for one in same:
            delay = one.choice.delay
            for name, value in self.limits.missed_by(one).items():
                if name in GROW:
                    ceiling = min(ceiling, self._crossing(one, name, value))
                elif name == "age" and one.runs > 1:
                    over = value / getattr(self.limits, name) - 1
                    less = over if over <= NEAR else STEP
                    ceiling = min(ceiling, (1 - less) * delay - SAME_MS)
        return ceiling

    def _crossing(self, miss: Tried, name: str, value: float) -> float:
        """The delay with which a cost that grows with it should meet its limit."""
        low = min(self.tried, key=lambda one: one.choice.delay)
        limit, least = getattr(self.limits, name), getattr(low, name)
        share = (limit - least) / (value - least) if least < limit else 0.0
        low_delay, delay = low.choice.delay, miss.choice.delay
        return min(low_delay + share * (delay - low_delay), delay - SAME_MS)

    def _youngest(self) -> Proposal | None:
        """The choice with the youngest entries of those with few enough calls."""
        found = [
            self._as_proposal(Choice(delay, slots))
            for slots in SLOTS
            for delay in self._short_delays(slots)
        ]
        return min(found, key=lambda one: one.age, default=None)

    def _short_delays(self, slots: int) -> list[float]:
        """The shortest delay with few enough calls; any, where calls do not count."""
        if self.search.delays is not None or self.limits.calls == inf:
            return [
                one
                for one in self._delays(self.search.longest)
                if self.forecast.calls(Choice(one, slots)) <= self.limits.calls
            ]
        delay = ceil(1000 / self.limits.calls)
        while self.forecast.calls(Choice(delay, slots)) > self.limits.calls:
            delay += max(1, delay // 20)
        return [delay]


def _rounded(delay: float) -> float:
    """Down to what a person would write."""
    for least, grain in ((100.0, 1.0), (10.0, 0.5), (0.0, 0.1)):
        if delay >= least:
            return round(floor(delay / grain + 1e-9) * grain, 1)
    raise AssertionError
