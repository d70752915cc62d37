"""C16, C17: other ways to leave a process, other interpreters, other event loops.

docs/servers.md has a table of what happens there, and of what to do.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from loops import comes_true
from serving import needs
from subprocesses import run_snippet

unix = pytest.mark.skipif(sys.platform == "win32", reason="needs exec and fork")

TO_FILE = """
    import pathlib
    def send(batch):
        with open("sent", "a") as file:
            file.writelines(f"{entry}\\n" for entry in batch)
    def sent():
        path = pathlib.Path("sent")
        return path.read_text().split() if path.exists() else []
    dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
"""


@unix
@pytest.mark.parametrize(("before", "lines"), [("close", ["b'1'"]), ("nothing", [])])
def test_exec_delivers_what_was_closed_before(before: str, lines: list[str]) -> None:
    program = "import os; os.path.exists('sent') and print(open('sent', 'rb').read(1))"
    outcome = run_snippet(
        TO_FILE
        + f"""
    dispatcher.enqueue(1)
    if {before!r} == "close":
        assert dispatcher.close()
    os.execv(sys.executable, [sys.executable, "-c", {program!r}])
    """
    )
    assert outcome.lines == lines


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("fork", marks=unix),
        pytest.param("spawn"),
        pytest.param("forkserver", marks=unix),
    ],
)
def test_workers_of_a_pool_that_is_joined_deliver(method: str) -> None:  # C16
    run_snippet(
        TO_FILE
        + f"""
    import multiprocessing
    def work(number):
        return dispatcher.enqueue(number)
    if __name__ == "__main__":
        with multiprocessing.get_context({method!r}).Pool(2) as pool:
            assert all(pool.map(work, range(20)))
            pool.close()
            pool.join()
        assert sorted(map(int, sent())) == [*range(20)], sent()
        assert dispatcher.statistics().accepted == 0
    """,
        warnings=("ignore:.*multi-threaded:DeprecationWarning",),
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.11 does not check")
def test_subinterpreter_gets_an_import_error_and_the_main_one_works() -> None:
    outcome = run_snippet(
        """
        if sys.version_info >= (3, 13):
            import _interpreters as interpreters
        else:
            import _xxsubinterpreters as interpreters
        interpreter = interpreters.create()
        try:
            answer = interpreters.run_string(interpreter, "import ringdispatch")
            say(answer.type.__name__, answer.msg)
        except interpreters.RunFailedError as error:  # until 3.12
            say(error)
        interpreters.destroy(interpreter)
        dispatcher = BackgroundDispatcher(print, ms_delay=1)
        dispatcher.enqueue("entry")
        assert dispatcher.close()
        """
    )
    assert "ImportError" in outcome.lines[0]
    assert "ringdispatch._bytes does not support loading in sub" in outcome.lines[0]
    assert outcome.lines[1] == "['entry']"


class Bare:
    """A timer's handle of a loop that is not written in Python, or is Qt's."""

    __slots__ = ("_handle",)  # it takes no weak reference, and has no when()

    def __init__(self, handle: asyncio.Handle) -> None:
        self._handle = handle

    def cancel(self) -> None:
        self._handle.cancel()


class OtherLoop(asyncio.SelectorEventLoop):
    def call_at(self, when: float, *args: Any, **options: Any) -> Any:
        return Bare(super().call_at(when, *args, **options))

    def call_later(self, delay: float, *args: Any, **options: Any) -> Any:
        return self.call_at(self.time() + delay, *args, **options)


def test_timers_of_a_loop_need_only_be_cancellable(dispatcher_class: type) -> None:
    batches: list[Any] = []
    dropped: list[int] = []

    async def send(batch: list[Any]) -> None:
        batches.append(list(batch))
        if len(batches) == 4:
            await asyncio.Event().wait()

    async def main() -> None:
        dispatcher = dispatcher_class(
            send,
            ms_delay=5,
            capacity=2,
            dispatch_timeout=0.01,
            on_drop=lambda _, count: dropped.append(count),
        )
        for number in range(4):
            for _ in range(5):
                dispatcher.enqueue(number)
            await comes_true(lambda: len(batches) > number)  # noqa: B023
        await comes_true(lambda: dispatcher.statistics().failed)
        assert await dispatcher.aclose()
        seen = dispatcher.statistics()
        assert (seen.dispatched, seen.failed, seen.rejected_full) == (6, 2, 12)

    with asyncio.Runner(loop_factory=OtherLoop) as runner:
        runner.run(main())  # C2, C10, C11
    assert batches == [[number] * 2 for number in range(4)]
    assert sum(dropped) == 12


@needs("trio")
def test_under_trio_threads_deliver_and_coroutines_refuse() -> None:  # C13, C16
    outcome = run_snippet(
        """
        import trio
        async def send(batch):
            await asyncio.sleep(0.001)
            say(*batch)
        async def main():
            dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
            dispatcher.enqueue(1)
            assert await trio.to_thread.run_sync(dispatcher.flush)
            dispatcher.enqueue(2)
            try:
                await dispatcher.aflush()
            except RuntimeError as error:
                say(error)
            try:
                async with dispatcher:
                    raise AssertionError("entered")
            except RuntimeError as error:
                say(error)
            assert not dispatcher.closed
            assert await trio.to_thread.run_sync(dispatcher.close)
            books(dispatcher)
        trio.run(main)
        """
    )
    *sent, last = outcome.lines
    assert last == "accepted=2 dispatched=2"
    # The flush had its batch sent all the same.
    assert sorted(sent) == ["1", "2", *["no running event loop"] * 2]
