"""What is recommended, from figures made up for the test."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ringdispatch import BackgroundDispatcher
from ringdispatch._tune._advice import advice
from ringdispatch._tune._model import merged, predict
from ringdispatch._tune._recommend import Budgets, Recommendation, recommend
from ringdispatch._tune._recording import Calls
from ringdispatch._tune._results import Cell, Measured, Results, Setting

RATE = 10_000.0
MIB = 1024 * 1024


def cell(
    delay: float,
    *,
    rate: float = RATE,
    request: float = 2.0,
    growth: float = 1.0,
    sink: float = 5.0,
    dropped: int = 0,
    layout: str = "objects",
) -> Cell:
    """A cell as the model has it, with what the model says nothing of."""
    setting = Setting(rate, delay, sink, layout=layout)
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
        request_p99=request,
        cpu_seconds_per_million=1.0,
        sink_mean=sink,
        peak_pending=round(said.peak_pending),
        rss_growth=round(growth * MIB),
        dropped=dropped,
    )
    return Cell(setting, seen, said)


def noisy(cells: list[Cell], seed: int, noise: float = 0.05) -> list[Cell]:
    """Three repeats of each, with so much noise."""
    draw = random.Random(seed)
    return [
        replace(
            one,
            measured=replace(
                one.measured,
                **{
                    name: getattr(one.measured, name) * draw.uniform(1, 1 + noise)
                    for name in ("age_p99", "calls_per_second", "request_p99")
                },
            ),
        )
        for one in cells
        for _ in range(3)
    ]


def ask(
    cells: list[Cell],
    *,
    age: float | None = None,
    memory: float | None = None,
    calls: float | None = None,
) -> Recommendation:
    return recommend(cells, Budgets(age, memory, calls), entry_bytes=300)


GRID = [cell(delay) for delay in (10, 20, 50, 100)]


def test_delays_that_are_as_good_are_a_tie_broken_by_fewer_calls() -> None:
    found = ask(GRID)
    assert found.delay == 100
    assert sorted(found.ties) == [10, 20, 50]
    assert found.binds is None
    assert found.sentence == "Set ms_delay=100, capacity=4096."
    assert found.reasons[1].startswith("tie: with 10, 20, 50 and 100 ms, requests")
    assert found.reasons[1].endswith("100 ms makes the fewest calls")
    assert any(reason.startswith("no budget was given") for reason in found.reasons)


def test_the_age_budget_binds() -> None:
    found = ask(GRID, age=60)
    assert found.delay == 50
    assert found.binds == "age"
    assert "the age budget binds" in found.reasons[0]
    assert any("--budget-age 60 binds" in reason for reason in found.reasons)


def test_the_memory_budget_binds() -> None:
    grid = [cell(10, growth=2), cell(50, growth=6), cell(100, growth=11)]
    found = ask(grid, memory=8)
    assert found.delay == 50
    assert found.binds == "memory"


def test_a_budget_that_rules_nothing_out_does_not_bind() -> None:
    found = ask(GRID, age=500, memory=100, calls=500)
    assert found.delay == 100
    assert found.binds is None
    assert "no budget binds" in found.reasons[0]


def test_a_delay_that_disturbs_requests_less_beats_fewer_calls() -> None:
    found = ask(noisy([cell(10, request=2), cell(100, request=30)], seed=1))
    assert found.delay == 10
    assert found.ties == []
    assert any("less than with any other" in reason for reason in found.reasons)


def test_requests_that_differ_by_less_than_a_timers_grain_are_told_apart() -> None:
    grid = [cell(10, request=0.9), cell(50, request=1.4), cell(97, request=2.0)]
    assert ask(grid).delay == 10
    assert ask(grid[1:]).delay == 50
    alike = [cell(10, request=0.05), cell(97, request=0.2)]
    assert ask(alike).delay == 97
    assert "within an assumed noise of 20% or 0.2 ms" in ask(alike).reasons[1]


def test_noise_of_an_idle_loop_is_not_taken_for_that_of_a_busy_one() -> None:
    idle = [cell(10, request=one) for one in (0.1, 0.1, 0.35)]
    busy = [cell(100, request=one) for one in (2.0, 2.1, 2.1)]
    found = ask([*idle, *busy])
    assert found.delay == 10
    assert found.noise == pytest.approx(0.25)
    assert "less than with any other delay" in found.reasons[1]


def test_the_calls_budget_binds_where_requests_want_the_shorter_delay() -> None:
    found = ask(noisy([cell(10, request=2), cell(100, request=30)], seed=1), calls=20)
    assert found.delay == 100
    assert found.binds == "calls"


def test_noise_that_nobody_measured_is_called_assumed() -> None:
    assert "an assumed noise of 20%" in ask(GRID).reasons[1]
    assert "assumed" not in ask(noisy(GRID, seed=1)).reasons[1]


@pytest.mark.parametrize(("long", "delay", "ties"), [(5.0, 100, [10]), (50.0, 10, [])])
def test_where_it_is_too_noisy_to_tell_it_says_so(
    long: float, delay: float, ties: list[float]
) -> None:
    cells = [cell(10, request=request) for request in (2.0, 2.0, 6.28)]
    found = ask([*cells, *[cell(100, request=long)] * 3])
    assert (found.delay, found.ties) == (delay, ties)
    assert found.reasons[1].startswith("too noisy to tell")
    assert "differs by 214%" in found.reasons[1]
    assert "beyond" not in " ".join([found.sentence, *found.reasons])


def test_the_only_delay_is_called_so() -> None:
    only = ask([cell(50)]).reasons[1]
    assert only == "50 ms is the only delay that was tried"
    assert "entries were lost" in ask([cell(10), cell(100, dropped=5)]).reasons[1]
    assert "no other delay" in ask(GRID, age=15).reasons[1]


def test_a_delay_that_dropped_entries_once_is_out() -> None:
    cells = [cell(100, dropped=dropped) for dropped in (0, 0, 3)]
    assert ask([*[cell(10)] * 3, *cells]).delay == 10
    assert merged(cells)[0].measured.dropped == 3


def test_the_worst_of_the_rates_decides() -> None:
    grid = [
        cell(delay, rate=rate, request=20 if rate > 5_000 and delay > 50 else 2)
        for rate in (1_000, 20_000)
        for delay in (10, 100)
    ]
    found = ask(noisy(grid, seed=2))
    assert found.delay == 10
    assert found.costs["entries_per_batch"] == pytest.approx(200, rel=0.1)


def test_no_delay_meets_the_budgets() -> None:
    found = ask(GRID, age=30, calls=30)
    assert found.delay is None
    assert found.capacity is None
    assert len(found.reasons) == 4
    assert set(found.relax) in ({"age"}, {"calls"})
    [(name, value)] = found.relax.items()
    assert f"--budget-{name} from 30 to {value:g}" in found.sentence
    again = ask(GRID, **{"age": 30, "calls": 30, name: value})  # type: ignore[arg-type]
    assert again.delay is not None


def test_a_delay_within_the_noise_of_the_budget_is_named() -> None:
    limit = GRID[-1].measured.age_p99 * 1.03
    found = ask(noisy(GRID, seed=3, noise=0.1), age=limit)
    assert found.delay == 50
    assert any("a tie with the budget itself" in why for why in found.reasons)


@pytest.mark.parametrize("budgets", [{}, {"age": 70}, {"age": 70, "calls": 100}])
def test_runs_that_differ_by_noise_agree(budgets: dict[str, float]) -> None:
    found = [ask(noisy(GRID, seed), **budgets) for seed in range(20)]
    assert len({(one.delay, one.capacity, one.max_batch) for one in found}) == 1


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
    burst = replace(GRID[0], measured=replace(GRID[0].measured, peak_pending=3_000))
    found = ask([GRID[0], burst])
    assert found.capacity == 8_192
    assert any("at most 3,000 were pending at once" in one for one in found.reasons)


def test_calls_that_failed_are_named_whatever_is_recommended() -> None:
    broken = [
        replace(
            one,
            measured=replace(
                one.measured, failed=6, lost=420, failure="ConnectionError: reset"
            ),
        )
        for one in GRID[:2]
    ]
    for found in (ask(broken), ask(broken, age=1), ask(broken[:1] + GRID[1:2])):
        words = found.reasons[-1]
        assert "% of calls failed (ConnectionError: reset), up to " in words
        assert "a retry belongs into the dispatch function" in words
    assert "2.0% of calls" in ask(broken).reasons[-1]
    assert "840 entries lost" in ask(broken).reasons[-1]
    assert not any("failed" in one for one in ask(GRID).reasons)


def test_capacity_fits_the_memory_budget_also_where_the_sink_stands_still() -> None:
    found = ask([cell(100, rate=50_000, growth=2)], memory=4)
    assert found.capacity is not None
    assert 5_000 < found.capacity < 16_384
    assert 2 * found.capacity * 308 <= 4 * MIB

    assert found.binds == "memory"
    assert "the memory budget binds" in found.reasons[0]
    assert any(why.startswith(f"capacity={found.capacity:,}") for why in found.reasons)


def test_a_delay_of_which_a_cycle_does_not_fit_the_memory_budget_is_out() -> None:
    grid = [cell(10, rate=50_000), cell(100, rate=50_000)]
    found = ask(grid, memory=2)  # 100 ms and a call are 5,250 entries, twice: 3.1 MiB
    assert found.delay == 10
    assert found.binds == "memory"
    assert any("100 ms would need 3.08 MiB" in why for why in found.reasons)
    assert ask(grid[1:], memory=2).delay is None
    relaxed = ask(grid[1:], memory=ask(grid[1:], memory=2).relax["memory"])
    assert relaxed.delay == 100


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


def test_costs_and_reasons_tell_the_same_age() -> None:
    found = ask([cell(100, rate=100_000), cell(10, rate=100_000)])
    assert found.max_batch is not None
    assert found.costs["age"] < 50
    age = f"{found.costs['age']:,.3g} ms of age (p99)"
    assert sum(age in why for why in found.reasons) == 2


def test_large_batches_of_objects_are_to_be_dispatched_early() -> None:
    found = ask([cell(100, rate=100_000)])
    assert found.max_batch == 2_000
    assert "max_batch=2000" in found.sentence
    assert found.costs["calls"] == pytest.approx(60, rel=0.1)
    assert found.costs["entries_per_batch"] == pytest.approx(1_670, rel=0.1)
    found = ask([cell(100, rate=100_000)], calls=30)
    assert found.max_batch is None
    assert any("more than the budget of 30" in reason for reason in found.reasons)
    assert ask([cell(100, rate=100_000, layout="bytes")]).max_batch is None
    # A call of 50 ms has to take what comes meanwhile.
    assert ask([cell(100, rate=100_000, sink=50)]).max_batch is None


def test_what_is_recommended_can_be_set() -> None:
    async def send(batch: list[object]) -> None: ...

    found = ask([cell(100, rate=200_000)])
    assert found.delay is not None
    assert found.capacity is not None
    BackgroundDispatcher(
        send,
        ms_delay=found.delay,
        capacity=found.capacity,
        max_batch=found.max_batch,
    )


def test_delays_that_drop_entries_are_not_recommended() -> None:
    found = ask([cell(10), cell(100, dropped=5)])
    assert found.delay == 10
    found = ask([cell(10, dropped=1, sink=80), cell(100, dropped=5, sink=80)])
    assert found.delay is None
    assert "entries were dropped with each" in found.sentence
    assert "--capacity 4096" in found.reasons[0]


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        ask([])


def test_recommendation_is_plain_data() -> None:
    found = ask(GRID, age=60).as_dict()
    assert {"sentence", "reasons", "delay", "capacity", "max_batch"} <= set(found)


def test_advice_says_from_which_rate_on_the_shorter_delay_pays() -> None:
    cells = [
        cell(delay, rate=rate, sink=sink, request=request if delay == 100 else 2.0)
        for sink, requests in ((0, (2, 2, 2.9)), (50, (9, 2, 9)))
        for rate, request in zip((100, 10_000, 50_000), requests, strict=True)
        for delay in (10, 100)
    ]
    lines = advice(Results("suite", {}, cells=cells))
    assert sum(line.startswith("| ") for line in lines) == 2 * 4
    said = "\n".join(lines)
    assert "Sink of 0 ms: 10 ms does not serve requests faster at any rate" in said
    assert "Sink of 50 ms: 10 ms pays from 50,000/s on" in said
    assert "At 100/s and below, 10 ms hardly makes batches: 2.0 entries" in said
    assert "A sink that takes 50 ms sets the pace" in said
    assert "At 50,000/s, 10 ms makes 9.6 times the calls" in said


def at_most(delay: float, request: float) -> Cell:
    """A cell without a rate: as many as the machine holds."""
    one = cell(delay, rate=50_000, sink=0, request=request)
    seen = replace(one.measured, entries_per_batch=33_415.0)
    return replace(one, measured=seen, setting=replace(one.setting, rate=None))


def test_advice_names_all_that_the_machine_holds() -> None:
    slow = [cell(delay, sink=0, rate=100) for delay in (10, 100)]
    cells = [*slow, at_most(10, 2.0), at_most(100, 9.0)]
    said = "\n".join(advice(Results("suite", {}, cells=cells)))
    assert "| all it holds: 50,000 or more |" in said
    assert "| 33,415 → 33,415 |" in said
    assert "Sink of 0 ms: 10 ms pays only at all the machine holds" in said


def test_advice_is_about_objects_and_may_be_to_pay_at_every_rate() -> None:
    cells = [
        cell(delay, rate=rate, request=9 if delay == 100 else 2)
        for rate in (100, 1_000)
        for delay in (10, 100)
    ]
    said = advice(Results("suite", {}, cells=cells))
    assert any("10 ms pays from 100/s on" in line for line in said)
    others = [cell(delay, rate=7, layout="bytes") for delay in (10, 100)]
    assert advice(Results("suite", {}, cells=cells + others)) == said


@pytest.mark.parametrize(
    ("short", "long", "said"),
    [
        (12.0, 2.1, "at a difference of less than 0.1 of a core;"),
        (42.0, 2.0, "at 0.4 of a core more;"),
        (2.0, 42.0, "at 0.4 of a core less;"),
    ],
)
def test_advice_tells_processor_time_from_noise(
    short: float, long: float, said: str
) -> None:
    cells = [
        replace(one, measured=replace(one.measured, cpu_seconds_per_million=seconds))
        for one, seconds in ((cell(10), short), (cell(100), long))
    ]
    assert said in "".join(advice(Results("suite", {}, cells=cells)))


def test_advice_warns_of_a_machine_that_had_other_work() -> None:
    cells = [cell(10), cell(100)]
    assert "Read with care" not in "".join(advice(Results("suite", {}, cells=cells)))
    late = replace(cells[0].measured, age_p99=40.0)
    cells[0] = replace(cells[0], measured=late)
    said = "".join(advice(Results("suite", {}, cells=cells)))
    assert "Read with care: in 1 of 2 cells" in said


def test_advice_without_a_grid_says_so() -> None:
    assert "no cells" in advice(Results("suite", {}, cells=[cell(10)]))[0]
