"""The threads that call ordinary functions: each job once, and its end reported."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
from collections import deque
from typing import Any

import pytest

from loops import comes_true, eventually
from ringdispatch import _atomic
from ringdispatch._atomic import Finalizer, WorkerThreads
from ringdispatch._background import Executor

# How threads start and end; a file has none of its own.
pytestmark = pytest.mark.usefixtures("in_memory")


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)], ids=repr)
def test_error_of_a_call_made_at_once_is_in_its_future(error: BaseException) -> None:
    """At exit, when no thread will take it any more."""
    pool = Executor()
    pool.shutdown()

    def fails() -> None:
        raise error

    assert pool.submit(fails).exception(0) is error


def test_call_that_finds_no_thread_is_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C9
    """A pool keeps in its queue what it can start no thread for."""
    made: list[str] = []
    busy, gate = threading.Event(), threading.Event()

    def slow() -> None:
        busy.set()
        gate.wait(20)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Executor() as pool:  # not the dispatchers': it is left a thread short
        pool.submit(slow)
        assert busy.wait(20)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            pool.submit(made.append, "at once").result(20)
        assert made == ["at once"]
        gate.set()
    assert made == ["at once"]


def test_thread_that_comes_too_late_calls_nothing(
    dispatcher_class: type,
) -> None:  # C11
    """Its batch has failed, and `on_error` may have saved it elsewhere."""
    began: list[Any] = []
    failed: list[Any] = []
    gate = threading.Event()

    def sink(batch: list[Any]) -> None:
        began.extend(batch)
        gate.wait(20)

    late: list[Any] = []
    workers = WorkerThreads()

    class Late:
        end = workers.end

        def run(self, job: Any) -> None:
            if began:
                late.append(job)  # its thread has started, and comes to it later
            else:
                workers.run(job)
                eventually(lambda: began)

    async def main() -> None:
        dispatcher = dispatcher_class(
            sink,
            ms_delay=1,
            max_batch=1,
            max_in_flight=2,
            dispatch_timeout=0.3,
            on_error=lambda error, batch: failed.extend(batch),
        )
        dispatcher.bind()  # else the first entry has pages of a file touched, too
        dispatcher._batcher.workers = Late()
        dispatcher.enqueue("a")
        dispatcher.enqueue("b")
        await comes_true(lambda: len(failed) == 2)
        gate.set()
        await asyncio.to_thread(late[0][0])
        late.clear()  # as the thread does that has made the call
        await comes_true(lambda: not dispatcher._batcher.calls)
        assert await dispatcher.aclose()

    asyncio.run(main())
    assert began == ["a"]


def test_threads_that_end_while_one_becomes_idle_end_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C16
    """Else it would wait for its idle time, and keep what its process has loaded."""

    class Raced(deque[Any]):
        def append(self, jobs: Any) -> None:
            workers.end()  # another thread, in this moment
            super().append(jobs)

    monkeypatch.setattr(_atomic, "deque", Raced)
    workers = WorkerThreads()
    threads: list[threading.Thread] = []
    done = Finalizer(lambda: threads.append(threading.current_thread()))
    workers.run((lambda: None, done))
    eventually(lambda: threads, seconds=5)
    eventually(lambda: not threads[0].is_alive(), seconds=5)


def test_job_handed_to_a_thread_that_gives_up_waiting_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C20
    """The thread takes itself off the list, unless a job is on its way to it."""
    handed = threading.Event()
    given_up: list[threading.Thread] = []

    class Raced(deque[Any]):
        def remove(self, jobs: Any) -> None:
            given_up.append(threading.current_thread())
            handed.wait(20)
            super().remove(jobs)

    class Impatient(queue.SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            return super().get(block, None if timeout is None else 0.0)

    monkeypatch.setattr(_atomic, "deque", Raced)
    monkeypatch.setattr(queue, "SimpleQueue", Impatient)
    workers = WorkerThreads()
    ran: list[threading.Thread] = []
    workers.run((lambda: None, Finalizer(lambda: None)))
    eventually(lambda: given_up)
    done = Finalizer(lambda: ran.append(threading.current_thread()))
    workers.run((lambda: None, done))
    handed.set()
    eventually(lambda: ran)
    assert ran == given_up[:1]
    workers.end()
    eventually(lambda: not ran[0].is_alive())


def test_thread_in_which_a_job_raises_reports_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C20
    """What interrupts the thread does not leave the call waiting; nor a later one."""
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    workers = WorkerThreads()
    ended: list[str] = []

    def interrupted() -> None:
        raise MemoryError

    workers.run((interrupted, Finalizer(ended.append, "first")))
    eventually(lambda: raised)
    assert ended == ["first"]
    workers.run((lambda: None, Finalizer(ended.append, "second")))
    eventually(lambda: ended == ["first", "second"])
    workers.end()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RecursionError, MemoryError])
@pytest.mark.parametrize("times", [1, 2])
def test_finalizer_that_is_interrupted_calls_again(
    error: type[BaseException], times: int
) -> None:  # C20
    calls: list[str] = []

    def interrupted() -> None:
        calls.append("called")
        if len(calls) <= times:
            raise error

    finalizer = Finalizer(interrupted)
    with pytest.raises(error):
        finalizer.finish()
    assert len(calls) == 2
    del finalizer
    gc.collect()  # the second error's context has a traceback
    assert len(calls) == times + 1
