"""What real programs did to a dispatcher; `make cases` has more, and longer ones."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from subprocesses import run_snippet


@pytest.mark.parametrize("left", range(2, 16))
def test_entry_near_the_recursion_limit_goes_out_in_time(left: int) -> None:  # C1, C20
    run_snippet(
        f"""
        got = []
        async def send(batch): got.extend(batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=5, home="thread")
        dispatcher.enqueue("first")
        assert dispatcher.flush()
        def deep(frames):
            if frames:
                return deep(frames - 1)
            try:
                dispatcher.enqueue("deep")
            except RecursionError:
                pass
        frame, depth = sys._getframe(), 0
        while frame:
            frame, depth = frame.f_back, depth + 1
        sys.setrecursionlimit(depth + 300)
        try:
            deep(300 - {left})
        except RecursionError:
            pass
        sys.setrecursionlimit(1000)
        eventually(lambda: len(got) == dispatcher.statistics().accepted)
        """,
        debug=False,
    )


def test_enqueue_near_the_recursion_limit_returns() -> None:  # C18, C20
    """On the loop's own thread, whatever fails inside of it for lack of frames."""
    run_snippet(
        """
        async def send(batch): pass
        def deep(frames, dispatcher):
            if frames:
                return deep(frames - 1, dispatcher)
            try:
                dispatcher.enqueue("deep")
            except RecursionError:
                pass
        async def main():
            for left in range(2, 20):
                dispatcher = BackgroundDispatcher(send, ms_delay=1)
                frame, depth = sys._getframe(), 0
                while frame:
                    frame, depth = frame.f_back, depth + 1
                sys.setrecursionlimit(depth + 300)
                try:
                    deep(300 - left, dispatcher)
                except RecursionError:
                    pass
                sys.setrecursionlimit(1000)
                dispatcher.enqueue("later")
                assert await dispatcher.aclose(), left
        sys.unraisablehook = lambda _: None
        run(main())
        """,
        debug=False,
    )


def test_enqueue_near_the_limit_returns_where_a_thread_dispatches() -> None:
    """A loop's wake-up or a finalizer that failed must not be tried again for ever."""
    run_snippet(
        """
        async def send(batch): pass
        def deep(frames, dispatcher):
            if frames:
                return deep(frames - 1, dispatcher)
            try:
                dispatcher.enqueue("deep")
            except RecursionError:
                pass
        sys.unraisablehook = lambda _: None
        for warm in (True, False):
            for left in range(2, 20):
                dispatcher = BackgroundDispatcher(send, ms_delay=1, home="thread")
                if warm:
                    dispatcher.enqueue("first")
                    assert dispatcher.flush()
                frame, depth = sys._getframe(), 0
                while frame:
                    frame, depth = frame.f_back, depth + 1
                sys.setrecursionlimit(depth + 300)
                try:
                    deep(300 - left, dispatcher)
                except RecursionError:
                    pass
                sys.setrecursionlimit(1000)
                dispatcher.enqueue("later")
                assert dispatcher.close(10), left
                assert not dispatcher.statistics().pending
        """,
        debug=False,
    )  # C18, C20


def test_interrupted_start_of_the_thread_is_repeated_by_the_next_window() -> None:
    run_snippet(
        """
        got = []
        dispatcher = BackgroundDispatcher(lambda batch: got.extend(batch), ms_delay=5)
        start = threading.Thread.start
        def interrupted(thread):
            threading.Thread.start = start
            raise KeyboardInterrupt
        threading.Thread.start = interrupted
        try:
            dispatcher.enqueue(1)
        except KeyboardInterrupt:
            pass
        dispatcher.enqueue(2)
        eventually(lambda: got == [1, 2])
        """
    )  # C20


