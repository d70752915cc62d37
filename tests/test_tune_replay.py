"""The replay of a dispatcher, against schedules worked out by hand, and its books."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringdispatch._tune import _replay
from ringdispatch._tune._recording import Calls
from ringdispatch._tune._replay import Run, replay, run
from ringdispatch._tune._results import Setting
from ringdispatch._tune._sink import Line, Sink


class Scripted:
    """Calls that take what the test says, and when each began."""

    def __init__(self, *times: float, blocked: float = 0.0) -> None:
        self.sizes: list[int] = []
        self._times = times
        self._blocked = blocked

    def call(self, size: int) -> tuple[float, float]:
        self.sizes.append(size)
        return self._times[(len(self.sizes) - 1) % len(self._times)], self._blocked


@pytest.fixture(autouse=True)
def on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is late: what happens is exact."""
    monkeypatch.setattr(_replay, "TICK", 0.0)
    monkeypatch.setattr(_replay, "TURN", 0.0)


def played(
    arrivals: list[float], sink: Scripted, delay: float = 10.0, **options: Any
) -> Run:
    setting = Setting(None, delay, None, **options)
    return run(setting, sink, arrivals)  # type: ignore[arg-type]


def ages(seen: Run) -> list[float]:
    return [round(age, 6) for age in seen.ages]


def test_the_delay_runs_from_the_opener_of_each_window() -> None:
    sink = Scripted(3.0)
    seen = played([1.0, 5.0, 10.9, 11.5, 40.0], sink)
    assert sink.sizes == [3, 1, 1]  # at 11, 21.5 and 50
    assert ages(seen) == [10.0, 6.0, 0.1, 10.0, 10.0]
    assert (seen.first, seen.last) == (11.0, 50.0)
    assert (seen.batches, seen.entries, seen.dropped) == (3, 5, 0)
    assert (seen.peak_pending, seen.peak_in_flight) == (3, 1)
    assert seen.slow_calls == 0


def test_a_call_that_outlasts_the_delay_is_followed_by_the_next_at_once() -> None:
    sink = Scripted(25.0, 1.0)
    seen = played([0.0, 12.0, 30.0, 34.9, 36.0], sink)
    # The first call lasts from 10 to 35, when what has come is taken.
    assert sink.sizes == [1, 3, 1]
    assert ages(seen) == [10.0, 23.0, 5.0, 0.1, 10.0]
    assert seen.slow_calls == 1
    assert seen.peak_alive == 4


def test_a_call_that_ends_within_the_delay_does_not_end_the_window() -> None:
    sink = Scripted(12.0)
    seen = played([0.0, 15.0, 21.0], sink)
    assert sink.sizes == [1, 2]  # the second window ends at 25, not with the call at 22
    assert ages(seen) == [10.0, 10.0, 4.0]


def test_a_second_slot_takes_what_comes_during_a_slow_call() -> None:
    sink = Scripted(100.0, 1.0)
    seen = played([0.0, 12.0, 30.0], sink, max_in_flight=2)
    assert sink.sizes == [1, 1, 1]
    assert ages(seen) == [10.0, 10.0, 10.0]
    assert seen.peak_in_flight == 2
    assert seen.peak_in_calls == 2


def test_a_full_batch_goes_out_early_and_the_rest_with_its_window() -> None:
    sink = Scripted(0.5)
    seen = played([0.0, 1.0, 2.0, 3.0, 9.0], sink, max_batch=2)
    assert sink.sizes == [2, 2, 1]
    assert ages(seen) == [1.0, 0.0, 1.0, 0.0, 10.0]


def test_a_burst_goes_out_in_full_batches_and_its_rest_at_the_delay() -> None:
    sink = Scripted(0.5)
    seen = played([5.0] * 7, sink, max_batch=3, max_in_flight=2)
    assert sink.sizes == [3, 3, 1]
    assert ages(seen) == [0.0] * 6 + [10.0]
    assert seen.peak_in_flight == 2
    assert seen.peak_pending == 7


