"""Recommends a delay, a capacity and a max_batch from what was measured.

Of the delays that meet the budgets, the one under which requests are served fastest.
Delays that are as good within the noise are a tie, broken by fewer calls: so with
nothing against it, the longest. docs/tuning.md gives the rules with their reasons.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ._candidates import (
    ASSUMED_NOISE,
    HEADROOM,
    LEAST_CAPACITY,
    REQUEST_GRAIN,
    Candidate,
    Noise,
    candidates,
)
from ._model import MIB, power_of_two, predict
from ._results import Cell

# Larger batches of objects stop the loop for longer when they are freed.
GOOD_BATCH = 2000
# Repeats that differ by more than their median show nothing.
TOO_NOISY = 1.0


@dataclass(frozen=True, slots=True)
class Budgets:
    """The user's limits; None: no limit.

    Attributes:
        age: 99th percentile of the age of entries, milliseconds.
        memory: MiB.
        calls: Calls of the dispatch function a second.
    """

    age: float | None = None
    memory: float | None = None
    calls: float | None = None


@dataclass(slots=True)
class Recommendation:
    """The options to set, with reasons and costs.

    Attributes:
        sentence: The options to set, and nothing else.
        delay: None: no delay meets the budgets.
        binds: The budgets that ruled out a better delay or capacity; None: none did.
        ties: Delays that are as good within the noise.
        relax: The budgets to raise, and to what, where no delay meets them.
        costs: The costs of the delay: name and value.
        reasons: The costs in words, then the reasons.
        noise: By how much repeats of the same setting differ, as a share.
    """

    sentence: str
    delay: float | None = None
    capacity: int | None = None
    max_batch: int | None = None
    binds: str | None = None
    ties: list[float] = field(default_factory=list)
    relax: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    noise: float = ASSUMED_NOISE

    def as_dict(self) -> dict[str, Any]:
        """For `Results.recommendation`."""
        return asdict(self)


def recommend(
    cells: Sequence[Cell], budgets: Budgets, *, entry_bytes: float
) -> Recommendation:
    """Recommend what to set for all the rates that were measured.

    Args:
        cells: Alike but for rate and delay; cells of the same setting are repeats, and
            show the noise.
        budgets: The limits, at each of the rates.
        entry_bytes: Bytes of a pending entry.

    Raises:
        ValueError: no cells.
    """
    if not cells:
        raise ValueError("cells=[]: nothing was measured")
    found = _recommend(cells, budgets, entry_bytes)
    if failures := failures_in_words(cells):
        found.reasons.append(failures)
    return found


def _recommend(
    cells: Sequence[Cell], budgets: Budgets, entry_bytes: float
) -> Recommendation:
    tried, noise = candidates(cells, entry_bytes)
    able = [one for one in tried if not one.dropped]
    if not able:
        return _saturated(tried, noise.share)
    fitting = [one for one in able if not _exceeded(one, budgets)]
    if not fitting:
        return _relaxed(able, budgets, noise.share)
    best, ties = _best(fitting)
    wanted, _ = _best(able)
    capacity, why_capacity = _capacity(best, budgets)
    binds = [*_exceeded(wanted, budgets)]
    if capacity < best.room and "memory" not in binds:
        binds.append("memory")
    max_batch, why_batch = _max_batch(best, budgets)
    found = Recommendation(
        sentence=f"Set ms_delay={best.delay:g}, capacity={capacity}"
        + ("." if max_batch is None else f", max_batch={max_batch}."),
        delay=best.delay,
        capacity=capacity,
        max_batch=max_batch,
        binds=", ".join(binds) or None,
        ties=[one.delay for one in ties],
        costs=_costs(best, capacity, max_batch),
        noise=noise.share,
    )
    found.reasons = [
        _in_words(found),
        _why_delay(best, ties, noise)
        if len(fitting) > 1
        else _why_only(best, able, tried),
        _why_not_longer(found, wanted, budgets),
        why_capacity,
        why_batch,
    ]
    return found


# ---- which delay


def _exceeded(one: Candidate, budgets: Budgets) -> dict[str, float]:
    """The budgets that a delay does not meet, and the values that it needs."""
    needs = {}
    for name, limit in asdict(budgets).items():
        value = getattr(one, name).value
        if limit is not None and value > limit:
            needs[name] = value
    return needs


def _is_close(one: Candidate, budgets: Budgets) -> bool:
    """Whether a delay misses the budgets only by the noise."""
    return all(
        getattr(one, name).least <= getattr(budgets, name)
        for name in _exceeded(one, budgets)
    )


def _best(candidates: Sequence[Candidate]) -> tuple[Candidate, list[Candidate]]:
    """Return the best candidate, and those that are as good within the noise."""
    fastest = min(candidates, key=lambda one: one.request.value)
    good = [one for one in candidates if one.request.value <= fastest.request.most]
    best = min(good, key=lambda one: (round(one.calls.value, 1), one.delay))
    return best, [one for one in good if one is not best]


# ---- how much room, and how large a batch


def _capacity(one: Candidate, budgets: Budgets) -> tuple[int, str]:
    """Room for twice the longest cycle.

    With a memory budget, no more than it has room for when ring and calls are full.
    """
    capacity = one.room
    why = (
        f"capacity={capacity:,}: {one.rate:,.0f} entries/s for {one.delay:g} ms of "
        f"delay and {one.sink / one.slots:.3g} ms of a call are {one.per_cycle:,.0f}, "
        f"and at most {one.peak:,} were pending at once; twice the larger, as a power "
        f"of two, and no less than {LEAST_CAPACITY:,}"
    )
    if budgets.memory is None:
        return capacity, why
    each = one.entry_bytes_full
    fits = max(1, int(budgets.memory * MIB / each))
    if fits >= capacity:
        return capacity, why
    return fits, (
        f"capacity={fits:,}, and no {capacity:,}, for --budget-memory "
        f"{budgets.memory:g}: when the sink stands still, that many entries of "
        f"{one.entry_bytes:,.0f} bytes pend and as many are in each call, in all "
        f"{fits * each / MIB:.3g} MiB; {one.pending:,.0f} come in the longest cycle"
    )


def _max_batch(one: Candidate, budgets: Budgets) -> tuple[int | None, str]:
    """Limit batches of objects that would be large, if more calls are affordable."""
    if (layout := one.setting.layout) != "objects":
        return None, f"no max_batch: freeing a batch of {layout} costs nothing"
    if one.per_batch <= GOOD_BATCH:
        return None, (
            f"no max_batch: a batch has {one.per_batch:,.0f} entries, and up to "
            f"{GOOD_BATCH:,} are freed in less than a millisecond"
        )
    in_a_call = HEADROOM * one.rate / 1000 * one.sink / one.slots
    size = max(GOOD_BATCH, power_of_two(in_a_call))
    if size >= one.per_batch:
        return None, (
            f"no max_batch: with {one.sink:.3g} ms a call, smaller batches than "
            f"{size:,} could not keep up with twice the load"
        )
    calls = one.rate / size + 1000 / one.delay
    if budgets.calls is not None and calls > budgets.calls:
        return None, (
            f"no max_batch: {size:,} would make it {calls:,.0f} calls/s, more than "
            f"the budget of {budgets.calls:g}"
        )
    return size, (
        f"max_batch={size:,}: else a batch has {one.per_batch:,.0f} objects, and the "
        f"loop stands still while they are freed; it makes up to {calls:,.0f} "
        "calls/s, and was not measured: calls and ages with it are the model's"
    )


# ---- in words


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
        f"with one delay: {lost:,} entries lost; a retry belongs into the dispatch "
        "function: see docs/recipes.md"
    )


def _costs(
    one: Candidate, capacity: int, max_batch: int | None = None
) -> dict[str, float]:
    """The measured costs, with the recommended ring.

    With a max_batch, which was not measured: the predicted calls and ages.
    """
    costs = {
        "age": one.age.value,
        "memory": one.memory_with(capacity),
        "calls": one.calls.value,
        "request": one.request.value,
        "entries_per_batch": one.per_batch,
    }
    if max_batch is not None:
        setting = replace(
            one.setting, rate=one.rate, capacity=capacity, max_batch=max_batch
        )
        said = predict(setting, calls=one.made, entry_bytes=0)
        costs |= {
            "age": said.age_p99,
            "calls": said.calls_per_second,
            "entries_per_batch": said.entries_per_batch,
        }
    return costs


WORDS = {
    "age": ("--budget-age", "{:,.3g} ms of age (p99)"),
    "memory": ("--budget-memory", "{:,.3g} MiB"),
    "calls": ("--budget-calls", "{:,.4g} calls/s"),
}


def _amount(name: str, value: float) -> str:
    return WORDS[name][1].format(value)


def _list(delays: Iterable[float]) -> str:
    words = [f"{delay:g}" for delay in delays]
    head = ", ".join(words[:-1])
    return f"{head} and {words[-1]} ms" if head else f"{words[-1]} ms"


def _why_only(
    one: Candidate, able: Sequence[Candidate], tried: Sequence[Candidate]
) -> str:
    if len(tried) == 1:
        return f"{one.delay:g} ms is the only delay that was tried"
    if len(able) == 1:
        return (
            f"with all delays that were tried but {one.delay:g} ms, entries were lost"
        )
    return f"no other delay that was tried meets the budgets: {one.delay:g} ms does"


def _why_delay(one: Candidate, ties: Sequence[Candidate], noise: Noise) -> str:
    alike = _list(sorted([one.delay, *(tie.delay for tie in ties)]))
    if noise.share > TOO_NOISY:
        how = "as long, within that" if ties else "the least"
        return (
            "too noisy to tell: what requests on the same loop take differs by "
            f"{noise.share:.0%} between runs of the same setting; with {alike} they "
            f"take {how}"
        )
    if ties:
        return (
            f"tie: with {alike}, requests on the same loop take as long, within "
            f"{noise} or {REQUEST_GRAIN:g} ms; {one.delay:g} ms makes the fewest calls"
        )
    return (
        f"requests on the same loop take {one.request.value:.3g} ms (p99), less than "
        f"with any other delay that meets the budgets, beyond {noise}"
    )


def _why_not_longer(found: Recommendation, wanted: Candidate, budgets: Budgets) -> str:
    exceeded = _exceeded(wanted, budgets)
    if exceeded:
        needs = ", ".join(_amount(name, value) for name, value in exceeded.items())
        limits = ", ".join(f"{WORDS[n][0]} {getattr(budgets, n):g}" for n in exceeded)
        close = ", a tie with the budget itself" if _is_close(wanted, budgets) else ""
        return f"{limits} binds: {wanted.delay:g} ms would need {needs}{close}"
    if budgets == Budgets():
        return (
            f"no budget was given: {_amount('age', found.costs['age'])} counts as "
            "affordable; set --budget-age to limit it"
        )
    return (
        f"no budget binds the delay: without them, too, it would be {found.delay:g} ms"
    )


def _in_words(found: Recommendation) -> str:
    """The costs, as a sentence."""
    costs = found.costs
    binding = f"the {found.binds} budget binds" if found.binds else "no budget binds"
    return (
        f"it costs {_amount('age', costs['age'])}, "
        f"{_amount('memory', costs['memory'])} and "
        f"{_amount('calls', costs['calls'])} of {costs['entries_per_batch']:,.4g} "
        f"entries; {binding}"
    )


def _relaxed(
    able: Sequence[Candidate], budgets: Budgets, noise: float
) -> Recommendation:
    """No delay meets the budgets: recommend which to relax, for the closest one."""

    def distance(one: Candidate) -> tuple[int, float]:
        needs = _exceeded(one, budgets)
        shares = [value / getattr(budgets, name) for name, value in needs.items()]
        return len(needs), max(shares)

    closest = min(able, key=distance)
    relax = {
        name: _rounded_up(getattr(closest, name).most)
        for name in _exceeded(closest, budgets)
    }
    options = " and ".join(
        f"{WORDS[name][0]} from {getattr(budgets, name):g} to {value:g}"
        for name, value in relax.items()
    )
    reasons = []
    for one in able:
        needs = _exceeded(one, budgets)
        words = ", ".join(
            f"{_amount(name, value)} where {getattr(budgets, name):g} are affordable"
            for name, value in needs.items()
        )
        reasons.append(f"{one.delay:g} ms needs {words}")
    return Recommendation(
        sentence=f"No delay meets the budgets: relax {options}, then {closest.delay:g} "
        "ms does.",
        relax=relax,
        costs=_costs(closest, closest.room),
        reasons=reasons,
        noise=noise,
    )


def _rounded_up(value: float) -> float:
    """To two figures, so that a budget of it is met."""
    unit = math.pow(10, math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit


def _saturated(candidates: Sequence[Candidate], noise: float) -> Recommendation:
    """Entries were dropped with every delay: recommend none."""
    one = candidates[-1]
    capacity, why = _capacity(one, Budgets())
    how = (
        f"--capacity {capacity} takes the load in, as do calls of less than "
        f"{one.sink:.3g} ms"
    )
    return Recommendation(
        sentence="No delay helps: entries were dropped with each of them.",
        reasons=[how, why],
        costs=_costs(one, capacity),
        noise=noise,
    )
