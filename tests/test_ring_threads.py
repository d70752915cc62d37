"""C5, C8, C9, C18 of the rings, with threads that really race."""

from __future__ import annotations

import gc
import itertools
import time
import weakref
from collections.abc import Iterator

import pytest

from racing import (
    ENTRIES,
    KINDS,
    PRODUCERS,
    RaceLine,
    fails,
    impatience,
    in_order_of_each,
    race,
)
from ringdispatch._batch import Batch
from ringdispatch._enqueue import POLICIES
from support import adds_up

each_kind = pytest.mark.parametrize("kind", sorted(KINDS))


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    with impatience():
        yield


@pytest.mark.parametrize("takers", [1, 3])
@pytest.mark.parametrize("on_full", sorted(POLICIES))
@each_kind
def test_f32_racing_producers_and_takers_lose_nothing_and_keep_order(
    kind: str, on_full: str, takers: int
) -> None:  # C5, C8, C9
    line = RaceLine(97, on_full, kind)
    taken_by: list[list[Batch]] = [[] for _ in range(takers)]
    race(
        *line.producers(),
        *(lambda mine=mine: line.take_until_finished(mine) for mine in taken_by),
    )
    takes = sorted(itertools.chain(*taken_by), key=lambda take: take.start)
    out = [mark for take in takes for mark in line.kind.unpack(take.value)]
    books = line.books()
    assert books.accepted == sum(map(len, line.accepted))
    assert books.rejected_full == sum(line.refused)
    assert books.batches == len(takes)
    assert all(take.settled for take in takes)
    assert [len(take.value) for take in takes] == [t.end - t.start for t in takes]
    assert books.failed == sum(len(take.value) for take in takes if fails(take))
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
    line = RaceLine(97)
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
            count = 0 if take is None else len(take.value)
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
        line = RaceLine(PRODUCERS * ENTRIES)
        race(*line.producers(), line.ring.close)
        books = line.books()
        assert books.accepted == books.pending == sum(map(len, line.accepted))
        assert books.rejected_closed == sum(line.refused)
        assert books.accepted + books.rejected_closed == PRODUCERS * ENTRIES
        for accepted in line.accepted:  # none after the first refusal
            assert accepted == list(range(len(accepted)))
        assert line.ring.abandon() == books.accepted


def test_racing_settlements_of_one_batch_count_once() -> None:  # C9
    line = RaceLine(10)
    takes: list[Batch] = []
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


@each_kind
def test_batch_may_be_read_while_another_thread_releases_it(kind: str) -> None:
    # C18
    line = RaceLine(10, kind=kind)
    takes: list[Batch] = []
    for number in range(ENTRIES // 4):
        assert line.enqueue(line.kind.pack(1, number))
        take = line.ring.take(1)
        assert take is not None
        takes.append(take)

    def read_and_let_go() -> None:
        for take in takes:
            entries = take.value
            assert entries is None or line.kind.unpack(entries) == [(1, take.start)]
            take.release()

    race(*[read_and_let_go] * PRODUCERS)
    assert all(take.value is None for take in takes)


@each_kind
def test_racing_takers_and_abandoners_share_the_entries(kind: str) -> None:
    """C8, C9: each entry goes one way, and batches that are kept stay as they were."""
    line = RaceLine(97, "drop_oldest", kind)
    given_up: list[int] = []
    kept: list[Batch] = []

    def give_up() -> None:
        while not all(line.finished):
            given_up.append(line.ring.abandon())
            time.sleep(0)

    def watch() -> None:
        while not all(line.finished):
            seen = line.books()
            assert 0 <= seen.in_flight <= seen.accepted
            assert adds_up(seen)
            assert seen.max_bytes is None or (seen.pending_bytes or 0) >= 0
            assert (seen.pending_bytes or 0) <= (seen.max_bytes or 0)

    race(*line.producers(), lambda: line.take_until_finished(kept), give_up, watch)
    out = [mark for take in kept for mark in line.kind.unpack(take.value)]
    books = line.books()
    assert books.abandoned == sum(given_up)
    assert books.dispatched + books.failed == len(out)
    assert books.accepted == len(out) + books.abandoned + books.evicted
    for whose in range(PRODUCERS):
        numbers = [number for who, number in out if who == whose]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("kind", ["records", "padded"])
def test_buffers_come_back_from_racing_threads_and_are_never_shared(kind: str) -> None:
    """C7: batches are freed wherever they were last read."""
    line = RaceLine(16, kind=kind)
    shelf: list[Batch] = []

    def take_and_pass_on() -> None:
        while not all(line.finished):
            if (take := line.ring.take(16)) is not None:
                take.settle(False, 0.0)
                shelf.append(take)

    def read_and_drop() -> None:
        while not all(line.finished) or shelf:
            try:
                take = shelf.pop()
            except IndexError:
                continue
            marks = line.kind.unpack(take.value)
            assert marks == line.kind.unpack(take.value)

    race(*line.producers(), take_and_pass_on, *[read_and_drop] * 2)
    assert line.books().in_flight == 0


def test_racing_callers_share_the_slots() -> None:  # C6
    line = RaceLine(1)
    inside: set[int] = set()
    most = 0

    def come_and_go(mine: int) -> None:
        nonlocal most
        for _ in range(500):
            while (slot := line.ring.acquire_slot(3)) is None:
                time.sleep(0)
            inside.add(mine)
            most = max(most, len(inside))
            inside.discard(mine)
            assert slot.release()

    race(*(lambda mine=mine: come_and_go(mine) for mine in range(6)))
    assert most <= 3
    assert line.ring.busy_slots == 0


def test_entries_that_racing_threads_evict_are_freed() -> None:
    class Entry:
        __slots__ = ("__weakref__",)

    line = RaceLine(5, "drop_oldest")
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
    gc.collect()  # free-threaded: what another thread dropped is freed by its owner
    assert sum(ref() is not None for ref in itertools.chain(*alive)) == pending
    line.ring.abandon()
    gc.collect()
    assert not any(ref() is not None for ref in itertools.chain(*alive))
