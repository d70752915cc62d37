"""A cell: what is measured under load, and what is said of it."""

from __future__ import annotations

import asyncio
import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from ringdispatch._tune import _cell, _load, _probes
from ringdispatch._tune._cell import measure
from ringdispatch._tune._entries import (
    CellError,
)
from ringdispatch._tune._probes import resident
from ringdispatch._tune._recording import percentile
from ringdispatch._tune._results import Measured, Setting

SEED = 7


@pytest.fixture(autouse=True)
def no_time_for_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cell, "_PROBE_SECONDS", 0.02)


class Counter:
    """A sink that counts; its first call after the warm-up blocks the loop."""

    def __init__(self, *, sleeps: float = 0.0, blocks: float = 0.0) -> None:
        self.received = 0
        self._sleeps = sleeps
        self._blocks = blocks

    async def __call__(self, batch: Any) -> None:
        warm_up = _cell._WARM_UP_BATCHES * _cell._WARM_UP_ENTRIES
        if self._blocks and self.received >= warm_up:
            time.sleep(self._blocks)  # noqa: ASYNC251 - what is measured
            self._blocks = 0.0
        self.received += len(batch)
        await asyncio.sleep(self._sleeps)


def add_up(seen: Measured, setting: Setting, counter: Counter, warm_up: int) -> None:
    """The relations that hold on any machine."""
    handed = seen.entries_per_batch * seen.batches
    assert handed == pytest.approx(counter.received - warm_up)
    assert setting.rate is not None
    if seen.held:
        expected = setting.rate * setting.seconds
        assert handed + seen.dropped == pytest.approx(expected, rel=0.021)
    assert 0 <= seen.age_p50 <= seen.age_p99 <= seen.age_max
    assert seen.stall_max > 0
    assert seen.request_p99 > 0
    assert 0 < seen.peak_pending <= setting.capacity


@pytest.mark.parametrize("kind", ["objects", "records", "bytes"])
def test_figures_add_up_in_every_layout(kind: str) -> None:
    if kind == "records":
        pytest.importorskip("numpy")
    setting = Setting(2_000.0, 10.0, None, kind, seconds=0.2)
    counter = Counter()
    seen = measure(setting, seed=SEED, function=counter)
    add_up(seen, setting, counter, 300)
    assert seen.rate <= 2_000.0
    assert seen.age_max >= 9.0  # the opener of a window waits for its delay
    assert seen.dropped == 0


def test_what_finds_no_room_is_counted_as_dropped() -> None:
    setting = Setting(20_000.0, 5.0, None, capacity=10, seconds=0.2)
    counter = Counter(sleeps=0.02)
    seen = measure(setting, seed=SEED, function=counter)
    add_up(seen, setting, counter, 30)
    assert seen.dropped > 0
    assert seen.peak_pending == 10
    assert seen.sink_mean >= 19.0


def test_a_loop_that_stands_still_is_charged_to_what_waited() -> None:
    # Much longer than what is asserted: the process that sends may be late, too.
    setting = Setting(1_000.0, 10.0, None, seconds=1.0)
    counter = Counter(blocks=0.5)
    seen = measure(setting, seed=SEED, function=counter)
    add_up(seen, setting, counter, 300)
    # Entries that were due while nothing could enqueue them.
    assert seen.age_max >= 100.0
    assert seen.request_p99 >= 100.0
    assert seen.stall_max >= 150.0


def test_an_ordinary_function_is_measured_in_its_thread() -> None:
    received = []

    def sink(batch: list[Any]) -> None:
        received.append(len(batch))

    seen = measure(Setting(1_000.0, 10.0, None, seconds=0.1), seed=SEED, function=sink)
    assert sum(received) - 300 == pytest.approx(seen.entries_per_batch * seen.batches)


def test_as_many_as_the_machine_holds() -> None:
    seen = measure(Setting(None, 5.0, 0.0, seconds=0.1), seed=SEED)
    assert seen.held
    assert seen.rate > 0
    assert 0 <= seen.age_p50 <= seen.age_p99 <= seen.age_max


def test_a_rate_that_no_machine_holds_is_not_reported_as_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_load, "MOST_PER_SECOND", 1e6)  # to draw fewer
    seen = measure(Setting(1e9, 5.0, 0.0, seconds=0.1), seed=SEED)
    assert not seen.held
    assert seen.rate < 1e9


