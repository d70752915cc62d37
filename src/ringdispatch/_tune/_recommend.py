"""Recommends options from what was measured, and from nothing else.

Of the choices that lost no entry and met every budget, the one with the fewest calls a
second; of two alike, the one with fewer calls in flight, then the younger entries.
docs/tuning.md gives the rules with their reasons.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any

from ._format import number, plain, size
from ._model import MIB
from ._results import Cell
from ._tried import LEAST_CAPACITY, Tried, tried

# Without a budget of requests: slower than the fastest by more than both, a choice is
# out. A share, and milliseconds.
SLOWER, SLOWER_MS = 0.2, 5.0
# Choices whose calls differ by less, as a share, are alike.
TIE = 0.02
# By less than this share, calls differ by chance.
NOISE = 0.005


BUDGETS = ("age", "memory", "calls", "request")


@dataclass(frozen=True, slots=True)
class Budgets:
    """The user's limits; infinite: no limit.

    Attributes:
        age: 99th percentile of the age of entries, milliseconds.
        memory: MiB.
        calls: Calls of the dispatch function a second.
        request: 99th percentile of what requests on the loop take, milliseconds.
    """

    age: float = inf
    memory: float = inf
    calls: float = inf
    request: float = inf

    @property
    def given(self) -> dict[str, float]:
        """Those that are limits."""
        return {name: one for name, one in asdict(self).items() if one < inf}

    def missed_by(self, one: Tried) -> dict[str, float]:
        """The budgets that a choice does not meet, and what it takes."""
        needs = {name: getattr(one, name) for name in self.given}
        return {name: at for name, at in needs.items() if at > getattr(self, name)}

    def excess(self, one: Tried) -> float:
        """By which share a choice misses a budget, at most; 0.0: it meets them all."""
        missed = self.missed_by(one).items()
        return max((at / getattr(self, name) - 1 for name, at in missed), default=0.0)

    def fits(self, one: Tried) -> bool:
        """Whether a choice lost no entry and meets the budgets."""
        return not one.dropped and not self.missed_by(one)


@dataclass(slots=True)
class Recommendation:
    """The options to set, with reasons and costs.

    Attributes:
        sentence: The options to set, and nothing else.
        meets: Whether they meet the budgets. If not, of what was measured they miss
            them by the least.
        delay, max_in_flight, max_batch, capacity: The options; None: not to be set.
        binds: The budgets that ruled out fewer calls.
        costs: What was measured with them: name and value.
        reasons: The costs in words, then the reasons.
        slow_calls: Batches that waited for a call, in all its runs.
    """

    sentence: str
    meets: bool = False
    delay: float | None = None
    max_in_flight: int | None = None
    max_batch: int | None = None
    capacity: int | None = None
    binds: list[str] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    slow_calls: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For `Results.recommendation`."""
        return asdict(self)


def recommend(
    cells: Sequence[Cell],
    budgets: Budgets,
    *,
    entry_bytes: float,
    least_runs: int = 1,
) -> Recommendation:
    """Recommend what to set for all the rates that were measured.

    Args:
        cells: Cells of the same setting are repeats; each choice at each of the rates.
        budgets: The limits, at each of the rates.
        entry_bytes: Bytes of a pending entry.
        least_runs: At each rate, of what is recommended, unless nothing that meets
            the budgets has as many.

    Raises:
        ValueError: no cells.
    """
    if not cells:
        raise ValueError("cells=[]: nothing was measured")
    found = _recommend(tried(cells, entry_bytes), budgets, least_runs)
    if failures := failures_in_words(cells):
        found.reasons.append(failures)
    return found


