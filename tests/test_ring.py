"""The compiled ring: what is said more plainly than by comparison with the model."""

from __future__ import annotations

import gc
import itertools
import random
import sys
import tracemalloc
import weakref
from collections import deque
from typing import Any

import pytest

from lines import Line
from model import CHECK_EVERY
from ring_sides import Compiled, Modelled
from ringdispatch import Bytes, Full, Objects, Records
from ringdispatch._enqueue import POLICIES, EnqueueBase, install_enqueue
from ringdispatch._objects import ObjectRing
from ringdispatch._pthread import immortalize


def test_look_round_is_announced_every_4096_entries() -> None:  # C14
    for capacity, on_full in [
        (5, "drop_oldest"),
        (5, "drop_newest"),
        (3 * CHECK_EVERY, "raise"),
    ]:
        sides = (
            Compiled(capacity, capacity, on_full),
            Modelled(capacity, capacity, on_full),
        )
        for side in sides:
            for _ in range(2 * CHECK_EVERY + 10):
                side.put("enqueue", None)
        compiled, modelled = sides
        assert compiled.log == modelled.log
        assert compiled.log.count(("reached",)) >= 2


def test_batch_that_fills_up_after_a_take_is_announced() -> None:  # C6
    side = Compiled(9, 2, "raise")
    for _ in range(5):
        side.put("enqueue", None)
    assert side.take(2)
    assert side.take(2)
    side.log.clear()
    side.put("enqueue", None)
    assert side.log == [("reached",), ("enqueue", 5, True)]


def test_batch_after_those_that_calls_will_take_is_wanted_when_full_or_due() -> None:
    side = Compiled(9, 2, "raise")  # C6
    for pending, due, wanted in [
        (1, 1, [True, False]),  # the number of calls that are about to take
        (2, 0, [True, False]),
        (3, 0, [True, False]),
        (3, 3, [True, True]),
        (4, 0, [True, True]),
    ]:
        while side.ring.pending < pending:
            side.put("enqueue", None)
        assert [side.ring.wants_batch(skip, due) for skip in range(2)] == wanted


def test_what_a_flush_waits_for_stays_urgent() -> None:  # C18
    line = Line(Objects(), 1)
    assert [line.ring.urge(end) for end in (0, 3, 2, 0)] == [0, 3, 3, 3]
    line.ring.reset()
    assert line.ring.urge(0) == 0


@pytest.mark.parametrize("layout", [Objects(), Bytes()], ids=repr)
def test_to_give_up_takes_no_memory(layout: Any) -> None:  # C10, C15
    """It is asked for where there is none left."""
    line = Line(layout, 50_000)
    while line.enqueue(b"entry"):
        pass
    tracemalloc.start()
    try:
        assert line.ring.abandon() == 50_000
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()
    assert line.books().abandoned == 50_000


def test_entry_that_enqueues_when_it_is_freed_is_not_given_up_with_the_rest() -> None:
    line = Line(Objects(), 4)

    class Entry:
        def __del__(self) -> None:
            line.enqueue("another")

    line.enqueue(Entry())
    line.enqueue(Entry())
    assert line.ring.abandon() == 2
    assert line.ring.pending == 2
    line.ring.close()
    assert line.ring.abandon() == 2


def test_nothing_is_taken_while_the_rest_is_given_up() -> None:  # C5
    line = Line(Objects(), 4)
    taken: list[object] = []

    class Entry:
        def __del__(self) -> None:
            taken.extend([line.ring.wants_batch(0, 9), line.ring.take(4)])

    line.enqueue(Entry())
    line.enqueue("behind it")
    assert line.ring.abandon() == 2
    assert taken == [False, None]
    line.enqueue("another")
    assert line.ring.wants_batch(0, 9)
    assert line.ring.take(4) is not None


def test_child_that_is_forked_while_the_rest_is_given_up_starts_empty() -> None:
    line = Line(Objects(), 4)  # C17

    class Entry:
        def __del__(self) -> None:
            line.ring.reset()

    line.enqueue(Entry())
    line.enqueue("the parent's")
    line.ring.abandon()
    assert line.ring.pending == 0
    line.enqueue("the child's")
    batch = line.ring.take(4)
    assert batch is not None
    assert batch.value == ["the child's"]


@pytest.mark.parametrize("layout", [Objects(), Bytes()], ids=repr)
def test_nothing_is_taken_or_given_up_where_nothing_is_pending(layout: Any) -> None:
    line = Line(layout, 4)  # C3
    for _ in range(2):
        assert line.ring.take(4) is None
        assert line.ring.abandon() == 0
        assert line.books().batches == 0
        line.enqueue(b"entry")
        assert line.ring.abandon() == 1


def test_age_of_the_oldest_follows_what_is_evicted() -> None:  # C1
    side = Compiled(2, 2, "drop_oldest")
    side.put("enqueue", None)
    side.clock = 5.0
    side.ring.roll_window(side.clock)
    side.put("enqueue", None)
    assert side.snapshot()["oldest_age_seconds"] == 5.0
    side.clock = 7.0
    side.put("enqueue", None)
    assert side.snapshot()["oldest_age_seconds"] == 2.0


