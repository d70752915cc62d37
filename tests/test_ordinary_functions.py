"""C11 for dispatch functions that are not async: they run in a worker thread."""

from __future__ import annotations

import asyncio
import gc
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import pytest

from loops import LOOPS, comes_true, eventually, new_loop, run_on
from ringdispatch import _atomic
from ringdispatch._atomic import Finalizer, WorkerThreads, cancel
from ringdispatch._background import Executor
from support import books_agree


@pytest.mark.parametrize("loop_name", LOOPS)
def test_runs_in_a_worker_thread(loop_name: str, dispatcher_class: type) -> None:
    threads: list[Any] = []

    def sink(batch: list[Any]) -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        threads.append(threading.current_thread())

    async def main() -> None:
        async with dispatcher_class(sink, ms_delay=1) as dispatcher:
            dispatcher.enqueue("a")
        assert dispatcher.statistics().dispatched == 1
        assert threads[0] not in {threading.main_thread(), threading.current_thread()}

    run_on(loop_name, main())


@pytest.mark.parametrize("loop_name", LOOPS)
def test_returned_awaitable_is_awaited_on_the_home(
    loop_name: str, dispatcher_class: type
) -> None:
    seen: list[Any] = []

    async def send(batch: list[Any]) -> None:
        seen.append((batch, asyncio.get_running_loop()))
        if batch == ["bad"]:
            raise ValueError

    class Custom:
        def __init__(self, batch: list[Any]) -> None:
            self.batch = batch

        def __await__(self) -> Any:
            return send(self.batch).__await__()

    async def main() -> None:
        functions: list[Any] = [lambda batch: send(batch), Custom]
        for function in functions:
            dispatcher = dispatcher_class(function, ms_delay=1)
            for entry in ("good", "bad"):
                dispatcher.enqueue(entry)
                assert await dispatcher.aflush()
                assert seen.pop() == ([entry], asyncio.get_running_loop())
            books = dispatcher.statistics()
            assert (books.dispatched, books.failed) == (1, 1)
            assert await dispatcher.aclose()

    run_on(loop_name, main())


def test_kinds_of_async_callables_are_called_on_the_home(
    dispatcher_class: type,
) -> None:
    threads: list[Any] = []

    class Sender:
        async def __call__(self, batch: list[Any]) -> None:
            threads.append(threading.current_thread())

        async def method(self, batch: list[Any]) -> None:
            threads.append(threading.current_thread())

    async def main() -> None:
        for function in (Sender(), Sender().method):
            async with dispatcher_class(function, ms_delay=1) as dispatcher:
                dispatcher.enqueue("a")
        assert threads == [threading.main_thread()] * 2

    asyncio.run(main())


@pytest.mark.parametrize(
    "error", [ValueError("no"), StopIteration(), asyncio.CancelledError()], ids=repr
)
@pytest.mark.parametrize("home", ["auto", "thread"])
def test_f16_what_it_raises_fails_its_batch_only(
    error: BaseException, home: str, dispatcher_class: type
) -> None:
    errors: list[BaseException] = [error]
    batches: list[Any] = []

    def sink(batch: list[Any]) -> None:
        batches.append(batch)
        if errors:
            raise errors.pop()

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=1, home=home)
        dispatcher.enqueue("a")
        await comes_true(lambda: dispatcher.statistics().failed == 1, seconds=2)
        dispatcher.enqueue("b")
        await comes_true(lambda: dispatcher.statistics().dispatched == 1, seconds=5)
        assert batches == [["a"], ["b"]]
        assert await dispatcher.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("home", ["auto", "thread"])