def test_a_burst_waits_for_the_slot() -> None:
    sink = Scripted(4.0)
    seen = played([5.0] * 7, sink, max_batch=3)
    assert sink.sizes == [3, 3, 1]  # at 5, 9 and 15
    assert ages(seen) == [0.0] * 3 + [4.0] * 3 + [10.0]
    assert seen.left_full == 1


def test_what_finds_the_ring_full_is_dropped_until_a_batch_is_taken() -> None:
    sink = Scripted(20.0)
    # The ring is full of what came at 12 to 15; the call ends at 30.
    arrivals = [0.0, 12.0, 13.0, 14.0, 15.0, 16.0, 29.0, 31.0]
    seen = played(arrivals, sink, capacity=4)
    assert sink.sizes == [1, 4, 1]
    assert seen.dropped == 2
    assert ages(seen) == [10.0, 18.0, 17.0, 16.0, 15.0, 19.0]
    assert seen.peak_pending == 4


def test_a_full_ring_is_dispatched_early_and_drops_nothing() -> None:
    sink = Scripted(1.0)
    seen = played([0.0, 1.0, 2.0, 3.0, 4.0], sink, capacity=2)
    assert sink.sizes == [2, 2, 1]
    assert seen.dropped == 0
    assert seen.peak_pending == 2


def test_a_call_that_blocks_the_loop_delays_arrivals_timers_and_other_calls() -> None:
    sink = Scripted(30.0, blocked=30.0)
    seen = played([0.0, 11.0, 12.0, 50.0], sink, max_in_flight=2)
    # Blocked from 10 to 40: what came then opens its window at 40.
    assert sink.sizes == [1, 3]
    assert ages(seen) == [10.0, 39.0, 38.0, 0.0]
    assert seen.peak_in_flight == 1  # the slot is free again when the loop is


def test_a_timer_that_is_overdue_when_the_loop_is_free_fires_at_once() -> None:
    sink = Scripted(15.0, blocked=15.0)
    # A full batch at 5 blocks the loop to 20; the delay of the third ended at 10.
    seen = played([0.0, 5.0, 5.0], sink, max_batch=2, max_in_flight=2)
    assert sink.sizes == [2, 1]
    assert ages(seen) == [5.0, 0.0, 15.0]


def test_timers_and_arrivals_are_late_by_about_a_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_replay, "TICK", 1.0)
    arrivals = [100.0 * one for one in range(200)]
    late = [age - 10 for age in played(arrivals, Scripted(1.0)).ages]
    assert min(late) >= 0
    assert max(late) <= 2
    assert sum(late) / len(late) == pytest.approx(1.0, abs=0.1)


# ---- of recorded calls


def test_calls_are_taken_in_their_order_and_from_the_beginning_again() -> None:
    sink = Sink(Calls([5, 5, 5], [1.0, 2.0, 300.0], [0.0, 0.5, 0.0]))
    sink.begin(0.4)
    taken = [sink.call(5) for _ in range(4)]
    assert taken == [(2.0, 0.5), (300.0, 0.0), (1.0, 0.0), (2.0, 0.5)]


def test_growth_is_a_line_that_outliers_do_not_move() -> None:
    draw = random.Random(1)
    sizes = [draw.randrange(400, 600) for _ in range(200)]
    times = [5 + 0.08 * size + draw.uniform(0, 1) for size in sizes]
    times[::50] = [300.0] * 4
    line = Line(sizes, times)
    for size in (1, 50, 1_000, 2_000):
        assert line.at(size) == pytest.approx(5.5 + 0.08 * size, rel=0.05, abs=1)
    sink = Sink(Calls(sizes, times, [0.0] * 200))
    sink.begin(0.01)
    assert sink.call(1_000)[0] == pytest.approx(85.5, rel=0.05)


