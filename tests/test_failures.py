"""C11: failed dispatches, and hooks that raise."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from typing import Any

import pytest

from loops import LOOPS
from subprocesses import run_snippet
from support import Sink, SteppedLoop, books_agree, logged


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), asyncio.CancelledError(), GeneratorExit(), BaseExceptionGroup],
    ids=repr,
)
def test_f16_dispatch_that_raises_fails_its_batch_only(
    stepped: SteppedLoop, sink: Sink, error: Any, dispatcher_class: type
) -> None:  # C11
    if error is BaseExceptionGroup:
        error = BaseExceptionGroup("two", [asyncio.CancelledError(), ValueError()])
    stepped.set_exception_handler(lambda loop, context: None)

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        for window in range(3):
            sink.error = error if window < 2 else None
            dispatcher.enqueue(window)
            await stepped.advance(0.2)
        assert sink.batches == [[0], [1], [2]]
        books = dispatcher.statistics()
        assert (books.failed, books.dispatched) == (2, 1)
        assert (books.failed_batches, books.batches) == (2, 3)
        books_agree(dispatcher)
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_failed_batch_is_not_retried_and_others_in_flight_go_on(
    stepped: SteppedLoop,
    dispatcher_class: type,
) -> None:  # C11, C9
    seen: list[Any] = []

    async def main() -> None:
        async def sink(batch: list[int]) -> None:
            seen.append(batch)
            await asyncio.sleep(batch[0])
            if batch == [1]:
                raise ValueError

        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=1, max_in_flight=2)
        for number in (1, 3, 2):
            dispatcher.enqueue(number)
        await stepped.advance(5)
        assert seen == [[1], [3], [2]]
        books = dispatcher.statistics()
        assert (books.dispatched, books.failed) == (2, 1)
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit"])
@pytest.mark.parametrize("kind", ["async", "ordinary"])
def test_f16_ends_of_the_program_propagate_and_the_next_window_works(
    loop_name: str, error: str, kind: str, layout: str
) -> None:  # C11
    outcome = run_snippet(
        f"""
        first = True
        def fail_once(batch):
            global first
            if first:
                first = False
                raise {error}(5)
            say(batch)
        async def send(batch):
            fail_once(batch)
        dispatcher = BackgroundDispatcher(
            send if {kind == "async"} else fail_once, ms_delay=1)

        async def main():
            dispatcher.enqueue("a")
            await asyncio.sleep(3)

        try:
            run(main())
        except {error}:
            say("propagated")
        async def again():
            dispatcher.enqueue("b")
            await dispatcher.aflush()
        run(again())
        books(dispatcher)
        """,
        loop=loop_name,
        stderr=rf".*dispatch failed \(1 entry\): {error}.*",
        layout=layout,
    )
    assert outcome.lines == [
        "propagated",
        "['b']",
        "accepted=2 dispatched=1 failed=1",
    ]
    assert "never retrieved" not in outcome.stderr
    assert "was destroyed" not in outcome.stderr


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit"])
def test_f16_end_raised_on_the_background_thread(
    error: str, layout: str
) -> None:  # C11
    outcome = run_snippet(
        f"""
        first = True
        async def send(batch):
            global first
            if first:
                first = False
                raise {error}(5)
            say(batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        dispatcher.enqueue("a")
        eventually(lambda: dispatcher.statistics().failed)
        def others():  # but for a worker thread, which has written a dead letter
            return [t for t in threading.enumerate() if "worker" not in t.name]
        eventually(lambda: len(others()) == 1)
        dispatcher.enqueue("b")
        assert dispatcher.flush()
        dispatcher.enqueue("c")
        """,
        stderr=rf".*dispatch failed \(1 entry\): {error}.*",
        layout=layout,
    )
    assert outcome.lines == ["['b']", "['c']"]
    assert "never retrieved" not in outcome.stderr


# ---- what the hooks hear


def test_on_error_gets_the_exception_and_the_batch(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C11
    seen: list[tuple[BaseException, Any]] = []

    async def main() -> None:
        dispatcher = dispatcher_class(
            sink,
            ms_delay=100,
            dispatch_timeout=1,
            on_error=lambda error, batch: seen.append((error, batch)),
        )
        sink.error = error = ValueError()
        dispatcher.enqueue("a")
        await stepped.advance(0.2)
        assert seen == [(error, ["a"])]
        sink.hold()
        dispatcher.enqueue("b")
        await stepped.advance(2)
        assert isinstance(seen[1][0], TimeoutError)
        assert seen[1][1] == ["b"]
        assert len(seen) == 2
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_flush_and_close_wait_for_on_error(dispatcher_class: type) -> None:  # C11
    """What it keeps of a batch would be lost where the process ends after them."""
    reporting, may_end = threading.Event(), threading.Event()
    kept: list[Any] = []

    def keep(_: BaseException, batch: Any) -> None:
        reporting.set()
        assert may_end.wait(10)
        kept.append(batch)

    async def fail(_: Any) -> None:
        raise ValueError

    dispatcher = dispatcher_class(fail, ms_delay=1, home="thread", on_error=keep)
    dispatcher.enqueue("a")
    assert reporting.wait(10)
    assert dispatcher.statistics().failed == 1
    assert not dispatcher.flush(timeout=0)
    may_end.set()
    assert dispatcher.close(10)
    assert kept == [["a"]]


@pytest.mark.parametrize("kind", [Exception, asyncio.CancelledError, BaseException])
def test_f20_hooks_that_raise_are_logged_and_nothing_else_happens(
    kind: type[BaseException],
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C11
    class Broken(kind):  # type: ignore[misc, valid-type]
        pass

    def broken(*values: object) -> None:
        raise Broken

    class Log:
        error = staticmethod(broken)

    class Context:
        log = Log()
        wait_until = staticmethod(broken)

    async def main() -> None:
        dispatcher = dispatcher_class(
            sink, ms_delay=100, capacity=2, on_error=broken, on_drop=broken, name="n1"
        )
        for fails in (True, False):
            sink.error = ValueError() if fails else None
            results = [dispatcher.enqueue(n, Context()) for n in range(3)]
            assert results == [True, True, False]
            await stepped.advance(0.2)
        books = dispatcher.statistics()
        assert (books.failed, books.dispatched, books.rejected_full) == (2, 2, 2)
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())
    lines = logged(caplog, logging.ERROR)
    for what in ("on_error", "on_drop", "context.log", "wait_until"):
        assert f"ringdispatch[n1]: {what} raised" in lines, lines
    records = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert all(r.exc_info and r.exc_info[0] is Broken for r in records)


def test_interrupted_background_thread_is_replaced_while_it_drains(layout: str) -> None:
    """C1, C14: and its dispatchers neither wait for it nor spin."""
    outcome = run_snippet(
        """
        import ringdispatch._background, ringdispatch._loop_end
        ringdispatch._loop_end.END_SECONDS = 20.0  # longer than eventually() waits
        reported = []
        threading.excepthook = lambda what: reported.append(what.exc_type.__name__)
        gate = threading.Event()
        async def slow(batch):
            while not gate.is_set():
                await asyncio.sleep(0.001)
        got = []
        async def send(batch):
            if not got:
                got.append("interrupted")
                raise KeyboardInterrupt
            got.extend(batch)
        draining = BackgroundDispatcher(slow, ms_delay=5, home="thread")
        dispatcher = BackgroundDispatcher(send, ms_delay=5, home="thread")
        draining.enqueue(1)
        eventually(lambda: draining.statistics().in_flight)
        dispatcher.enqueue(2)
        eventually(lambda: got)
        eventually(lambda: "ending" in ringdispatch._background._background)
        dispatcher.enqueue(3)
        eventually(lambda: 3 in got)
        gate.set()
        assert draining.close() and dispatcher.close()
        eventually(lambda: reported)  # when the thread has drained
        say(*reported)
        """,
        stderr=".*KeyboardInterrupt.*",
        layout=layout,
    )
    assert outcome.lines == ["KeyboardInterrupt"]


@pytest.mark.parametrize("home", ["auto", "thread"])
def test_f20_hook_that_blocks_holds_up_its_home_and_loses_nothing(
    home: str, dispatcher_class: type
) -> None:
    blocked, go_on = threading.Event(), threading.Event()  # C8, C11
    got: list[int] = []

    async def sink(batch: list[int]) -> None:
        got.extend(batch)
        if batch == [0]:
            raise ConnectionError

    def on_error(error: BaseException, batch: list[int]) -> None:
        blocked.set()
        assert go_on.wait(20)

    dispatcher = dispatcher_class(sink, ms_delay=1, home=home, on_error=on_error)
    assert dispatcher.enqueue(0)
    assert blocked.wait(20)
    for number in range(1, 100):
        assert dispatcher.enqueue(number)
    assert dispatcher.pending == 99
    assert not dispatcher.flush(timeout=0.01)
    go_on.set()
    assert dispatcher.close(20)
    assert got == list(range(100))
    books = dispatcher.statistics()
    assert (books.failed, books.dispatched) == (1, 99)


def test_f20_context_with_properties_that_raise(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C11
    errors: list[BaseException] = []

    class Context:
        @property
        def log(self) -> object:
            raise ValueError("log")

        @property
        def wait_until(self) -> object:
            raise ValueError("wait_until")

    async def main() -> None:
        dispatcher = dispatcher_class(
            sink, ms_delay=100, on_error=lambda error, batch: errors.append(error)
        )
        for _ in range(2):
            sink.error = ValueError()
            assert dispatcher.enqueue("a", Context())
            await stepped.advance(0.2)
        assert dispatcher.statistics().failed == 2
        sink.error = None
        assert dispatcher.enqueue("b", Context())
        assert await dispatcher.aclose()
        assert dispatcher.statistics().dispatched == 1

    stepped.run_until_complete(main())
    assert len(errors) == 2
    (line,) = logged(caplog, logging.WARNING)
    assert line.endswith("dispatch failed (1 entry): ValueError()")
    gc.collect()  # a task whose exception is not retrieved reports it at its end
    assert [r.getMessage() for r in caplog.records if r.name == "asyncio"] == []
