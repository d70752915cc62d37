"""A ring in a file does what one in memory does; the file holds what is unsettled."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from racing import race
from ringdispatch import Statistics
from ringdispatch._bytes import ByteRing
from ringdispatch._enqueue import EnqueueBase, install_enqueue
from ringdispatch._spool_ring import SpoolRing
from spools import (
    Files,
    adopted,
    cells_for,
    made,
    needs_spools,
    successor,
    take,
    take_all,
)

pytestmark = needs_spools


@install_enqueue
class Enqueuer(EnqueueBase):
    def __init__(self, ring: ByteRing, files: Files | None = None) -> None:
        self.ring = ring
        self.files = files
        self._attach(ring, "drop_newest")


def in_file(
    folder: Path, capacity: int, max_batch: int, max_bytes: int, most: int
) -> tuple[Enqueuer, Any]:
    files = Files(folder, cells_for(capacity), 2 * max_bytes)
    file = files.another(0)
    ring = SpoolRing(capacity, max_batch, None, b"\n", max_bytes, most, file, files)
    return Enqueuer(ring, files), file


def held(file: Any, folder: Path) -> list[bytes]:
    """What a process would find that were to start now, had this one been killed."""
    folder.mkdir()
    shutil.copy(file.path, folder)
    following = adopted(folder)
    entries = [] if following is None else take_all(following)
    assert following is None or not following.is_damaged
    shutil.rmtree(folder)
    return entries


@pytest.mark.parametrize("in_flight", [1, 3])
def test_the_file_holds_what_is_not_settled(tmp_path: Path, in_flight: int) -> None:
    seed = time.time_ns() % 1_000_000
    print("seed", seed)
    drawn = random.Random(seed)
    sizes = 10, 4, 400, 300
    spooled, file = in_file(tmp_path, *sizes)
    plain = Enqueuer(ByteRing(10, 4, None, b"\n", 400, 300))
    unsettled: deque[bytes] = deque()
    flights: list[tuple[Any, Any]] = []
    for number in range(1500):
        if drawn.random() < 0.6:
            entry = b"%d" % number + b"-" * drawn.randrange(90)
            given = [bytes, bytearray, memoryview][number % 3](entry)
            accepted = spooled.enqueue(given)
            if in_flight == 1 or accepted:
                assert plain.enqueue(entry) == accepted
            if accepted:
                unsettled.append(entry)
        elif len(flights) < in_flight and drawn.random() < 0.7:
            most = drawn.randint(1, 5)
            batch, other = spooled.ring.take(most), plain.ring.take(most)
            assert (batch is None) == (other is None)
            if batch is not None and other is not None:
                assert (batch.start, batch.end) == (other.start, other.end)
                assert batch.value.payload == other.value.payload
                assert batch.value[:] == other.value[:]
                flights.append((batch, other))
        elif flights:
            which = drawn.randrange(len(flights))
            batch, other = flights.pop(which)
            failed = drawn.random() < 0.2
            assert batch.settle(failed, 0.0) == other.settle(failed, 0.0)
            for entry in batch.value:
                unsettled.remove(entry)
        if number % 10 == 0:
            assert held(file, tmp_path / "copy") == list(unsettled)
    first = spooled.ring.snapshot(0.0)
    if in_flight == 1:
        assert first == plain.ring.snapshot(0.0)
    assert file.tail > 500


def test_a_full_file_refuses_until_what_is_oldest_is_settled(tmp_path: Path) -> None:
    spooled, file = in_file(tmp_path, 4, 2, 1000, 1000)
    entries = [b"%d" % number for number in range(8)]
    batches = []
    for entry in entries:
        assert spooled.enqueue(entry)
        if batch := spooled.ring.take(1):
            batches.append(batch)
    assert spooled.ring.pending == 0
    assert not spooled.enqueue(b"no cell")  # all behind one slow call
    for batch in batches[1:]:
        batch.settle(False, 0.0)
    assert not spooled.enqueue(b"no cell")
    assert "full behind the call that has entries 0 to 0," in spooled.ring.bound
    assert spooled.ring.snapshot(0.0)[7] == 2  # rejected_full
    assert held(file, tmp_path / "copy") == entries[:1]
    batches[0].settle(False, 0.0)
    assert spooled.ring.bound == "capacity or max_bytes"
    assert spooled.enqueue(b"again")
    assert held(file, tmp_path / "copy") == [b"again"]


def test_bytes_come_back_with_what_is_settled(tmp_path: Path) -> None:
    spooled, file = in_file(tmp_path, 100, 100, 100, 50)
    batches = []
    for _ in itertools.repeat(None, 4):
        assert spooled.enqueue(b"x" * 49)
        batches.append(spooled.ring.take(100))
    assert not spooled.enqueue(b"")
    assert "behind the call that has entries 0 to 0," in spooled.ring.bound
    batches[1].settle(False, 0.0)
    assert not spooled.enqueue(b"")
    batches[0].settle(False, 0.0)
    assert spooled.enqueue(b"y" * 49)
    assert spooled.enqueue(b"z" * 49)
    assert not spooled.enqueue(b"")
    assert held(file, tmp_path / "copy")[2:] == [b"y" * 49, b"z" * 49]


def test_a_batch_in_flight_has_the_same_ends_again(tmp_path: Path) -> None:
    spooled, file = in_file(tmp_path, 8, 8, 100, 100)
    for number in range(8):
        assert spooled.enqueue(b"%d" % number)
    batches = [spooled.ring.take(most) for most in (3, 1, 2)]
    assert batches[1] is not None
    batches[1].settle(True, 0.0)
    following = successor(file)
    assert take(following) == (0, 3, 1, [b"0", b"1", b"2"])
    assert take(following) == (4, 6, 1, [b"4", b"5"])
    assert take(following) == (6, 8, 0, [b"6", b"7"])


def test_a_batch_freed_unsettled_is_settled_as_failed(tmp_path: Path) -> None:
    spooled, file = in_file(tmp_path, 4, 4, 100, 100)
    assert spooled.enqueue(b"entry")
    batch = spooled.ring.take(4)
    assert batch is not None
    del batch
    assert held(file, tmp_path / "copy") == []


def test_what_a_close_cuts_short_is_left(tmp_path: Path) -> None:  # C23
    spooled, file = in_file(tmp_path, 8, 2, 100, 100)
    ring = spooled.ring
    for number in range(6):
        assert spooled.enqueue(b"%d" % number)
    batches = [ring.take(2), ring.take(2)]
    ring.close()
    assert ring.abandon() == 2
    assert batches[0].settle(False, 0.0)  # in time after all
    ring.end_file()
    assert ring.place == file.path  # a batch is not settled
    assert batches[1].settle(True, 0.0)
    ring.end_file()
    assert ring.place == file.path  # one is not reported
    batches[1].reported()
    ring.end_file()
    assert ring.place is None
    seen = Statistics(*ring.snapshot(0.0))
    assert (seen.dispatched, seen.failed, seen.abandoned, seen.left) == (2, 0, 0, 4)
    assert (seen.accepted, seen.in_flight, seen.failed_batches) == (6, 0, 0)
    following = adopted(tmp_path)
    assert following is not None
    assert take_all(following) == [b"2", b"3", b"4", b"5"]


def test_a_ring_that_is_closed_with_all_settled_leaves_no_file(tmp_path: Path) -> None:
    spooled, _ = in_file(tmp_path, 4, 2, 100, 100)
    ring = spooled.ring
    assert spooled.enqueue(b"entry")
    for step in (lambda: None, ring.close):
        step()
        ring.end_file()
        assert len(list(tmp_path.iterdir())) == 1  # open; then an entry is pending
    ring.take(1).settle(True, 0.0)
    ring.end_file()
    assert list(tmp_path.iterdir()) == []
    ring.close(reopen=True)
    assert spooled.enqueue(b"again")
    assert held(spooled.files.last, tmp_path / "copy") == [b"again"]
    assert ring.snapshot(0.0)[:2] == (2, 0)


def test_a_batch_of_a_file_that_was_left_marks_no_other(tmp_path: Path) -> None:
    spooled, _ = in_file(tmp_path, 2, 2, 100, 100)
    ring = spooled.ring
    assert spooled.enqueue(b"0")
    assert spooled.enqueue(b"1")
    batches = [ring.take(1), ring.take(1)]
    ring.close()
    ring.abandon()
    ring.close(reopen=True)
    for number in range(2, 4):  # in the cells that those had
        assert spooled.enqueue(b"%d" % number)
    later = ring.take(2)
    assert later is not None
    assert batches[0].settle(False, 0.0)
    assert batches[1].settle(True, 0.0)
    seen = Statistics(*ring.snapshot(0.0))
    assert (seen.dispatched, seen.failed, seen.left) == (1, 0, 1)
    spooled.files.last.leave()
    left = [adopted(tmp_path), adopted(tmp_path)]
    taken = [take(file) for file in left if file is not None]
    assert sorted(filter(None, taken)) == [
        (0, 1, 1, [b"0"]),  # dispatched since, and comes again
        (2, 4, 1, [b"2", b"3"]),
    ]


def test_a_forked_child_refuses_until_it_has_a_file_of_its_own(tmp_path: Path) -> None:
    spooled, file = in_file(tmp_path, 4, 2, 100, 100)
    assert spooled.enqueue(b"the parent's")
    batch = spooled.ring.take(2)
    assert batch is not None
    assert spooled.enqueue(b"the parent's too")
    pid = os.fork()
    if pid == 0:
        try:
            ring = spooled.ring
            spooled.files.fails = True
            seen = [spooled.enqueue(b"early"), ring.take(1), batch.settle(False, 0.0)]
            ring.end_file()
            ring.reset()
            ring.end_file()
            seen += [spooled.enqueue(b"early"), ring.take(1), ring.place]
            spooled.files.fails = False
            seen += [spooled.enqueue(b"the child's")]
            seen += [held(spooled.files.last, tmp_path / "of child")]
            wanted = [False, None, True, False, None, None, True, [b"the child's"]]
            os._exit(0 if seen == wanted else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert held(file, tmp_path / "copy") == [b"the parent's", b"the parent's too"]


def test_a_file_made_for_another_ring_is_refused(tmp_path: Path) -> None:
    for cells, arena_bytes, position in [(4, 200, 0), (8, 99, 0), (8, 200, 1)]:
        file = made(tmp_path, cells, arena_bytes, position=position)
        with pytest.raises(ValueError, match="not made for this ring"):
            SpoolRing(4, 2, None, b"\n", 100, 100, file, Files(tmp_path))


def test_threads_enqueue_into_a_file(tmp_path: Path) -> None:
    spooled, file = in_file(tmp_path, 1000, 50, 20_000, 20_000)
    accepted: list[list[bytes]] = [[], []]
    got: list[bytes] = []

    def produces(which: int) -> None:
        for number in range(5000):
            entry = b"%d %d" % (which, number)
            if spooled.enqueue(entry):
                accepted[which].append(entry)

    def consumes() -> None:
        while len(got) < 1000:
            if batch := spooled.ring.take(50):
                got.extend(batch.value)
                batch.settle(False, 0.0)

    race(lambda: produces(0), lambda: produces(1), consumes)
    got += held(file, tmp_path / "copy")
    for which in range(2):
        assert [e for e in got if e.startswith(b"%d" % which)] == accepted[which]
