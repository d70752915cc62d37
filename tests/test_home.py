"""C13: where a dispatcher lives."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import ringdispatch
from loops import BACKGROUND, LOOPS, Place, comes_true, eventually, put, run_on
from subprocesses import run_snippet
from support import books_agree

PACKAGE = str(Path(ringdispatch.__file__).parent)

# Which loop runs a call; test_spool_dispatch begins and ends homes.
in_memory = pytest.mark.usefixtures("in_memory")
pytestmark = [in_memory, pytest.mark.parametrize("loop_name", LOOPS)]


def test_import_and_constructor_start_nothing(loop_name: str) -> None:  # C13
    run_snippet(
        """
        import asyncio, gc, os, sys, threading

        def seen():
            gc.collect()
            loops = [o for o in gc.get_objects()
                     if isinstance(o, asyncio.AbstractEventLoop)]
            fds = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
            return threading.active_count(), len(loops), fds

        before = seen()
        from ringdispatch import BackgroundDispatcher
        async def send(batch): pass
        dispatcher = BackgroundDispatcher(send, ms_delay=10)
        assert seen() == before, (before, seen())

        async def main():
            before = seen()
            dispatcher = BackgroundDispatcher(send, ms_delay=10)
            assert seen() == before, (before, seen())
            assert len(asyncio.all_tasks()) == 1
            assert await dispatcher.aclose()
        asyncio.run(main())
        assert dispatcher.close()
        """,
        loop=loop_name,
        prelude=False,
    )


def test_first_entry_makes_the_running_loop_the_home(
    loop_name: str, dispatcher_class: type
) -> None:  # C13
    sink = Place()

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=1)
        dispatcher.enqueue("a")
        thread = threading.Thread(target=dispatcher.enqueue, args=("b",))
        await comes_true(lambda: sink.entries == ["a"])
        thread.start()  # a thread without a loop changes nothing
        await comes_true(lambda: sink.entries == ["a", "b"])
        thread.join()
        assert set(sink.loops) == {asyncio.get_running_loop()}
        assert await dispatcher.aclose()

    run_on(loop_name, main())


def test_entry_without_a_loop_finds_the_background_thread(
    loop_name: str,
    dispatcher_class: type,
) -> None:  # C13
    sink = Place()
    with dispatcher_class(sink, ms_delay=1) as dispatcher:
        dispatcher.enqueue("a")
        eventually(lambda: sink.entries)
        assert sink.threads == [BACKGROUND]
        assert all(
            thread.daemon
            for thread in threading.enumerate()
            if thread.name == BACKGROUND
        )


def test_background_thread_is_one_for_all(
    loop_name: str, dispatcher_class: type
) -> None:  # C13
    sinks = [Place() for _ in range(10)]
    dispatchers = [dispatcher_class(sink, ms_delay=1) for sink in sinks]
    for dispatcher in dispatchers:
        dispatcher.enqueue("a")

    def running() -> int:  # closed, they keep no thread; that of others may be ending
        return sum(thread.name == BACKGROUND for thread in threading.enumerate())

    eventually(lambda: running() == 1)
    for dispatcher in dispatchers:
        assert dispatcher.close()
    assert len({sink.loops[0] for sink in sinks}) == 1


def test_f39_stray_entry_at_import_does_not_decide_the_home(
    loop_name: str,
    dispatcher_class: type,
) -> None:  # C13
    sink = Place()
    dispatcher = dispatcher_class(sink, ms_delay=1)
    dispatcher.enqueue("stray")
    eventually(lambda: dispatcher.statistics().dispatched == 1)

    async def main() -> None:
        dispatcher.enqueue("request")
        await comes_true(lambda: len(sink.batches) == 2)
        assert sink.threads[0] == BACKGROUND
        assert sink.loops[1] is asyncio.get_running_loop()
        assert await dispatcher.aclose()

    run_on(loop_name, main())


@pytest.mark.parametrize("fix", ["bind", "async with"])
def test_bound_loop_gets_what_was_pending_and_stays(
    loop_name: str, fix: str, dispatcher_class: type
) -> None:  # C13
    sink = Place()
    dispatcher = dispatcher_class(sink, ms_delay=60_000)
    dispatcher.enqueue("stray")  # waits on the background thread

    async def use() -> None:
        assert await dispatcher.aflush()
        assert sink.entries == ["stray"]
        # Neither a thread nor another loop takes it away.
        await asyncio.to_thread(dispatcher.enqueue, "thread")
        assert await dispatcher.aflush()
        await asyncio.to_thread(asyncio.run, put(dispatcher, "other loop"))
        assert await dispatcher.aflush()
        assert sink.entries == ["stray", "thread", "other loop"]
        assert set(sink.loops) == {asyncio.get_running_loop()}

    async def main() -> None:
        if fix == "bind":
            dispatcher.bind()
            await use()
            assert await dispatcher.aclose()
        else:
            async with dispatcher as entered:
                assert entered is dispatcher
                await use()
        assert dispatcher.closed

    run_on(loop_name, main())
    books_agree(dispatcher)


def test_bound_background_loop_does_not_give_way(
    loop_name: str, dispatcher_class: type
) -> None:  # C13
    """Bound from the dispatch function, where the client was made."""
    sink = Place()

    async def send(batch: list[Any]) -> None:
        dispatcher.bind()
        await sink(batch)

    dispatcher = dispatcher_class(send, ms_delay=1)
    dispatcher.enqueue("stray")
    eventually(lambda: dispatcher.statistics().dispatched == 1)

    async def main() -> None:
        dispatcher.enqueue("request")
        await comes_true(lambda: len(sink.batches) == 2)

    run_on(loop_name, main())
    assert sink.threads == [BACKGROUND] * 2
    assert dispatcher.close()


class Pause:
    """Holds the thread that runs it at the `at`-th line of the package."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.reached, self.resumed = threading.Event(), threading.Event()

    def run(self, function: Callable[[], object]) -> None:
        sys.settrace(self._trace)
        try:
            function()
        finally:
            sys.settrace(None)
            self.reached.set()

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.reached.set()
                assert self.resumed.wait(10)
        return self._trace


