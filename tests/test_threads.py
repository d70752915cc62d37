"""C5, C8, C9, C18 with threads that really race, with the GIL and without it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import sysconfig
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from loops import eventually
from ringdispatch import BackgroundDispatcher, Full, Statistics
from ringdispatch._producer import POLICIES, Producer, give_enqueue
from ringdispatch._ring import ObjectRing, Take
from subprocesses import run_snippet
from support import Sink, books_agree

PRODUCERS = 4
ENTRIES = 20_000  # of each

Mark = tuple[int, int]  # an entry: whose it is, and its number


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Let threads that share a GIL take turns a thousand times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 1000)
    yield
    sys.setswitchinterval(interval)


def race(*workers: Callable[[], object]) -> None:
    """Run all of them at once, each in a thread of its own; raise what one raises."""
    barrier = threading.Barrier(len(workers))
    errors: list[BaseException] = []

    def run(worker: Callable[[], object]) -> None:
        try:
            barrier.wait(30)
            worker()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(worker,), daemon=True) for worker in workers
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 40
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "hung"


def in_order_of_each(entries: list[Mark], marks: list[list[int]]) -> None:
    """C5: what came out is, producer by producer, what went in, in the same order."""
    for whose, expected in enumerate(marks):
        assert [number for who, number in entries if who == whose] == expected


def fails(take: Take) -> bool:
    return take.start % 3 == 0


@give_enqueue
class Line(Producer[Any]):
    """A ring, and nobody who would be told of anything."""

    def __init__(self, capacity: int, on_full: str = "drop_newest") -> None:
        self._attach(ObjectRing(capacity, capacity), on_full)
        # What every producer has been told was accepted, or refused.
        self.accepted: list[list[int]] = [[] for _ in range(PRODUCERS)]
        self.refused = [0] * PRODUCERS
        self.finished = [False] * PRODUCERS

    _now = staticmethod(time.monotonic)

    def _opened(self, position: int, context: object) -> None: ...
    def _reached(self) -> None: ...
    def _dropped(self) -> None: ...

    def produce(self, whose: int) -> None:
        for number in range(ENTRIES):
            try:
                accepted = self.enqueue((whose, number))
            except Full:
                accepted = False
            if accepted:
                self.accepted[whose].append(number)
            else:
                self.refused[whose] += 1
        self.finished[whose] = True

    def producers(self) -> list[Callable[[], None]]:
        return [lambda whose=whose: self.produce(whose) for whose in range(PRODUCERS)]

    def take_until_finished(self, takes: list[Take]) -> None:
        for most in itertools.cycle((1, 7, 64)):
            last = all(self.finished)
            take = self.ring.take(most)
            if take is not None:
                takes.append(take)
                assert take.settle(fails(take), 0.5)
            elif last:
                return

    def books(self) -> Statistics:
        return Statistics(*self.ring.snapshot(0.0))


@pytest.mark.parametrize("takers", [1, 3])
@pytest.mark.parametrize("on_full", sorted(POLICIES))
def test_f32_racing_producers_and_takers_lose_nothing_and_keep_order(
    on_full: str, takers: int
) -> None:  # C5, C8, C9
    line = Line(97, on_full)
    taken_by: list[list[Take]] = [[] for _ in range(takers)]
    race(
        *line.producers(),
        *(lambda mine=mine: line.take_until_finished(mine) for mine in taken_by),
    )
    takes = sorted(itertools.chain(*taken_by), key=lambda take: take.start)
    out: list[Mark] = [entry for take in takes for entry in take.entries]
    books = line.books()
    assert books.accepted == sum(map(len, line.accepted))
    assert books.rejected_full == sum(line.refused)
    assert books.batches == len(takes)
    assert all(take.settled for take in takes)
    assert books.failed == sum(len(take.entries) for take in takes if fails(take))
    assert books.failed_batches == sum(map(fails, takes))
    assert books.dispatched + books.failed == len(out)
    assert books.dispatch_seconds_total == 0.5 * len(takes)
    assert books.pending == books.in_flight == 0
    for before, after in itertools.pairwise(takes):
        assert before.end <= after.start
    if on_full == "drop_oldest":
        assert books.evicted == books.accepted - len(out)
        for whose in range(PRODUCERS):
            numbers = [number for who, number in out if who == whose]
            assert numbers == sorted(set(numbers))
    else:
        assert books.evicted == 0
        in_order_of_each(out, line.accepted)


def test_snapshots_from_a_racing_thread_agree_with_what_was_done() -> None:  # C8
    line = Line(97)
    begun = [0] * PRODUCERS  # entries that may have been accepted ...
    done = [0] * PRODUCERS  # ... and that have been
    wanted = taken = settling = settled = 0
    watched: list[bool] = []

    def produce(whose: int) -> None:
        while len(watched) < 2:
            begun[whose] += 1
            done[whose] += line.enqueue("entry")
        line.finished[whose] = True

    def consume() -> None:
        nonlocal wanted, taken, settling, settled
        for most in itertools.cycle((1, 7, 64)):
            last = all(line.finished)
            wanted += most
            take = line.ring.take(most)
            count = 0 if take is None else len(take.entries)
            taken += count
            settling += count
            if take is not None:
                take.settle(False, 0.0)
            settled += count
            if take is None and last:
                return

    def watch() -> None:
        try:
            for _ in range(500):
                least_in, least_taken, least_out = sum(done), taken, settled
                seen = line.books()
                most_in, most_taken, most_out = sum(begun), wanted, settling
                assert seen.accepted == seen.dispatched + seen.pending + seen.in_flight
                assert least_in <= seen.accepted <= most_in
                assert least_out <= seen.dispatched <= most_out
                assert least_taken <= seen.dispatched + seen.in_flight <= most_taken
                assert 0 <= seen.pending <= seen.peak_pending <= 97
                assert 0 <= seen.in_flight <= 64
        finally:
            watched.append(True)

    producers = [lambda whose=whose: produce(whose) for whose in range(PRODUCERS)]
    race(*producers, consume, watch, watch)
    books = line.books()
    assert books.accepted == books.dispatched == settled == sum(done)
    assert books.rejected_full == sum(begun) - sum(done)


def test_closing_splits_racing_entries_into_accepted_and_refused() -> None:  # C15
    for _ in range(20):
        line = Line(PRODUCERS * ENTRIES)
        race(*line.producers(), line.ring.close)
        books = line.books()
        assert books.accepted == books.pending == sum(map(len, line.accepted))
        assert books.rejected_closed == sum(line.refused)
        assert books.accepted + books.rejected_closed == PRODUCERS * ENTRIES
        for accepted in line.accepted:  # none after the first refusal
            assert accepted == list(range(len(accepted)))
        assert line.ring.abandon() == books.accepted


def test_racing_settlements_of_one_batch_count_once() -> None:  # C9
    line = Line(10)
    takes: list[Take] = []
    for number in range(1000):
        assert line.enqueue(number)
        take = line.ring.take(1)
        assert take is not None
        takes.append(take)
    won = [[False] * len(takes) for _ in range(PRODUCERS)]

    def settle(mine: int) -> None:
        for which, take in enumerate(takes):
            won[mine][which] = take.settle(mine % 2 == 1, 1.0)

    race(*(lambda mine=mine: settle(mine) for mine in range(PRODUCERS)))
    assert [sum(winners) for winners in zip(*won, strict=True)] == [1] * len(takes)
    books = line.books()
    assert books.failed == books.failed_batches == sum(won[1]) + sum(won[3])
    assert books.dispatched == sum(won[0]) + sum(won[2])
    assert books.dispatch_seconds_total == len(takes)


def test_batch_may_be_read_while_another_thread_lets_go_of_it() -> None:  # C18
    line = Line(10)
    takes: list[Take] = []
    for number in range(ENTRIES):
        assert line.enqueue([number])
        take = line.ring.take(1)
        assert take is not None
        takes.append(take)

    def read_and_let_go() -> None:
        for take in takes:
            entries = take.entries
            assert entries is None or entries == [[take.start]]
            take.forget()

    race(*[read_and_let_go] * PRODUCERS)
    assert all(take.entries is None for take in takes)


def test_racing_callers_share_the_places() -> None:  # C6
    line = Line(1)
    inside: set[int] = set()
    most = 0

    def come_and_go(mine: int) -> None:
        nonlocal most
        for _ in range(500):
            while not line.ring.reserve(3):
                time.sleep(0)
            inside.add(mine)
            most = max(most, len(inside))
            inside.discard(mine)
            line.ring.release()

    race(*(lambda mine=mine: come_and_go(mine) for mine in range(6)))
    assert most <= 3
    assert line.ring.places == 0


def test_entries_that_racing_threads_evict_are_freed() -> None:
    class Entry:
        __slots__ = ("__weakref__",)

    line = Line(5, "drop_oldest")
    alive: list[list[weakref.ref[Entry]]] = [[] for _ in range(PRODUCERS)]

    def produce(mine: int) -> None:
        for _ in range(ENTRIES):
            entry = Entry()
            alive[mine].append(weakref.ref(entry))
            line.enqueue(entry)
            if mine == 0:
                line.ring.take(2)

    race(*(lambda mine=mine: produce(mine) for mine in range(PRODUCERS)))
    pending = line.ring.pending
    gc.collect()  # free-threaded: what another thread let go of is freed by its owner
    assert sum(ref() is not None for ref in itertools.chain(*alive)) == pending
    line.ring.abandon()
    gc.collect()
    assert not any(ref() is not None for ref in itertools.chain(*alive))


# ---- through a dispatcher, on the background thread


def counting(dispatcher: BackgroundDispatcher[Mark], whose: int) -> list[int]:
    """Enqueue everything; returns what was accepted."""
    return [n for n in range(ENTRIES) if dispatcher.enqueue((whose, n))]


@pytest.mark.parametrize(
    ("capacity", "max_batch", "max_in_flight"),
    [(65_536, None, 1), (65_536, 100, 3), (64, 10, 2), (1, 1, 1)],
)
def test_racing_producers_on_the_background_thread(
    capacity: int, max_batch: int | None, max_in_flight: int
) -> None:  # C5, C6, C8, C9
    sink = Sink(time.monotonic)
    dispatcher = BackgroundDispatcher[Mark](
        sink,
        ms_delay=0.5,
        capacity=capacity,
        max_batch=max_batch,
        max_in_flight=max_in_flight,
        home="thread",
    )
    accepted: list[list[int]] = [[] for _ in range(PRODUCERS)]
    running = [True] * PRODUCERS

    def produce(whose: int) -> None:
        accepted[whose] = counting(dispatcher, whose)
        running[whose] = False

    def watch() -> None:
        last = dispatcher.statistics()
        while any(running):
            books_agree(dispatcher)
            seen = dispatcher.statistics()
            for counter in ("accepted", "dispatched", "batches", "rejected_full"):
                assert getattr(last, counter) <= getattr(seen, counter)
            last = seen

    def flush() -> None:
        while any(running):
            assert dispatcher.flush(30)

    producers = [lambda whose=whose: produce(whose) for whose in range(PRODUCERS)]
    race(*producers, watch, flush)
    assert dispatcher.close(30)
    in_order_of_each(sink.entries, accepted)
    assert max(map(len, sink.batches)) <= (max_batch or capacity)
    assert sink.most_running <= max_in_flight
    books = dispatcher.statistics()
    assert books.accepted == books.dispatched == sum(map(len, accepted))
    assert books.rejected_full == PRODUCERS * ENTRIES - books.accepted
    assert books.batches == len(sink.batches)
    assert books.peak_pending <= capacity


def test_f32_racing_close_delivers_what_was_accepted() -> None:  # C9, C15
    for _ in range(10):
        sink = Sink(time.monotonic)
        dispatcher = BackgroundDispatcher[Mark](sink, ms_delay=0.5, home="thread")
        accepted: list[list[int]] = [[] for _ in range(PRODUCERS)]
        closed: list[bool] = []

        def produce(
            whose: int,
            dispatcher: BackgroundDispatcher[Mark] = dispatcher,
            accepted: list[list[int]] = accepted,
        ) -> None:
            accepted[whose] = counting(dispatcher, whose)

        def close(
            dispatcher: BackgroundDispatcher[Mark] = dispatcher,
            closed: list[bool] = closed,
        ) -> None:
            closed.append(dispatcher.close(30))

        producers = [lambda whose=whose: produce(whose) for whose in range(PRODUCERS)]
        race(*producers, close, close)
        assert closed == [True, True]
        in_order_of_each(sink.entries, accepted)
        books = dispatcher.statistics()
        assert books.accepted == books.dispatched == sum(map(len, accepted))
        assert books.rejected_closed == PRODUCERS * ENTRIES - books.accepted


def test_failed_batch_is_told_whole_though_the_home_lets_go_of_it() -> None:  # C11
    class Hasty:
        """A batch whose call ends as soon as it is settled, in the other thread."""

        def __init__(self, take: Take) -> None:
            self._take = take

        def __getattr__(self, name: str) -> Any:
            return getattr(self._take, name)

        def settle(self, failed: bool, seconds: float) -> bool:
            first = self._take.settle(failed, seconds)
            self._take.forget()
            return first

    told: list[Any] = []
    sink = Sink(time.monotonic)
    sink.hold()
    dispatcher = BackgroundDispatcher[str](
        sink, ms_delay=0.5, home="thread", on_error=lambda _, batch: told.append(batch)
    )
    dispatcher.enqueue("entry")
    eventually(lambda: sink.running)
    (call,) = dispatcher._calls
    assert call.take is not None
    call.take = Hasty(call.take)  # type: ignore[assignment]
    assert not dispatcher.close(0)
    assert told == [["entry"]]


def test_loops_in_racing_threads_wait_for_room_and_lose_nothing() -> None:  # C5, C9
    sink = Sink(time.monotonic)
    dispatcher = BackgroundDispatcher[Mark](
        sink, ms_delay=0.5, capacity=3, max_batch=2, max_in_flight=2, home="thread"
    )

    async def produce(whose: int) -> None:
        for number in range(200):
            assert await dispatcher.aenqueue((whose, number), timeout=30)

    race(
        *(lambda whose=whose: asyncio.run(produce(whose)) for whose in range(PRODUCERS))
    )
    assert dispatcher.close(30)
    in_order_of_each(sink.entries, [list(range(200))] * PRODUCERS)
    assert dispatcher.statistics().peak_pending <= 3


def test_f10_threads_find_their_own_loops_in_turn() -> None:  # C13, C14
    sink = Sink(time.monotonic)
    dispatcher = BackgroundDispatcher[Mark](sink, ms_delay=0.5)

    async def produce(whose: int) -> list[int]:
        accepted = []
        for number in range(500):
            if dispatcher.enqueue((whose, number)):
                accepted.append(number)
            if number % 50 == 0:
                await asyncio.sleep(0)
        return accepted

    accepted: list[list[int]] = [[] for _ in range(PRODUCERS)]

    def run(whose: int) -> None:
        for _ in range(3):
            accepted[whose] += asyncio.run(produce(whose))

    race(*(lambda whose=whose: run(whose) for whose in range(PRODUCERS)))
    assert dispatcher.close(30)
    in_order_of_each(sink.entries, accepted)
    books = dispatcher.statistics()
    assert books.accepted == books.dispatched == 3 * 500 * PRODUCERS


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="a build with the GIL"
)
def test_f32_importing_leaves_the_gil_off() -> None:
    outcome = run_snippet(
        """
        import sys
        assert not sys._is_gil_enabled()
        import ringdispatch
        print(sys._is_gil_enabled())
        """,
        prelude=False,
    )
    assert outcome.lines == ["False"]