def test_jitter_is_not_taken_for_growth() -> None:
    draw = random.Random(2)
    sizes = [draw.randrange(20, 33) for _ in range(60)]
    times = [draw.uniform(2, 20) for _ in sizes]
    line = Line(sizes, times)
    assert line.slope == 0
    assert line.ratio(2_000, 26) == 1.0


def test_of_one_size_nothing_is_known_of_growth() -> None:
    assert Line([100] * 9, [5.0, 6.0, 7.0] * 3).ratio(10_000, 100) == 1.0


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 10_000), st.floats(0.0, 1e4)), min_size=1, max_size=40
    ),
    st.integers(1, 1_000_000),
)
def test_no_batch_takes_less_for_more_or_grows_beyond_proportion(
    calls: list[tuple[int, float]], size: int
) -> None:
    sizes, times = [one for one, _ in calls], [time for _, time in calls]
    line = Line(sizes, times)
    for known in sizes:
        ratio, most = line.ratio(size, known), size / known
        assert min(1.0, most) * (1 - 1e-6) <= ratio <= max(1.0, most) * (1 + 1e-6)


# ---- books


def loads() -> st.SearchStrategy[list[float]]:
    """Arrivals, in bursts and alone."""
    gaps = st.lists(st.sampled_from([0.0, 0.0, 0.3, 2.0, 40.0]), min_size=1)
    return gaps.map(lambda one: [*accumulate(one)])


@settings(deadline=None, max_examples=300)
@given(
    arrivals=loads(),
    delay=st.sampled_from([0.5, 5.0, 30.0]),
    max_in_flight=st.integers(1, 4),
    max_batch=st.sampled_from([None, 1, 3]),
    capacity=st.sampled_from([1, 4, 1_000]),
    times=st.lists(st.floats(0.0, 60.0), min_size=1, max_size=5),
    blocked=st.sampled_from([0.0, 7.0]),
    tick=st.sampled_from([0.0, 1.05]),
)
def test_every_arrival_is_dispatched_or_dropped_in_order_and_never_early(
    arrivals: list[float],
    delay: float,
    max_in_flight: int,
    max_batch: int | None,
    capacity: int,
    times: list[float],
    blocked: float,
    tick: float,
) -> None:
    largest = min(max_batch or capacity, capacity)
    taken: list[int] = []

    class Order(_replay._Dispatcher):
        """Notes which arrivals are taken."""

        def _take(self, count: int) -> None:
            before = list(self.pending)
            super()._take(count)
            positions = [one for first, end in before for one in range(first, end)]
            taken.extend(positions[:count])
            assert all(arrivals[one] <= self.now for one in positions)

    sink = Scripted(*times, blocked=blocked)
    options = Setting(
        None,
        delay,
        None,
        capacity=capacity,
        max_batch=max_batch,
        max_in_flight=max_in_flight,
    )
    with pytest.MonkeyPatch.context() as late:
        late.setattr(_replay, "TICK", tick)
        seen = Order(options, sink, arrivals, seed=1).run()  # type: ignore[arg-type]
    assert seen.entries + seen.dropped == len(arrivals)
    assert len(taken) == len(seen.ages) == seen.entries == sum(sink.sizes)
    assert all(first < second for first, second in pairwise(taken))
    assert min(seen.ages) >= 0
    assert max(sink.sizes) <= largest
    assert seen.peak_pending <= capacity
    assert 1 <= seen.peak_in_flight <= max_in_flight
    assert seen.batches == len(sink.sizes)


# ---- a prediction of several runs


def test_a_prediction_is_of_several_runs_of_the_load() -> None:
    calls = Calls.constant(5.0)
    said = replay(Setting(1_000.0, 50.0, None, seconds=3.0), calls)
    assert said.entries_per_batch == pytest.approx(51, rel=0.03)
    assert said.calls_per_second == pytest.approx(1000 / 51, rel=0.03)
    assert said.age_p50 == pytest.approx(25.5, rel=0.05)
    assert said.age_p99 == pytest.approx(50, rel=0.02)
    assert not said.saturated
    assert said == replay(Setting(1_000.0, 50.0, None, seconds=3.0), calls)


