"""C16: the end of a loop and of a process."""

from __future__ import annotations

import sys

import pytest

from loops import LOOPS
from subprocesses import run_snippet

pytestmark = pytest.mark.every_layout

on_each_loop = pytest.mark.parametrize("loop_name", LOOPS)
debug_or_not = pytest.mark.parametrize("debug", [False, True])


# ---- the end of asyncio.run


@on_each_loop
@debug_or_not
def test_f11_f41_end_of_run_dispatches_on_the_same_loop(
    loop_name: str, debug: bool
) -> None:  # C16
    outcome = run_snippet(
        """
        class Client:
            '''As HTTP clients do: async generators, locks, a server of its own.'''
            async def stream(self, batch):
                for entry in batch:
                    await asyncio.sleep(0)
                    yield entry

            async def post(self, batch):
                async with asyncio.timeout(5):
                    reader, writer = await asyncio.open_connection(*self.address)
                    async for entry in self.stream(batch):
                        writer.write(entry.encode())
                    writer.write(b"\\n")
                    await writer.drain()
                    answer = await reader.readline()
                    writer.close()
                    await writer.wait_closed()
                async for _ in self.stream(batch):
                    break  # left unfinished
                return answer

        import socket
        server = socket.create_server(("127.0.0.1", 0))
        def serve():
            for _ in range(2):
                connection, _ = server.accept()
                with connection, connection.makefile("rwb") as file:
                    file.write(file.readline().upper())
        thread = threading.Thread(target=serve)
        thread.start()
        client = Client()
        client.address = server.getsockname()
        loops = []
        async def send(batch):
            loops.append(asyncio.get_running_loop())
            say((await client.post(batch)).decode().strip())
        dispatcher = BackgroundDispatcher(send, ms_delay=60_000)

        async def main():
            loops.append(asyncio.get_running_loop())
            for entry in "abc":
                dispatcher.enqueue(entry)
            await dispatcher.aflush()
            for entry in "def":
                dispatcher.enqueue(entry)

        run(main())
        thread.join()
        server.close()
        assert len(set(loops)) == 1, loops
        books(dispatcher)
        """,
        loop=loop_name,
        debug=debug,
    )
    assert outcome.lines == ["ABC", "DEF", "accepted=6 dispatched=6"]


@on_each_loop
@debug_or_not
def test_f11_dispatch_in_flight_at_the_end_of_run_has_failed(
    loop_name: str, debug: bool
) -> None:  # C16
    outcome = run_snippet(
        """
        began = threading.Event()
        batches = []
        async def send(batch):
            batches.append(batch)
            if batch == ["in flight"]:
                began.set()
                await asyncio.sleep(3600)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)

        async def main():
            dispatcher.enqueue("in flight")
            await asyncio.to_thread(began.wait)
            dispatcher.enqueue("a")
            dispatcher.enqueue("b")

        run(main())
        say(batches)
        books(dispatcher)
        """,
        loop=loop_name,
        debug=debug,
        stderr=".*dispatch of 1 entries failed: CancelledError.*",
    )
    assert outcome.lines == [
        "[['in flight'], ['a', 'b']]",
        "accepted=3 dispatched=2 failed=1",
    ]


@on_each_loop
@debug_or_not
def test_f41_end_of_run_with_one_dispatcher_slower_than_another(
    loop_name: str, debug: bool
) -> None:  # C16
    """The first that is done must not have the loop warn of the other's generators."""
    run_snippet(
        """
        async def rows():
            yield 1
        async def fast(batch): pass
        async def slow(batch):
            await asyncio.sleep(0.1)
            async for _ in rows(): pass
        dispatchers = [BackgroundDispatcher(sink, ms_delay=60_000)
                       for sink in (fast, slow)]
        async def main():
            for dispatcher in dispatchers:
                dispatcher.enqueue("a")
        run(main())
        assert [d.statistics().dispatched for d in dispatchers] == [1, 1]
        """,
        loop=loop_name,
        debug=debug,
    )


@on_each_loop
def test_end_of_run_takes_five_seconds_at_most(loop_name: str) -> None:
    outcome = run_snippet(  # C16: a call that never ends is cancelled, counted, told
        """
        import ringdispatch._home
        assert ringdispatch._home.END_SECONDS == 5.0
        ringdispatch._home.END_SECONDS = 0.5
        async def send(batch):
            await asyncio.sleep(3600)
        dispatcher = BackgroundDispatcher(send, ms_delay=60_000)

        async def main():
            dispatcher.enqueue("a")

        began = time.monotonic()
        run(main())
        took = time.monotonic() - began
        assert 0.45 < took < 3, took
        books(dispatcher)
        """,
        loop=loop_name,
        stderr=".*dispatch of 1 entries failed: TimeoutError.*",
    )
    assert outcome.lines == ["accepted=1 failed=1"]


