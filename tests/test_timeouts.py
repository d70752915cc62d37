"""C11: dispatches that take too long, and those that ignore their cancellation."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from loops import LOOPS, comes_true, run_on
from ringdispatch import _call
from support import Sink, SteppedLoop, books_agree, logged


async def swallow(seconds: float) -> None:
    """Sleep on, ignoring every cancellation."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := end - loop.time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue


def test_f17_timed_out_call_is_failed_cancelled_and_replaced(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C11
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, dispatch_timeout=2)
        sink.hold()
        dispatcher.enqueue("a")
        await stepped.advance(0.2)
        dispatcher.enqueue("b")
        await stepped.advance(1.8)
        assert dispatcher.statistics().in_flight == 1
        sink._gate = None
        await stepped.advance(0.2)
        assert sink.batches == [["a"], ["b"]]
        assert dispatcher.statistics().failed == 1
        assert dispatcher.statistics().dispatched == 1
        assert stepped.timers() == []
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())
    (line,) = logged(caplog, logging.WARNING)
    assert "dispatch_timeout=2.0" in line
    assert logged(caplog, logging.ERROR) == []


@pytest.mark.parametrize("name", ["cancel", "fail"])
def test_timeout_that_is_interrupted_comes_again(
    name: str,
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    dispatcher_class: type,
) -> None:  # C20
    """Else a call that hangs would keep its slot for ever."""
    where: Any = _call if name == "cancel" else _call.Call
    really = getattr(where, name)
    interrupted: list[Any] = []

    def interrupt_once(*args: Any, **options: Any) -> Any:
        if not interrupted:
            interrupted.append(args)
            raise MemoryError
        return really(*args, **options)

    monkeypatch.setattr(where, name, interrupt_once)
    stepped.set_exception_handler(lambda *_: None)

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, dispatch_timeout=2)
        sink.hold()
        dispatcher.enqueue("a")
        await stepped.advance(2.2)
        assert interrupted
        await stepped.advance(1)
        assert dispatcher.statistics().failed == 1
        assert dispatcher.statistics().in_flight == 0
        assert stepped.timers() == []
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())
    assert logged(caplog, logging.ERROR) == []


def test_f17_call_that_swallows_its_cancellation_keeps_its_slot(
    stepped: SteppedLoop, caplog: pytest.LogCaptureFixture, dispatcher_class: type
) -> None:  # C11, C6
    batches: list[Any] = []

    async def main() -> None:
        async def sink(batch: list[Any]) -> None:
            batches.append(batch)
            if batch == ["a"]:
                await swallow(60)

        dispatcher = dispatcher_class(
            sink, ms_delay=100, dispatch_timeout=2, capacity=3, name="n1"
        )
        dispatcher.enqueue("a")
        await stepped.advance(2.2)
        assert dispatcher.statistics().failed == 1  # settled at the timeout
        assert dispatcher.statistics().in_flight == 0
        assert [dispatcher.enqueue(entry) for entry in "bcde"] == [True] * 3 + [False]
        await stepped.advance(50)
        assert batches == [["a"]]  # per on_full until it ends
        (line,) = logged(caplog, logging.ERROR)
        assert line.startswith("ringdispatch[n1]: ")
        assert "ignores its cancellation" in line
        await stepped.advance(10)
        assert batches == [["a"], ["b", "c", "d"]]
        books = dispatcher.statistics()
        # Its late result changes no count.
        assert (books.failed, books.dispatched, books.batches) == (1, 3, 2)
        books_agree(dispatcher)
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_no_timeout_means_never(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C11
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, dispatch_timeout=None)
        sink.hold()
        dispatcher.enqueue("a")
        for _ in range(3):
            await stepped.advance(86_400)
        assert dispatcher.statistics().in_flight == 1
        sink.release()
        await stepped.settle()
        assert dispatcher.statistics().dispatched == 1
        assert stepped.timers() == []
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("seconds", [1e-6, 4e-4])
def test_call_begins_however_short_its_time_is(
    loop_name: str, seconds: float, dispatcher_class: type
) -> None:  # C11
    """Shorter than a tick of uvloop's clock, which is over at once."""
    batches: list[Any] = []

    async def hang(batch: list[Any]) -> None:
        batches.append(list(batch))
        await asyncio.Event().wait()

    async def main() -> None:
        dispatcher = dispatcher_class(hang, ms_delay=1, dispatch_timeout=seconds)
        for number in range(3):
            dispatcher.enqueue(number)
            await comes_true(lambda: dispatcher.statistics().failed == number + 1)  # noqa: B023
        assert batches == [[0], [1], [2]]
        assert await dispatcher.aclose()

    run_on(loop_name, main())
