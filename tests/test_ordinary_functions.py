"""C11 for dispatch functions that are not async: they run in a worker thread."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import pytest

from layouts import is_cut_short
from loops import LOOPS, comes_true, eventually, new_loop, run_on
from ringdispatch._atomic import cancel
from support import books_agree

# Where the function runs: its batch has left the file's ring by then.
pytestmark = pytest.mark.usefixtures("in_memory")


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
        await comes_true(lambda: dispatcher.statistics().failed == 1)
        dispatcher.enqueue("b")
        await comes_true(lambda: dispatcher.statistics().dispatched == 1)
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
        tries = 0
        while not batches:  # a busy machine may be late with a thread
            tries += 1
            dispatcher.enqueue("a")
            await comes_true(lambda: dispatcher.statistics().failed == tries)  # noqa: B023
        dispatcher._batcher.options.dispatch_timeout = 20.0
        dispatcher.enqueue("b")
        assert await dispatcher.aflush(timeout=0.1) is False
        assert batches == [["a"]]
        said = "ignores its cancellation"
        try:
            await comes_true(
                lambda: any(said in record.message for record in caplog.records)
            )
        finally:
            gate.set()
        await comes_true(lambda: dispatcher.statistics().dispatched == 1)
        books = dispatcher.statistics()
        assert (books.failed, books.batches) == (tries, tries + 1)
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
        await comes_true(lambda: not dispatcher._batcher.calls)
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
    before = threading.enumerate()

    async def send() -> None: ...

    def workers() -> list[threading.Thread]:
        mine = [thread for thread in threading.enumerate() if thread not in before]
        return [thread for thread in mine if "worker" in thread.name]

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
    eventually(lambda: not workers())
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
    assert time.monotonic() - began < 15
    assert is_cut_short(dispatcher, in_flight=1, pending=1)
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
