"""C14's `aenqueue`: who waits for room, in which order, and when the wait ends."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from loops import LOOPS, Place, comes_true, eventually, in_steps_until, new_loop, run_on
from ringdispatch import BackgroundDispatcher
from support import Sink, SteppedLoop, books_agree


def waiting(dispatcher: BackgroundDispatcher[Any], *entries: Any) -> list[Any]:
    """Start a task per entry that waits for room, in this order."""
    return [asyncio.ensure_future(dispatcher.aenqueue(entry)) for entry in entries]


def without_room(
    dispatcher_class: type, sink: Place, gate: threading.Event
) -> BackgroundDispatcher[Any]:
    """An entry in flight until the gate opens; another, pending, fills the ring."""

    def held(batch: list[Any]) -> None:
        gate.wait(20)
        sink.batches.append(batch)

    dispatcher = dispatcher_class(held, ms_delay=1, capacity=1, home="thread")
    dispatcher.enqueue("in flight")
    eventually(lambda: dispatcher.statistics().in_flight)
    dispatcher.enqueue("pending")
    return dispatcher


@pytest.mark.parametrize("on_full", ["drop_newest", "drop_oldest", "raise"])
def test_waits_for_room_whatever_on_full_says(
    stepped: SteppedLoop, sink: Sink, on_full: str, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, capacity=2, on_full=on_full)
        assert await dispatcher.aenqueue("a")  # room: it does not wait
        sink.hold()
        assert await dispatcher.aenqueue("b")  # fills the batch, which goes out
        await stepped.settle()
        dispatcher.enqueue("c")
        dispatcher.enqueue("d")
        (task,) = waiting(dispatcher, "e")
        await stepped.advance(1)
        assert not task.done()
        sink.release()
        await stepped.settle()
        assert await task is True
        await dispatcher.aclose()
        assert sink.entries == ["a", "b", "c", "d", "e"]
        books = dispatcher.statistics()
        assert (books.evicted, books.rejected_full) == (0, 0)

    stepped.run_until_complete(main())


def test_waiters_are_served_first_come_first_served(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, capacity=1)
        sink.hold()
        dispatcher.enqueue(0)
        await stepped.settle()
        dispatcher.enqueue(1)
        tasks = waiting(dispatcher, *range(2, 12))
        await stepped.advance(1)
        assert not any(task.done() for task in tasks)
        sink.release()
        await asyncio.gather(*tasks)
        await dispatcher.aclose()
        assert sink.entries == list(range(12))

    stepped.run_until_complete(main())


def test_cancelled_waiter_passes_its_turn_on(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, capacity=1)
        sink.hold()
        dispatcher.enqueue(0)
        await stepped.settle()
        dispatcher.enqueue(1)
        first, second, third = waiting(dispatcher, 2, 3, 4)
        await stepped.settle()
        second.cancel()
        await stepped.settle()
        sink.release()
        # The first is cancelled in the very moment it could go.
        await in_steps_until(lambda: not dispatcher.pending)
        first.cancel()
        assert await third is True
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        await dispatcher.aclose()
        accepted = [
            entry for entry, out in zip((2, 3), outcomes, strict=True) if out is True
        ]
        assert sink.entries == [0, 1, *accepted, 4]

    stepped.run_until_complete(main())


def test_plain_enqueue_overtakes(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, capacity=2, max_batch=1)
        sink.hold()
        dispatcher.enqueue("a")
        await stepped.settle()
        dispatcher.enqueue("b")
        dispatcher.enqueue("c")
        (task,) = waiting(dispatcher, "patient")
        await stepped.settle()
        sink.release()
        await in_steps_until(lambda: dispatcher.pending < 2)
        assert dispatcher.enqueue("overtakes")
        assert await task is True
        await dispatcher.aclose()
        assert sink.entries == ["a", "b", "c", "overtakes", "patient"]

    stepped.run_until_complete(main())


def test_time_runs_out(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, capacity=1)
        sink.hold()
        dispatcher.enqueue("a")
        await stepped.settle()
        dispatcher.enqueue("b")
        task = asyncio.ensure_future(dispatcher.aenqueue("c", timeout=2))
        await stepped.advance(1.9)
        assert not task.done()
        await stepped.advance(0.2)
        assert task.result() is False
        at_once = asyncio.ensure_future(dispatcher.aenqueue("d", timeout=0))
        await stepped.settle()
        assert at_once.result() is False
        assert dispatcher.statistics().rejected_full == 2
        sink.release()
        await dispatcher.aclose()
        assert sink.entries == ["a", "b"]
        books_agree(dispatcher)

    stepped.run_until_complete(main())


def test_close_ends_every_wait_with_false(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, capacity=1)
        sink.hold()
        dispatcher.enqueue("a")
        await stepped.settle()
        dispatcher.enqueue("b")
        tasks = waiting(dispatcher, "c", "d", "e")
        await stepped.settle()
        closing = asyncio.ensure_future(dispatcher.aclose())
        await stepped.settle()
        assert [task.result() for task in tasks] == [False] * 3
        assert await dispatcher.aenqueue("f") is False
        sink.release()
        await stepped.settle()
        assert closing.result() is True
        assert sink.entries == ["a", "b"]
        assert dispatcher.statistics().rejected_closed == 4
        books_agree(dispatcher)

    stepped.run_until_complete(main())


@pytest.mark.parametrize("loop_name", LOOPS)
def test_waiters_on_two_loops_are_served_in_turn(
    loop_name: str, dispatcher_class: type
) -> None:
    sink = Place()
    gate = threading.Event()
    dispatcher = without_room(dispatcher_class, sink, gate)
    loops = [new_loop(loop_name) for _ in range(2)]
    threads = [threading.Thread(target=loop.run_forever) for loop in loops]
    for thread in threads:
        thread.start()
    futures = []
    for number in range(10):  # by turns, each in the queue before the next comes
        futures.append(
            asyncio.run_coroutine_threadsafe(
                dispatcher.aenqueue(number), loops[number % 2]
            )
        )
        eventually(lambda: len(dispatcher._batcher.room) > number)  # noqa: B023
    gate.set()
    assert all(future.result(10) for future in futures)
    assert dispatcher.close()
    for loop, thread in zip(loops, threads, strict=True):
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert sink.entries == ["in flight", "pending", *range(10)]


def test_waiter_whose_loop_stops_when_it_is_woken_holds_up_no_other(
    dispatcher_class: type,
) -> None:
    sink = Place()  # C14
    gate = threading.Event()
    dispatcher = without_room(dispatcher_class, sink, gate)
    stopping, other = (asyncio.new_event_loop() for _ in range(2))
    thread = threading.Thread(target=other.run_forever)
    thread.start()

    async def make_room_and_stop() -> None:
        stopping.stop()  # after this step, in which the first in the queue is notified
        gate.set()
        eventually(lambda: "pending" in sink.entries)

    first = stopping.create_task(dispatcher.aenqueue("first"))
    stopping.run_until_complete(asyncio.sleep(0))
    entry = dispatcher.aenqueue("second")
    second = asyncio.run_coroutine_threadsafe(entry, other)
    eventually(lambda: len(dispatcher._batcher.room) == 2)
    room = stopping.create_task(make_room_and_stop())
    stopping.run_forever()
    assert room.done()
    assert second.result(20)
    assert stopping.run_until_complete(first)
    assert dispatcher.close()
    other.call_soon_threadsafe(other.stop)
    thread.join()
    other.close()
    stopping.close()
    assert sink.entries == ["in flight", "pending", "second", "first"]


@pytest.mark.parametrize("loop_name", LOOPS)
def test_waiter_whose_loop_was_closed_blocks_nobody(
    loop_name: str, dispatcher_class: type
) -> None:
    sink = Place()
    gate = threading.Event()
    dispatcher = without_room(dispatcher_class, sink, gate)
    loop = new_loop(loop_name)
    dead = loop.create_task(dispatcher.aenqueue("dead"))
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    dead._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()

    async def main() -> None:
        task = asyncio.ensure_future(dispatcher.aenqueue("alive"))
        await asyncio.sleep(0)
        gate.set()
        assert await task is True
        assert await dispatcher.aclose()

    run_on(loop_name, main())
    assert sink.entries == ["in flight", "pending", "alive"]


@pytest.mark.parametrize("loop_name", LOOPS)
def test_waiter_whose_loop_stands_still_keeps_its_turn_and_blocks_nobody(
    loop_name: str, dispatcher_class: type
) -> None:
    sink = Place()
    gate = threading.Event()
    dispatcher = without_room(dispatcher_class, sink, gate)
    loop = new_loop(loop_name)
    still = loop.create_task(dispatcher.aenqueue("still"))
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()

    async def main() -> None:
        task = asyncio.ensure_future(dispatcher.aenqueue("runs"))
        await asyncio.sleep(0)
        gate.set()
        assert await task is True

    run_on(loop_name, main())
    assert loop.run_until_complete(still) is True
    loop.close()
    assert dispatcher.close()
    assert sink.entries == ["in flight", "pending", "runs", "still"]


@pytest.mark.parametrize("loop_name", LOOPS)
def test_nothing_piles_up_on_a_loop_that_stands_still_with_a_waiter(
    loop_name: str, dispatcher_class: type
) -> None:  # C7, C14
    """However many batches make room meanwhile, on another loop."""
    sink = Place()
    gate = threading.Event()
    dispatcher = without_room(dispatcher_class, sink, gate)
    loop: Any = new_loop(loop_name)
    still = loop.create_task(dispatcher.aenqueue("still"))
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    posted: list[Any] = []
    post = loop.call_soon_threadsafe

    def count(*args: Any, **options: Any) -> Any:
        posted.append(args)
        return post(*args, **options)

    loop.call_soon_threadsafe = count
    gate.set()
    for number in range(50):
        assert dispatcher.flush()
        dispatcher.enqueue(number)
    assert dispatcher.flush()
    assert len(posted) <= 1, posted
    assert loop.run_until_complete(still) is True
    del loop.call_soon_threadsafe
    loop.close()
    assert dispatcher.close()
    assert sink.entries == ["in flight", "pending", *range(50), "still"]


@pytest.mark.parametrize("loop_name", LOOPS)
def test_many_waiters_on_the_home_loop_all_get_in_once(
    loop_name: str, dispatcher_class: type
) -> None:
    sink = Place()

    async def main() -> None:
        async with dispatcher_class(
            sink, ms_delay=1, capacity=7, max_batch=3, max_in_flight=2
        ) as dispatcher:
            tasks = waiting(dispatcher, *range(500))
            await comes_true(lambda: all(task.done() for task in tasks))
            assert all(task.result() for task in tasks)
        assert sink.entries == list(range(500))
        books_agree(dispatcher)

    run_on(loop_name, main())