def test_spread_makes_cycles_longer_than_a_mean_call_would() -> None:
    """A cycle is E[max(delay + gap, call)], not the larger of the means."""
    setting = Setting(10_000.0, 10.0, None, seconds=5.0)
    spread = Calls([1] * 2, [1.0, 29.0], [0.0] * 2)
    constant, spreading = (
        1000 / replay(setting, calls).calls_per_second
        for calls in (Calls.constant(15.0), spread)
    )
    assert constant == pytest.approx(15, rel=0.02)
    assert spreading == pytest.approx((10.1 + 29) / 2, rel=0.02)


def test_one_slow_call_in_a_hundred_makes_the_99th_percentile() -> None:
    calls = Calls([1] * 100, [5.0] * 99 + [300.0], [0.0] * 100)
    setting = Setting(10_000.0, 50.0, None, seconds=30.0)
    slow = replay(setting, calls)
    # Older than a are (300 - a) of each 99 * 50.1 + 300 ms: 1% at 247.
    assert slow.age_p99 == pytest.approx(300 - 0.01 * (99 * 50.1 + 300), rel=0.02)
    assert slow.slow_calls == pytest.approx(30_000 / (99 * 50.1 + 300), abs=1)
    assert slow.peak_pending == pytest.approx(3_000, rel=0.05)
    several = replay(replace(setting, max_in_flight=2), calls)
    assert several.age_p99 == pytest.approx(50, rel=0.02)
    small = replay(replace(setting, capacity=2_000), calls)
    # Once in a cycle of 99 delays and a slow call, 300 ms of arrivals for 2,000.
    assert small.dropped / slow.slow_calls == pytest.approx(1_000, rel=0.15)
    assert small.saturated


@pytest.mark.parametrize("max_batch", [100, None])
def test_more_than_calls_can_take_is_saturation(max_batch: int | None) -> None:
    setting = Setting(8_500.0, 10.0, None, capacity=500, max_batch=max_batch)
    room = replace(setting, max_in_flight=1 if max_batch is None else 5)
    calls = Calls.constant(45.0)
    assert not replay(room, calls).saturated
    assert replay(replace(room, rate=13_000.0), calls).saturated
    assert replay(replace(room, rate=13_000.0), calls).dropped > 0
    behind = replace(room, rate=13_000.0, capacity=65_536, max_batch=100)
    assert replay(behind, calls).saturated


def test_arrivals_may_be_given() -> None:
    arrivals = [10.0 * burst for burst in range(100) for _ in range(20)]
    setting = Setting(None, 5.0, None)
    said = replay(setting, Calls.constant(1.0), arrivals=arrivals)
    assert said.entries_per_batch == 20
    assert said.age_p99 == pytest.approx(5.0)


def test_a_load_that_is_too_fast_to_replay_is_replayed_for_a_shorter_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_replay, "_MOST_ENTRIES", 1_000)
    setting = Setting(10_000.0, 10.0, None, seconds=1_000.0)
    said = replay(setting, Calls.constant(1.0))
    assert said.calls_per_second == pytest.approx(99, rel=0.05)


def test_a_load_beyond_any_schedule_arrives_evenly() -> None:
    said = replay(Setting(2_000_000.0, 20.0, None, seconds=100.0), Calls.constant(1.0))
    assert said.entries_per_batch == pytest.approx(40_000, rel=0.02)
    assert said.age_p50 == pytest.approx(10, rel=0.02)
    full = replay(Setting(5_000_000.0, 20.0, None, seconds=100.0), Calls.constant(1.0))
    assert full.peak_pending == 65_536