def test_a_delay_may_be_longer_than_what_is_waited_for_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_cell, "DRAIN_SECONDS", 1.0)
    monkeypatch.setattr(_cell._Cell, "_warm_up", no_warm_up)
    counter = Counter()
    seen = measure(
        Setting(1_000.0, 1_500.0, None, seconds=0.1), seed=SEED, function=counter
    )
    assert seen.dropped == 0
    assert counter.received == pytest.approx(seen.entries_per_batch * seen.batches)
    assert counter.received > 0


def test_a_call_that_does_not_end_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cell, "DRAIN_SECONDS", 0.05)
    monkeypatch.setattr(_cell._Cell, "_warm_up", no_warm_up)
    counter = Counter(sleeps=300.0)
    setting = Setting(1_000.0, 10.0, None, seconds=0.1)
    with pytest.raises(CellError, match=r"a call did not end within 0\.05 s"):
        measure(setting, seed=SEED, function=counter)


async def no_warm_up(*_: Any) -> None: ...


def test_a_function_that_fails_under_load_is_reported_without_waiting_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_cell._Cell, "_warm_up", no_warm_up)

    async def fails(batch: list[Any]) -> None:
        raise ConnectionError("no route")

    setting = Setting(1_000.0, 10.0, None, seconds=0.1)
    with pytest.raises(CellError, match="raised ConnectionError: no route"):
        measure(setting, seed=SEED, function=fails)


def test_a_function_that_fails_in_some_calls_is_measured() -> None:
    calls, lost = 0, 0

    async def fails_now_and_then(batch: list[Any]) -> None:
        nonlocal calls, lost
        calls += 1
        if calls % 4 == 0:  # the first such call is after the warm-up, which has three
            lost += len(batch)
            raise ConnectionError("no route")

    setting = Setting(2_000.0, 5.0, None, seconds=1.0)  # others end well, in any case
    seen = measure(setting, seed=SEED, function=fails_now_and_then)
    assert seen.batches == calls - _cell._WARM_UP_BATCHES
    assert seen.failed == calls // 4 > 0
    assert seen.lost == lost > 0
    assert seen.failure == "ConnectionError: no route"
    share = seen.failed / seen.batches
    assert seen.failures_per_second == pytest.approx(share * seen.calls_per_second)
    assert seen.dropped == 0


def test_a_warm_up_may_fail_in_part() -> None:
    calls = 0

    async def fails_once(batch: list[Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise TimeoutError

    seen = measure(
        Setting(1_000.0, 5.0, None, seconds=0.1), seed=SEED, function=fails_once
    )
    assert (seen.failed, seen.lost, seen.failure) == (0, 0, "")


def test_the_notes_of_calls_are_counted_as_the_harness_s_own() -> None:
    recorder = _cell._Recorder(lambda batch: None)
    batch = range(1_000)
    tracemalloc.start()
    try:
        for _ in range(10_000):
            recorder.function(batch)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert recorder.noted_bytes == pytest.approx(taken, rel=0.1)


def test_an_entry_that_cannot_be_made_is_reported_in_one_line() -> None:
    def entries() -> Iterator[Any]:
        raise KeyError("path")
        yield

    setting = Setting(1_000.0, 10.0, 0.0, seconds=0.1)
    with pytest.raises(CellError, match="making an entry raised KeyError: 'path'"):
        measure(setting, seed=SEED, entries=entries)


@pytest.mark.parametrize(
    ("values", "percent", "found"),
    [([], 50, 0.0), ([3.0], 99, 3.0), ([1.0, 2.0], 50, 1.0), ([1.0, 2.0], 51, 2.0)],
)
def test_percentile_is_a_value_that_was_seen(
    values: list[float], percent: float, found: float
) -> None:
    assert percentile(values, percent) == found


def test_memory_is_measured_by_psutil_where_the_system_does_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("psutil")
    by_statm = resident()
    monkeypatch.setattr(_probes, "_statm", lambda: None)
    assert resident() == pytest.approx(by_statm, rel=0.2)
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(
        ImportError, match=r"psutil: pip install 'ringdispatch\[tune\]'"
    ):
        resident()
