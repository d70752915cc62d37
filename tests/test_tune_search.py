"""The search for a setting, on measurements that a replay makes up."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from extent import extent
from ringdispatch._tune._recommend import Budgets, Recommendation, recommend
from ringdispatch._tune._recording import Ages, Calls, Recorded
from ringdispatch._tune._replay import Run, arrivals_of, pooled, run
from ringdispatch._tune._results import Measured, Setting
from ringdispatch._tune._search import RUNS, Search, Trial
from ringdispatch._tune._sink import Sink
from ringdispatch._tune._tried import Choice

# How long a call of so many entries takes, and blocks the loop; milliseconds.
Times = Callable[[int, random.Random], tuple[float, float]]

SINKS: dict[str, Times] = {
    "jitter": lambda size, draw: (draw.uniform(2, 20), 0.0),
    "tail": lambda size, draw: (300.0 if draw.random() < 0.01 else 5.0, 0.0),
    "blocking": lambda size, draw: (5 + size / 500, size / 500),
    "growing": lambda size, draw: (5 + 0.08 * size, 0.0),
}
MOST_TRIALS = 25


class Service(Sink):
    """Stands in for a dispatch function: draws the times, and keeps them."""

    def __init__(self, times: Times, chance: random.Random) -> None:
        self.times = times
        self.chance = chance
        self.calls = Calls([], [], [])

    def call(self, size: int) -> tuple[float, float]:
        """Draw how long it takes, and for how long it blocks the loop."""
        time, blocked = self.times(size, self.chance)
        self.calls.sizes.append(size)
        self.calls.times.append(time)
        self.calls.blocked.append(blocked)
        return time, blocked


def measure(setting: Setting, times: Times, seed: int, request: float) -> Measured:
    """What stands in for a measurement."""
    assert setting.rate is not None
    service = Service(times, random.Random(seed))
    due = arrivals_of(setting.rate, setting.seconds, 1_000 + seed)
    return figures(setting, run(setting, service, due, seed), service.calls, request)


def figures(setting: Setting, one: Run, calls: Calls, request: float) -> Measured:
    """What a run would have measured."""
    assert setting.rate is not None
    said = pooled([one])
    return Measured(
        rate=setting.rate,
        held=True,
        batches=one.batches,
        entries_per_batch=said.entries_per_batch,
        calls_per_second=said.calls_per_second,
        age_p50=said.age_p50,
        age_p99=said.age_p99,
        age_max=max(one.ages),
        stall_max=1.0,
        request_p99=1.0 + request * setting.delay,
        cpu_seconds_per_million=1.0,
        sink_mean=sum(calls.times) / len(calls.times),
        peak_pending=one.peak_pending,
        rss_growth=0,
        dropped=one.dropped,
        sink_max=max(calls.times),
        slow_calls=one.slow_calls,
        recorded=Recorded(calls, Ages.of(one.ages)),
    )


@dataclass(slots=True)
class Outcome:
    """A whole search."""

    found: Recommendation
    trials: list[Trial]

    @property
    def choices(self) -> list[Choice]:
        """What was measured, in order."""
        return [Choice.of(trial.setting) for trial in self.trials]


def tune(
    times: Times,
    *,
    rates: Sequence[float] = (2_000.0,),
    delays: Sequence[float] | None = None,
    sink: float | None = None,
    capacity: int = 65_536,
    seed: int = 0,
    request: float = 0.0,
    **budgets: float,
) -> Outcome:
    """Search until there is nothing to try.

    Each millisecond of delay makes requests on the loop `request` milliseconds slower.
    """
    load = [Setting(rate, 0.0, sink, capacity=capacity, seconds=2.0) for rate in rates]
    limits = Budgets(**budgets)
    search = Search(load, limits, entry_bytes=300, delays=delays)
    trials = []
    while (trial := search.next()) is not None:
        trials.append(trial)
        assert len(trials) <= MOST_TRIALS, [str(one.setting) for one in trials]
        seen = measure(trial.setting, times, 100 * seed + len(trials), request)
        search.add(trial.setting, seen)
    found = recommend(search.cells, limits, entry_bytes=300, least_runs=RUNS)
    return Outcome(found, trials)


@pytest.mark.parametrize("name", SINKS)
def test_each_search_ends_just_under_the_budget_of_age(name: str) -> None:
    for seed in range(extent(1, 3)):
        times, rates = SINKS[name], [500.0]
        found = tune(times, rates=rates, seed=seed, age=100.0, calls=15.0).found
        assert found.meets
        assert found.delay is not None
        assert 95 <= found.delay <= 99.5
        assert found.costs["age"] <= 100
        assert found.costs["calls"] < 10.6


def test_calls_with_a_tail_take_more_than_one_in_flight() -> None:
    found = tune(SINKS["tail"], rates=[10_000.0], age=100.0, calls=30.0).found
    assert found.meets
    assert found.max_in_flight in {2, 4}
    # Nothing is lost where the slowest call comes again.
    assert found.capacity == 8_192


def test_calls_that_take_longer_than_the_budget_take_more_in_flight() -> None:
    found = tune(lambda size, draw: (40.0, 0.0), age=30.0).found
    assert found.meets
    assert found.max_in_flight == 2


def test_more_than_four_in_flight_are_tried_where_four_will_not_do() -> None:
    found = tune(lambda size, draw: (120.0, 0.0), age=20.0).found
    assert found.meets
    assert found.max_in_flight == 8


def test_calls_that_take_longer_in_large_batches_are_learned() -> None:
    times = SINKS["growing"]
    found = tune(times, rates=[10_000.0], age=30.0, calls=60.0).found
    assert found.meets
    assert found.costs["calls"] < 38


def test_only_the_delays_that_are_given_are_tried() -> None:
    outcome = tune(SINKS["jitter"], delays=[10.0, 40.0, 80.0], age=60.0)
    assert outcome.found.delay == 40
    searched = outcome.choices[2:]  # the first two are to learn
    assert {one.delay for one in searched} == {40.0}
    assert 80.0 not in {one.delay for one in outcome.choices}


def test_delays_that_are_given_are_tried_without_a_budget_of_age() -> None:
    found = tune(SINKS["jitter"], rates=[500.0], delays=[200.0, 500.0]).found
    assert (found.meets, found.delay) == (True, 500)


def test_the_least_budget_of_age_is_searched_for() -> None:
    outcome = tune(SINKS["jitter"], rates=[500.0], age=1.0)
    assert not outcome.found.meets
    assert {one.delay for one in outcome.choices} == {1.0}
    assert outcome.found.costs["age"] > 1


def test_a_search_ends_where_entries_are_dropped_whatever_is_tried() -> None:
    outcome = tune(lambda size, draw: (400.0, 0.0), capacity=16, age=60.0)
    assert outcome.found.delay is None
    assert "entries were dropped with each of them" in outcome.found.sentence


def test_without_a_budget_the_usual_delay_is_the_longest() -> None:
    found = tune(SINKS["jitter"]).found
    assert found.meets
    assert found.delay == 100
    assert any("no --budget-age was given" in why for why in found.reasons)


def test_each_rate_is_measured_as_often() -> None:
    outcome = tune(SINKS["jitter"], rates=[200.0, 1_000.0], age=60.0)
    assert outcome.found.meets
    final = outcome.choices[-1]
    runs = [
        trial.setting.rate
        for trial in outcome.trials
        if Choice.of(trial.setting) == final
    ]
    assert sorted(runs) == sorted([200.0, 1_000.0] * RUNS)  # type: ignore[type-var]


def test_nothing_is_to_be_learned_of_a_stand_in() -> None:
    outcome = tune(lambda size, draw: (5.0, 0.0), rates=[500.0], sink=5.0, age=60.0)
    assert outcome.found.meets
    assert len(outcome.trials) == RUNS


def test_budgets_that_nothing_meets_are_shown_by_what_was_measured() -> None:
    outcome = tune(SINKS["jitter"], rates=[500.0], age=40.0, calls=15.0)
    found = outcome.found
    assert not found.meets
    assert re.match("None of the . settings that were measured meets", found.sentence)
    measured = {str(one) for one in outcome.choices}
    age, calls = found.reasons[-2:]
    at_odds = r"is at odds with the others: .* a delay of (.*) comes nearest: (.*)"
    for why, budget, least, most, unit in (
        (age, "--budget-age 40", 66, 70, "ms of age"),
        (calls, "--budget-calls 15", 24, 26, "calls/s"),
    ):
        seen = re.fullmatch(rf"{budget} {at_odds}", why)
        assert seen is not None
        assert seen[1] in measured
        assert least < float(seen[2].split()[0]) < most
        assert unit in seen[2]


def test_a_setting_that_slows_requests_down_is_out() -> None:
    slow = tune(SINKS["jitter"], age=100.0, request=0.2).found
    assert slow.meets
    assert slow.delay is not None
    assert slow.delay < 50
    assert slow.binds == ["request"]


def test_recorded_arrivals_are_searched_for_as_they_are() -> None:
    """In bursts, with which a batch is no larger than the burst."""
    times = [1_000.0 * burst + 0.1 * one for burst in range(20) for one in range(100)]
    load = [Setting(len(times) / 20, 0.0, None, seconds=20.0)]
    search = Search(load, Budgets(age=50.0), entry_bytes=300, arrivals=times)
    for run_number in range(MOST_TRIALS):
        trial = search.next()
        if trial is None:
            break
        assert trial.setting.seconds == 20.0
        service = Service(SINKS["jitter"], random.Random(run_number))
        one = run(trial.setting, service, times, run_number)
        search.add(trial.setting, figures(trial.setting, one, service.calls, 0.0))
    else:
        pytest.fail("the search did not end")
    found = recommend(search.cells, search.budgets, entry_bytes=300, least_runs=RUNS)
    assert found.meets
    assert found.costs["calls"] == pytest.approx(1.0, abs=0.1)


def test_a_run_is_long_enough_for_a_percentile() -> None:
    outcome = tune(SINKS["jitter"], rates=[5.0], age=400.0)
    for trial in outcome.trials:
        cycle = trial.setting.delay / 1000 + 1 / 5.0
        assert trial.setting.seconds >= 40 * cycle


def test_trials_say_why() -> None:
    trials = tune(SINKS["tail"], rates=[500.0], age=100.0).trials
    whys = [trial.why for trial in trials]
    assert whys[:2] == ["how long large batches take", "how many calls are slow"]
    assert re.fullmatch(r"the replay says 10.\d calls/s, 99.\d ms", whys[2])
    assert whys[3:] == ["as good as hoped, run 2", "as good as hoped, run 3"]
