"""C3: what a batch costs, what its loop pays, and that idle means idle."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import Any

import pytest

from loops import LOOPS
from ringdispatch import BackgroundDispatcher
from subprocesses import run_snippet
from support import Sink, SteppedLoop

IDLE = """
    async def send(batch): pass
    dispatcher = BackgroundDispatcher(send, ms_delay=5, home={home!r})

    def switches(left_out=None):
        total = 0
        for thread in os.listdir("/proc/self/task"):
            if thread == left_out:
                continue
            with open(f"/proc/self/task/{{thread}}/status") as status:
                for line in status:
                    if line.startswith("voluntary_ctxt_switches"):
                        total += int(line.split()[1])
        return total

    def asleep():
        me = str(threading.get_native_id())
        before = switches(me)
        time.sleep(0.2)
        return switches(me) == before

    def idle():
        # On a busy machine the others may come late to their sleep.
        eventually(asleep)
        # One more for falling asleep here; debug modes are off.
        before = switches()
        time.sleep(2.5)
        return switches() - before
"""

needs_proc = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc"
)


@needs_proc
def test_idle_process_makes_no_wake_ups() -> None:  # C3
    outcome = run_snippet(
        IDLE.format(home="auto")
        + """
    for number in range(2000):
        dispatcher.enqueue(number)
    assert dispatcher.flush()
    for number in range(5):
        dispatcher.enqueue(number)
        eventually(lambda: not dispatcher.pending)
    assert dispatcher.flush()
    eventually(lambda: not dispatcher._batcher.calls)
    assert threading.active_count() == 2
    say(idle())
    """,
        debug=False,
    )
    assert int(outcome.lines[0]) <= 2  # a look a second would be three


@needs_proc
@pytest.mark.parametrize("loop_name", LOOPS)
def test_idle_loop_makes_no_wake_ups(loop_name: str) -> None:  # C3
    outcome = run_snippet(
        IDLE.format(home="auto")
        + """
    async def main():
        for number in range(2000):
            dispatcher.enqueue(number)
        assert await dispatcher.aflush()
        dispatcher.enqueue("a")
        while dispatcher.statistics().dispatched < 2001:
            await asyncio.sleep(0.001)
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()
        def watch():
            say(idle())
            loop.call_soon_threadsafe(gate.set)
        thread = threading.Thread(target=watch)
        thread.start()
        await gate.wait()
        thread.join()
    run(main())
    """,
        loop=loop_name,
        debug=False,
    )
    assert int(outcome.lines[0]) <= 2  # a look a second would be three


def test_background_thread_waits_once_for_dispatchers_that_come_and_go() -> None:
    outcome = run_snippet(  # C3, C16
        """
    async def send(batch): pass
    for number in range(50):
        with BackgroundDispatcher(send, ms_delay=1) as dispatcher:
            dispatcher.enqueue(number)
            loop = dispatcher._batcher.home.loop
    # That of the last call may be there a moment longer.
    say(sum(not timer.cancelled() for timer in list(loop._scheduled)) <= 2)
    eventually(lambda: threading.active_count() == 1)
    assert loop.is_closed()
    dispatcher = BackgroundDispatcher(send, ms_delay=1)
    dispatcher.enqueue("on a new thread")
    say(threading.active_count(), dispatcher.close())
    """
    )
    assert outcome.lines == ["True", "2 True"]


# ---- what a batch costs


class CountingLoop(SteppedLoop):
    """Counts who wakes it, and what timers and tasks are made on it."""

    def __init__(self) -> None:
        super().__init__()
        self.made: Counter[str] = Counter()
        self.set_task_factory(self._count_task)

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
        self.made["wake-ups"] += 1
        return super().call_soon_threadsafe(*args, **kwargs)

    def call_at(self, when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        self.made["timers"] += 1
        return super().call_at(when, *args, **kwargs)

    def _count_task(self, loop: Any, coroutine: Any, **kwargs: Any) -> Any:
        self.made["tasks"] += 1
        return asyncio.Task(coroutine, loop=loop, **kwargs)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Any:
    loop = CountingLoop()
    # A call is a task made without the loop's factory.
    import ringdispatch._call as module

    class Tasks(asyncio.Task):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Not those of a dispatcher that another test left to the background thread.
            loop.made["tasks"] += kwargs["loop"] is loop
            super().__init__(*args, **kwargs)

    class Module:
        Task = Tasks

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

    monkeypatch.setattr(module, "asyncio", Module())
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.mark.parametrize("entries", [1, 2, 1000])
@pytest.mark.parametrize("dispatch_timeout", [30.0, None])
def test_batch_costs_one_wake_up_two_timers_one_task(
    counting: CountingLoop, entries: int, dispatch_timeout: float | None
) -> None:  # C3
    sink = Sink(counting.time)

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            sink, ms_delay=100, dispatch_timeout=dispatch_timeout
        )
        dispatcher.enqueue("first")
        await counting.advance(0.2)
        counting.made.clear()
        for _ in range(10):
            for number in range(entries):
                dispatcher.enqueue(number)
            await counting.advance(0.2)
        assert len(sink.batches) == 11
        # A timer for the window, one for the timeout.
        assert counting.made["wake-ups"] <= 10
        assert counting.made["timers"] <= 20
        assert counting.made["tasks"] == 10

    counting.run_until_complete(main())


def test_batches_of_a_backlog_cost_no_wake_up_and_no_window_timer(
    counting: CountingLoop,
) -> None:  # C3
    sink = Sink(counting.time)

    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=100, max_batch=10)
        sink.hold()
        for number in range(1000):
            dispatcher.enqueue(number)
        await counting.advance(0.2)
        assert len(sink.batches) == 1
        counting.made.clear()
        sink.release()
        await counting.settle()
        while dispatcher.pending:
            await counting.settle()
        assert len(sink.batches) == 100
        assert counting.made["wake-ups"] == 0
        assert counting.made["timers"] <= 2 * 99
        assert counting.made["tasks"] == 99

    counting.run_until_complete(main())


def test_full_batches_cost_no_more_than_a_wake_up_each(
    counting: CountingLoop,
) -> None:  # C3: from other threads' bursts the loop is woken once
    sink = Sink(counting.time)

    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=100, max_batch=10)
        dispatcher.enqueue("first")
        await counting.advance(0.2)
        counting.made.clear()
        for _ in range(20):
            for number in range(10):
                dispatcher.enqueue(number)
            await counting.settle()
        assert len(sink.batches) == 21
        assert counting.made["tasks"] == 20
        assert counting.made["timers"] <= 2 * 20
        assert counting.made["wake-ups"] <= 20

    counting.run_until_complete(main())


def test_loop_of_a_home_has_no_dict_made_of_its_attributes() -> None:
    """On 3.11 and 3.12 each of its turns would be slower for it.

    In a process of its own: loops share thirty names of attributes, and make a dict
    for any more.
    """
    outcome = run_snippet(
        """
        async def main():
            async with BackgroundDispatcher(send, ms_delay=1) as dispatcher:
                dispatcher.enqueue("a")
                assert await dispatcher.aflush()
            held = gc.get_referents(asyncio.get_running_loop())
            return sum("_ready" in each for each in held if type(each) is dict)
        async def send(batch):
            pass
        say(asyncio.run(main()))
        """
    )
    assert outcome.lines == ["0"]