def _recommend(
    seen: Sequence[Tried], budgets: Budgets, least_runs: int
) -> Recommendation:
    slowest = max(one.slowest for one in seen)
    able = [one for one in seen if not one.dropped]
    if not able:
        return _saturated(seen[-1], slowest)
    limits = guarded(budgets, able)
    able = [one for one in able if one.runs] or able
    fitting = [one for one in able if limits.fits(one)]
    if not fitting:
        best = min(able, key=lambda one: (limits.excess(one), one.calls))
        found = _options(best, budgets, slowest)
        found.sentence = (
            f"None of the {len(seen)} settings that were measured meets the budgets. "
            f"The nearest: {found.sentence}"
        )
        found.reasons += _at_odds(able, budgets, limits)
        return found
    often = [one for one in fitting if one.runs >= least_runs]
    best = best_of(often or fitting)
    found = _options(best, budgets, slowest)
    found.meets = True
    fewer = [
        one
        for one in able
        if one.calls < (1 - NOISE) * best.calls and not limits.fits(one)
    ]
    found.binds = sorted({name for one in fewer for name in limits.missed_by(one)})
    found.reasons += _why(best, fitting, limits, len(seen))
    found.reasons += _why_not_fewer(fewer, budgets, limits)
    if "age" not in budgets.given:
        longest = max(one.choice.delay for one in seen)
        found.reasons.append(
            f"no --budget-age was given: no delay above {longest:g} ms was tried"
        )
    return found


def guarded(budgets: Budgets, able: Iterable[Tried]) -> Budgets:
    """The budgets, with a limit for requests on the loop where the user gave none."""
    fastest = min((one.request for one in able), default=inf)
    limit = max((1 + SLOWER) * fastest, fastest + SLOWER_MS)
    return budgets if budgets.request < inf else replace(budgets, request=limit)


def best_of(fitting: Sequence[Tried]) -> Tried:
    """The fewest calls; of two alike fewer in flight, then the younger entries."""
    fewest = min(one.calls for one in fitting)
    alike = [one for one in fitting if one.calls <= (1 + TIE) * fewest]
    return min(alike, key=lambda one: (one.choice.max_in_flight, one.age))


# ---- the options


def _options(best: Tried, budgets: Budgets, slowest: float) -> Recommendation:
    """What to set for a choice, and what it costs."""
    choice = best.choice
    capacity, why = _capacity(best, budgets, slowest)
    options = [f"ms_delay={choice.delay:g}"]
    if choice.max_in_flight > 1:
        options.append(f"max_in_flight={choice.max_in_flight}")
    if choice.max_batch is not None:
        options.append(f"max_batch={choice.max_batch}")
    costs = {
        "age": best.age,
        "memory": best.memory_with(capacity),
        "calls": best.calls,
        "request": best.request,
        "entries_per_batch": best.per_batch,
    }
    return Recommendation(
        sentence=f"Set {', '.join(options)}, capacity={capacity}.",
        delay=choice.delay,
        max_in_flight=choice.max_in_flight,
        max_batch=choice.max_batch,
        capacity=capacity,
        costs=costs,
        reasons=[_in_words(costs, best), why],
        slow_calls=best.slow_calls,
    )


def _capacity(one: Tried, budgets: Budgets, slowest: float) -> tuple[int, str]:
    """Room for twice what may be pending.

    With a memory budget, no more than it has room for when ring and calls are full.
    """
    capacity = one.capacity(slowest)
    slowest = max(one.slowest, slowest)
    why = (
        f"capacity={capacity:,}: at most {one.peak:,} were pending, and "
        f"{one.rate:,.0f} entries/s for {one.choice.delay:g} ms of delay and the "
        f"slowest call seen, {slowest:.3g} ms, are "
        f"{one.rate / 1000 * (one.choice.delay + slowest):,.0f}; twice the larger, as "
        f"a power of two, and no less than {LEAST_CAPACITY:,}"
    )
    fits = max(1, int(min(budgets.memory * MIB / one.bytes_when_full, capacity)))
    if fits == capacity:
        return capacity, why
    return fits, (
        f"capacity={fits:,}, and no {capacity:,}, for --budget-memory "
        f"{budgets.memory:g}: when the sink stands still, that many entries of "
        f"{one.entry_bytes:,.0f} bytes pend and as many are in each call, in all "
        f"{fits * one.bytes_when_full / MIB:.3g} MiB; at most {one.peak:,} were pending"
    )


# ---- in words


WORDS = {
    "age": "{} ms of age (p99)",
    "memory": "{} of memory",
    "calls": "{} calls/s",
    "request": "{} ms for requests on the loop (p99)",
}


def _amount(name: str, value: float) -> str:
    figure = size(MIB * value) if name == "memory" else number(value)
    return WORDS[name].format(figure)