@pytest.mark.parametrize("error", ["asyncio.CancelledError", "SystemExit(3)"])
def test_hook_that_raises_at_exit_ends_no_other_dispatchers_report(
    error: str,
) -> None:  # C11, C16
    outcome = run_snippet(
        f"""
        def raises(reason, count):
            raise {error}
        def reports(reason, count):
            say(reason, count)
        async def send(batch): pass
        made = [
            BackgroundDispatcher(send, ms_delay=5, on_drop=hook)
            for hook in (raises, *[reports] * 5)
        ]
        for dispatcher in made:
            dispatcher.close()
            dispatcher.enqueue("late")
        """,
        stderr="(?s).*",
    )
    assert outcome.lines == ["rejected_closed 1"] * 5


@pytest.mark.parametrize(
    "keep",
    [
        "sys.kept = dispatcher",
        "gc.freeze()",
        "Py_IncRef(ctypes.py_object(dispatcher))",
        "for module in [*sys.modules.values()]: Py_IncRef(ctypes.py_object(module))",
    ],
)
@pytest.mark.parametrize("use", ["pass", "dispatcher.enqueue(1)", "dispatcher.close()"])
def test_dispatcher_that_outlives_the_modules_prints_nothing(
    keep: str, use: str
) -> None:
    run_snippet(
        f"""
        import ctypes
        Py_IncRef = ctypes.pythonapi.Py_IncRef
        dispatcher = BackgroundDispatcher(lambda batch: None, ms_delay=5)
        assert dispatcher.enqueue(0) and dispatcher.flush()
        {keep}
        {use}
        """,
        debug=False,
    )  # C16


@pytest.mark.parametrize("where", ["at exit", "in close", "in asyncio.run"])
def test_ordinary_function_that_never_returns_holds_no_process(where: str) -> None:
    run_snippet(
        f"""
        called = threading.Event()
        def send(batch):
            called.set()
            threading.Event().wait()
        dispatcher = BackgroundDispatcher(
            send, ms_delay=5, dispatch_timeout={1 if where == "at exit" else 30})
        async def main():
            dispatcher.enqueue(1)
            await asyncio.to_thread(called.wait)
            assert not await dispatcher.aclose(0.2)
        if {where!r} == "in asyncio.run":
            asyncio.run(main())
        else:
            dispatcher.enqueue(1)
            assert called.wait(10)
        if {where!r} == "in close":
            assert not dispatcher.close(0.2)
        """,
        stderr="(?s).*(timed out|the process ended|dispatch failed).*",
    )  # C16


def test_no_thread_outlives_the_last_dispatcher() -> None:  # C16
    run_snippet(
        """
        dispatcher = BackgroundDispatcher(lambda batch: None, ms_delay=1)
        assert dispatcher.enqueue(1)
        assert dispatcher.close()
        main = threading.main_thread()
        eventually(lambda: threading.enumerate() == [main])
        """
    )


def test_contexts_are_bounded_where_no_thread_can_be_had() -> None:  # C7
    run_snippet(
        """
        import weakref
        alive = weakref.WeakSet()
        receipts = []
        class Context:
            def __init__(self): alive.add(self)
            def wait_until(self, awaitable): receipts.append(awaitable)
        def no(thread): raise RuntimeError("can't start new thread")
        threading.Thread.start = no
        async def send(batch): pass
        dispatcher = BackgroundDispatcher(
            send, ms_delay=5, capacity=10, on_full="drop_oldest")
        for number in range(2_000):
            dispatcher.enqueue(number, Context())
        gc.collect()
        assert len(alive) <= 100, len(alive)
        async def end():
            for receipt in receipts[:-100]:
                await asyncio.wait_for(receipt, 10)
        asyncio.run(end())
        os._exit(0)
        """
    )


def test_dispatcher_made_in_a_request_runs_in_no_requests_context(
    dispatcher_class: type,
) -> None:  # C19
    request: Any = contextvars.ContextVar("request", default=None)
    seen: list[Any] = []

    async def send(batch: list[Any]) -> None:
        seen.append(request.get())

    async def handle(number: int) -> Any:
        request.set(number)
        dispatcher = dispatcher_class(send, ms_delay=1)
        dispatcher.enqueue(number)
        return dispatcher

    async def main() -> None:
        for number in range(3):
            dispatcher = await asyncio.create_task(handle(number))
            assert await dispatcher.aclose()

    asyncio.run(main())
    assert seen == [None] * 3
