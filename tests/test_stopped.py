"""C14: a stopped loop keeps its entries, until another that runs is needed."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

from loops import LOOPS, Place, comes_true, eventually, new_loop, put, run_on
from support import books_agree

# Which loop runs a call; test_spool_recovery_ends stops loops under a spool.
in_memory = pytest.mark.usefixtures("in_memory")
pytestmark = [in_memory, pytest.mark.parametrize("loop_name", LOOPS)]


def test_stopped_loop_keeps_its_entries_until_it_runs_again(
    loop_name: str, dispatcher_class: type
) -> None:
    sink = Place()  # C14
    dispatcher = dispatcher_class(sink, ms_delay=300)
    loop = new_loop(loop_name)
    loop.run_until_complete(put(dispatcher, "a"))
    other = dispatcher_class(Place(), ms_delay=400)
    other.enqueue("the time that this takes is enough")
    eventually(lambda: other.statistics().dispatched)
    assert sink.batches == []
    assert dispatcher.pending == 1

    async def again() -> None:
        await comes_true(lambda: sink.entries == ["a"])
        assert sink.loops == [loop]
        assert await dispatcher.aclose()

    loop.run_until_complete(again())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    assert other.close()


def test_stopped_loop_keeps_its_entries_when_a_former_home_is_closed(
    loop_name: str,
    dispatcher_class: type,
) -> None:  # C14
    sink = Place()
    dispatcher = dispatcher_class(sink, ms_delay=50)
    former, loop = new_loop(loop_name), new_loop(loop_name)

    async def use(entry: str) -> None:
        dispatcher.bind()
        dispatcher.enqueue(entry)
        assert await dispatcher.aflush()

    async def leave(entry: str) -> None:
        dispatcher.bind()
        dispatcher.enqueue(entry)

    former.run_until_complete(use("a"))
    loop.run_until_complete(leave("b"))
    former.close()

    async def again() -> None:
        await comes_true(lambda: sink.entries == ["a", "b"])
        assert sink.loops == [former, loop]
        assert await dispatcher.aclose()

    loop.run_until_complete(again())
    loop.close()


@pytest.mark.parametrize("how", ["flush", "close", "aenqueue", "aflush", "4096"])
def test_f22_stopped_loop_gives_way_to_one_that_runs(
    loop_name: str, how: str, dispatcher_class: type
) -> None:  # C14
    sink = Place()
    # Not over before the loop stops, however busy the machine.
    dispatcher = dispatcher_class(sink, ms_delay=300)
    loop = new_loop(loop_name)
    loop.run_until_complete(put(dispatcher, "a"))

    async def elsewhere() -> None:
        if how == "aflush":
            assert await dispatcher.aflush()
        else:
            await dispatcher.aenqueue("b")
            await comes_true(lambda: "a" in sink.entries)

    if how == "flush":
        assert dispatcher.flush()
    elif how == "close":
        assert dispatcher.close()
    elif how == "4096":
        for number in range(4096):
            dispatcher.enqueue(number)
        eventually(lambda: "a" in sink.entries)
    else:
        run_on(loop_name, elsewhere())
    assert sink.entries[0] == "a"
    assert loop not in sink.loops
    assert dispatcher.close()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    books_agree(dispatcher)


def test_full_ring_of_a_stopped_loop_does_not_refuse_for_ever(
    loop_name: str, dispatcher_class: type
) -> None:
    sink = Place()  # C14: 4 096 entries, accepted or not
    dispatcher = dispatcher_class(sink, ms_delay=5, capacity=10)
    loop = new_loop(loop_name)
    # Full while the loop runs, and only then stopped.
    loop.run_until_complete(put(dispatcher, *range(10)))
    for number in range(3 * 4096):
        dispatcher.enqueue(number)
    eventually(lambda: sink.entries[:10] == list(range(10)))
    assert dispatcher.close()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_call_whose_loop_stops_before_its_first_step_is_dropped(
    loop_name: str, dispatcher_class: type
) -> None:
    """Another loop has its entries; its own says nothing when it runs again."""
    sink = Place()  # C14
    dispatcher = dispatcher_class(sink, ms_delay=60_000, max_batch=1)
    loop = new_loop(loop_name)
    complaints: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))

    async def stop_behind_the_wake_up() -> None:
        dispatcher.enqueue("a")
        loop.call_soon(loop.stop)

    with contextlib.suppress(RuntimeError):  # stopped before the future was done
        loop.run_until_complete(stop_behind_the_wake_up())
    dispatcher.flush()
    assert sink.entries == ["a"]
    loop.run_until_complete(asyncio.sleep(0.01))
    gc.collect()
    assert complaints == []
    loop.close()
    assert dispatcher.close()
    books_agree(dispatcher)
