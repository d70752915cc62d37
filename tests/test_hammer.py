"""C18: enqueue hammered from finalizers, signal handlers and the collector.

RINGDISPATCH_TEST_HAMMER_SECONDS=60 hammers for a minute from each source; then give
pytest a longer timeout.
"""

from __future__ import annotations

import os

import pytest

from loops import LOOPS
from subprocesses import needs_signals, run_snippet

on_each_loop = pytest.mark.parametrize("loop_name", LOOPS)
each_home = pytest.mark.parametrize("home", ["auto", "thread"])

# For each source of entries, on each kind of loop and home.
SECONDS = float(os.environ.get("RINGDISPATCH_TEST_HAMMER_SECONDS", "0.4"))

# Hammers for `seconds` from the given source while the main program enqueues too.
HAMMER = """
    import itertools
    received = []
    async def send(batch):
        received.extend(batch)
    dispatcher = BackgroundDispatcher(
        send, ms_delay=1, capacity=1000, max_batch=300, home={home!r})
    numbers = dict(main=itertools.count(), inner=itertools.count())
    accepted = dict(main=[], inner=[])
    def put(source):
        number = next(numbers[source])
        if dispatcher.enqueue((source, number)):
            accepted[source].append(number)
    {source}
    async def main():
        end = time.monotonic() + {seconds}
        def enough():  # it may have stood still for all that time
            return len(accepted["main"]) > 1000 and len(accepted["inner"]) > {least}
        while time.monotonic() < end or not enough():
            for _ in range(200):
                work()
            # Pause for a home that can't keep up, or nearly all would be refused.
            await asyncio.sleep(0.002 if dispatcher.pending > 500 else 0)
        stop()
        assert await dispatcher.aclose()
    run(main())
    # Not `numbers`: another thread's collection may end only now, and put in one more.
    for source, mine in accepted.items():
        got = [n for who, n in received if who == source]
        assert sorted(got) == sorted(mine), (source, len(got), len(mine))
    assert [n for who, n in received if who == "main"] == accepted["main"]
    seen = dispatcher.statistics()
    assert seen.accepted == seen.dispatched == len(received), seen
    say("survived")
"""

# Faster than a thread starts.
SIGNALS = """
    signal.signal(signal.SIGALRM, lambda *_: put("inner"))
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    work = lambda: put("main")
    stop = lambda: signal.setitimer(signal.ITIMER_REAL, 0)
"""

FINALIZERS = """
    class Late:
        def __del__(self):
            put("inner")
    def work():
        Late()
        cycle = Late()
        cycle.me = cycle
        put("main")
    gc.set_threshold(20)
    def stop():
        gc.collect()
        gc.disable()
"""

COLLECTOR = """
    def callback(phase, info):
        put("inner")
    gc.callbacks.append(callback)
    gc.set_threshold(20)
    turns = itertools.count()
    def work():
        cycle = []
        cycle.append(cycle)
        put("main")
        if next(turns) % 500 == 0:  # free-threaded builds collect seldom
            gc.collect(0)
    def stop():
        gc.callbacks.clear()
"""

WEAKREFS = """
    import weakref
    class Thing: pass
    references = []
    def gone(reference):
        put("inner")
    def work():
        thing = Thing()
        references.append(weakref.ref(thing, gone))
        del thing
        references.clear()
        put("main")
    stop = lambda: None
"""

# Entries whose own end enqueues: the ring lets go of them inside enqueue and take.
ENTRIES = """
    class Entry:
        def __init__(self): self.on = True
        def __del__(self):
            if self.on:
                put("inner")
    def work():
        other.enqueue(Entry())  # displaces one, whose end enqueues
        put("main")
    async def ignore(batch): pass
    other = BackgroundDispatcher(
        ignore, ms_delay=1, capacity=5, on_full="drop_oldest", home="thread")
    def stop():
        other.close()
        # Its thread frees the last entries when they are settled.
        eventually(lambda: not other._batcher.calls)
        gc.collect()
"""


def hammer(
    loop_name: str,
    home: str,
    source: str,
    least: int,
    seconds: float = SECONDS,
    layout: str = "objects",
) -> None:
    snippet = HAMMER.format(
        home=home, source=source.strip(), seconds=seconds, least=least
    )
    # Garbage may be left that only the interpreter's end collects.
    drops = "entr(y|ies) (rejected_full|rejected_closed|evicted)"
    outcome = run_snippet(
        snippet,
        loop=loop_name,
        layout=layout,
        seconds=40 + 3 * seconds,
        debug=False,
        stderr=rf"(ringdispatch\[(send|ignore)\]: \d+ {drops}; [^\n]*\n?)*",
    )
    assert outcome.lines == ["survived"]


@on_each_loop
@each_home
@pytest.mark.parametrize(
    ("source", "least"),
    [
        pytest.param(FINALIZERS, 1000, id="finalizers"),
        pytest.param(COLLECTOR, 10, id="collector"),
        pytest.param(WEAKREFS, 1000, id="weakrefs"),
    ],
)
def test_f13_hammered_from_within(
    loop_name: str, home: str, source: str, least: int, layout: str
) -> None:  # C18
    hammer(loop_name, home, source, least, layout=layout)


# Objects only: the others free no entries.
@on_each_loop
@each_home
def test_f13_hammered_by_the_entries_it_frees(loop_name: str, home: str) -> None:  # C18
    hammer(loop_name, home, ENTRIES, 1000)


@needs_signals
@on_each_loop
@each_home
def test_f14_hammered_from_a_signal_handler(
    loop_name: str, home: str, layout: str
) -> None:  # C18
    hammer(loop_name, home, SIGNALS, 100, 3 * SECONDS, layout=layout)
