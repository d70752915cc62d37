"""C16: the end of a process."""

from __future__ import annotations

import sys

import pytest

from loops import LOOPS
from subprocesses import run_snippet

on_each_loop = pytest.mark.parametrize("loop_name", LOOPS)
debug_or_not = pytest.mark.parametrize("debug", [False, True])


@debug_or_not
@pytest.mark.parametrize("kind", ["async", "ordinary", "executor"])
def test_f08_exit_dispatches_on_the_background_loop(
    kind: str, debug: bool, layout: str
) -> None:
    outcome = run_snippet(  # C16
        f"""
        kind = {kind!r}
        loops = []
        def ordinary(batch):
            import socket
            socket.getaddrinfo("127.0.0.1", 80)
            say(batch)
        async def send(batch):
            loop = asyncio.get_running_loop()
            loops.append(loop)
            if kind == "executor":
                await asyncio.to_thread(ordinary, batch)
            else:
                await loop.getaddrinfo("127.0.0.1", 80)
                say(batch)
            assert len(set(loops)) == 1
        dispatcher = BackgroundDispatcher(
            ordinary if kind == "ordinary" else send, ms_delay=60_000, name="n1")
        dispatcher.enqueue("first")
        assert dispatcher.flush()
        dispatcher.enqueue("last")
        """,
        debug=debug,
        layout=layout,
    )
    assert outcome.lines == ["['first']", "['last']"]


@on_each_loop
@debug_or_not
@pytest.mark.parametrize("kind", ["async", "ordinary", "executor"])
def test_f08_exit_dispatches_on_a_fresh_loop(
    loop_name: str, kind: str, debug: bool, layout: str
) -> None:  # C16: the home was stopped, or closed, and never came back
    outcome = run_snippet(
        f"""
        kind = {kind!r}
        def ordinary(batch):
            import socket
            socket.getaddrinfo("127.0.0.1", 80)
            say(batch)
        async def send(batch):
            if kind == "executor":
                await asyncio.to_thread(ordinary, batch)
            else:
                loop = asyncio.get_running_loop()
                await loop.getaddrinfo("127.0.0.1", 80)
                say(batch)
        dispatcher = BackgroundDispatcher(
            ordinary if kind == "ordinary" else send, ms_delay=60_000)
        async def main():
            dispatcher.enqueue("a")
        loop = new_loop()
        loop.run_until_complete(main())
        import atexit
        @atexit.register  # runs before ringdispatch's own
        def no_resource_warning_for_the_tests_own_loop():
            say("exit")
        """,
        loop=loop_name,
        debug=debug,
        # The snippet's own fault, where the loop is asyncio's.
        stderr=".*unclosed event loop.*|.*unclosed resource.*|",
        layout=layout,
    )
    assert outcome.lines == ["exit", "['a']"]


# Objects only: takes the five seconds.
def test_f08_what_cannot_be_sent_in_five_seconds_is_reported() -> None:  # C16
    outcome = run_snippet(
        """
        async def send(batch):
            await asyncio.sleep(3600)
        dispatcher = BackgroundDispatcher(
            send, ms_delay=60_000, max_batch=2, name="n1")
        for entry in "abc":
            dispatcher.enqueue(entry)
        import atexit, ringdispatch._process
        atexit.unregister(ringdispatch._process.at_exit)
        @atexit.register
        def timed():
            began = time.monotonic()
            ringdispatch._process.at_exit()
            took = time.monotonic() - began
            assert took < 20, took
            books(dispatcher)
        """,
        stderr=r"(?s).*ringdispatch\[n1\]: the process ended: .*1 entry pending.*",
    )
    assert outcome.lines == ["accepted=3 failed=2 abandoned=1"]


@pytest.mark.parametrize("started", [False, True])
def test_f07_enqueue_from_an_exit_hook(started: bool, layout: str) -> None:  # C16
    """After the background thread has gone, where no thread can be started."""
    outcome = run_snippet(
        f"""
        import atexit
        late = None
        atexit.register(lambda: late())  # runs after ringdispatch's own
        import ringdispatch._process
        atexit.unregister(ringdispatch._process.at_exit)
        atexit.register(ringdispatch._process.at_exit)
        async def send(batch):
            say(batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=1, name="n1")
        if {started}:
            dispatcher.enqueue("a")
            assert dispatcher.flush()
        def late():
            say(dispatcher.enqueue("late"))
            books(dispatcher)
        """,
        stderr=r".*ringdispatch\[n1\]: 1 entry rejected_closed.*|",
        layout=layout,
    )
    assert outcome.lines[-2:] == [
        "False",
        "accepted=1 dispatched=1 rejected_closed=1" if started else "rejected_closed=1",
    ]


