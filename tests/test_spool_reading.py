"""Reading what a spool's file still holds: batches, their ends, what is settled."""

from __future__ import annotations

import random
import struct
import time
from functools import partial
from pathlib import Path

import pytest

from racing import race
from ringdispatch._spool_file import SpoolFile
from spools import (
    RELEASED_AT,
    TAIL_AT,
    adopted,
    filled,
    left,
    made,
    needs_spools,
    successor,
    take,
    take_all,
)

pytestmark = needs_spools

ENTRIES = [b"entry %d" % number for number in range(8)]


@pytest.fixture
def file(tmp_path: Path) -> SpoolFile:
    return made(tmp_path)


def poked(path: Path, at: int, *words: int) -> None:
    with path.open("r+b") as opened:
        opened.seek(at)
        opened.write(struct.pack(f"<{len(words)}Q", *words))


def test_everything_accepted_comes_back_in_order(file: SpoolFile) -> None:
    filled(file, ENTRIES)
    following = successor(file)
    assert (following.released, following.tail, following.is_done) == (0, 8, False)
    assert take_all(following) == ENTRIES
    assert following.released == 8
    assert not following.is_damaged


def test_a_batch_holds_no_more_than_it_may(file: SpoolFile) -> None:
    filled(file, ENTRIES)
    following = successor(file)
    assert take(following, 3) == (0, 3, 0, ENTRIES[:3])
    assert take(following, 1000, 2 * len(b"entry 0\n")) == (3, 5, 0, ENTRIES[3:5])
    assert take(following, 1000, 1) == (5, 6, 0, ENTRIES[5:6])  # larger: alone
    assert take(following) == (6, 8, 0, ENTRIES[6:])
    assert take(following) is None


def test_a_batch_in_flight_has_the_same_ends_again(file: SpoolFile) -> None:
    filled(file, ENTRIES)
    taken = [take(file, 3), take(file, 2)]
    again = successor(file)
    assert [take(again, 4), take(again, 1)] == [
        batch and batch._replace(attempts=1) for batch in taken
    ]
    assert take(again) == (5, 8, 0, ENTRIES[5:])
    third = successor(again)
    assert [batch.attempts for batch in iter(lambda: take(third), None)] == [2, 2, 1]


def test_attempts_are_counted_up_to_seven(file: SpoolFile) -> None:
    filled(file, ENTRIES)
    for attempts in [0, 1, 2, 3, 4, 5, 6, 7, 7]:
        batch = take(file)
        assert batch == (0, 8, attempts, ENTRIES)
        file = successor(file)


def test_what_is_settled_behind_a_slow_batch_is_skipped(file: SpoolFile) -> None:
    filled(file, ENTRIES)
    batches = [take(file, 2) for _ in range(3)]
    for batch in batches[1:]:
        assert batch is not None
        file.settle(batch.start, batch.end)
    assert file.released == 0
    following = successor(file)
    assert take(following) == (0, 2, 1, ENTRIES[:2])
    assert take(following) == (6, 8, 0, ENTRIES[6:])
    following.settle(0, 2)
    assert following.released == 6
    following.settle(6, 8)
    assert following.is_done


def test_only_the_settled_prefix_is_released(file: SpoolFile) -> None:
    filled(file, ENTRIES)
    for _ in range(4):
        take(file, 2)
    seen = []
    for start in [4, 0, 6, 2]:
        file.settle(start, start + 2)
        seen.append(file.released)
    assert seen == [0, 2, 2, 8]


def test_room_comes_back_with_what_is_released(file: SpoolFile) -> None:
    filled(file, ENTRIES)
    assert not file.append(b"no cell\n")
    assert take(file, 3) is not None
    assert not file.append(b"taken is not released\n")
    file.settle(0, 3)
    filled(file, [b"nine", b"ten", b"eleven"])
    assert not file.append(b"no cell\n")
    assert take_all(successor(file)) == [*ENTRIES[3:], b"nine", b"ten", b"eleven"]


def test_the_arena_bounds_what_is_accepted(tmp_path: Path) -> None:
    file = made(tmp_path, arena_bytes=10)
    assert not file.append(b"0123456789\n")
    filled(file, [b"0123", b"4567"])
    assert not file.append(b"\n")
    take(file, 1)
    file.settle(0, 1)
    filled(file, [b"abcd"])
    assert take_all(successor(file)) == [b"4567", b"abcd"]


@pytest.mark.parametrize("separator", [b"", b"\n", b"--8<--"])
def test_many_laps_keep_every_entry(tmp_path: Path, separator: bytes) -> None:
    seed = 17
    print("seed", seed)
    drawn = random.Random(seed)
    file = made(tmp_path, 16, 203, separator, position=2**63 - 100)
    number = 0
    sent: list[bytes] = []
    got: list[bytes] = []
    for _ in range(2000):
        entry = b"%d:" % number + drawn.randbytes(drawn.randrange(40))
        if drawn.random() < 0.7 and file.append(entry + separator):
            sent.append(entry)
            number += 1
        elif batch := take(file, drawn.randint(1, 5), separator=len(separator)):
            got += batch.entries
            file.settle(batch.start, batch.end)
        if drawn.random() < 0.02:
            position = file.tail
            left(file)
            following = adopted(tmp_path, separator)
            while following and (batch := take(following, 3, separator=len(separator))):
                got += batch.entries
            assert got == sent
            if following is not None:  # else there was nothing in it
                assert not following.is_damaged
                left(following).unlink()
            file = made(tmp_path, 16, 203, separator, position)
    assert number > 500


def test_threads_share_a_file(tmp_path: Path) -> None:
    file = made(tmp_path, cells=64, arena_bytes=1000)
    got: list[list[bytes]] = [[], []]

    def produces(whose: int) -> None:
        for number in range(2000):
            while not file.append(b"%d %d\n" % (whose, number)):
                time.sleep(0)

    def consumes(which: int) -> None:
        while len(got[0]) + len(got[1]) < 4000:
            if batch := take(file, 7):
                got[which] += batch.entries
                file.settle(batch.start, batch.end)

    race(
        partial(produces, 0),
        partial(produces, 1),
        partial(consumes, 0),
        partial(consumes, 1),
    )
    assert file.is_done
    assert (file.released, file.tail) == (4000, 4000)
    assert sorted(got[0] + got[1]) == sorted(
        b"%d %d" % (whose, number) for whose in range(2) for number in range(2000)
    )


def test_a_kill_between_two_copies_of_a_word_is_no_damage(file: SpoolFile) -> None:
    filled(file, ENTRIES)
    take(file, 3)
    file.settle(0, 3)
    path = left(file)
    poked(path, TAIL_AT + 8, ~7 & 2**64 - 1)  # the second not yet stored
    poked(path, RELEASED_AT + 8, 2**64 - 1)
    following = successor(file)
    assert (following.released, following.tail) == (0, 8)
    assert take_all(following) == ENTRIES[3:]  # the mark is settled
    assert not following.is_damaged


def test_what_was_not_published_is_not_there(file: SpoolFile) -> None:
    filled(file, ENTRIES[:5])
    path = left(file)
    poked(path, TAIL_AT, 4, ~4 & 2**64 - 1)
    assert take_all(successor(file)) == ENTRIES[:4]


def test_what_is_settled_after_it_was_left_comes_again(file: SpoolFile) -> None:
    filled(file, ENTRIES)
    take(file)
    following = successor(file)
    file.settle(0, 8)
    assert file.take(1, 1) is None
    assert not file.append(b"\n")
    assert file.fixed_header == b""
    assert take(following) == (0, 8, 1, ENTRIES)
