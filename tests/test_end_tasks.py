"""C16: a loop whose tasks are cancelled; loops that end and are freed."""

from __future__ import annotations

import pytest

from loops import LOOPS
from subprocesses import run_snippet

# Tasks of an ending loop; test_end has a spool, test_spool_recovery_ends too.
pytestmark = pytest.mark.usefixtures("in_memory")

on_each_loop = pytest.mark.parametrize("loop_name", LOOPS)
debug_or_not = pytest.mark.parametrize("debug", [False, True])


@on_each_loop
def test_tasks_of_a_loop_may_be_cancelled_and_awaited(
    loop_name: str, layout: str
) -> None:  # C16
    """One by one, with a task factory that takes no context."""
    outcome = run_snippet(
        f"""
        loop_name = {loop_name!r}
        """
        """
        import contextlib
        entries = []
        async def send(batch):
            await asyncio.sleep(0.1)
            entries.extend(batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        async def main():
            global others
            loop = asyncio.get_running_loop()
            if loop_name == "asyncio":  # uvloop itself gives a context
                loop.set_task_factory(lambda loop, main: asyncio.Task(main, loop=loop))
            dispatcher.enqueue("a")
            await asyncio.sleep(0.05)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for other in others:
                assert other.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await other
                assert not other.cancel()
            say(entries)
            dispatcher.enqueue("b")
            await asyncio.sleep(0.05)
        run(main())
        say(entries)
        for other in others:
            assert not other.cancel()
        books(dispatcher)
        """,
        loop=loop_name,
        layout=layout,
    )
    assert outcome.lines == ["['a']", "['a', 'b']", "accepted=2 dispatched=2"]


def test_ended_loop_is_freed_without_the_garbage_collector() -> None:
    """Without the GIL another thread's collector would free its tasks."""
    run_snippet(
        """
        import weakref
        async def send(batch):
            await asyncio.sleep(0.01)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        loops = []
        async def main():
            loops.append(weakref.ref(asyncio.get_running_loop()))
            dispatcher.enqueue("a")
            await asyncio.sleep(0.005)
        gc.collect()
        gc.disable()
        for _ in range(5):
            asyncio.run(main())
        assert [loop() for loop in loops] == [None] * 5
        books(dispatcher)
        """
    )


def test_loops_that_end_in_several_threads_at_once() -> None:  # C16, C18
    # No collections: CPython 3.14.5 without the GIL frees a task twice where one thread
    # collects while another frees it (python/cpython#153809); asyncio.run takes hold of
    # other threads' tasks, so this needs no library.
    run_snippet(
        """
        gc.disable()
        async def send(batch):
            await asyncio.sleep(0.001)
        seen = []
        def work():
            for _ in range(60):
                dispatcher = BackgroundDispatcher(send, ms_delay=1)
                async def main():
                    dispatcher.enqueue("a")
                    await asyncio.sleep(0.002)
                    dispatcher.enqueue("b")
                asyncio.run(main())
                seen.append(dispatcher.statistics().dispatched)
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [2] * 360, seen
        """
    )


@on_each_loop
def test_loop_whose_tasks_are_cancelled_may_go_on(
    loop_name: str, layout: str
) -> None:  # C16
    """As a server does that ends its tasks before it ends itself."""
    outcome = run_snippet(
        """
        import weakref
        entries, began, goes_on = [], asyncio.Event(), asyncio.Event()
        async def send(batch):
            began.set()
            await goes_on.wait()
            entries.extend(batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)

        async def main():
            global gone
            gone = weakref.ref(asyncio.get_running_loop())
            mine = asyncio.all_tasks()
            assert len(mine) == 1, mine
            for entry in "ab":
                began.clear()
                dispatcher.enqueue(entry)
                await began.wait()
                others = asyncio.all_tasks() - mine
                assert len(others) == 1, others
                for other in others:
                    assert other.cancel()
                asyncio.get_running_loop().call_later(0.05, goes_on.set)
                await asyncio.gather(*others)
                assert entries[-1] == entry
                goes_on.clear()
                assert asyncio.all_tasks() == mine
            began.clear()
            dispatcher.enqueue("c")
            await began.wait()
            others = asyncio.all_tasks() - mine
            done, still = await asyncio.wait(others, timeout=0.001)
            assert not done, done
            for other in others:  # as tools look at tasks
                say(other.get_coro().__name__)
                assert other.get_stack() and other.get_name()
            asyncio.get_running_loop().call_later(0.05, goes_on.set)
            await asyncio.wait(others)  # not cancelled
            assert entries[-1] == "c"

        run(main())
        del began, goes_on
        gc.collect()
        assert gone() is None, gc.get_referrers(gone())
        say(entries)
        books(dispatcher)
        """,
        loop=loop_name,
        layout=layout,
    )
    assert outcome.lines == [
        "_run",
        "['a', 'b', 'c']",
        "accepted=3 dispatched=3",
    ]