@pytest.mark.parametrize("on_full", sorted(POLICIES))
@pytest.mark.parametrize("capacity", range(1, 10))
def test_wrapping_around_loses_nothing_and_keeps_order(
    capacity: int, on_full: str
) -> None:  # C5
    side = Compiled(capacity, capacity, on_full)
    taken: list[int] = []
    for most in itertools.islice(itertools.cycle(range(1, capacity + 1)), 100):
        while side.ring.pending < capacity:
            side.put("enqueue", None)
        assert side.take(most)
        taken += side.numbers(side.takes[-1].value)
    assert taken == list(range(len(taken)))
    assert len(taken) > 2 * capacity
    assert side.ring.tail == len(taken) + side.ring.pending


def test_reference_counts_are_right_on_every_way_in_and_out() -> None:
    entry = object()

    def count() -> int:
        return sys.getrefcount(entry) - least

    least = 0
    least = count()
    ring_of = {on_full: Compiled(2, 2, on_full) for on_full in POLICIES}
    for side in ring_of.values():
        assert side.enqueue(entry, None)
        assert count() == 1
        assert side.enqueue(entry)
        assert count() == 2
        take = side.ring.take(9)
        assert count() == 2  # the batch's now
        del take
        assert count() == 0

    for side in ring_of.values():  # the slow paths
        side.enqueue(entry, context=None)
        assert side._offer(entry, None)
        assert side._offer(entry, None) is None
    assert count() == 6
    assert ring_of["drop_newest"].enqueue(entry) is False
    assert ring_of["drop_oldest"].enqueue(entry) is True  # in place of itself
    with pytest.raises(Full):
        ring_of["raise"].enqueue(entry)
    with pytest.raises(TypeError):
        ring_of["raise"].enqueue(entry, unknown=1)
    assert count() == 6

    ring_of["drop_newest"].ring.abandon()
    assert count() == 4
    ring_of["drop_oldest"].ring.close()
    assert ring_of["drop_oldest"].enqueue(entry) is False
    assert count() == 4
    ring_of.clear()
    del side
    assert count() == 0


def test_result_of_enqueue_is_counted_right() -> None:
    side = Compiled(1, 1, "drop_newest")
    for _ in range(100):  # True and False are immortal from 3.12 on
        before = sys.getrefcount(True), sys.getrefcount(False)
        side.enqueue(0)
        side.enqueue(0)
        side.ring.take(1)
        assert (sys.getrefcount(True), sys.getrefcount(False)) == before


def test_interrupted_opening_keeps_the_entry_and_lets_the_next_one_open() -> None:  # C9
    side = Compiled(4, 4, "drop_newest")
    side.ambushes["opened"] = ("raise",)
    side.put("enqueue", None, "a")
    side.put("enqueue", None, "b")
    side.take(9)
    assert side.log == [
        ("now",),
        ("opened", 0, "a"),
        ("opened", 0, None),  # again: it is to go out in time, although this raises
        ("enqueue", 0, "Interrupted"),
        ("now",),
        ("opened", 1, None),  # not into an empty ring: not the opener
        ("enqueue", 1, True),
        ("took", 0, 2, [0, 1]),
    ]


def test_collector_that_enqueues_inside_take_loses_nothing() -> None:  # C18, F13
    side = Compiled(7, 7, "drop_newest")
    accepted: list[int] = []
    collections = 0

    def enqueue_from_collector(phase: str, info: dict[str, int]) -> None:
        nonlocal collections
        collections += 1
        if side.enqueue(len(accepted)):
            accepted.append(len(accepted))

    takes: list[Any] = []  # kept: lists that are freed spare the next one an allocation
    thresholds = gc.get_threshold()
    gc.callbacks.append(enqueue_from_collector)
    try:
        for most in itertools.islice(itertools.cycle((1, 2, 9)), 200):
            enqueue_from_collector("", {})
            gc.set_threshold(
                max(1, gc.get_count()[0]), 0
            )  # the next allocation collects
            takes.append(side.ring.take(most))
            gc.set_threshold(*thresholds)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(enqueue_from_collector)
    takes.append(side.ring.take(9))
    taken = [number for take in takes if take is not None for number in take.value]
    assert taken == accepted
    if sys.version_info < (3, 12):  # later ones collect after the call, not inside it
        assert collections > 300


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("entry", "context"), {}),
        (("entry",), {"context": "context"}),
        ((), {"entry": "entry", "context": "context"}),
        ((), {"context": "context", "entry": "entry"}),
    ],
)
def test_arguments_come_by_place_or_by_name(
    given: tuple[Any, ...], named: dict[str, Any]
) -> None:
    side = Compiled(4, 4, "drop_newest")
    assert side.enqueue(*given, **named) is True
    assert side.log == [("now",), ("opened", 0, "context")]
    assert side.ring.take(4).value == ["entry"]


