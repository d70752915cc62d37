"""C15: a closed dispatcher that is entered again is open again."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from layouts import in_file, is_cut_short
from loops import BACKGROUND, LOOPS, Place, comes_true, eventually, run_on
from ringdispatch import BackgroundDispatcher, _residence
from ringdispatch._batcher import Batcher
from ringdispatch._residence import leave_unused
from ringdispatch._spool_place import is_locked
from subprocesses import needs_fork, run_snippet
from support import Sink, SteppedLoop, books_agree, logged


@pytest.mark.parametrize("loop_name", LOOPS)
def test_each_run_of_a_service_enters_the_same_dispatcher(
    loop_name: str, dispatcher_class: type
) -> None:  # C15: and the counters go on
    sink = Place()
    dispatcher = dispatcher_class(sink, ms_delay=1)

    async def serve(number: int) -> asyncio.AbstractEventLoop:
        async with dispatcher:
            assert not dispatcher.closed
            for part in range(3):
                assert dispatcher.enqueue((number, part))
            await comes_true(lambda: len(sink.entries) >= 3 * number + 1)
            assert dispatcher.enqueue((number, 3))
        assert dispatcher.closed
        assert not dispatcher.enqueue("late")
        return asyncio.get_running_loop()

    loops = [run_on(loop_name, serve(number)) for number in range(3)]
    assert sink.entries == [(n, part) for n in range(3) for part in range(4)]
    assert set(sink.loops) == set(loops)
    seen = dispatcher.statistics()
    assert (seen.accepted, seen.dispatched, seen.rejected_closed) == (12, 12, 3)
    books_agree(dispatcher)


def test_twice_on_one_loop(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C15, C1
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=3)
        for number in range(3):
            async with dispatcher as entered:
                assert entered is dispatcher
                dispatcher.enqueue(number)
                before = stepped.time()
                await stepped.advance(0.2)
                assert sink.times[-1] == pytest.approx(before + 0.1)
                dispatcher.enqueue(-number)
        assert sink.batches == [[0], [0], [1], [-1], [2], [-2]]
        assert stepped.timers() == []

    stepped.run_until_complete(main())


def test_plain_with_after_the_background_thread_has_ended(layout: str) -> None:
    outcome = run_snippet(  # C15
        """
        async def send(batch):
            say(threading.current_thread().name, *batch)
        def background():
            return "ringdispatch" in [each.name for each in threading.enumerate()]
        dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
        for number in range(3):
            with dispatcher:
                assert dispatcher.enqueue(number)
            if number == 1:
                eventually(lambda: not background())
        """,
        layout=layout,
    )
    assert outcome.lines == [f"ringdispatch {number}" for number in range(3)]


def test_entered_on_a_loop_after_a_close_in_a_thread() -> None:  # C13, C15
    sink = Place()
    dispatcher: BackgroundDispatcher[str] = BackgroundDispatcher(sink, ms_delay=1)
    with dispatcher:
        dispatcher.enqueue("thread")

    async def main() -> asyncio.AbstractEventLoop:
        async with dispatcher:
            dispatcher.enqueue("loop")
        return asyncio.get_running_loop()

    loop = asyncio.run(main())
    assert sink.entries == ["thread", "loop"]
    assert sink.threads == [BACKGROUND, threading.current_thread().name]
    assert sink.loops[1] is loop


def test_home_thread_stays_there() -> None:  # C13, C15
    sink = Place()
    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
        sink, ms_delay=1, home="thread"
    )

    async def main() -> None:
        for number in range(2):
            async with dispatcher:
                dispatcher.enqueue(number)

    asyncio.run(main())
    assert sink.entries == [0, 1]
    assert set(sink.threads) == {BACKGROUND}


def test_worker_thread_serves_call_after_call_again() -> None:  # C16
    threads: list[threading.Thread] = []

    def write(batch: list[int]) -> None:
        threads.append(threading.current_thread())

    async def main() -> None:
        dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(write, ms_delay=1)
        async with dispatcher:
            dispatcher.enqueue(0)
        async with dispatcher:
            for number in range(1, 100):
                dispatcher.enqueue(number)
                assert await dispatcher.aflush()
                if threads[-1] is threads[-2]:
                    break
                await asyncio.sleep(0.001)  # it may not have been idle again
            else:
                raise AssertionError("a thread for each call")

    asyncio.run(main())


def test_open_dispatcher_is_entered_unchanged() -> None:
    sink = Place()

    async def main() -> None:
        dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(sink, ms_delay=1)
        dispatcher.enqueue(1)
        async with dispatcher:
            dispatcher.enqueue(2)
            async with dispatcher:
                dispatcher.enqueue(3)
            assert dispatcher.closed

    asyncio.run(main())
    assert sink.entries == [1, 2, 3]


def test_close_that_gave_up_is_no_verdict_on_the_next(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C15
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=10, max_batch=1)
        sink.hold()
        dispatcher.enqueue(1)
        await stepped.advance(0.02)
        dispatcher.enqueue(2)
        file = dispatcher._batcher.ring.place
        closing = asyncio.ensure_future(dispatcher.aclose(timeout=1))
        await stepped.advance(2)
        assert closing.result() is False
        sink.forget()
        if in_file(dispatcher):  # until a worker thread has touched all its pages
            eventually(lambda: not is_locked(file))
        async with dispatcher:
            dispatcher.enqueue(3)
            await stepped.advance(0.02)
            closing = asyncio.ensure_future(dispatcher.aclose(timeout=1))
            await stepped.settle()
            assert closing.result() is True
        again = sink.entries[1:]
        again.remove(3)
        # What was left it recovers, as far as it comes until it is closed.
        assert again == [1, 2][: len(again)]
        assert bool(again) is in_file(dispatcher)
        assert dispatcher.statistics().dispatched == 1
        assert dispatcher.statistics().recovered == len(again)
        assert is_cut_short(dispatcher, in_flight=1, pending=1)
        books_agree(dispatcher)

    stepped.run_until_complete(main())


def test_late_end_of_a_close_within_a_batch_gives_up_nothing_newer(
    stepped: SteppedLoop,
) -> None:  # C15
    inner: list[bool] = []
    released = asyncio.Event()

    async def send(batch: list[int]) -> None:
        if batch == [0]:
            inner.append(await dispatcher.aclose(timeout=1))
        else:
            await released.wait()

    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
        send, ms_delay=10, max_batch=1
    )

    async def main() -> None:
        dispatcher.enqueue(0)
        dispatcher.enqueue(1)
        await stepped.advance(0.02)
        assert inner == [False]
        async with dispatcher:
            dispatcher.enqueue(2)
            closing = asyncio.ensure_future(dispatcher.aclose(timeout=60))
            await stepped.advance(2)
            assert not closing.done()
            released.set()
            await stepped.advance(0.1)
            assert closing.result() is True
        assert dispatcher.statistics().dispatched == 3

    stepped.run_until_complete(main())


def test_opened_again_while_a_close_waits(
    stepped: SteppedLoop, sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:  # C15: the close waits for what it found, and gives up nothing newer
    async def main() -> None:
        dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
            sink, ms_delay=10, max_batch=1
        )
        sink.hold()
        dispatcher.enqueue(1)
        closing = asyncio.ensure_future(dispatcher.aclose(timeout=1))
        await stepped.settle()
        assert not closing.done()
        await dispatcher.__aenter__()
        assert dispatcher.enqueue(2)
        await stepped.advance(2)
        assert closing.result() is False
        sink.release()
        await stepped.advance(0.1)
        assert sink.entries == [1, 2]
        assert dispatcher.statistics().dispatched == 2
        assert logged(caplog, logging.WARNING) == []
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_what_is_pending_when_it_opens_again_goes_out(
    stepped: SteppedLoop, sink: Sink
) -> None:  # C15: a close from the dispatch function leaves entries pending
    async def main() -> None:
        async def send(batch: list[int]) -> None:
            if batch == [1]:
                assert not await dispatcher.aclose()
                await dispatcher.__aenter__()
                assert dispatcher.enqueue(3)
            await sink(batch)

        dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
            send, ms_delay=100, max_batch=1
        )
        dispatcher.enqueue(1)
        dispatcher.enqueue(2)
        await stepped.advance(10)
        assert sink.entries == [1, 2, 3]
        assert not dispatcher.closed
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_waits_for_room_go_on(dispatcher_class: type) -> None:  # C15
    sink = Place()

    async def main() -> Any:
        dispatcher = dispatcher_class(sink, ms_delay=1, capacity=2)
        async with dispatcher:
            assert await dispatcher.aenqueue(0)
        assert not await dispatcher.aenqueue("late")
        async with dispatcher:
            accepted = [dispatcher.aenqueue(number) for number in range(1, 9)]
            assert all(await asyncio.gather(*accepted))
        return dispatcher.statistics()

    seen = asyncio.run(main())
    assert sorted(sink.entries) == [*range(9)]
    assert seen.dispatched == 9


def test_entered_where_no_loop_runs_after_a_close_on_one() -> None:  # C13, C15
    sink = Place()
    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(sink, ms_delay=1)

    async def main() -> None:
        async with dispatcher:
            dispatcher.enqueue(1)

    asyncio.run(main())
    with dispatcher:
        dispatcher.enqueue(2)
    assert sink.entries == [1, 2]
    assert sink.threads[1] == BACKGROUND


@pytest.mark.parametrize("closes", [False, True])
def test_opened_again_while_its_home_leaves_it(
    monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:  # C13, C15: a close may return before the home's pump has ended
    leaving, opened = threading.Event(), threading.Event()
    lives_there: list[bool] = []

    def late(batcher: Batcher) -> None:
        if threading.current_thread().name != BACKGROUND or leaving.is_set():
            leave_unused(batcher)
            return
        home = batcher.home
        assert home is not None
        leaving.set()
        assert opened.wait(10)
        leave_unused(batcher)
        lives_there.append(batcher in home.batchers())

    monkeypatch.setattr(_residence, "leave_unused", late)
    sink = Place()
    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(sink, ms_delay=60_000)
    with dispatcher:
        dispatcher.enqueue(1)  # goes out in the close
    assert leaving.wait(10)
    with dispatcher:
        dispatcher.enqueue(2)
        closing = threading.Thread(target=dispatcher.close, daemon=True)
        if closes:
            closing.start()
            eventually(lambda: dispatcher.closed)
        opened.set()
        eventually(lambda: lives_there[:1] == [True])
    assert sink.entries == [1, 2]
    if closes:
        closing.join(10)


@needs_fork
def test_child_opens_what_the_parent_closed() -> None:  # C15, C17
    outcome = run_snippet(
        """
        async def send(batch):
            say(os.getpid() == parent, *batch)
        parent = os.getpid()
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        with dispatcher:
            dispatcher.enqueue("parent")
        child = os.fork()
        if not child:
            with dispatcher:
                dispatcher.enqueue("child")
            books(dispatcher)
            sys.exit(0)
        os.waitpid(child, 0)
        books(dispatcher)
        """,
        warnings=("ignore:.*multi-threaded:DeprecationWarning",),
    )
    assert outcome.lines == [
        "True parent",
        "False child",
        "accepted=1 dispatched=1",
        "accepted=1 dispatched=1",
    ]


def test_end_of_the_process_delivers_what_was_opened_again() -> None:  # C16
    outcome = run_snippet(
        """
        async def send(batch):
            say(*batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
        async def main():
            async with dispatcher:
                dispatcher.enqueue("closed")
            await dispatcher.__aenter__()
            dispatcher.enqueue("loop")
        run(main())
        with dispatcher:
            pass
        dispatcher.__enter__()
        dispatcher.enqueue("exit")
        """
    )
    assert outcome.lines == ["closed", "loop", "exit"]