def _budget(name: str, budgets: Budgets) -> str:
    """A budget: as it was given, or as it is assumed."""
    if name in budgets.given:
        return f"--budget-{name} {plain(getattr(budgets, name))}"
    return (
        f"without a --budget-{name}, what serves requests slower than the fastest by "
        f"over {SLOWER_MS:g} ms, and {SLOWER:.0%}, is out"
    )


def _and(words: Iterable[str], conjunction: str = "and") -> str:
    *first, last = words
    return f"{', '.join(first)} {conjunction} {last}" if first else last


def _in_words(costs: dict[str, float], best: Tried) -> str:
    """The costs, as a sentence."""
    taken = _and(_amount(name, costs[name]) for name in WORDS)
    words = (
        f"it costs {taken}, with {number(costs['entries_per_batch'])} entries a call"
    )
    if best.slow_calls:
        batches = "batch" if best.slow_calls == 1 else "batches"
        words += f"; {best.slow_calls:,} {batches} waited for a slow call or the loop"
    return words


def _why(
    best: Tried, fitting: Sequence[Tried], limits: Budgets, measured: int
) -> list[str]:
    within = "within the budgets" if limits.given else "without a loss"
    if measured == 1:
        return [f"a delay of {best.choice} is the only setting that was measured"]
    stay = "stays" if len(fitting) == 1 else "stay"
    fewest = (
        f"of {measured} settings that were measured, {len(fitting)} {stay} {within}; "
        f"a delay of {best.choice} makes the fewest calls"
    )
    why = [fewest]
    alike = [
        str(one.choice)
        for one in fitting
        if one is not best and abs(one.calls - best.calls) <= TIE * best.calls
    ]
    if alike:
        makes = "makes" if len(alike) == 1 else "make"
        why.append(
            f"a delay of {_and(alike, 'or')} {makes} as few, within {TIE:.0%}: fewer "
            "calls in flight and younger entries decide"
        )
    return why


def _why_not_fewer(
    fewer: Sequence[Tried], budgets: Budgets, limits: Budgets
) -> list[str]:
    """What the choices with fewer calls miss; of each budget the nearest miss."""
    why = []
    for name in WORDS:
        missing = [one for one in fewer if name in limits.missed_by(one)]
        if not missing:
            continue
        near = min(missing, key=lambda one: getattr(one, name))
        taken = _amount(name, getattr(near, name))
        binds = " binds" if name in budgets.given else ""
        why.append(
            f"{_budget(name, budgets)}{binds}: a delay of {near.choice} took {taken}"
        )
    return why


def _at_odds(measured: Sequence[Tried], budgets: Budgets, limits: Budgets) -> list[str]:
    """For each budget the least that was measured of it where the others are met."""
    several = len(budgets.given) > 1
    odds = " is at odds with the others: of what meets those," if several else ":"
    why = []
    for name, limit in limits.given.items():
        others = replace(limits, **{name: inf})
        able = [one for one in measured if not others.missed_by(one)]
        if not able:
            continue
        least = min(able, key=lambda one: getattr(one, name))
        if getattr(least, name) > limit:
            why.append(
                f"{_budget(name, budgets)}{odds} a delay of {least.choice} comes "
                f"nearest: {_amount(name, getattr(least, name))}"
            )
    return why or ["each setting that was measured misses two budgets or more"]


def failures_in_words(cells: Iterable[Cell]) -> str:
    """The calls that failed, and what they lost; empty where none did."""
    measured = [cell.measured for cell in cells]
    failed = [one for one in measured if one.failed]
    if not failed:
        return ""
    share = sum(one.failed for one in failed) / sum(one.batches for one in measured)
    lost = sum(one.lost for one in failed)
    most = max(one.failures_per_second for one in failed)
    return (
        f"{share:.1%} of calls failed ({failed[0].failure}), up to {most:.3g} a second "
        f"with one setting: {lost:,} entries lost; a retry belongs into the dispatch "
        "function: see docs/recipes.md"
    )


def _saturated(one: Tried, slowest: float) -> Recommendation:
    """Entries were dropped with every choice: recommend none."""
    capacity, why = _capacity(one, Budgets(), slowest)
    how = (
        f"--capacity {capacity} takes the load in, as do calls of less than "
        f"{one.sink:.3g} ms"
    )
    return Recommendation(
        sentence="No setting helps: entries were dropped with each of them.",
        reasons=[how, why],
    )
