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

# Kinds of loops, not of rings.
pytestmark = pytest.mark.usefixtures("in_memory")

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
@pytest.mark.parametrize(("before", "sent"), [("close", "1"), ("nothing", "")])
def test_exec_delivers_what_was_closed_before(before: str, sent: str) -> None:
    program = (
        "from pathlib import Path as P; print(*map(P.read_text, P().glob('sent')))"
    )
    outcome = run_snippet(
        TO_FILE
        + f"""
    dispatcher.enqueue(1)
    if {before!r} == "close":
        assert dispatcher.close()
    os.execv(sys.executable, [sys.executable, "-c", {program!r}])
    """
    )
    assert "".join(outcome.lines) == sent


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


def test_subinterpreter_that_closes_its_dispatcher_may_end() -> None:
    """One that shares the GIL; with a running dispatcher it aborts before 3.14."""
    outcome = run_snippet(
        """
        import sys
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        if sys.version_info >= (3, 13):
            interpreter = interpreters.create("legacy")
        else:
            interpreter = interpreters.create(isolated=False)
        answer = interpreters.run_string(interpreter, (
            "import threading, time\\n"
            "from ringdispatch import BackgroundDispatcher\\n"
            "dispatcher = BackgroundDispatcher(print, ms_delay=1)\\n"
            "dispatcher.enqueue('entry')\\n"
            "assert dispatcher.close()\\n"
            "deadline = time.monotonic() + 10\\n"
            "while threading.active_count() > 1:\\n"
            "    assert time.monotonic() < deadline\\n"
            "    time.sleep(0.001)\\n"
        ))
        assert answer is None, answer
        interpreters.destroy(interpreter)
        print("end")
        """,
        prelude=False,
    )
    assert outcome.lines == ["['entry']", "end"]


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
def test_under_trio_threads_deliver_and_coroutines_refuse() -> None:  # C13, C15, C16
    """They refuse before anything is closed, and name the way out."""
    outcome = run_snippet(
        """
        import trio
        async def send(batch):
            await asyncio.sleep(0.001)
            say(*batch)
        async def enter(dispatcher):
            async with dispatcher:
                raise AssertionError("entered")
        async def main():
            dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
            dispatcher.enqueue(1)
            assert await trio.to_thread.run_sync(dispatcher.flush)
            on_thread = BackgroundDispatcher(send, ms_delay=60_000, home="thread")
            for name, call in {
                "aenqueue": lambda: dispatcher.aenqueue(3),
                "aflush": dispatcher.aflush,
                "aclose": dispatcher.aclose,
                "enter": lambda: enter(dispatcher),
                "enter, on the thread": lambda: enter(on_thread),
            }.items():
                try:
                    await call()
                except RuntimeError as error:
                    say(f"{name}: {error}")
            assert not dispatcher.closed and not on_thread.closed
            assert dispatcher.enqueue(2)
            assert await trio.to_thread.run_sync(dispatcher.close)
            books(dispatcher)
        trio.run(main)
        """
    )
    one, *refused, two, last = outcome.lines
    assert (one, two, last) == ("1", "2", "accepted=2 dispatched=2")
    needs_loop = "() needs a running asyncio loop: else call "
    close = (
        f"aclose{needs_loop}close(); under trio, await trio.to_thread.run_sync(close)"
    )
    assert refused == [
        f"aenqueue: aenqueue{needs_loop}enqueue()",
        f"aflush: {close.replace('close', 'flush')}",
        f"aclose: {close}",
        f"enter: {close}",
        f"enter, on the thread: {close}",
    ]


CLIENTS = {
    "httpx": """
    import httpx
    async def send(batch):
        async with httpx.AsyncClient(trust_env=False) as client:
            (await client.post(url, json=batch)).raise_for_status()
    """,
    "aiohttp": """
    import aiohttp
    async def send(batch):
        async with aiohttp.ClientSession() as client:
            async with client.post(url, json=batch) as response:
                response.raise_for_status()
    """,
}


@pytest.mark.parametrize(
    "client", [pytest.param(name, marks=needs(name)) for name in CLIENTS]
)
def test_request_that_waits_for_its_answer_survives_the_end_of_the_loop(
    client: str,
) -> None:  # C16
    """The client waits in no task of its own, which the loop's end would cancel."""
    outcome = run_snippet(
        CLIENTS[client]
        + """
    import http.server
    asked, ending = threading.Event(), threading.Event()
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked.set()
            ending.wait(20)
            self.send_response(204)
            self.end_headers()
        def log_message(self, *words):
            say("answered")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    dispatcher = BackgroundDispatcher(send, ms_delay=1)
    async def main():
        dispatcher.enqueue(1)
        while not asked.is_set():
            await asyncio.sleep(0.001)
        assert len(asyncio.all_tasks()) == 2  # this one and the call
        asyncio.get_running_loop().call_later(0.05, ending.set)
    asyncio.run(main())
    server.shutdown()
    server.server_close()
    books(dispatcher)
    """,
        debug=False,
    )
    assert outcome.lines == ["answered", "accepted=1 dispatched=1"]