def test_bind_wins_at_whatever_line_another_threads_first_entry_is(
    loop_name: str, dispatcher_class: type
) -> None:  # C13
    async def bind_at(line: int) -> bool:
        place = Place()
        dispatcher = dispatcher_class(place, ms_delay=60_000)
        pause = Pause(line)
        first = partial(dispatcher.enqueue, 1)
        other = threading.Thread(target=pause.run, args=(first,))
        other.start()
        assert pause.reached.wait(10)
        dispatcher.bind()
        pause.resumed.set()
        other.join()
        assert await dispatcher.aflush()
        await asyncio.to_thread(dispatcher.enqueue, 2)
        assert await dispatcher.aclose()
        assert place.entries == [1, 2]
        assert place.loops == [asyncio.get_running_loop()] * 2, line
        return pause.left <= 0

    async def main() -> int:
        line = 1
        while await bind_at(line):
            line += 1
        return line

    assert run_on(loop_name, main()) > 20


def test_bind_needs_a_running_loop(
    loop_name: str, dispatcher_class: type
) -> None:  # C13
    dispatcher = dispatcher_class(Place(), ms_delay=1)
    with pytest.raises(RuntimeError, match="no running event loop"):
        dispatcher.bind()


def test_home_thread_stays_there_even_from_a_loop(
    loop_name: str, dispatcher_class: type
) -> None:  # C13
    sink = Place()

    async def main() -> None:
        async with dispatcher_class(sink, ms_delay=1, home="thread") as dispatcher:
            for number in range(3):
                dispatcher.enqueue(number)
                await comes_true(lambda: len(sink.entries) > number)  # noqa: B023
        assert sink.threads == [BACKGROUND] * 3

    run_on(loop_name, main())


def test_f10_two_loops_in_two_threads(
    loop_name: str, dispatcher_class: type
) -> None:  # C14
    sink = Place()
    dispatcher = dispatcher_class(sink, ms_delay=1)
    barrier = threading.Barrier(2)

    async def produce(name: str) -> None:
        barrier.wait()
        for number in range(300):
            dispatcher.enqueue((name, number))
            if number % 30 == 0:
                await asyncio.sleep(0.001)

    def run(name: str, loops: int) -> None:
        for _ in range(loops):
            run_on(loop_name, produce(name))

    threads = [threading.Thread(target=run, args=(name, 3)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dispatcher.close()
    books = dispatcher.statistics()
    assert books.accepted == 1800
    assert books.dispatched + books.failed == 1800  # a loop that ends cancels
    assert len(sink.entries) == 1800
    for name in "ab":  # C5
        numbers = [number for origin, number in sink.entries if origin == name]
        assert numbers == [*range(300)] * 3
    books_agree(dispatcher)