@on_each_loop
def test_end_of_run_with_a_dispatcher_that_is_closed_warns_of_nothing(
    loop_name: str,
) -> None:  # C16
    outcome = run_snippet(
        """
        async def send(batch): pass
        async def main():
            async with BackgroundDispatcher(send, ms_delay=1) as one:
                one.enqueue("a")
            two = BackgroundDispatcher(send, ms_delay=1)
            two.enqueue("b")
            await two.aclose()
            three = BackgroundDispatcher(send, ms_delay=1)
            three.enqueue("c")
            while not three.statistics().dispatched:
                await asyncio.sleep(0.001)
            del three
            gc.collect()
            for dispatcher in one, two:
                books(dispatcher)
        run(main())
        """,
        loop=loop_name,
    )
    assert outcome.lines == ["accepted=1 dispatched=1"] * 2


@on_each_loop
def test_entries_after_the_drain_find_another_home(loop_name: str) -> None:  # C16
    outcome = run_snippet(
        """
        where = []
        async def send(batch):
            where.append((batch, threading.current_thread().name))
        dispatcher = BackgroundDispatcher(send, ms_delay=1)

        async def main():
            dispatcher.enqueue("a")

        loop = new_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_asyncgens())
        async def late():
            dispatcher.enqueue("b")
        loop.run_until_complete(late())
        loop.close()
        assert dispatcher.close()
        for line in where:
            say(*line)
        """,
        loop=loop_name,
    )
    assert outcome.lines == ["['a'] MainThread", "['b'] ringdispatch"]


# ---- the end of the process


@debug_or_not
@pytest.mark.parametrize("kind", ["async", "ordinary", "executor"])
def test_f08_exit_dispatches_on_the_background_loop(kind: str, debug: bool) -> None:
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
    )
    assert outcome.lines == ["['first']", "['last']"]


@on_each_loop
@debug_or_not
@pytest.mark.parametrize("kind", ["async", "ordinary", "executor"])
def test_f08_exit_dispatches_on_a_fresh_loop(
    loop_name: str, kind: str, debug: bool
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
    )
    assert outcome.lines == ["exit", "['a']"]


@pytest.mark.objects_only("takes the five seconds")
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
            assert took < 7, took
            books(dispatcher)
        """,
        stderr=".*n1: .*1 pending as abandoned.*",
    )
    assert outcome.lines == ["accepted=3 failed=2 abandoned=1"]


@pytest.mark.parametrize("started", [False, True])
def test_f07_enqueue_from_an_exit_hook(started: bool) -> None:  # C16
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
        stderr=".*n1: 1 entries rejected_closed.*|",
    )
    assert outcome.lines[-2:] == [
        "False",
        "accepted=1 dispatched=1 rejected_closed=1" if started else "rejected_closed=1",
    ]


def test_f07_no_thread_can_be_started() -> None:  # C16: nothing raises, all is told
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
    )
    assert outcome.lines == ["['a', 'b', 'c']"]  # at exit, without a thread


def test_f07_exit_during_sys_exit_in_a_thread_and_from_main() -> None:  # C16
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
    )
    assert outcome.lines == ["['thread', 'main']"]


def test_dispatch_on_a_loop_that_outlives_the_exit_has_failed() -> None:  # C16
    """A daemon thread's: it runs on, and nobody waits for it."""
    outcome = run_snippet(
        """
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
        stderr="send: the process ended: 1 entries in flight count as failed, 0 .*",
    )
    assert outcome.lines == ["['a']"]


def test_exit_reports_the_drops_that_were_not_told() -> None:
    run_snippet(  # C16, C10: rate-limited until then
        """
        from ringdispatch._ring import keep_for_ever
        async def send(batch):
            pass
        dispatcher = BackgroundDispatcher(
            send, ms_delay=60_000, capacity=2, max_batch=2, name="n1")
        keep_for_ever(dispatcher)  # or its finalizer would tell
        async def main():
            for _ in range(2):
                for number in range(5):
                    dispatcher.enqueue(number)
                while dispatcher.statistics().in_flight or dispatcher.pending:
                    await asyncio.sleep(0.001)
        run(main())
        """,
        stderr="n1: 3 entries rejected_full; [^\\n]*\nn1: 3 entries rejected_full; .*",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="sets a limit of Unix")
@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_no_descriptor_left_for_a_loop(left: int) -> None:  # C13, C16
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
        """
    )
