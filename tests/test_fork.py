"""C17: the child of a fork starts empty and works; the parent keeps its own."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from forking import each_fork, forked
from loops import LOOPS
from subprocesses import run_snippet

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
on_each_loop = pytest.mark.parametrize("loop_name", LOOPS)


@each_fork
def test_f02_child_starts_empty_and_the_parent_sends_its_own_once(
    fork: str, layout: str
) -> None:  # C17
    outcome = forked(
        """
    for number in range(3):
        dispatcher.enqueue(number)
    def body():
        seen = dispatcher.statistics()
        assert (seen.accepted, seen.pending, seen.batches) == (0, 0, 0), seen
        assert seen.peak_pending == seen.rejected_full == 0, seen
        assert dispatcher.flush()
        dispatcher.enqueue("mine")
        assert dispatcher.close()
        books(dispatcher)
    join(child(body))
    assert dispatcher.close()
    books(dispatcher)
    """,
        fork=fork,
        layout=layout,
    )
    assert outcome.lines == [
        "child ['mine']",
        "accepted=1 dispatched=1",
        "parent [0, 1, 2]",
        "accepted=3 dispatched=3",
    ]


# Objects only: who is freed.
@each_fork
def test_child_lets_nothing_of_its_parent_be_finalized(fork: str) -> None:  # C17
    """Neither its entries, nor their contexts, nor a dispatch in flight."""
    outcome = forked(
        """
    class Entry:
        def __del__(self):
            say(name, "freed")
    class Context(Entry):
        def wait_until(self, receipt): pass
    async def send(batch):
        try:
            in_flight.set()
            await asyncio.get_running_loop().create_future()
        finally:
            say(name, "ended")
    dispatcher = BackgroundDispatcher(send, ms_delay=60_000, max_batch=1)
    in_flight = threading.Event()
    for _ in range(2):
        dispatcher.enqueue(Entry(), Context())
        in_flight.wait(10)
    def body():
        collect()
        async def send(batch): say(name, batch)
        mine = BackgroundDispatcher(send, ms_delay=1)
        mine.enqueue("mine")
        assert mine.close()
        collect()
    join(child(body))
    say("parent goes on")
    dispatcher.close(timeout=0)
    eventually(lambda: not dispatcher._batcher.calls)
    """,
        fork=fork,
        stderr=".*close timed out after 0.0? s: .*",
    )
    assert outcome.lines[:2] == ["child ['mine']", "parent goes on"]
    assert sorted(outcome.lines[2:]) == ["parent ended", *["parent freed"] * 4]


@on_each_loop
@each_fork
def test_fork_inside_a_running_loop(
    fork: str, loop_name: str, layout: str
) -> None:  # C17
    """With an entry pending, one in flight, and a timer set."""
    outcome = forked(
        """
    gate = None
    async def send(batch):
        say(name, batch)
        if batch == ["in flight"]:
            await gate.wait()
    dispatcher = BackgroundDispatcher(send, ms_delay=60_000, max_in_flight=1)
    def body():
        seen = dispatcher.statistics()
        assert (seen.accepted, seen.pending, seen.in_flight) == (0, 0, 0), seen
        dispatcher.enqueue("mine")
        assert dispatcher.flush()
        books(dispatcher)
        collect()
    async def main():
        global gate
        gate = asyncio.Event()
        dispatcher.enqueue("in flight")
        flush = asyncio.ensure_future(dispatcher.aflush(timeout=20))
        while not dispatcher.statistics().in_flight:
            await asyncio.sleep(0)
        dispatcher.enqueue("pending")
        join(child(body))
        gate.set()
        assert await flush
        assert await dispatcher.aclose()
        books(dispatcher)
    run(main())
    """,
        loop=loop_name,
        fork=fork,
        layout=layout,
    )
    assert outcome.lines == [
        "parent ['in flight']",
        "child ['mine']",
        "accepted=1 dispatched=1",
        "parent ['pending']",
        "accepted=2 dispatched=2",
    ]


@on_each_loop
@each_fork
def test_child_runs_its_own_loop(fork: str, loop_name: str, layout: str) -> None:  # C17
    outcome = forked(
        """
    async def use():
        dispatcher.enqueue(name)
        await dispatcher.aflush()
        dispatcher.enqueue("left to the end of run")
    run(use())
    join(child(lambda: run(use())))
    run(use())
    books(dispatcher)
    """,
        loop=loop_name,
        fork=fork,
        layout=layout,
    )
    last = "['left to the end of run']"
    assert outcome.lines == [
        "parent ['parent']",
        f"parent {last}",
        "child ['child']",
        f"child {last}",
        "parent ['parent']",
        f"parent {last}",
        "accepted=4 dispatched=4",
    ]


def test_f01_f04_forks_while_threads_produce_and_a_fork_after_a_fork(
    layout: str,
) -> None:
    outcome = forked(  # C17
        """
    received = []
    async def send(batch):
        received.extend(batch)
    dispatcher = BackgroundDispatcher(send, ms_delay=1, max_batch=100)
    stop = threading.Event()
    accepted = [0, 0, 0]
    def produce(mine):
        while not stop.is_set():
            if dispatcher.enqueue((mine, accepted[mine])):
                accepted[mine] += 1
            time.sleep(0)
    threads = [threading.Thread(target=produce, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    def use():
        del received[:]
        for number in range(500):
            assert dispatcher.enqueue(number)
        assert dispatcher.flush()
        assert received == list(range(500)), received[:10]
        seen = dispatcher.statistics()
        assert seen.accepted == seen.dispatched == 500, seen
    def body():
        use()
        join(child(use))
        assert dispatcher.enqueue("after")
        assert dispatcher.close()
    for _ in range(15):
        join(child(body))
    stop.set()
    for thread in threads:
        thread.join()
    assert dispatcher.close()
    assert dispatcher.statistics().dispatched == sum(accepted) == len(received)
    for mine in range(3):
        numbers = [n for who, n in received if who == mine]
        assert numbers == list(range(accepted[mine]))
    say("done")
    """,
        debug=False,
        seconds=50,
        layout=layout,
    )
    assert outcome.lines == ["done"]


@each_fork
def test_f03_hook_after_the_object_was_collected_prints_nothing(
    fork: str, layout: str
) -> None:  # C17
    outcome = forked(
        """
    other = BackgroundDispatcher(send, ms_delay=1)
    other.enqueue("a")
    assert other.flush()
    del other, dispatcher
    gc.collect()
    join(child(collect))
    say("done")
    """,
        fork=fork,
        layout=layout,
    )
    assert outcome.lines == ["parent ['a']", "done"]


@each_fork
def test_f05_hooks_work_does_not_depend_on_what_is_pending(
    fork: str, layout: str
) -> None:  # C17
    """No entry is freed, and no code of an entry runs, in the child's hook."""
    outcome = forked(
        """
    class Entry:
        def __del__(self):
            if name == "child" or os.getpid() != owner:
                os.write(2, b"an entry of the parent ended in the child")
    owner = os.getpid()
    for number in range(1000):
        dispatcher.enqueue(Entry())
    def body():
        collect()
        for number in range(100):
            dispatcher.enqueue(number)
    join(child(body))
    async def quiet(batch): pass
    dispatcher._batcher.options.function = quiet
    assert dispatcher.close()
    say("done")
    """,
        fork=fork,
        layout=layout,
    )
    assert outcome.lines[-1] == "done"


@each_fork
def test_closed_dispatcher_stays_closed_in_the_child(
    fork: str, layout: str
) -> None:  # C17
    outcome = forked(
        """
    dispatcher.enqueue("a")
    assert dispatcher.close()
    def body():
        assert dispatcher.closed
        assert dispatcher.enqueue("b") is False
        books(dispatcher)
        assert dispatcher.close()
    join(child(body))
    """,
        stderr=r"ringdispatch\[send\]: 1 entry rejected_closed; .*",
        fork=fork,
        layout=layout,
    )
    assert outcome.lines == ["parent ['a']", "rejected_closed=1"]


@each_fork
def test_fork_from_the_dispatch_function(fork: str, layout: str) -> None:  # C17
    outcome = forked(
        """
    async def send(batch):
        say(name, batch)
        if batch == ["fork"]:
            def body():
                dispatcher.enqueue("mine")
                assert dispatcher.flush()
            join(child(body))
    dispatcher = BackgroundDispatcher(send, ms_delay=60_000, home="thread")
    dispatcher.enqueue("fork")
    assert dispatcher.flush()
    assert dispatcher.close()
    """,
        fork=fork,
        layout=layout,
    )
    assert outcome.lines == ["parent ['fork']", "child ['mine']"]


@pytest.mark.parametrize("seen", [False, True])
@each_fork
def test_child_that_exits_delivers_what_is_pending(
    fork: str, seen: bool, layout: str
) -> None:  # C16, C17
    outcome = forked(
        f"""
    if {seen}:
        dispatcher.enqueue("before")
        assert dispatcher.flush()
    pid = fork()
    if pid == 0:
        name = "child"
        dispatcher.enqueue("mine")
        sys.exit(0)
    join(pid)
    """,
        fork=fork,
        layout=layout,
    )
    assert outcome.lines[-1] == "child ['mine']"
    assert len(outcome.lines) == 1 + seen


@each_fork
@pytest.mark.parametrize(
    "use",
    [
        "pass",
        "dispatcher.pending",
        "dispatcher.flush()",
        "dispatcher.close()",
        "bind()",
    ],
)
def test_child_has_nothing_of_its_parents_whatever_it_does_first(
    fork: str, use: str, layout: str
) -> None:  # C17
    outcome = forked(
        f"""
    async def bound():
        dispatcher.bind()
        dispatcher.enqueue("mine")
        assert dispatcher._batcher.home.loop is asyncio.get_running_loop()
        assert await dispatcher.aclose()
    def bind():
        asyncio.run(bound())
    dispatcher.enqueue("parent's")
    pid = fork()
    if pid == 0:
        name = "child"
        {use}
        sys.exit(0)
    join(pid)
    assert dispatcher.close()
    """,
        fork=fork,
        layout=layout,
    )
    mine = ["child ['mine']"] if use == "bind()" else []
    assert outcome.lines == [*mine, 'parent ["parent\'s"]']


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.parametrize("kind", ["thread", "loop", "bound"])
def test_f36_multiprocessing_child_delivers_at_its_exit(
    method: str, kind: str, layout: str
) -> None:  # C16, C17
    if method != "fork" and layout in {"records", "bytes"}:
        pytest.skip("a child that is started anew inherits nothing")
    outcome = run_snippet(
        f"""
        import multiprocessing
        from ringdispatch._pthread import immortalize
        async def send(batch):
            say(batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=60_000)

        def work():
            if {kind!r} == "thread":
                dispatcher.enqueue("child")
                return
            async def main():
                if {kind!r} == "bound":
                    dispatcher.bind()
                dispatcher.enqueue("child")
            loop = new_loop()
            asyncio.set_event_loop(loop)
            loop.run_until_complete(main())
            if {kind!r} == "bound":  # to a loop that is never closed
                immortalize(loop)
                return
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

        if __name__ == "__main__":
            dispatcher.enqueue("parent")
            assert dispatcher.flush()
            process = multiprocessing.get_context({method!r}).Process(target=work)
            process.start()
            process.join(20)
            assert process.exitcode == 0, process.exitcode
            process.close()
        """,
        warnings=("ignore:This process:DeprecationWarning",),
        layout=layout,
    )
    assert outcome.lines == ["['parent']", "['child']"]


def test_child_that_drops_a_dispatcher_does_not_wake_the_parents_loop() -> None:  # C17
    """The sockets that wake the background loop are the parent's, too."""
    outcome = forked(
        """
    dispatcher.enqueue("a")
    loop = dispatcher._batcher.home.loop
    woken = []
    loop._write_to_self = lambda: woken.append(1)
    def body():
        global dispatcher
        woken.clear()
        del dispatcher
        collect()
        assert not woken
        say("dropped")
    pid = child(body)
    del loop._write_to_self
    join(pid)
    assert dispatcher.close()
    """
    )
    assert outcome.lines == ["dropped", "parent ['a']"]


def test_fork_after_the_first_entry_finds_nothing_half_imported() -> None:  # C17
    """The lock of a module that another thread imports is held for ever in a child."""
    pytest.importorskip("greenlet")
    outcome = forked(
        """
    import greenlet
    class Slow:
        def find_spec(self, name, path, target=None):
            if name == "ringdispatch._gevent":
                time.sleep(0.2)
    sys.meta_path.insert(0, Slow())
    dispatcher.enqueue("a")
    def body():
        import ringdispatch._gevent
        dispatcher.enqueue("b")
        assert dispatcher.flush(10)
    pid = child(body)
    join(pid)
    assert dispatcher.close()
    """
    )
    assert sorted(outcome.lines) == ["child ['b']", "parent ['a']"]
