"""What is predicted of a cell, and how it compares with what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringdispatch._tune._model import errors, predict, with_prediction
from ringdispatch._tune._recording import Ages, Calls, Recorded
from ringdispatch._tune._results import Cell, Measured, Predicted, Setting


def said(setting: Setting, sink: float = 0.0, entry_bytes: float = 100.0) -> Predicted:
    return predict(setting, calls=Calls.constant(sink), entry_bytes=entry_bytes)


def as_said(setting: Setting, one: Predicted) -> Measured:
    """What stands in for a measurement: just what was predicted."""
    return Measured(
        rate=setting.rate or 0.0,
        held=True,
        batches=100,
        entries_per_batch=one.entries_per_batch,
        calls_per_second=one.calls_per_second,
        age_p50=one.age_p50,
        age_p99=one.age_p99,
        age_max=one.age_p99,
        stall_max=0.0,
        request_p99=0.0,
        cpu_seconds_per_million=0.0,
        sink_mean=0.0,
        peak_pending=round(one.peak_pending),
        rss_growth=1,
        dropped=0,
    )


@pytest.mark.parametrize("sink", [0.0, 5.0, 50.0])
@pytest.mark.parametrize("delay", [10.0, 100.0])
def test_a_constant_call_makes_the_cycle_of_the_page(delay: float, sink: float) -> None:
    one = said(Setting(10_000, delay, sink), sink)
    # Timers are late by half a millisecond, and a call may wait for one.
    cycle = max(delay, sink)
    assert 1000 / one.calls_per_second == pytest.approx(cycle + 0.5, abs=0.7)
    assert one.age_p99 == pytest.approx(cycle + 1, abs=1.1)
    assert not one.saturated


def test_a_rare_entry_is_alone_in_its_batch_and_waits_the_whole_delay() -> None:
    one = said(Setting(1, 10, 0, seconds=100))
    assert one.entries_per_batch == pytest.approx(1, rel=0.05)
    assert one.age_p50 == pytest.approx(11, abs=0.5)
    assert one.age_p99 == pytest.approx(11.5, abs=0.7)


def test_memory_is_the_ring_and_what_is_alive() -> None:
    quiet = said(Setting(1, 10, 0, capacity=1_000), entry_bytes=0)
    assert quiet.memory == pytest.approx(8 * 1_024, rel=0.01)
    busy = said(Setting(50_000, 100, 50), 50, entry_bytes=292)
    # 5,000 wait at most, and as many are in a call while 2,500 more come.
    assert busy.memory == pytest.approx(8 * 65_536 + 300 * 7_500, rel=0.05)
    records = Setting(1_000, 10, 0, layout="records", capacity=1_000)
    assert said(records, entry_bytes=24).memory == 2 * 1_000 * 24
    encoded = Setting(50_000, 100, 50, layout="bytes", capacity=65_536, seconds=1.0)
    assert said(encoded, 50, entry_bytes=1_000).memory == pytest.approx(
        2 * 50_000 * 1_000 + 4 * 65_536 + 5_000 * 1_000, rel=0.05
    )


def test_no_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="rate=None"):
        said(Setting(None, 10, 0))


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"batches": 29}, "too few"), ({"held": False}, "rate not held")],
)
def test_errors_says_why_there_is_nothing_to_compare(
    changes: dict[str, object], word: str
) -> None:
    setting = Setting(100, 10, 0)
    one = said(setting)
    seen = replace(as_said(setting, one), **changes)
    assert errors(Cell(setting, seen, one)) == word
    assert errors(Cell(setting, seen)) == "not predicted"
    full = replace(one, saturated=True)
    assert errors(Cell(setting, as_said(setting, one), full)) == "saturated"


def test_errors_are_shares_of_what_was_measured() -> None:
    setting = Setting(10_000, 10, 0)
    one = said(setting)
    seen = replace(as_said(setting, one), age_p99=2 * one.age_p99)
    off = errors(Cell(setting, seen, one))
    assert isinstance(off, dict)
    assert off["age_p99"] == pytest.approx(-0.5)
    assert off["entries_per_batch"] == 0


def test_memory_is_compared_where_the_allocators_grain_is_small() -> None:
    off = {}
    for rate in (50_000, 500_000):
        setting = Setting(rate, 100, 0, capacity=200_000)
        one = said(setting)
        off[rate] = errors(Cell(setting, as_said(setting, one), one))
    assert "memory" not in off[50_000]
    assert "memory" in off[500_000]


def test_a_cell_without_a_rate_is_predicted_from_the_rate_that_was_measured() -> None:
    setting = Setting(None, 10, None)
    seen = replace(as_said(setting, said(Setting(500, 10, None))), rate=500)
    cell = with_prediction(setting, seen, entry_bytes=1)
    assert cell.setting is setting
    assert errors(cell) == "all it holds"
    assert cell.predicted == said(Setting(500, 10, None), entry_bytes=1)


def test_a_cell_is_predicted_from_the_calls_that_it_recorded() -> None:
    setting = Setting(1_000, 10, None)
    calls = Calls([10] * 10, [5.0] * 9 + [100.0], [0.0] * 10)
    seen = replace(
        as_said(setting, said(setting)),
        sink_mean=14.5,
        recorded=Recorded(calls, Ages.of([5.0])),
    )
    recorded = with_prediction(setting, seen, entry_bytes=1).predicted
    assert recorded == predict(setting, calls=calls, entry_bytes=1)
    # Published figures have no more than the mean.
    mean = with_prediction(setting, replace(seen, recorded=None), 1).predicted
    assert mean == said(setting, 14.5, entry_bytes=1)
    assert recorded is not None
    assert mean is not None
    assert recorded.age_p99 > mean.age_p99 + 50
