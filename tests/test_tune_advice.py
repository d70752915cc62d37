"""What the grid says of the usual advice, from figures made up for the test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringdispatch._tune._advice import advice, versus
from ringdispatch._tune._model import predict
from ringdispatch._tune._recording import Calls
from ringdispatch._tune._results import Cell, Measured, Results, Setting

MIB = 1024 * 1024


def cell(
    delay: float,
    *,
    rate: float = 10_000,
    request: float = 2.0,
    sink: float = 5.0,
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
        rss_growth=MIB,
        dropped=0,
    )
    return Cell(setting, seen, said)


def test_advice_says_from_which_rate_on_the_shorter_delay_pays() -> None:
    cells = [
        cell(delay, rate=rate, sink=sink, request=request if delay == 100 else 2.0)
        for sink, requests in ((0, (2, 2, 2.3)), (50, (9, 2, 9)))
        for rate, request in zip((100, 10_000, 50_000), requests, strict=True)
        for delay in (10, 100)
    ]
    lines = advice(Results("suite", {}, cells=cells))
    assert sum(line.startswith("| ") for line in lines) == 4  # of one sink
    said = "\n".join(lines)
    assert "Sink of 0 ms: 10 ms does not serve requests faster at any rate" in said
    assert "Sink of 50 ms: 10 ms pays from 50,000/s on" in said
    assert "At 100/s and below, 10 ms hardly makes batches: 2.0 entries" in said
    assert "A sink that takes 50 ms sets the pace" in said
    assert "At 50,000/s, 10 ms makes 9.6 times the calls" in said


def test_functions_have_a_table_without_advice() -> None:
    function = "benchmarks.sinks:http"
    cells = [
        replace(one, setting=replace(one.setting, sink=None, function=function))
        for rate in (1_000, 10_000)
        for one in (cell(10, rate=rate), cell(100, rate=rate))
    ]
    lines = versus("A request over HTTP", cells)
    assert lines[0] == "A request over HTTP, 10 ms → 100 ms:"
    assert [line.split(" | ")[0] for line in lines[4:-1]] == ["| 1,000", "| 10,000"]
    plain = [cell(10), cell(100)]
    with_functions = Results("suite", {}, cells=plain + cells)
    assert advice(with_functions) == advice(Results("suite", {}, cells=plain))


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
    assert "Sink of 0 ms: 10 ms pays only at the highest rate" in said


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
