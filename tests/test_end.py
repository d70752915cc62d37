"""C16: the end of a loop."""

from __future__ import annotations

import pytest

from loops import LOOPS
from subprocesses import run_snippet

on_each_loop = pytest.mark.parametrize("loop_name", LOOPS)
debug_or_not = pytest.mark.parametrize("debug", [False, True])


@on_each_loop
@debug_or_not
def test_f11_f41_end_of_run_dispatches_on_the_same_loop(
    loop_name: str, debug: bool, layout: str
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
        layout=layout,
    )
    assert outcome.lines == ["ABC", "DEF", "accepted=6 dispatched=6"]


@on_each_loop
@debug_or_not
def test_f11_dispatch_in_flight_at_the_end_of_run_may_finish(
    loop_name: str, debug: bool, layout: str
) -> None:  # C16
    """The run's end cancels all tasks: not this, and not its timeout's either."""
    outcome = run_snippet(
        """
        loops, entries = [], []
        async def rows(batch):
            for entry in batch:
                await asyncio.sleep(0.05)
                yield entry
        async def send(batch):
            loops.append(asyncio.get_running_loop())
            async with asyncio.timeout(5):
                async for entry in rows(batch):
                    entries.append(entry)
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(3600)
            except TimeoutError:
                loops.append(asyncio.get_running_loop())
        dispatcher = BackgroundDispatcher(send, ms_delay=1, max_batch=2)

        def ordinary(batch):
            time.sleep(0.1)
            entries.append("ordinary")
        threaded = BackgroundDispatcher(ordinary, ms_delay=1)

        async def main():
            for entry in "abcd":
                dispatcher.enqueue(entry)
            threaded.enqueue("e")
            while not loops or threaded.pending:
                await asyncio.sleep(0.001)
            loops.append(asyncio.get_running_loop())

        run(main())
        assert sorted(entries) == ["a", "b", "c", "d", "ordinary"], entries
        assert len(loops) == 5 and len(set(loops)) == 1, loops
        for each in (dispatcher, threaded):
            books(each)
        """,
        loop=loop_name,
        debug=debug,
        layout=layout,
    )
    assert outcome.lines == ["accepted=4 dispatched=4", "accepted=1 dispatched=1"]


@on_each_loop
@debug_or_not
def test_f11_hung_dispatch_at_the_end_of_run_leaves_time_for_the_rest(
    loop_name: str, debug: bool, layout: str
) -> None:  # C16
    outcome = run_snippet(
        """
        import ringdispatch._loop_end as end
        end.END_SECONDS, end._CALL_SHARE = 10.0, 0.05  # a busy machine takes its time
        began = threading.Event()
        batches, loops = [], []
        async def send(batch):
            batches.append(batch)
            loops.append(asyncio.get_running_loop())
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
        assert loops[0] is loops[1]
        books(dispatcher)
        """,
        loop=loop_name,
        debug=debug,
        stderr=".*dispatch failed .1 entry.: TimeoutError.*",
        layout=layout,
    )
    assert outcome.lines == [
        "[['in flight'], ['a', 'b']]",
        "accepted=3 dispatched=2 failed=1",
    ]


@on_each_loop
def test_end_of_run_lets_a_cancelled_call_clean_up(
    loop_name: str, layout: str
) -> None:  # C16
    outcome = run_snippet(
        """
        import ringdispatch._loop_end as end
        end.END_SECONDS, end._CALL_SHARE = 10.0, 0.05  # a busy machine takes its time
        class Client:
            async def __aenter__(self):
                return self
            async def __aexit__(self, *error):
                await asyncio.sleep(0.05)
                say("closed")
        async def send(batch):
            async with Client(), Client():
                await asyncio.sleep(100)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        async def main():
            dispatcher.enqueue("a")
            await asyncio.sleep(0.05)
        run(main())
        books(dispatcher)
        """,
        loop=loop_name,
        layout=layout,
        stderr=".*dispatch failed .1 entry.: TimeoutError.*",
    )
    assert outcome.lines == ["closed", "closed", "accepted=1 failed=1"]


