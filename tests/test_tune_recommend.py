"""What is recommended, from figures made up for the test."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher
from ringdispatch._tune._model import merged, predict
from ringdispatch._tune._recommend import Budgets, Recommendation, recommend
from ringdispatch._tune._recording import Ages, Calls, Recorded
from ringdispatch._tune._results import Cell, Measured, Setting

RATE = 10_000.0
MIB = 1024 * 1024


def cell(
    delay: float,
    *,
    rate: float = RATE,
    growth: float = 1.0,
    sink: float = 5.0,
    layout: str = "objects",
    slots: int = 1,
    max_batch: int | None = None,
    **changed: Any,
) -> Cell:
    """A cell as the model has it, with what the model says nothing of."""
    setting = Setting(
        rate, delay, sink, layout=layout, max_in_flight=slots, max_batch=max_batch
    )
    said = predict(setting, calls=Calls.constant(sink), entry_bytes=300)
    seen = Measured(
        rate=rate,
        held=True,
        batches=300,
        entries_per_batch=said.entries_per_batch,
        calls_per_second=said.calls_per_second,
        age_p50=said.age_p50,
        age_p99=said.age_p99,
        age_max=said.age_p99,
        stall_max=1.0,
        request_p99=2.0,
        cpu_seconds_per_million=1.0,
        sink_mean=sink,
        peak_pending=round(said.peak_pending),
        rss_growth=round(growth * MIB),
        dropped=0,
        sink_max=sink,
    )
    return Cell(setting, replace(seen, **changed), said)


def ask(cells: list[Cell], **budgets: float) -> Recommendation:
    return recommend(cells, Budgets(**budgets), entry_bytes=300)


def ask_for_three_runs(cells: list[Cell], **budgets: float) -> Recommendation:
    return recommend(cells, Budgets(**budgets), entry_bytes=300, least_runs=3)


def words(found: Recommendation) -> str:
    return "\n".join([found.sentence, *found.reasons])


GRID = [cell(delay) for delay in (10, 20, 50, 100)]


# ---- which setting


def test_the_fewest_calls_within_the_budgets() -> None:
    found = ask(GRID, age=60)
    assert found.meets
    assert (found.delay, found.max_in_flight, found.capacity) == (50, 1, 2048)
    assert found.sentence == "Set ms_delay=50, capacity=2048."
    assert found.costs["calls"] == pytest.approx(19.9, abs=0.2)
    assert "of 4 settings that were measured, 3 stay within the budgets" in words(found)
    assert "a delay of 50 ms makes the fewest calls" in words(found)


def test_without_a_budget_of_age_it_says_how_far_it_looked() -> None:
    found = ask(GRID)
    assert (found.delay, found.binds) == (100, [])
    assert "no --budget-age was given: no delay above 100 ms was tried" in words(found)
    assert "no --budget-age" not in words(ask(GRID, age=60))


@pytest.mark.parametrize(
    ("cells", "budgets", "binds", "said"),
    [
        (GRID, {"age": 60}, "age", "--budget-age 60 binds: a delay of 100 ms took 10"),
        (
            [cell(10, growth=2), cell(50, growth=6), cell(100, growth=11)],
            {"memory": 8},
            "memory",
            "--budget-memory 8 binds: a delay of 100 ms took 10.5 MiB of",
        ),
        (
            [cell(50, request_p99=2), cell(100, request_p99=9)],
            {"request": 5},
            "request",
            "--budget-request 5 binds: a delay of 100 ms took 9.00 ms for requests",
        ),
    ],
)
def test_a_budget_that_costs_calls_binds(
    cells: list[Cell], budgets: dict[str, float], binds: str, said: str
) -> None:
    found = ask(cells, **budgets)
    assert found.meets
    assert (found.delay, found.binds) == (50, [binds])
    assert said in words(found)
    assert ask(cells, **{binds: 1_000.0}).delay == 100


def test_a_budget_that_rules_nothing_out_does_not_bind() -> None:
    found = ask(GRID, age=500, memory=100, calls=500, request=50)
    assert (found.delay, found.binds) == (100, [])
    assert "binds" not in words(found)


def test_a_budget_does_not_bind_by_chance() -> None:
    late = cell(50, slots=2, age_p99=70.0, calls_per_second=19.6)
    grid = [cell(50, calls_per_second=19.65), late]
    assert ask(grid, age=60).binds == []
    late = cell(50, slots=2, age_p99=70.0, calls_per_second=19.4)
    assert ask([grid[0], late], age=60).binds == ["age"]


def test_fewer_calls_that_no_budget_of_calls_asks_for_are_still_better() -> None:
    assert ask(GRID, calls=60).delay == ask(GRID).delay == 100


@pytest.mark.parametrize(
    ("fast", "slow", "delay"),
    [(0.9, 2.0, 100), (0.9, 5.8, 100), (0.9, 6.0, 10), (40.0, 47.0, 100), (40, 49, 10)],
)
def test_requests_may_be_slower_by_five_milliseconds_or_a_fifth(
    fast: float, slow: float, delay: float
) -> None:
    grid = [cell(10, request_p99=fast), cell(100, request_p99=slow)]
    found = ask(grid)
    assert (found.meets, found.delay) == (True, delay)
    ruled_out = "without a --budget-request, what serves requests slower than the fast"
    assert (ruled_out in words(found)) == (delay == 10)
    assert ask(grid, request=50).delay == 100


def test_of_two_with_as_many_calls_the_one_with_fewer_in_flight() -> None:
    several = [cell(50, slots=2), cell(49.5), cell(49.5, slots=4), cell(48.5)]
    found = ask(several)
    assert (found.delay, found.max_in_flight) == (49.5, 1)
    alike = "a delay of 49.5 ms with 4 in flight or 50 ms with 2 in flight makes as few"
    assert alike.replace("makes", "make") in words(found)
    alone = ask([cell(50, slots=2), cell(48)])
    assert (alone.delay, alone.max_in_flight) == (50, 2)
    assert alone.sentence == "Set ms_delay=50, max_in_flight=2, capacity=2048."
    assert "as few" not in words(alone)


def test_of_two_with_as_many_calls_in_flight_the_younger_entries() -> None:
    assert ask([cell(50), cell(49.5)]).delay == 49.5


def test_the_worst_of_the_rates_decides() -> None:
    slow = [cell(10, rate=1_000), cell(100, rate=1_000)]
    fast = [cell(10, rate=20_000), cell(100, rate=20_000, request_p99=20)]
    assert ask(slow + fast).delay == 10
    found = ask([*slow, fast[0], cell(100, rate=20_000)], age=101.9)
    assert found.delay == 100
    assert found.costs["entries_per_batch"] == pytest.approx(2_000, rel=0.1)
    assert found.capacity == 8_192


def test_what_was_not_measured_at_each_rate_is_not_recommended() -> None:
    both = [cell(10, rate=1_000), cell(10, rate=20_000)]
    assert ask([*both, cell(100, rate=20_000)]).delay == 10
    missing = ask([*both, cell(100, rate=20_000)], age=5)
    assert (missing.meets, missing.delay) == (False, 10)


# ---- repeats


def with_ages(delay: float, ages: list[float]) -> Cell:
    one = cell(delay, age_p99=max(ages))
    recorded = Recorded(Calls.constant(5), Ages.of(ages))
    return replace(one, measured=replace(one.measured, recorded=recorded))


def test_ages_are_pooled_not_their_percentiles() -> None:
    """One run of three has all the slow calls: a median would hide them."""
    quiet, slow = [50.0] * 100, [50.0] * 90 + [250.0] * 10
    found = ask([with_ages(50, one) for one in (quiet, quiet, slow)], age=60)
    assert not found.meets
    assert found.costs["age"] == pytest.approx(250, rel=0.01)
    found = ask([with_ages(50, one) for one in (quiet, quiet, quiet)], age=60)
    assert found.meets


def test_other_figures_are_the_median_of_the_repeats() -> None:
    cells = [cell(50, request_p99=one) for one in (2.0, 90.0, 3.0)]
    assert ask(cells, request=4).costs["request"] == 3.0


def test_slow_calls_are_counted_over_the_repeats() -> None:
    found = ask([cell(50, slow_calls=one) for one in (0, 2, 5)])
    assert found.slow_calls == 7
    assert "7 batches waited for a slow call or the loop" in words(found)
    assert "; 1 batch waited" in words(ask([cell(50, slow_calls=1)]))
    assert "waited" not in words(ask([cell(50)]))


def test_a_delay_that_dropped_entries_once_is_out() -> None:
    cells = [cell(100, dropped=dropped) for dropped in (0, 0, 3)]
    assert ask([*[cell(10)] * 3, *cells]).delay == 10
    assert merged(cells)[0].measured.dropped == 3


def test_what_was_measured_often_enough_is_preferred() -> None:
    cells = [*[cell(50)] * 3, cell(100)]
    found = ask_for_three_runs(cells)
    assert found.delay == 50
    assert "of 2 settings that were measured, 2 stay within" in words(found)
    assert ask(cells).delay == 100
    # Once and within the budget is better than often and beyond it.
    found = ask_for_three_runs([*cells[::-1], cell(20)], age=40)
    assert (found.meets, found.delay) == (True, 20)


# ---- nothing will do


def test_nothing_meets_the_budgets() -> None:
    found = ask(GRID, age=30, calls=30)
    assert not found.meets
    assert found.delay == 20
    assert found.sentence == (
        "None of the 4 settings that were measured meets the budgets. The nearest: "
        "Set ms_delay=20, capacity=1024."
    )
    age, calls = found.reasons[-2:]
    assert age == (
        "--budget-age 30 is at odds with the others: of what meets those, a delay of "
        "50 ms comes nearest: 51.1 ms of age (p99)"
    )
    assert calls == (
        "--budget-calls 30 is at odds with the others: of what meets those, a delay of "
        "20 ms comes nearest: 48.8 calls/s"
    )
    # What it names is what there is: with that, the budgets are met.
    assert ask(GRID, age=52, calls=30).meets
    assert ask(GRID, age=30, calls=50).meets


def test_the_nearest_is_named_however_often_it_was_measured() -> None:
    found = ask_for_three_runs([*[cell(100)] * 3, cell(50)], age=40)
    assert (found.meets, found.delay) == (False, 50)
    assert "a delay of 50 ms comes nearest" in words(found)


def test_two_budgets_that_are_missed_at_once_are_both_to_be_raised() -> None:
    found = ask([cell(50)], age=30, calls=15)
    assert not found.meets
    assert "each setting that was measured misses two budgets or more" in words(found)


def test_delays_that_drop_entries_are_not_recommended() -> None:
    assert ask([cell(10), cell(100, dropped=5)]).delay == 10
    found = ask([cell(10, dropped=1, sink=80), cell(100, dropped=5, sink=80)])
    assert (found.meets, found.delay, found.capacity) == (False, None, None)
    assert "entries were dropped with each" in found.sentence
    assert "--capacity 4096" in found.reasons[0]


def test_calls_that_failed_are_named_whatever_is_recommended() -> None:
    broken = [
        cell(delay, failed=6, lost=420, failure="ConnectionError: reset")
        for delay in (10, 20)
    ]
    for found in (ask(broken), ask(broken, age=1), ask([broken[0], GRID[1]])):
        failed = found.reasons[-1]
        assert "% of calls failed (ConnectionError: reset), up to " in failed
        assert "a retry belongs into the dispatch function" in failed
    assert "2.0% of calls" in ask(broken).reasons[-1]
    assert "840 entries lost" in ask(broken).reasons[-1]
    assert "failed" not in words(ask(GRID))


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        ask([])


# ---- capacity and memory


@pytest.mark.parametrize(
    ("rate", "delay", "sink"),
    [(100, 10, 0), (10_000, 100, 5), (50_000, 10, 50), (50_000, 500, 50)],
)
def test_capacity_has_room_for_twice_the_longest_cycle(
    rate: float, delay: float, sink: float
) -> None:
    found = ask([cell(delay, rate=rate, sink=sink)])
    assert found.capacity is not None
    assert found.capacity >= 2 * rate / 1000 * (delay + sink)
    assert found.capacity <= max(1024, 4 * rate / 1000 * (delay + sink))
    assert found.capacity & (found.capacity - 1) == 0


def test_capacity_has_room_for_twice_a_burst() -> None:
    found = ask([GRID[0], cell(10, peak_pending=3_000)])
    assert found.capacity == 8_192
    assert "at most 3,000 were pending" in words(found)


def test_capacity_has_room_for_the_slowest_call_of_any_setting() -> None:
    """Not for the mean: 1% of calls take 300 ms, and those drop entries."""
    found = ask([cell(10, sink_max=300.0), cell(100)], age=150)
    assert found.delay == 100
    assert found.capacity == 8_192
    assert "the slowest call seen, 300 ms, are 4,000" in words(found)


def test_capacity_fits_the_memory_budget_also_where_the_sink_stands_still() -> None:
    found = ask([cell(100, rate=50_000, growth=2)], memory=4)
    assert found.capacity is not None
    assert 5_000 < found.capacity < 16_384
    assert 2 * found.capacity * 308 <= 4 * MIB
    why = f"capacity={found.capacity:,}, and no 16,384, for --budget-memory 4"
    assert why in words(found)


def test_a_delay_of_which_a_cycle_does_not_fit_the_memory_budget_is_out() -> None:
    grid = [cell(10, rate=50_000), cell(100, rate=50_000)]
    found = ask(grid, memory=2)  # some 5,050 entries pend, and as many are in a call
    assert (found.delay, found.binds) == (10, ["memory"])
    alone = ask(grid[1:], memory=2)
    assert (alone.meets, alone.delay) == (False, 100)
    nearest = "--budget-memory 2: a delay of 100 ms comes nearest: 3.0"
    assert nearest in words(alone)
    assert ask(grid[1:], memory=3.1).meets


def test_memory_is_given_for_the_ring_that_is_recommended() -> None:
    found = ask([cell(10, growth=2)])
    assert found.capacity == 1024
    assert found.costs["memory"] == pytest.approx(2 - 8 * (65_536 - 1024) / MIB)
    # Of a ring that was hardly used, few pages are resident.
    assert ask([cell(10, growth=0.1)]).costs["memory"] == 8 * 1024 / MIB
    found = ask([cell(100, rate=400_000, growth=20)])
    assert found.capacity == 131_072
    assert found.costs["memory"] == 20.5
    assert ask([cell(10, growth=2, layout="records")]).costs["memory"] == 2


# ---- the answer


def test_the_costs_are_in_words() -> None:
    found = ask([cell(100, rate=400_000, growth=2_000)])
    assert found.reasons[0] == (
        "it costs 101 ms of age (p99), 1.95 GiB of memory, 9.95 calls/s and 2.00 "
        "ms for requests on the loop (p99), with 40,000 entries a call"
    )


def test_what_is_recommended_can_be_set() -> None:
    async def send(batch: list[object]) -> None: ...

    found = ask([cell(100, rate=200_000, slots=2, max_batch=5_000)])
    assert "max_batch=5000" in found.sentence
    assert found.delay is not None
    assert found.capacity is not None
    assert found.max_in_flight is not None
    BackgroundDispatcher(
        send,
        ms_delay=found.delay,
        capacity=found.capacity,
        max_batch=found.max_batch,
        max_in_flight=found.max_in_flight,
    )


def test_recommendation_is_plain_data() -> None:
    found = ask(GRID, age=60).as_dict()
    assert {"sentence", "reasons", "delay", "capacity", "max_batch"} <= set(found)
    assert {"max_in_flight", "meets", "binds", "costs", "slow_calls"} <= set(found)


def test_budgets_that_were_not_given_are_no_limits() -> None:
    assert Budgets().given == {}
    assert Budgets(age=5.0).given == {"age": 5.0}
    assert Budgets(age=5.0).calls == inf
