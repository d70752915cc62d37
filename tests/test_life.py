"""C14: what becomes of a dispatcher whose loop ends."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from loops import (
    BACKGROUND,
    LOOPS,
    Place,
    comes_true,
    eventually,
    new_loop,
    put,
    run_on,
)
from ringdispatch._batcher import Batcher
from ringdispatch._call import current_call
from ringdispatch._home import Home, home_of
from subprocesses import run_snippet
from support import books_agree

pytestmark = pytest.mark.parametrize("loop_name", LOOPS)


@pytest.mark.parametrize("debug", [False, True])
def test_f10_works_across_any_number_of_runs(
    loop_name: str, debug: bool, dispatcher_class: type
) -> None:
    sink = Place()  # C14
    dispatcher = dispatcher_class(sink, ms_delay=1)

    async def main(number: int) -> asyncio.AbstractEventLoop:
        dispatcher.enqueue(("waited", number))
        await comes_true(lambda: ("waited", number) in sink.entries)
        dispatcher.enqueue(("left behind", number))
        return asyncio.get_running_loop()

    loops = [run_on(loop_name, main(number), debug=debug) for number in range(6)]
    assert sink.loops == [loop for loop in loops for _ in range(2)]
    assert len(sink.entries) == dispatcher.statistics().dispatched == 12
    assert dispatcher.close()


@pytest.mark.parametrize("debug", [False, True])
def test_f10_closed_loop_hands_its_entries_on(
    loop_name: str, debug: bool, dispatcher_class: type
) -> None:
    sink = Place()  # C14: nothing else is enqueued, the lost timer reports
    dispatcher = dispatcher_class(sink, ms_delay=1_000)
    loop = new_loop(loop_name)
    loop.set_debug(debug)
    loop.run_until_complete(put(dispatcher, "a", "b"))
    loop.close()
    eventually(lambda: sink.entries == ["a", "b"])
    assert sink.threads == [BACKGROUND]
    assert dispatcher.close()


def test_f10_closed_loop_moves_an_entry_whose_thread_sleeps(
    loop_name: str, dispatcher_class: type
) -> None:
    """Without the GIL, what a thread has made is finalized when that thread wakes."""
    sink = Place()  # C14
    dispatcher = dispatcher_class(sink, ms_delay=1)
    loop = new_loop(loop_name)

    async def settle() -> None:
        dispatcher.enqueue("a")
        await comes_true(lambda: sink.entries == ["a"])

    loop.run_until_complete(settle())
    enqueued, awake = threading.Event(), threading.Event()

    def enqueue() -> None:
        dispatcher.enqueue("b")
        enqueued.set()
        awake.wait()

    thread = threading.Thread(target=enqueue)
    thread.start()
    try:
        assert enqueued.wait(10)
        loop.close()
        eventually(lambda: sink.entries == ["a", "b"])
    finally:
        awake.set()
        thread.join()
    assert dispatcher.close()


def test_f10_closed_loop_moves_entries_although_its_timers_are_kept(
    loop_name: str, dispatcher_class: type
) -> None:
    """As by a traceback: the frames of the loop are in it, with what they hold."""
    sink = Place()  # C14
    dispatcher = dispatcher_class(sink, ms_delay=60_000)
    loop = new_loop(loop_name)
    loop.run_until_complete(put(dispatcher, "a"))
    kept = dispatcher._batcher._timer
    assert kept is not None
    loop.close()
    assert dispatcher._batcher.home is not None
    assert dispatcher._batcher.home.background
    assert dispatcher.flush()
    assert sink.entries == ["a"]
    assert dispatcher.close()


def test_f10_closed_loop_hands_its_entries_to_the_next_loop(
    loop_name: str, dispatcher_class: type
) -> None:
    sink = Place()  # C14: the next window's loop rather than the thread
    dispatcher = dispatcher_class(sink, ms_delay=60_000)
    loop = new_loop(loop_name)
    loop.run_until_complete(put(dispatcher, "a"))
    loop.close()

    async def main() -> None:
        dispatcher.bind()
        dispatcher.enqueue("b")
        assert await dispatcher.aflush()
        assert set(sink.loops) == {asyncio.get_running_loop()}

    run_on(loop_name, main())
    assert sink.entries == ["a", "b"]
    assert dispatcher.close()


def test_call_that_has_ended_has_freed_its_task(
    loop_name: str, dispatcher_class: type
) -> None:
    """Else a thread that still sees the call could be the one to free the task."""
    calls = []

    async def send(batch: Any) -> None:
        calls.append(current_call())
        if len(calls) == 2:
            await asyncio.sleep(0)

    async def main() -> None:
        async with dispatcher_class(send, ms_delay=1) as dispatcher:
            for _ in range(2):  # one ends in its first step, one later
                dispatcher.enqueue("a")
                assert await dispatcher.aflush()

    run_on(loop_name, main())
    assert [call.task for call in calls if call is not None] == [None, None]


def test_home_that_another_thread_replaced_ends_no_loop(
    loop_name: str,
    layout: str,
) -> None:  # C14
    """Two threads chose one at once: the first choice is dropped, not ended."""
    outcome = run_snippet(
        """
        import gc, weakref
        async def send(batch):
            say(*batch)
        first = BackgroundDispatcher(send, ms_delay=1, home="thread")
        shared = weakref.ref(first)  # the one weak reference that all share
        first.enqueue("a")
        assert first.flush()
        first._batcher.home = None
        gc.collect()
        second = BackgroundDispatcher(send, ms_delay=1, home="thread")
        second.enqueue("b")
        assert second.flush()
        assert first.close() and second.close()
        """,
        layout=layout,
    )
    assert outcome.lines == ["a", "b"]


@pytest.mark.parametrize("dispatch_timeout", [None, 30.0])
@pytest.mark.parametrize("waiting", [False, True])
def test_f37_loop_closed_with_a_dispatch_in_flight(
    loop_name: str,
    dispatch_timeout: float | None,
    waiting: bool,
    dispatcher_class: type,
) -> None:  # C14
    sink = Place()
    dispatcher = dispatcher_class(sink, ms_delay=1, dispatch_timeout=dispatch_timeout)
    loop = new_loop(loop_name)

    async def main() -> None:
        sink.hold()
        dispatcher.enqueue("in flight")
        await comes_true(lambda: sink.running)
        if waiting:
            dispatcher.enqueue("waiting")

    loop.run_until_complete(main())
    sink.forget()
    loop.close()
    if not waiting:
        dispatcher.enqueue("waiting")
    eventually(lambda: dispatcher.statistics().dispatched == 1)
    assert sink.entries == ["in flight", "waiting"]
    assert dispatcher.statistics().failed == 1
    assert dispatcher.statistics().in_flight == 0
    assert dispatcher.close()
    books_agree(dispatcher)


@pytest.mark.parametrize("dispatch_timeout", [None, 30.0])
@pytest.mark.parametrize("flushed", [False, True])
def test_f37_loop_closed_with_a_task_made_but_not_started(
    loop_name: str,
    dispatch_timeout: float | None,
    flushed: bool,
    dispatcher_class: type,
) -> None:  # C14, C16
    sink = Place()
    dispatcher = dispatcher_class(
        sink, ms_delay=10_000, max_batch=1, dispatch_timeout=dispatch_timeout
    )
    loop = new_loop(loop_name)

    async def main() -> None:
        dispatcher.enqueue("a")  # asks for its batch at once
        asyncio.get_running_loop().call_soon(loop.stop)
        await asyncio.Event().wait()

    task = loop.create_task(main())
    loop.run_forever()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    if flushed:  # from the stopped loop the entries move away
        assert dispatcher.flush()
    loop.close()
    gc.collect()
    eventually(lambda: not dispatcher.statistics().pending)
    assert dispatcher.close()
    books_agree(dispatcher)
    books = dispatcher.statistics()
    assert books.dispatched + books.failed == 1
    assert sink.entries == ["a"]
    del task, main


def test_close_of_a_users_own_is_called_as_it_is(
    loop_name: str, dispatcher_class: type
) -> None:
    loop = new_loop(loop_name)
    dispatcher = dispatcher_class(Place(), ms_delay=60_000)
    closes: list[tuple[Any, ...]] = []
    really_close = loop.close

    def close(*args: Any, **kwargs: Any) -> str:
        closes.append((args, kwargs))
        return "not yet"

    loop.close = close  # type: ignore[method-assign, assignment]
    loop.run_until_complete(put(dispatcher, "a"))
    assert loop.close(1, force=True) == "not yet"  # type: ignore[call-arg]
    assert closes == [((1,), {"force": True})]
    assert dispatcher._batcher.home is not None
    assert dispatcher._batcher.home.loop is loop
    really_close()
    loop.close()
    assert vars(loop)["close"] is close
    assert dispatcher._batcher.home.background
    assert dispatcher.close()


def test_each_dispatcher_is_notified_of_a_close_whatever_another_raises(
    loop_name: str,
    dispatcher_class: type,
) -> None:  # C14
    class Raises(Batcher):
        __slots__ = ()

        def loop_closed(self, home: Home) -> None:
            raise MemoryError("out of memory")

    sink = Place()
    dispatchers = [dispatcher_class(sink, ms_delay=60_000) for _ in range(3)]
    for number in (0, 2):
        dispatchers[number]._batcher.__class__ = Raises
    loop = new_loop(loop_name)

    async def use() -> None:
        for dispatcher in dispatchers:
            dispatcher.enqueue("a")
            if type(dispatcher._batcher) is Raises:
                assert await dispatcher.aflush()

    loop.run_until_complete(use())
    with pytest.raises(MemoryError, match="out of memory"):
        loop.close()
    assert loop.is_closed()
    assert dispatchers[1]._batcher.home is not None
    assert dispatchers[1]._batcher.home.background
    assert all(dispatcher.close() for dispatcher in dispatchers)
    assert sink.entries == ["a"] * 3


def test_loop_near_its_end_is_no_home_for_one_that_had_moved_away(
    loop_name: str,
    dispatcher_class: type,
) -> None:  # C14, C16
    """Its executor may have been shut down, and its next step is to close."""
    place = Place()
    dispatcher = dispatcher_class(place, ms_delay=1)

    async def use(bind: bool = False) -> None:
        if bind:
            dispatcher.bind()
        await put(dispatcher, "a")
        assert await dispatcher.aflush()

    first, second = new_loop(loop_name), new_loop(loop_name)
    first.run_until_complete(use())
    second.run_until_complete(use(bind=True))
    second.close()
    first.run_until_complete(first.shutdown_asyncgens())
    first.run_until_complete(use())
    first.close()
    assert place.threads[2] == BACKGROUND
    assert dispatcher.close()


def test_bound_loop_near_its_end_takes_no_entries(
    loop_name: str, dispatcher_class: type
) -> None:  # C16
    """Of another thread, which can't report it."""
    place = Place()
    dispatcher = dispatcher_class(place, ms_delay=1)

    async def bind() -> None:
        dispatcher.bind()

    async def enqueue() -> None:
        assert await asyncio.to_thread(dispatcher.enqueue, "a")
        await comes_true(lambda: place.batches)

    loop = new_loop(loop_name)
    loop.run_until_complete(bind())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(enqueue())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert place.threads == [BACKGROUND]
    assert dispatcher.close()


