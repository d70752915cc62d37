"""ringdispatch.testing: time in steps, and calls that fail on demand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher
from ringdispatch.testing import HANG, FaultyDispatch, SteppedClock
from support import Application, books_agree

# ---- SteppedClock


@pytest.fixture
def lasting() -> Iterator[BackgroundDispatcher[Any]]:
    """A dispatcher that outlives a stepped clock."""
    dispatcher: BackgroundDispatcher[Any] = BackgroundDispatcher(
        FaultyDispatch(), ms_delay=1
    )
    yield dispatcher
    dispatcher.close()


def test_delay_passes_without_waiting() -> None:
    async def main() -> None:
        send = FaultyDispatch()
        with SteppedClock() as clock:
            dispatcher: BackgroundDispatcher[Any] = BackgroundDispatcher(
                send, ms_delay=3_600_000
            )
            Application(dispatcher).handle("/a")
            await clock.advance(3599)
            assert send.batches == []
            assert dispatcher.statistics().oldest_age_seconds == pytest.approx(3599)
            await clock.advance(1)
            assert send.batches == [[{"url": "/a"}]]
            assert clock.elapsed == 3600
            assert await dispatcher.aclose()

    asyncio.run(main())


def test_everything_on_the_loop_goes_by_the_clock_in_order() -> None:
    async def main() -> None:
        woken: list[float] = []

        async def sleep(seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append(clock.elapsed)

        with SteppedClock() as clock:
            tasks = [asyncio.ensure_future(sleep(each)) for each in (2, 1, 5)]
            await clock.settle()
            assert clock.next_timer() == pytest.approx(1)
            assert len(clock.timers()) == 3
            await clock.advance(3)
            assert woken == pytest.approx([1, 2])
            await clock.advance(2)
            await asyncio.gather(*tasks)
            assert clock.next_timer() is None

    asyncio.run(main())


def test_settling_ends_though_something_always_runs() -> None:
    async def main() -> None:
        turns = 0

        async def spin() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        with SteppedClock() as clock:
            task = asyncio.ensure_future(spin())
            await clock.settle()
            assert turns > 1000
            assert clock.elapsed == 0
            assert task.cancel()

    asyncio.run(main())


def test_time_never_goes_back(lasting: BackgroundDispatcher[Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            before = loop.time(), lasting._batcher.now()
            with SteppedClock() as clock:
                assert loop.time() >= before[0]
                lasting.enqueue("stepped")
                await clock.advance(1000)
                assert lasting.pending == 0
                stepped = loop.time(), lasting._batcher.now()
            assert loop.time() >= stepped[0] > before[0]
            assert lasting._batcher.now() >= stepped[1] > before[1]
            lasting.enqueue("on real time again")
            deadline = time.monotonic() + 10
            while lasting.pending:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.001)
        await lasting.aclose()

    asyncio.run(main())


def test_clock_of_a_loop_that_does_not_run_yet() -> None:
    loop = asyncio.new_event_loop()
    try:
        with SteppedClock(loop) as clock:
            task = loop.create_task(asyncio.sleep(60, "done"))
            loop.run_until_complete(clock.advance(60))
            assert task.result() == "done"
    finally:
        loop.close()


def test_ordinary_function_is_waited_for_by_flush() -> None:
    got: list[Any] = []

    async def main() -> None:
        with SteppedClock() as clock:
            dispatcher = BackgroundDispatcher(got.extend, ms_delay=100)
            dispatcher.enqueue(1)
            await clock.advance(0.1)
            assert await dispatcher.aflush()
            assert got == [1]
            assert await dispatcher.aclose()

    asyncio.run(main())


def test_blocking_code_makes_a_window_late() -> None:
    async def main() -> None:
        send = FaultyDispatch()
        with SteppedClock() as clock:
            dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
                send, ms_delay=100
            )
            dispatcher.enqueue(1)
            clock.block(5)
            dispatcher.enqueue(2)
            assert send.batches == []
            await clock.settle()
            assert send.batches == [[1, 2]]
            await dispatcher.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_clock_refuses_steps_that_are_none(seconds: float) -> None:
    async def main() -> None:
        with SteppedClock() as clock, pytest.raises(ValueError, match="seconds="):
            await clock.advance(seconds)

    asyncio.run(main())


def test_clock_is_entered_once_on_a_loop_of_asyncios_own() -> None:
    with pytest.raises(TypeError, match="must be a loop of asyncio's own"):
        SteppedClock(object())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no running event loop"):
        SteppedClock().__enter__()

    async def main() -> None:
        clock = SteppedClock()
        with clock:
            with pytest.raises(RuntimeError, match="was entered before"):
                clock.__enter__()
            with pytest.raises(RuntimeError, match="all dispatchers follow one clock"):
                SteppedClock().__enter__()

    asyncio.run(main())


def test_years_pass_as_seconds_do() -> None:
    async def main() -> None:
        year = 365 * 86_400.0
        with SteppedClock() as clock:
            sleeping = asyncio.ensure_future(asyncio.sleep(year / 3))
            await clock.advance(year / 3)
            assert sleeping.done()
            await clock.advance(year)

    asyncio.run(main())


# ---- FaultyDispatch


def test_each_call_does_what_it_was_told(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        errors: list[BaseException] = []
        refused = ConnectionError("refused")
        send = FaultyDispatch(None, refused, HANG, 2.5, OSError)
        with SteppedClock() as clock:
            dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
                send,
                ms_delay=100,
                dispatch_timeout=30,
                on_error=lambda error, batch: errors.append(error),
            )

            async def call(number: int, seconds: float) -> None:
                dispatcher.enqueue(number)
                await clock.advance(seconds)

            await call(1, 0.1)
            assert dispatcher.statistics().dispatched == 1
            await call(2, 0.1)
            assert errors == [refused]
            await call(3, 30)
            assert dispatcher.statistics().in_flight == 1
            await clock.advance(0.1)
            assert isinstance(errors[1], TimeoutError)
            await call(4, 2.5)
            assert dispatcher.statistics().in_flight == 1
            await clock.advance(0.1)
            assert dispatcher.statistics().dispatched == 2
            await call(5, 0.1)
            assert isinstance(errors[2], OSError)
            await call(6, 0.1)
            assert dispatcher.statistics().dispatched == 3
            assert send.entries == [1, 2, 3, 4, 5, 6]
            assert await dispatcher.aclose()
            books_agree(dispatcher)

    asyncio.run(main())


def test_hanging_calls_fill_the_ring_until_they_are_released() -> None:
    async def main() -> None:
        send = FaultyDispatch(HANG)
        with SteppedClock() as clock:
            dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
                send, ms_delay=100, capacity=2, dispatch_timeout=None
            )
            dispatcher.enqueue(1)
            await clock.advance(0.1)
            assert [dispatcher.enqueue(number) for number in (2, 3, 4)] == [
                True,
                True,
                False,
            ]
            send.release()
            assert await dispatcher.aclose()
            assert send.batches == [[1], [2, 3]]
            assert dispatcher.statistics().rejected_full == 1

    asyncio.run(main())


def test_release_from_another_thread_and_after_a_cancellation() -> None:
    send = FaultyDispatch(HANG, HANG)
    options: dict[str, Any] = {"ms_delay": 1, "home": "thread"}
    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(send, **options)
    dispatcher.enqueue(1)
    assert not dispatcher.flush(timeout=0.01)
    deadline = time.monotonic() + 10
    while not send.batches:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    while not dispatcher.flush(timeout=0.01):
        assert time.monotonic() < deadline
        send.release()
    dispatcher.enqueue(2)
    assert not dispatcher.close(timeout=0.01)
    send.release()  # nothing waits for it
    assert dispatcher.statistics().accepted == 2


def test_then_is_what_every_later_call_does(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        down = FaultyDispatch(then=ConnectionError("the collector is down"))
        with SteppedClock() as clock:
            dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
                down, ms_delay=100
            )
            for number in range(5):
                dispatcher.enqueue(number)
                await clock.advance(0.1)
            await dispatcher.aclose()
            assert dispatcher.statistics().failed == 5

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fault", "error"),
    [("x", TypeError), (True, TypeError), (int, TypeError), (-1.0, ValueError)],
)
def test_faults_that_are_none_are_refused(fault: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"faults\[1\]="):
        FaultyDispatch(None, fault)
    with pytest.raises(error, match="then="):
        FaultyDispatch(then=fault)
    assert repr(HANG) == "HANG"


def test_error_that_is_raised_again_and_again_keeps_no_batches() -> None:
    async def main() -> None:
        fault = OSError("down")
        send = FaultyDispatch(then=fault)
        for _ in range(10):
            with pytest.raises(OSError, match="down"):
                await send(["entry"])
        frames = 0
        traceback = fault.__traceback__
        while traceback is not None:
            frames, traceback = frames + 1, traceback.tb_next
        assert frames <= 3

    asyncio.run(main())