@pytest.mark.parametrize("is_async", [True, False])
def test_generator_that_it_returns_fails_its_batch(
    is_async: bool, home: str, dispatcher_class: type, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing runs of one, so that nothing was sent."""

    def plain(batch: list[Any]) -> Iterator[int]:
        yield len(batch)

    async def generator(batch: list[Any]) -> AsyncIterator[int]:
        yield len(batch)

    async def main() -> None:
        hidden = generator if is_async else plain
        dispatcher = dispatcher_class(
            lambda batch: hidden(batch), ms_delay=1, home=home, name="hidden"
        )
        dispatcher.enqueue("a")
        assert await dispatcher.aclose()
        books = dispatcher.statistics()
        assert (books.dispatched, books.failed) == (0, 1)

    asyncio.run(main())
    kind = "async_generator" if is_async else "generator"
    assert f"TypeError: returned <{kind} object" in caplog.text
    assert "which nothing iterates" in caplog.text


@pytest.mark.parametrize("loop_name", LOOPS)
def test_f17_timed_out_it_keeps_its_slot_until_the_thread_returns(
    loop_name: str, caplog: pytest.LogCaptureFixture, dispatcher_class: type
) -> None:
    gate = threading.Event()
    batches: list[Any] = []

    def sink(batch: list[Any]) -> None:
        batches.append(batch)
        if batch == ["a"]:
            gate.wait(20)

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=1, dispatch_timeout=0.3, name="n1")
        dispatcher.enqueue("a")
        await comes_true(lambda: dispatcher.statistics().failed == 1)
        # A busy machine may be late with a thread.
        dispatcher._batcher.options.dispatch_timeout = 20.0
        dispatcher.enqueue("b")
        assert await dispatcher.aflush(timeout=0.1) is False
        assert batches == [["a"]]
        said = "ignores its cancellation"
        try:
            await comes_true(
                lambda: any(said in record.message for record in caplog.records),
                seconds=3,
            )
        finally:
            gate.set()
        await comes_true(lambda: dispatcher.statistics().dispatched == 1)
        books = dispatcher.statistics()
        assert (books.failed, books.batches) == (1, 2)
        books_agree(dispatcher)
        assert await dispatcher.aclose()

    run_on(loop_name, main())
    assert batches == [["a"], ["b"]]


def test_awaitable_returned_after_the_timeout_is_closed_not_left(
    dispatcher_class: type,
) -> None:
    """A coroutine that is never awaited would warn."""
    gate = threading.Event()

    async def send() -> None:
        raise AssertionError("its batch has failed long ago")

    def sink(batch: list[Any]) -> Awaitable[None] | None:
        if batch == ["a"]:
            gate.wait(20)
            return send()
        return None

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=1, dispatch_timeout=0.3)
        dispatcher.enqueue("a")
        await comes_true(lambda: dispatcher.statistics().failed == 1)
        dispatcher._batcher.options.dispatch_timeout = 20.0
        gate.set()
        dispatcher.enqueue("b")
        await comes_true(lambda: dispatcher.statistics().dispatched == 1)
        assert await dispatcher.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("outcome", ["raises", "coroutine"])
def test_cancelled_in_the_moment_its_thread_ends_it_leaves_nothing_behind(
    loop_name: str,
    outcome: str,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:
    """An error never retrieved, or a coroutine never awaited, would be reported."""
    gate = threading.Event()

    async def send() -> None: ...

    def sink(batch: list[Any]) -> Awaitable[None]:
        gate.wait(20)
        if outcome == "raises":
            raise ValueError("no")
        return send()

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=1)
        dispatcher.enqueue("a")
        await comes_true(lambda: dispatcher._batcher.calls)
        (call,) = dispatcher._batcher.calls
        await comes_true(lambda: call._thread_call is not None)
        # Cancels when the future is done, before the call has seen it.
        call._thread_call.ended.add_done_callback(lambda _: cancel(call))
        gate.set()
        await comes_true(lambda: dispatcher.statistics().failed == 1)
        assert not dispatcher._batcher.calls
        assert await dispatcher.aclose()

    run_on(loop_name, main())
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("outcome", ["raises", "coroutine"])
def test_f37_thread_that_ends_after_its_loop_was_closed_leaves_nothing_behind(
    loop_name: str, outcome: str, dispatcher_class: type
) -> None:
    began, gate, returned = (threading.Event() for _ in range(3))

    async def send() -> None: ...

    def sink(batch: list[Any]) -> Awaitable[None]:
        began.set()
        gate.wait(20)
        returned.set()
        if outcome == "raises":
            raise ValueError("no")
        return send()

    async def main() -> None:
        dispatcher.enqueue("a")
        await comes_true(began.is_set)

    dispatcher = dispatcher_class(sink, ms_delay=1)
    loop = new_loop(loop_name)
    loop.run_until_complete(main())
    loop.close()
    eventually(lambda: dispatcher.statistics().failed == 1)
    gate.set()
    assert returned.wait(20)
    assert dispatcher.close()
    eventually(lambda: not [t for t in threading.enumerate() if "worker" in t.name])
    gc.collect()  # a warning here is an error


@pytest.mark.parametrize("loop_name", LOOPS)
def test_f37_loop_closed_when_the_thread_has_raised_leaves_nothing_behind(
    loop_name: str,
    dispatcher_class: type,
) -> None:
    """The call never goes on; asyncio logs errors that are collected in a future."""

    def sink(batch: list[Any]) -> None:
        gate.wait(20)
        raise ValueError("no")

    async def main() -> asyncio.Future[None]:
        dispatcher.enqueue("a")
        await comes_true(lambda: dispatcher._batcher.calls)
        (call,) = dispatcher._batcher.calls
        await comes_true(lambda: call._thread_call is not None)
        return call._thread_call.ended

    gate = threading.Event()
    dispatcher = dispatcher_class(sink, ms_delay=1)
    loop = new_loop(loop_name)
    worker = loop.run_until_complete(main())
    worker.add_done_callback(lambda _: loop.stop())
    gate.set()
    loop.run_forever()
    loop.close()
    eventually(lambda: dispatcher.statistics().failed == 1)
    assert dispatcher.close()
    assert worker.exception() is None


def test_f17_close_does_not_wait_for_the_thread(
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:
    gate = threading.Event()
    dispatcher = dispatcher_class(
        lambda batch: gate.wait(20), ms_delay=1, home="thread"
    )
    dispatcher.enqueue("a")
    eventually(lambda: dispatcher.statistics().in_flight)
    dispatcher.enqueue("b")
    began = time.monotonic()
    assert dispatcher.close(timeout=0.05) is False
    assert time.monotonic() - began < 5
    books = dispatcher.statistics()
    assert (books.failed, books.abandoned) == (1, 1)
    assert sum(r.levelno == logging.WARNING for r in caplog.records) == 1
    gate.set()
    eventually(lambda: not dispatcher._batcher.calls)
    books_agree(dispatcher)


def test_it_sees_an_empty_context(
    dispatcher_class: type,
) -> None:  # C19
    from contextvars import ContextVar

    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen: list[str] = []

    async def main() -> None:
        tenant.set("maker")
        dispatcher = dispatcher_class(
            lambda batch: seen.append(tenant.get()), ms_delay=1
        )
        tenant.set("request")
        dispatcher.enqueue("a")
        assert await dispatcher.aclose()

    asyncio.run(main())
    assert seen == ["nobody"]


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
