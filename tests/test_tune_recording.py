"""What a run records: its calls, for how long they blocked the loop, and ages."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import pytest

from ringdispatch._tune import _recording
from ringdispatch._tune._cell import measure
from ringdispatch._tune._model import merged
from ringdispatch._tune._recording import (
    Ages,
    CallRecorder,
    Calls,
    Recorded,
    percentile,
)
from ringdispatch._tune._results import Cell, Measured, Setting


def spin(seconds: float) -> None:
    """Block the loop."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def test_only_the_steps_of_a_call_block_the_loop() -> None:
    async def send(batch: list[int]) -> None:
        spin(0.010)
        await asyncio.sleep(0.050)
        spin(0.010)

    recorder = CallRecorder()
    asyncio.run(recorder.await_(send, [1, 2, 3]))
    calls = recorder.calls()
    assert calls.sizes == [3]
    assert calls.times[0] >= 70
    assert 20 <= calls.blocked[0] < calls.times[0] - 45
    assert recorder.slowest == pytest.approx(calls.times[0], abs=0.001)


def test_an_ordinary_function_blocks_nothing() -> None:
    recorder = CallRecorder()
    assert recorder.call(lambda batch: spin(0.010) or len(batch), [1, 2]) == 2
    calls = recorder.calls()
    assert (calls.sizes, calls.blocked) == ([2], [0.0])
    assert calls.times[0] >= 10


def test_values_exceptions_and_cancellation_pass_through() -> None:
    seen: list[Any] = []

    class Asks:
        """An awaitable with steps of its own."""

        def __await__(self) -> Generator[Any, Any, str]:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, "answer")
            yield from future
            return str(future.result())

    @asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def send(batch: list[str]) -> None:
        async with connection(), asyncio.timeout(5.0):
            seen.append(await Asks())
            if batch == ["fails"]:
                raise ConnectionError
            await asyncio.sleep(0 if batch == ["ends"] else 60)

    async def main() -> None:
        recorder = CallRecorder()
        await recorder.await_(send, ["ends"])
        with pytest.raises(ConnectionError):
            await recorder.await_(send, ["fails"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await recorder.await_(send, ["hangs"])
        call = recorder.await_(send, ["is closed"])
        call.send(None)
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            call.close()  # as any coroutine that awaits in its `finally`
        assert recorder.calls().sizes == [1, 1, 1, 1]

    asyncio.run(main())
    assert seen == ["answer", "closed"] * 3


def test_an_awaitable_that_is_no_coroutine_is_awaited_too() -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, None)
        recorder = CallRecorder()
        await recorder.await_(lambda batch: future, [1])
        assert recorder.calls().sizes == [1]

    asyncio.run(main())


def test_so_many_calls_are_kept_and_of_all_the_slowest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_recording, "MOST_CALLS", 3)
    recorder = CallRecorder()
    for size in (1, 2, 3, 4):
        recorder.add(size, size / 1000, 0.0)
    assert recorder.calls() == Calls([1, 2, 3], [1.0, 2.0, 3.0], [0.0] * 3)
    assert recorder.slowest == 4.0


def test_calls_of_several_threads_stay_whole() -> None:
    recorder = CallRecorder()

    def work(size: int) -> None:
        for _ in range(200):
            recorder.add(size, size / 1000, size / 2000)

    threads = [threading.Thread(target=work, args=(size,)) for size in range(1, 5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    calls = recorder.calls()
    assert len(calls.sizes) == 800
    assert calls.times == [float(size) for size in calls.sizes]
    assert calls.blocked == [size / 2 for size in calls.sizes]


def test_percentiles_of_counted_ages_are_those_of_the_ages() -> None:
    draw = random.Random(3)
    ages = sorted(draw.lognormvariate(3, 1) for _ in range(5_000))
    counted = Ages.of(ages, weight=7)
    assert counted.total == 35_000
    for percent in (1, 50, 99, 100):
        exact = percentile(ages, percent)
        assert counted.percentile(percent) == pytest.approx(exact, rel=0.005)
    assert Ages.of([]).percentile(99) == 0.0
    assert Ages.of([0.0]).percentile(50) == pytest.approx(0.01, rel=0.01)


def test_ages_of_runs_are_pooled_not_their_percentiles() -> None:
    quiet, slow = [Ages.of([10.0] * 980 + [age] * 20) for age in (10.0, 300.0)]
    pool = Ages.pooled([quiet, quiet, quiet, slow])
    assert pool.total == 4_000
    assert pool.percentile(99) == pytest.approx(10, rel=0.005)  # 20 of 4,000 are slow
    assert pool.percentile(99.9) == pytest.approx(300, rel=0.005)


def test_a_cell_records_its_calls_and_its_ages() -> None:
    async def send(batch: list[Any]) -> None:
        spin(0.002)
        await asyncio.sleep(0.005)

    seen = measure(Setting(1_000.0, 20.0, None, seconds=0.5), seed=1, function=send)
    recorded = seen.recorded
    assert recorded is not None
    assert len(recorded.calls.sizes) == seen.batches
    handed = pytest.approx(seen.entries_per_batch * seen.batches)
    assert sum(recorded.calls.sizes) == handed
    assert min(recorded.calls.times) >= 7
    assert min(recorded.calls.blocked) >= 2
    assert seen.sink_max == pytest.approx(max(recorded.calls.times), abs=0.001)
    assert recorded.ages.total == sum(recorded.calls.sizes)
    assert recorded.ages.percentile(99) == pytest.approx(seen.age_p99, rel=0.005)
    assert Measured.read(asdict(seen)) == seen


def test_batches_that_waited_for_a_call_are_counted_as_slow() -> None:
    async def send(batch: list[Any]) -> None:
        await asyncio.sleep(0.100)

    seen = measure(Setting(1_000.0, 10.0, None, seconds=0.5), seed=1, function=send)
    assert seen.slow_calls >= seen.batches - 2


def test_repeats_are_merged_by_all_their_ages_and_calls() -> None:
    setting = Setting(100.0, 10.0, None)
    repeats = []
    for age, slow in ((10.0, 0), (10.0, 0), (300.0, 9)):
        calls = Calls([1, 2], [5.0, age], [0.0, 0.0])
        ages = Ages.of([10.0] * 900 + [age] * 100)
        seen = Measured(
            **dict.fromkeys(Measured.__dataclass_fields__, 0)
            | {
                "age_p99": age,
                "sink_max": age,
                "slow_calls": slow,
                "held": True,
                "recorded": Recorded(calls, ages),
            }
        )
        repeats.append(Cell(setting, seen))
    (cell,) = merged(repeats)
    assert cell.measured.age_p99 == pytest.approx(300, rel=0.005)
    assert cell.measured.age_p50 == pytest.approx(10, rel=0.005)
    assert (cell.measured.slow_calls, cell.measured.sink_max) == (9, 300.0)
    assert cell.measured.recorded is not None
    assert cell.measured.recorded.calls.times == [5.0, 10.0, 5.0, 10.0, 5.0, 300.0]