@on_each_loop
@debug_or_not
def test_f41_end_of_run_with_one_dispatcher_slower_than_another(
    loop_name: str, debug: bool, layout: str
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
        layout=layout,
    )


@on_each_loop
def test_end_of_run_takes_five_seconds_at_most(loop_name: str, layout: str) -> None:
    outcome = run_snippet(  # C16: an endless call is cancelled, counted, reported
        """
        import ringdispatch._loop_end
        assert ringdispatch._loop_end.END_SECONDS == 5.0
        ringdispatch._loop_end.END_SECONDS = 0.5
        async def send(batch):
            await asyncio.sleep(3600)
        dispatcher = BackgroundDispatcher(send, ms_delay=60_000)

        async def main():
            dispatcher.enqueue("a")

        began = time.monotonic()
        run(main())
        took = time.monotonic() - began
        assert 0.45 < took < 15, took
        books(dispatcher)
        """,
        loop=loop_name,
        stderr=".*dispatch failed .1 entry.: TimeoutError.*",
        layout=layout,
    )
    assert outcome.lines == ["accepted=1 failed=1"]


@on_each_loop
def test_end_of_run_does_not_wait_for_a_call_on_another_loop(
    loop_name: str, layout: str
) -> None:  # C16
    run_snippet(
        """
        import ringdispatch._loop_end
        ringdispatch._loop_end.END_SECONDS = 60.0  # a run that waits would hang
        began, goes_on = threading.Event(), threading.Event()
        def slow(batch):
            began.set()
            assert goes_on.wait(60)
        dispatcher = BackgroundDispatcher(slow, ms_delay=1, max_in_flight=2)
        def elsewhere():
            async def first():
                dispatcher.bind()
                dispatcher.enqueue("a")
                await asyncio.to_thread(began.wait)
                await asyncio.to_thread(goes_on.wait)
                assert await dispatcher.aflush()
            asyncio.run(first())
        thread = threading.Thread(target=elsewhere)
        thread.start()
        assert began.wait(10)

        async def main():
            dispatcher.bind()
        run(main())
        goes_on.set()
        thread.join()
        assert dispatcher.close()
        books(dispatcher)
        """,
        loop=loop_name,
        layout=layout,
    )


@on_each_loop
def test_end_of_run_with_a_dispatcher_that_is_closed_warns_of_nothing(
    loop_name: str,
    layout: str,
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
        layout=layout,
    )
    assert outcome.lines == ["accepted=1 dispatched=1"] * 2


@on_each_loop
def test_entries_after_the_drain_find_another_home(
    loop_name: str, layout: str
) -> None:  # C16
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
        layout=layout,
    )
    assert outcome.lines == ["['a'] MainThread", "['b'] ringdispatch"]


@on_each_loop
@pytest.mark.parametrize("moves", [False, True])
def test_entries_that_come_while_the_drain_ends_are_dispatched(
    loop_name: str, moves: bool, layout: str
) -> None:  # C16: another thread goes on with them, or comes with a dispatcher
    outcome = run_snippet(
        f"""
        from ringdispatch._batcher import Batcher
        really_drain = Batcher.drain
        late = []
        async def drain(self, *args, **options):
            await really_drain(self, *args, **options)
            if late:
                dispatcher = late.pop()
                if {moves}:
                    dispatcher._batcher.bind(self.home)
                assert dispatcher.enqueue("late")
                while not dispatcher.statistics().in_flight:
                    await asyncio.sleep(0.001)
        Batcher.drain = drain
        async def send(batch):
            await asyncio.sleep(0.05)
            say(threading.current_thread().name, batch)
        one, two = (BackgroundDispatcher(send, ms_delay=1) for _ in range(2))
        async def main():
            one.enqueue("a")
            late.append(two if {moves} else one)
        run(main())
        books(one)
        books(two)
        """,
        loop=loop_name,
        layout=layout,
    )
    counts = ["1", "1"] if moves else ["2", ""]
    assert outcome.lines == [
        "MainThread ['a']",
        "MainThread ['late']",
        *(f"accepted={count} dispatched={count}" if count else "" for count in counts),
    ]