def test_entry_of_an_ending_loop_does_not_settle_there(
    loop_name: str, dispatcher_class: type
) -> None:  # C16
    """Posted while the loop was open, looked at when it has begun to end."""
    place = Place()
    dispatcher = dispatcher_class(place, ms_delay=1)

    async def end() -> None:
        await put(dispatcher, "a")
        loop._asyncgens_shutdown_called = True
        await comes_true(lambda: place.batches)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(end())
    loop.close()
    assert place.threads == [BACKGROUND]
    assert dispatcher.close()


def test_loop_that_began_to_end_before_any_dispatcher_lived_there(
    loop_name: str, layout: str
) -> None:  # C14, C16: uvloop does not report, but warns
    """Under -W error, in a process of its own: filters may be a context's (3.14t)."""
    outcome = run_snippet(
        """
        async def send(batch):
            say(*batch, threading.current_thread().name)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        async def main():
            await asyncio.get_running_loop().shutdown_asyncgens()
            dispatcher.enqueue("a")
            while not dispatcher.statistics().dispatched:
                await asyncio.sleep(0.001)
            assert await dispatcher.aclose()
        run(main())
        """,
        loop=loop_name,
        layout=layout,
    )
    assert outcome.lines == ["a ringdispatch"]


class ClosingLoop(asyncio.SelectorEventLoop):
    """Closed by another thread between its own look whether it is and what it does."""

    closes = False

    def _check_closed(self) -> None:
        super()._check_closed()
        if self.closes:
            self.closes = False
            self.close()


