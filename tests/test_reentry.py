"""C18: enqueue may be entered again from anywhere, at any moment."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from typing import Any

import pytest

from loops import LOOPS, comes_true, run_on
from ringdispatch import BackgroundDispatcher
from subprocesses import needs_signals, run_snippet
from support import Sink, SteppedLoop, books_agree

# On virtual time, for which dead letters never end; their own tests fail calls.
pytestmark = pytest.mark.usefixtures("in_memory")

on_each_loop = pytest.mark.parametrize("loop_name", LOOPS)
each_home = pytest.mark.parametrize("home", ["auto", "thread"])


@pytest.mark.parametrize("where", ["a handler", "getLogger"])
def test_first_entry_under_the_locks_of_logging_finds_a_thread(where: str) -> None:
    """Its loop would log that it was made, and wait for them for ever."""  # C18
    run_snippet(
        f"""
        got = []
        dispatcher = BackgroundDispatcher(lambda batch: got.extend(batch), ms_delay=1)
        class Handler(logging.Handler):
            def emit(self, record):
                dispatcher.enqueue(record.getMessage())
        class Logger(logging.Logger):
            def __init__(self, name):
                super().__init__(name)
                dispatcher.enqueue("a")
        if {where!r} == "a handler":
            logging.basicConfig(level=logging.DEBUG, handlers=[Handler()])
            logging.info("a")
        else:
            logging.setLoggerClass(Logger)
            logging.getLogger("new")
        assert dispatcher.flush()
        assert got == ["a"], got
        os._exit(0)
        """
    )


@needs_signals
def test_signal_handler_that_raises_anywhere_in_an_opener_prints_nothing() -> None:
    """As a time limit does; books agree, and what comes later goes out."""  # C20
    run_snippet(
        """
        import random, ringdispatch
        package = os.path.dirname(ringdispatch.__file__)
        class Limit(Exception): pass
        inside = 0
        def handler(_, frame):
            global inside
            raised_in = frame.f_code.co_filename
            while frame is not None:
                if frame.f_code is burst.__code__:
                    inside += raised_in.startswith(package)
                    raise Limit
                frame = frame.f_back
        signal.signal(signal.SIGALRM, handler)
        def burst():
            if dispatcher.enqueue(number):
                accepted.append(number)
        # What is raised in a finalizer, or while a thread starts, Python itself prints.
        gc.disable()
        keeps_the_thread = BackgroundDispatcher(len, ms_delay=1)
        assert keeps_the_thread.enqueue(0) and keeps_the_thread.flush()
        accepted, got, number = [], [], 0
        def send(batch): got.extend(batch)
        end = time.monotonic() + 20
        while inside < 150:
            assert time.monotonic() < end, inside
            dispatcher = BackgroundDispatcher(send, ms_delay=1)
            number += 1
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1e-4))
            try:
                burst()
            except Limit:
                pass
            signal.setitimer(signal.ITIMER_REAL, 0)
            dispatcher.enqueue(-number)
            assert dispatcher.close()
            seen = dispatcher.statistics()
            assert seen.accepted == seen.dispatched, seen
        entries = {*got}
        assert len(entries) == len(got) and entries >= {*accepted}
        assert entries >= {-n for n in range(1, number + 1)}
        """,
        debug=False,
    )


@needs_signals
@on_each_loop
def test_f38_opener_in_a_signal_handler_on_an_idle_loop_is_on_time(
    loop_name: str,
    layout: str,
) -> None:  # C18
    outcome = run_snippet(
        """
        late = []
        async def send(batch):
            late.append(time.monotonic() - batch[0])
            done.set()
        dispatcher = BackgroundDispatcher(send, ms_delay=50)
        signal.signal(signal.SIGUSR1, lambda *_: dispatcher.enqueue(time.monotonic()))
        def kill(pid=os.getpid()):
            time.sleep(0.05)  # let the loop go to sleep
            os.kill(pid, signal.SIGUSR1)
        async def main():
            global done
            dispatcher.bind()
            for _ in range(5):
                done = asyncio.Event()
                thread = threading.Thread(target=kill)
                thread.start()
                await asyncio.wait_for(done.wait(), 20)
                thread.join()
            await dispatcher.aclose()
        run(main())
        # A busy machine may be late now and then, never always.
        say(min(late) > 0.048, min(late) < 0.2)
        """,
        loop=loop_name,
        layout=layout,
    )
    assert outcome.lines == ["True True"]


def test_f15_entries_from_the_dispatch_function_go_into_the_next_window(
    stepped: SteppedLoop,
    dispatcher_class: type,
) -> None:  # C18
    batches: list[Any] = []

    async def main() -> None:
        async def sink(batch: list[int]) -> None:
            batches.append(batch)
            for number in batch:
                if number < 5:
                    dispatcher.enqueue(number + 1)

        dispatcher = dispatcher_class(sink, ms_delay=100)
        dispatcher.enqueue(0)
        for window in range(1, 7):
            await stepped.advance(0.101)
            assert batches == [[number] for number in range(window)]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_f15_dispatch_function_that_logs_into_its_own_dispatcher(
    stepped: SteppedLoop, caplog: pytest.LogCaptureFixture, dispatcher_class: type
) -> None:  # C10, C18
    """Each batch makes an entry for the next window: a trickle, no recursion."""
    batches: list[list[str]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            dispatcher.enqueue(record.getMessage())

    async def sink(batch: list[str]) -> None:
        batches.append(batch)
        logging.getLogger().warning("sending %d", len(batch))
        if len(batches) == 3:
            raise ConnectionError  # the dispatcher's own warning comes in too

    dispatcher = dispatcher_class(sink, ms_delay=100)

    async def main() -> None:
        logging.getLogger().warning("first")
        await stepped.advance(1.05)
        assert len(batches) == 10
        assert [len(batch) for batch in batches[:5]] == [1, 1, 1, 2, 1]
        logging.getLogger().removeHandler(handler)
        assert await dispatcher.aclose()

    handler = Handler()
    logging.getLogger().addHandler(handler)
    try:
        stepped.run_until_complete(main())
    finally:
        logging.getLogger().removeHandler(handler)


def test_entries_from_the_hooks_are_accepted(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:  # C18
        def on_error(error: BaseException, batch: Any) -> None:
            sink.error = None
            dispatcher.enqueue("from on_error")

        def on_drop(reason: str, count: int) -> None:
            dispatcher.enqueue(f"from on_drop: {reason} {count}")

        class Context:
            def wait_until(self, receipt: Any) -> None:
                dispatcher.enqueue("from wait_until", Context())

            def log(self, message: str) -> None:
                dispatcher.enqueue("from log")

        dispatcher = dispatcher_class(
            sink, ms_delay=100, capacity=3, on_error=on_error, on_drop=on_drop
        )
        sink.error = ValueError()
        for entry in "abc":
            dispatcher.enqueue(entry, Context())
        await stepped.advance(1)
        entries = set(sink.entries)
        assert {"a", "b", "from wait_until", "from on_error", "from log"} <= entries
        assert "from on_drop: rejected_full 1" in entries
        assert await dispatcher.aclose()
        books_agree(dispatcher)

    stepped.run_until_complete(main())


@on_each_loop
def test_f12_running_dispatch_is_not_collected(
    loop_name: str, dispatcher_class: type
) -> None:  # C18
    """Loops hold tasks weakly, and nothing else holds what this one waits for."""
    finished: list[Any] = []

    async def sink(batch: list[Any]) -> None:
        waiter = asyncio.get_running_loop().create_future()
        references.append(weakref.ref(waiter))
        await waiter
        finished.append(batch)

    references: list[Any] = []

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=1)
        dispatcher.enqueue("a")
        await comes_true(lambda: references)
        for _ in range(3):
            gc.collect()
        references[0]().set_result(None)
        await comes_true(lambda: finished)
        assert await dispatcher.aclose()

    run_on(loop_name, main())
    assert finished == [["a"]]


def test_first_entries_of_many_threads_at_once(
    dispatcher_class: type,
) -> None:  # C18, C13
    """Several threads find no home at the same moment."""
    for _ in range(20):
        received: list[Any] = []

        async def sink(batch: list[Any], received: list[Any] = received) -> None:
            received.extend(batch)

        dispatcher = dispatcher_class(sink, ms_delay=1)
        barrier = threading.Barrier(8)

        def put(
            number: int,
            barrier: threading.Barrier = barrier,
            dispatcher: BackgroundDispatcher[Any] = dispatcher,
        ) -> None:
            barrier.wait()
            dispatcher.enqueue(number)

        threads = [threading.Thread(target=put, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert dispatcher.close()
        assert sorted(received) == list(range(8))


def test_statistics_and_flush_from_a_signal_handlers_moment(
    dispatcher_class: type,
) -> None:  # C18
    """Snapshots from another thread while the ring is hammered stay consistent."""

    async def sink(batch: list[Any]) -> None:
        pass

    dispatcher = dispatcher_class(sink, ms_delay=1, capacity=64, home="thread")
    end = time.monotonic() + 0.3
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            dispatcher.enqueue("a")

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        books_agree(dispatcher)
    stop.set()
    for thread in threads:
        thread.join()
    assert dispatcher.close()
