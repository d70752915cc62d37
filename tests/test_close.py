"""C15: close, from wherever it is called, and flush from inside."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from layouts import in_file, is_cut_short
from loops import LOOPS, Place, comes_true, eventually, run_on
from subprocesses import run_snippet
from support import Sink, SteppedLoop, books_agree


async def swallow(seconds: float = 3600.0) -> None:
    """Sleep on, ignoring every cancellation."""
    end = asyncio.get_running_loop().time() + seconds
    while (left := end - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue


# ---- close


def test_close_dispatches_what_is_pending_and_waits(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C15
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=2)
        sink.hold()
        for number in range(5):
            dispatcher.enqueue(number)
        closing = asyncio.ensure_future(dispatcher.aclose())
        await stepped.advance(4)
        assert dispatcher.closed
        assert not closing.done()
        sink.release()
        await stepped.settle()
        assert closing.result() is True
        assert sink.batches == [[0, 1], [2, 3], [4]]
        assert dispatcher.statistics().dispatched == 5
        assert stepped.timers() == []

    stepped.run_until_complete(main())


def test_enqueue_after_close_is_refused_and_counted(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C15, C10
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, on_full="raise")
        assert await dispatcher.aclose()
        assert dispatcher.enqueue("a") is False
        assert dispatcher.enqueue("b", object()) is False
        assert await dispatcher.aenqueue("c") is False
        assert dispatcher.statistics().rejected_closed == 3
        assert dispatcher.statistics().accepted == 0
        assert await dispatcher.aclose()  # reports at the latest
        await stepped.advance(100)

    stepped.run_until_complete(main())
    lines = [r.getMessage() for r in caplog.records if "rejected_closed" in r.message]
    assert sum(int(line.split()[1]) for line in lines) == 3, lines


def test_close_times_out_fails_abandons_and_says_so_once(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C15
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=2, name="n1")
        sink.hold()
        for number in range(5):
            dispatcher.enqueue(number)
        await stepped.settle()
        closing = asyncio.ensure_future(dispatcher.aclose(timeout=2))
        await stepped.advance(1.9)
        assert not closing.done()
        await stepped.advance(0.2)
        assert closing.result() is False
        assert sink.running == 0  # cancelled
        assert is_cut_short(dispatcher, in_flight=2, pending=3)
        assert dispatcher.statistics().in_flight == 0
        assert await dispatcher.aclose() is False  # not all was settled in time
        books_agree(dispatcher)

    stepped.run_until_complete(main())
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    (line,) = [line for line in said if line.startswith("ringdispatch[n1]: ")]
    assert line.startswith("ringdispatch[n1]: close timed out after 2")
    assert "2 entries in flight" in line
    assert "3 entries pending" in line


def test_f17_close_returns_on_time_from_a_sink_that_swallows_cancellation(
    stepped: SteppedLoop, caplog: pytest.LogCaptureFixture, dispatcher_class: type
) -> None:  # C15
    async def main() -> None:
        async def sink(batch: list[Any]) -> None:
            await swallow(60)

        dispatcher = dispatcher_class(sink, ms_delay=100)
        dispatcher.enqueue("a")
        await stepped.advance(0.2)
        closing = asyncio.ensure_future(dispatcher.aclose(timeout=2))
        await stepped.advance(2.1)
        assert closing.result() is False
        assert is_cut_short(dispatcher, in_flight=1, pending=0)
        await stepped.advance(60)  # its late result changes no count
        assert is_cut_short(dispatcher, in_flight=1, pending=0)
        assert dispatcher.statistics().dispatched == 0
        books_agree(dispatcher)

    stepped.run_until_complete(main())


@pytest.mark.parametrize("loop_name", LOOPS)
def test_f19_close_from_several_tasks_and_threads(
    loop_name: str, dispatcher_class: type
) -> None:  # C15
    sink = Place()

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=10_000, max_batch=50)
        sink.hold()
        for number in range(400):
            dispatcher.enqueue(number)
        closers: list[asyncio.Future[bool]] = [
            asyncio.ensure_future(dispatcher.aclose()) for _ in range(5)
        ]
        closers += [
            asyncio.ensure_future(asyncio.to_thread(dispatcher.close)) for _ in range(5)
        ]
        await comes_true(lambda: sink.running)
        sink.release()
        assert await asyncio.gather(*closers) == [True] * 10
        assert sink.entries == list(range(400))
        assert await dispatcher.aclose()
        books_agree(dispatcher)

    run_on(loop_name, main())


def test_unused_dispatcher_closes_at_once(dispatcher_class: type) -> None:  # C15
    assert dispatcher_class(Place(), ms_delay=1).close(timeout=0)
    with dispatcher_class(Place(), ms_delay=1) as dispatcher:
        assert dispatcher.flush(timeout=0)
    assert dispatcher.closed


# ---- from inside


@pytest.mark.parametrize("through", ["itself", "a task", "a hook"])
@pytest.mark.parametrize("method", ["aflush", "aclose"])
@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_f19_called_from_the_dispatch_function(
    stepped: SteppedLoop,
    max_in_flight: int,
    method: str,
    through: str,
    dispatcher_class: type,
) -> None:  # C15
    batches: list[list[Any]] = []
    answers: list[Any] = []

    async def main() -> None:
        tasks: set[asyncio.Task[None]] = set()

        async def call() -> None:
            answers.append(await getattr(dispatcher, method)())

        def on_error(error: BaseException, batch: Any) -> None:
            if batch == ["first"]:
                tasks.add(asyncio.ensure_future(call()))

        async def sink(batch: list[Any]) -> None:
            batches.append(batch)
            if batch == ["first"]:
                dispatcher.enqueue("during")
                if through == "itself":
                    await call()
                elif through == "a task":
                    await asyncio.create_task(call())
                else:
                    raise ValueError

        dispatcher = dispatcher_class(
            sink, ms_delay=100, max_in_flight=max_in_flight, on_error=on_error
        )
        dispatcher.enqueue("first")
        await stepped.advance(0.15)
        await stepped.advance(1)
        # With one slot "during" can't go out before "first" has ended.
        alone = through != "a hook" and max_in_flight == 1
        assert answers == [not alone]
        assert batches == [["first"], ["during"]]
        assert await dispatcher.aclose()
        books_agree(dispatcher)
        assert dispatcher.statistics().abandoned == 0

    stepped.run_until_complete(main())


@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_f19_close_in_the_dispatch_function_with_nothing_else_is_true(
    stepped: SteppedLoop, max_in_flight: int, dispatcher_class: type
) -> None:  # C15
    answers: list[bool] = []

    async def main() -> None:
        async def sink(batch: list[Any]) -> None:
            answers.append(await dispatcher.aclose())

        dispatcher = dispatcher_class(sink, ms_delay=100, max_in_flight=max_in_flight)
        dispatcher.enqueue("a")
        await stepped.advance(0.2)
        assert answers == [True]
        assert dispatcher.statistics().dispatched == 1
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


@pytest.mark.parametrize("method", ["flush", "close"])
@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_f19_called_from_an_ordinary_dispatch_function(
    max_in_flight: int, method: str, dispatcher_class: type
) -> None:  # C15: known by the context variable that the worker thread inherits
    batches: list[list[Any]] = []
    answers: list[bool] = []

    def sink(batch: list[Any]) -> None:
        batches.append(batch)
        if batch == ["first"]:
            dispatcher.enqueue("during")
            answers.append(getattr(dispatcher, method)(timeout=10))

    dispatcher = dispatcher_class(
        sink, ms_delay=1, max_in_flight=max_in_flight, home="thread"
    )
    dispatcher.enqueue("first")
    eventually(lambda: dispatcher.statistics().dispatched == 2)
    assert answers == [max_in_flight == 2]
    assert batches == [["first"], ["during"]]
    assert dispatcher.close()


def test_close_in_the_dispatch_function_still_gives_up_in_the_end(
    stepped: SteppedLoop,
    dispatcher_class: type,
) -> None:  # C15
    async def main() -> None:
        async def sink(batch: list[Any]) -> None:
            dispatcher.enqueue("during")
            await dispatcher.aclose(timeout=2)
            await swallow(60)

        dispatcher = dispatcher_class(sink, ms_delay=100)
        dispatcher.enqueue("first")
        await stepped.advance(1)
        assert dispatcher.pending == 1
        await stepped.advance(2)
        assert is_cut_short(dispatcher, in_flight=0, pending=1)
        await stepped.advance(100)
        assert dispatcher.statistics().in_flight == 0
        books_agree(dispatcher)

    stepped.run_until_complete(main())


# ---- interrupted


def test_cancelled_close_can_be_repeated(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:  # C15, F21
        dispatcher = dispatcher_class(sink, ms_delay=100)
        sink.hold()
        dispatcher.enqueue("a")
        closing = asyncio.ensure_future(dispatcher.aclose())
        await stepped.settle()
        closing.cancel()
        await stepped.settle()
        assert closing.cancelled()
        assert sink.running == 1
        sink.release()
        assert await dispatcher.aclose()
        assert dispatcher.statistics().dispatched == 1

    stepped.run_until_complete(main())


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("where", ["asyncio.run", "thread"])
def test_f21_ctrl_c_in_the_middle_of_close(
    loop_name: str, where: str, layout: str
) -> None:  # C15
    outcome = run_snippet(
        f"""
        where = {where!r}
        in_flight = threading.Event()
        gate = threading.Event()
        async def send(batch):
            in_flight.set()
            while not gate.is_set():
                await asyncio.sleep(0.001)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)

        def interrupt():
            in_flight.wait(10)
            eventually(lambda: dispatcher.closed)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            gate.set()

        async def main():
            dispatcher.enqueue("a")
            threading.Thread(target=interrupt).start()
            await dispatcher.aclose(timeout=20)
        try:
            if where == "asyncio.run":
                run(main())
            else:
                dispatcher.enqueue("a")
                threading.Thread(target=interrupt).start()
                dispatcher.close(timeout=20)
        except KeyboardInterrupt:
            say("interrupted")
        dispatcher.close()
        books(dispatcher)
        """,
        loop=loop_name,
        layout=layout,
    )
    assert outcome.lines == ["interrupted", "accepted=1 dispatched=1"]


def test_close_in_the_dispatch_function_ends_what_comes_after_it(
    stepped: SteppedLoop,
    dispatcher_class: type,
) -> None:  # C10, C15
    """A batch taken after the closing one has no more time than that was given."""
    batches: list[Any] = []
    drops: list[Any] = []

    async def sink(batch: list[int]) -> None:
        batches.append(batch)
        if batch == [1]:
            assert not await dispatcher.aclose(timeout=0.2)
        else:
            await asyncio.Event().wait()

    dispatcher = dispatcher_class(
        sink,
        ms_delay=10,
        max_batch=1,
        dispatch_timeout=None,
        on_drop=lambda *drop: drops.append(drop),
    )

    async def main() -> None:
        for number in (1, 2, 3):
            dispatcher.enqueue(number)
        await stepped.advance(0.1)
        assert batches == [[1], [2]]
        assert dispatcher.statistics().in_flight == 1
        await stepped.advance(0.2)
        assert dispatcher.statistics().dispatched == 1
        assert is_cut_short(dispatcher, in_flight=1, pending=1)
        assert drops == ([] if in_file(dispatcher) else [("abandoned", 1)])

    stepped.run_until_complete(main())


def test_close_without_an_end_in_the_dispatch_function_gives_up_nothing(
    stepped: SteppedLoop,
    dispatcher_class: type,
) -> None:  # C15
    batches: list[Any] = []

    async def sink(batch: list[int]) -> None:
        batches.append(batch)
        if batch == [1]:
            assert not await dispatcher.aclose(timeout=None)
        else:
            await asyncio.sleep(100)

    dispatcher = dispatcher_class(sink, ms_delay=10, max_batch=1, dispatch_timeout=None)

    async def main() -> None:
        for number in (1, 2, 3):
            dispatcher.enqueue(number)
        await stepped.advance(250)
        assert batches == [[1], [2], [3]]
        seen = dispatcher.statistics()
        assert (seen.dispatched, seen.failed, seen.abandoned) == (3, 0, 0)
        assert dispatcher.closed

    stepped.run_until_complete(main())


@pytest.mark.counts_memory
def test_close_that_gives_up_takes_no_memory_for_each_entry() -> None:  # C15
    """There may be none left. Objects only: test_ring.py has the other layouts."""
    outcome = run_snippet(
        """
        import tracemalloc
        called = threading.Event()
        async def hang(batch):
            called.set()
            await asyncio.Event().wait()
        dispatcher = BackgroundDispatcher(hang, ms_delay=1, home="thread")
        dispatcher.enqueue(None)
        assert called.wait(10)
        while dispatcher.enqueue(None):
            pass
        tracemalloc.start()
        assert not dispatcher.close(0.05)
        assert tracemalloc.get_traced_memory()[1] < 100_000
        seen = dispatcher.statistics()
        say(seen.abandoned, seen.capacity)
        """,
        stderr="(?s).*close timed out after 0.05 s: 1 entry in flight failed, 65536 .*",
        debug=False,  # asyncio's reads source files where a step is slow
    )
    assert outcome.lines == ["65536 65536"]
