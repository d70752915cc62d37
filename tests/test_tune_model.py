"""The model against a small simulation of the promises it is derived from."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from ringdispatch._tune import _model
from ringdispatch._tune._model import errors, predict, with_prediction
from ringdispatch._tune._results import Cell, Measured, Setting


@pytest.fixture(autouse=True)
def timers_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation's timers are late by half a turn; its arrivals are not."""
    monkeypatch.setattr(_model, "TIMER_LATE", _model.LOOP_TURN / 2)
    monkeypatch.setattr(_model, "ARRIVAL_LATE", 0.0)


def compare(setting: Setting) -> dict[str, float]:
    """How far off the model is, by figure."""
    assert setting.sink is not None
    seen = simulate(setting, seed=int(setting.rate or 0))
    predicted = predict(setting, sink_ms=setting.sink, entry_bytes=100)
    assert not predicted.saturated
    off = errors(Cell(setting, seen, predicted))
    assert not isinstance(off, str), off
    if seen.peak_pending < 20:  # whole numbers
        assert abs(predicted.peak_pending - seen.peak_pending) < 2.5
        del off["peak_pending"]
    return off


def simulate(setting: Setting, *, seed: int) -> Measured:
    """A dispatcher in a few lines: windows, batches, calls; times in milliseconds.

    Arrivals between two turns of the loop are enqueued at once, as on a real one.
    """
    assert setting.rate is not None
    assert setting.sink is not None
    draw = random.Random(seed)
    load, sink = setting.rate / 1000, setting.sink
    largest = setting.max_batch or setting.capacity
    pending: list[float] = []
    ends: list[float] = []  # of running calls
    ages: list[float] = []
    opened = taken = -math.inf
    due = calls = peak = dropped = 0
    arrival, now = draw.expovariate(load), 0.0
    while now < 1000 * setting.seconds:
        now += _model.LOOP_TURN
        while arrival <= now:
            if not pending:
                opened = arrival
            if len(pending) < setting.capacity:
                pending.append(arrival)
            else:
                dropped += 1
            arrival += draw.expovariate(load)
        peak = max(peak, len(pending))
        ends = [end for end in ends if end > now]
        while pending and len(ends) < setting.max_in_flight:
            if not due and now >= max(opened, taken) + setting.delay:
                due, opened, taken = len(pending), now, now
            size = largest if len(pending) >= largest else min(due, largest)
            if not size:
                break
            ages += [now - at for at in pending[:size]]
            del pending[:size]
            due = max(0, due - size)
            ends += [now + sink] if sink else []
            calls += 1
    ages.sort()
    return Measured(
        rate=setting.rate,
        held=True,
        batches=calls,
        entries_per_batch=len(ages) / calls,
        calls_per_second=calls / setting.seconds,
        age_p50=ages[len(ages) // 2],
        age_p99=ages[len(ages) * 99 // 100],
        age_max=ages[-1],
        stall_max=0.0,
        request_p99=0.0,
        cpu_seconds_per_million=0.0,
        sink_mean=sink,
        peak_pending=peak,
        rss_growth=0,
        dropped=dropped,
    )


@pytest.mark.parametrize("sink", [0, 5, 50])
@pytest.mark.parametrize(
    ("rate", "delay"), [(30, 10), (100, 5), (100, 100), (1_000, 10), (1_000, 100)]
)
def test_delay_or_sink_ends_windows(rate: float, delay: float, sink: float) -> None:
    setting = Setting(rate, delay, sink, seconds=10)
    off = compare(setting)
    assert max(map(abs, off.values())) < 0.1, off


@pytest.mark.parametrize(
    ("rate", "delay", "max_batch"),
    [
        (1_000, 50, 40),  # windows close with a full batch
        (20_000, 50, 300),  # and stay open here, with what came in the loop's turn
        (20_000, 10, 400),  # and between the two
    ],
)
def test_count_ends_windows(rate: float, delay: float, max_batch: int) -> None:
    setting = Setting(rate, delay, 0, max_batch=max_batch, seconds=4)
    off = compare(setting)
    assert max(map(abs, off.values())) < 0.15, off


@pytest.mark.parametrize("max_in_flight", [2, 4])
def test_several_slots_are_one_with_shorter_calls(max_in_flight: int) -> None:
    setting = Setting(1_000, 5, 40, max_in_flight=max_in_flight, seconds=10)
    off = compare(setting)
    assert abs(off["entries_per_batch"]) < 0.05
    assert abs(off["calls_per_second"]) < 0.05


@pytest.mark.parametrize(
    ("capacity", "max_batch"), [(200, None), (200, 50), (1_000, 200)]
)
def test_saturation_is_called_so_and_its_figures_hold(
    capacity: int, max_batch: int | None
) -> None:
    setting = Setting(8_000, 10, 50, capacity=capacity, max_batch=max_batch, seconds=10)
    seen = simulate(setting, seed=5)
    predicted = predict(setting, sink_ms=50, entry_bytes=100)
    assert predicted.saturated
    assert seen.dropped
    assert errors(Cell(setting, seen, predicted)) == "saturated"
    assert predicted.entries_per_batch == pytest.approx(
        seen.entries_per_batch, rel=0.02
    )
    assert predicted.calls_per_second == pytest.approx(seen.calls_per_second, rel=0.02)
    assert predicted.age_p99 == pytest.approx(seen.age_p99, rel=0.05)
    assert predicted.peak_pending == seen.peak_pending == capacity


def test_saturated_backlog_that_does_not_fill_the_ring_in_the_run() -> None:
    setting = Setting(2_000, 10, 50, max_batch=50, seconds=4)
    predicted = predict(setting, sink_ms=50, entry_bytes=100)
    assert predicted.saturated
    assert predicted.peak_pending == pytest.approx(
        simulate(setting, seed=6).peak_pending, rel=0.1
    )


def test_just_below_saturation_is_not_called_so() -> None:
    setting = Setting(9_900, 10, 50, capacity=500)
    assert not predict(setting, sink_ms=50, entry_bytes=100).saturated
    setting = replace(setting, rate=10_100)
    assert predict(setting, sink_ms=50, entry_bytes=100).saturated
    setting = replace(setting, max_in_flight=2)
    assert not predict(setting, sink_ms=50, entry_bytes=100).saturated


def test_ring_that_is_full_when_a_batch_is_drops_what_comes_then() -> None:
    setting = Setting(20_000, 100, 0, capacity=1_000, seconds=2)
    assert predict(setting, sink_ms=0, entry_bytes=100).saturated
    assert simulate(setting, seed=9).dropped
    setting = replace(setting, max_batch=500)
    assert not predict(setting, sink_ms=0, entry_bytes=100).saturated
    assert not simulate(setting, seed=9).dropped


def test_a_rare_entry_is_alone_in_its_batch_and_waits_the_whole_delay() -> None:
    predicted = predict(Setting(1, 10, 0), sink_ms=0, entry_bytes=100)
    assert predicted.entries_per_batch == pytest.approx(1, rel=0.05)
    assert predicted.age_p50 == predicted.age_p99 == pytest.approx(10, rel=0.1)


def test_memory_is_the_ring_and_what_is_alive() -> None:
    quiet = predict(Setting(1, 10, 0, capacity=1_000), sink_ms=0, entry_bytes=0)
    assert quiet.memory == pytest.approx(8 * 1_024, rel=0.01)
    busy = predict(Setting(50_000, 100, 50), sink_ms=50, entry_bytes=292)
    # 5 000 wait at most, and 2 500 are in a call; some more at the peak.
    assert busy.memory == pytest.approx(8 * 65_536 + 300 * 7_500, rel=0.05)
    records = Setting(1_000, 10, 0, layout="records", capacity=1_000)
    assert predict(records, sink_ms=0, entry_bytes=24).memory == 2 * 1_000 * 24


def test_no_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="rate=None"):
        predict(Setting(None, 10, 0), sink_ms=0, entry_bytes=1)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"batches": 29}, "too few"), ({"held": False}, "rate not held")],
)
def test_errors_says_why_there_is_nothing_to_compare(
    changes: dict[str, object], word: str
) -> None:
    setting = Setting(100, 10, 0)
    seen = replace(simulate(setting, seed=7), **changes)
    predicted = predict(setting, sink_ms=0, entry_bytes=1)
    assert errors(Cell(setting, seen, predicted)) == word
    assert errors(Cell(setting, seen)) == "not predicted"


def test_memory_is_compared_where_the_allocators_grain_is_small() -> None:
    off = {}
    for rate in (50_000, 500_000):
        setting = Setting(rate, 100, 0, capacity=200_000)
        seen = replace(simulate(Setting(100, 10, 0), seed=7), rss_growth=1)
        predicted = predict(setting, sink_ms=0, entry_bytes=100)
        off[rate] = errors(Cell(setting, seen, predicted))
    assert "memory" not in off[50_000]
    assert "memory" in off[500_000]


def test_cell_without_a_rate_is_predicted_from_the_rate_that_was_measured() -> None:
    setting = Setting(None, 10, None)
    seen = replace(simulate(Setting(500, 10, 0), seed=8), rate=500, sink_mean=0.0)
    cell = with_prediction(setting, seen, entry_bytes=1)
    assert cell.setting is setting
    assert errors(cell) == "all it holds"
    assert cell.predicted == predict(Setting(500, 10, None), sink_ms=0.0, entry_bytes=1)