def test_what_is_kept_for_ever_is_never_freed() -> None:  # C17
    class Thing:
        pass

    thing = Thing()
    alive = weakref.ref(thing)
    immortalize(thing)
    del thing
    gc.collect()
    assert alive() is not None


@pytest.mark.parametrize("name", ["objects", "bytes", "records"])
def test_ring_that_is_reset_starts_empty_and_settles_nothing_of_before(
    name: str,
) -> None:  # C17
    if name == "records":
        pytest.importorskip("numpy")
        layout: Any = Records([("number", "u2")])
    else:
        layout = {"objects": Objects(), "bytes": Bytes()}[name]
    line = Line(layout, 4, on_full="drop_oldest")

    def entry(number: int) -> Any:
        # No object of its own: those that a reset forgets are never freed.
        return {"objects": number, "bytes": b"%d" % number, "records": (number,)}[name]

    for number in range(6):
        assert line.enqueue(entry(number))
    before = line.ring.take(2)
    line.ring.reset()
    unused = Line(layout, 4, on_full="drop_oldest")
    assert line.books() == unused.books()
    assert before.settle(failed=True, seconds=1.0) is False
    before.release()  # the memory of its rows is not this ring's any more
    assert line.books() == unused.books()
    for number in range(7, 10):
        assert line.enqueue(entry(number))
    taken = line.ring.take(9)
    batch = taken.value
    entries = batch.tolist() if name == "records" else list(batch)
    assert entries == [entry(number) for number in range(7, 10)]
    assert (line.books().accepted, line.books().in_flight) == (3, 3)


def test_closed_ring_that_is_reset_stays_closed() -> None:  # C17
    line = Line(Objects(), 4)
    line.ring.close()
    line.ring.reset()
    assert line.ring.closed
    assert line.enqueue(1) is False
    assert line.books().rejected_closed == 1


def test_producer_without_a_ring_says_so() -> None:
    with pytest.raises(RuntimeError, match="__init__ was not called"):
        Compiled.__new__(Compiled).enqueue(1)
    side = Compiled(1, 1, "raise")
    with pytest.raises(RuntimeError, match="called twice"):
        side._attach(ObjectRing(1, 1), "raise")


@install_enqueue
class Deaf(EnqueueBase[int]):
    """Has no listener: it only counts."""

    def __init__(self, ring: ObjectRing, on_full: str) -> None:
        self._attach(ring, on_full)


@pytest.mark.parametrize("on_full", ["drop_newest", "drop_oldest"])
def test_f31_books_agree_at_every_one_of_a_million_random_steps(
    on_full: str,
) -> None:  # C8
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    ring = ObjectRing(50, 50)
    producer = Deaf(ring, on_full)
    evicts = on_full == "drop_oldest"
    out: deque[Any] = deque()
    tried = accepted = evicted = pending = flying = dispatched = failed = given_up = 0
    for step in range(1_000_000):
        what = chance.random()
        if what < 0.8:
            tried += 1
            full = pending == 50
            took = producer.enqueue(step)
            assert took == (evicts or not full), seed
            accepted += took
            evicted += took and full
            pending += took and not full
        elif what < 0.82:
            take = ring.take(chance.randrange(1, 60))
            if take is not None:
                out.append(take)
                pending -= len(take.value)
                flying += len(take.value)
        elif what < 0.99:
            if out:
                out.rotate(chance.randrange(3))
                take = out[0] if what < 0.9 else out.popleft()
                bad = what < 0.85
                count = 0 if take.settled else len(take.value)
                assert take.settle(bad, 0.0) == (count > 0), seed
                flying -= count
                failed += bad * count
                dispatched += (not bad) * count
        else:
            given_up += pending
            assert ring.abandon() == pending, seed
            pending = 0
        assert ring.snapshot(0.0)[:8] == (
            accepted,
            dispatched,
            failed,
            evicted,
            given_up,
            pending,
            flying,
            tried - accepted,
        ), (seed, step)
        assert accepted == (
            dispatched + failed + evicted + given_up + pending + flying
        ), (seed, step)
    assert min(dispatched, failed, given_up, evicted + tried - accepted) > 1000


def test_collector_may_take_in_the_middle_of_a_take() -> None:  # C9, C18
    """On 3.11 it runs inside allocations, also those of a take."""
    ring = ObjectRing(100, 100)
    producer = Deaf(ring, "drop_newest")
    taken: list[int] = []

    def callback(phase: str, info: Any) -> None:
        take = ring.take(3)
        if take is not None:
            taken.extend(take.value)

    threshold = gc.get_threshold()
    gc.callbacks.append(callback)
    try:
        for number in range(3000):
            producer.enqueue(number)
            if number % 60 == 59:
                gc.set_threshold(1)
                take = ring.take(60)
                gc.set_threshold(*threshold)
                if take is not None:
                    taken.extend(take.value)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(callback)
    while (take := ring.take(100)) is not None:
        taken.extend(take.value)
    assert sorted(taken) == list(range(3000))