def test_f07_no_thread_can_be_started(
    layout: str,
) -> None:  # C16: nothing raises, all is reported
    outcome = run_snippet(
        """
        def refuse(*args, **kwargs):
            raise RuntimeError("can't start new thread")
        threading.Thread.start = refuse
        got = []
        async def send(batch):
            say(batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=1, name="n1")
        for entry in "abc":
            assert dispatcher.enqueue(entry) is True
        assert dispatcher.flush(timeout=0.05) is False
        assert dispatcher.pending == 3
        """,
        layout=layout,
    )
    assert outcome.lines == ["['a', 'b', 'c']"]  # at exit, without a thread


def test_f07_exit_during_sys_exit_in_a_thread_and_from_main(layout: str) -> None:  # C16
    outcome = run_snippet(
        """
        async def send(batch):
            say(batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
        def worker():
            dispatcher.enqueue("thread")
            sys.exit(1)
        thread = threading.Thread(target=worker)
        thread.start()
        thread.join()
        dispatcher.enqueue("main")
        sys.exit(3)
        """,
        code=3,
        layout=layout,
    )
    assert outcome.lines == ["['thread', 'main']"]


def test_dispatch_on_a_loop_that_outlives_the_exit_has_failed(
    layout: str,
) -> None:  # C16
    """A daemon thread's: it runs on, and is waited for no longer than others."""
    outcome = run_snippet(
        """
    from ringdispatch import _process
    _process.END_SECONDS = 1.0  # five are another test's
    async def send(batch):
        say(batch)
        started.set()
        await asyncio.sleep(300)
    started = threading.Event()
    dispatcher = BackgroundDispatcher(send, ms_delay=1)
    async def main():
        dispatcher.enqueue("a")
        await asyncio.sleep(300)
    threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
    assert started.wait(10)
    """,
        stderr=r"ringdispatch\[send\]: the process ended: 1 .* 0 entries pend.*",
        layout=layout,
    )
    assert outcome.lines == ["['a']"]


def test_exit_waits_for_a_call_on_a_loop_in_a_daemon_thread(layout: str) -> None:  # C16
    """With nothing pending as well."""
    outcome = run_snippet(
        """
    async def send(batch):
        started.set()
        while not at_exit:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        say(batch)
    started, at_exit = threading.Event(), []
    dispatcher = BackgroundDispatcher(send, ms_delay=1)
    async def main():
        dispatcher.enqueue("a")
        await asyncio.sleep(300)
    threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
    assert started.wait(10)
    import atexit
    atexit.register(at_exit.append, True)  # called before what was registered before
    """,
        layout=layout,
    )
    assert outcome.lines == ["['a']"]


def test_signal_in_the_middle_of_the_end_leaves_no_task_behind(
    layout: str,
) -> None:  # C16
    """Nothing is said of its SystemExit, and the end goes on."""
    outcome = run_snippet(
        """
    import signal
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    async def send(batch):
        say(batch)
    dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
    from ringdispatch._batcher import Batcher
    really_drain = Batcher.drain
    signals = [signal.SIGTERM]
    async def drain(self, *args, **options):
        if signals:
            signal.raise_signal(signals.pop())
        await really_drain(self, *args, **options)
    Batcher.drain = drain
    async def main():
        dispatcher.enqueue("a")
    loop = new_loop()
    loop.run_until_complete(main())  # not closed, so that all is left for the exit
    import atexit
    atexit.register(loop.close)
    atexit.register(__import__("ringdispatch._process")._process.at_exit)
    """,
        layout=layout,
    )
    assert outcome.lines == ["['a']"]


def test_exit_reports_the_drops_that_were_not_reported(layout: str) -> None:
    run_snippet(  # C16, C10: rate-limited until then
        """
        from ringdispatch._pthread import immortalize
        async def send(batch):
            pass
        dispatcher = BackgroundDispatcher(
            send, ms_delay=60_000, capacity=2, max_batch=2, name="n1")
        immortalize(dispatcher)  # or its finalizer would report
        async def main():
            for _ in range(2):
                for number in range(5):
                    dispatcher.enqueue(number)
                while dispatcher.statistics().in_flight or dispatcher.pending:
                    await asyncio.sleep(0.001)
        run(main())
        """,
        stderr=r"(ringdispatch\[n1\]: 3 entries rejected_full; [^\n]*\n?){2}",
        layout=layout,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="sets a limit of Unix")
@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_no_descriptor_left_for_a_loop(left: int, layout: str) -> None:  # C13, C16
    """The entry is kept without a word, and goes out when there are some again."""
    run_snippet(
        f"""
        import resource
        got = []
        async def send(batch): got.extend(batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held = []
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            for _ in range({left}):
                os.close(held.pop())
        assert dispatcher.enqueue("a")
        gc.collect()
        for descriptor in held:
            os.close(descriptor)
        assert dispatcher.enqueue("b")
        assert dispatcher.flush() and got == ["a", "b"], got
        """,
        layout=layout,
        # With none left it can't look for what other processes left, and says so.
        stderr="(?s)(.*Too many open files.*)?" if layout == "spooled" else "",
    )