def test_f23_loop_closed_while_it_is_woken(
    loop_name: str, dispatcher_class: type
) -> None:  # C14
    if loop_name != "asyncio":
        pytest.skip("the moment can be chosen in asyncio's own loop only")
    sink = Place()
    dispatcher = dispatcher_class(sink, ms_delay=1)
    loop = ClosingLoop()

    async def main() -> None:
        dispatcher.bind()

    loop.run_until_complete(main())
    loop.closes = True
    assert dispatcher.enqueue("a")
    assert loop.is_closed()
    eventually(lambda: sink.entries == ["a"])
    assert dispatcher.close()


def test_loop_that_was_left_before_its_pump_drains_nothing(
    loop_name: str, dispatcher_class: type
) -> None:
    """Another thread may move the dispatcher between the post and the pump."""
    place = Place()
    dispatcher = dispatcher_class(place, ms_delay=60_000)
    other = new_loop(loop_name)

    async def main() -> None:
        dispatcher.enqueue("a")
        left = home_of(asyncio.get_running_loop())
        assert left.batchers() == [dispatcher._batcher]
        dispatcher._batcher.bind(home_of(other))
        await asyncio.sleep(0)
        assert not left.batchers()

    run_on(loop_name, main())  # C14
    assert dispatcher.pending == 1
    other.close()
    assert dispatcher.flush()
    assert place.threads == [BACKGROUND]
    assert dispatcher.close()
