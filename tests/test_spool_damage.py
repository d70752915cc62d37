"""Damaged files: no crash, no entry that was never accepted, what is intact arrives."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ringdispatch._spool import Spool
from ringdispatch._spool_file import crc32c_of
from ringdispatch._spool_header import BYTES, FIXED_SIZE, NewerError, unpack
from spools import (
    CELL_SIZE,
    CELLS_AT,
    RELEASED_AT,
    TAIL_AT,
    adopted,
    filled,
    left,
    made,
    needs_spools,
    spool_of,
    take,
    take_all,
)

pytestmark = needs_spools

CELLS = 8
ARENA = 3840  # so that the file ends with a page: no byte beyond it is mapped
ARENA_AT = CELLS_AT + CELLS * CELL_SIZE


class Image(NamedTuple):
    """A file as a killed process left it.

    Attributes:
        name: The file's.
        data: What is in it.
        accepted: Every entry that was ever accepted.
        unsettled: Those that a successor must dispatch, with the bytes of the file that
            each of them needs.
    """

    name: str
    data: bytes
    accepted: set[bytes]
    unsettled: dict[bytes, set[int]]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Two laps in: settled, in flight, settled behind that, pending; bytes wrap."""
    folder = tmp_path_factory.mktemp("image")
    file = made(folder, CELLS, ARENA)
    entries = [b"entry %d: " % number + b"+" * 400 for number in range(13)]
    starts = [0]
    for number, entry in enumerate(entries):
        if number in {3, 6, 9}:
            batch = take(file, 3)
            assert batch is not None
            if number != 9:
                file.settle(batch.start, batch.end)
        if number == 11:
            batch = take(file, 1)
            assert batch is not None
            file.settle(batch.start, batch.end)
        filled(file, [entry])
        starts.append(starts[-1] + len(entry) + 1)
    assert (file.released, file.tail) == (6, 13)
    unsettled = {}
    for number in [6, 7, 8, 10, 11, 12]:
        cell = CELLS_AT + number % CELLS * CELL_SIZE
        needs = set(range(cell, cell + 20))
        needs |= {ARENA_AT + at % ARENA for at in range(*starts[number : number + 2])}
        unsettled[entries[number]] = needs
    path = left(file)
    accepted = set(entries)
    return Image(path.name, path.read_bytes(), accepted, unsettled)


def arrived(folder: Path, image: Image, data: bytes) -> list[bytes] | None:
    """What a successor finds; None if nothing, and the file was set aside at once."""
    path = folder / image.name
    bad = path.with_suffix(".bad")
    path.write_bytes(data)
    try:
        file = adopted(folder)
        if file is None:
            assert bad.read_bytes() == data
            return None
        entries = take_all(file, 2)
        file.leave()
        return entries
    finally:
        path.unlink(missing_ok=True)
        bad.unlink(missing_ok=True)


def test_undamaged_it_holds_what_is_unsettled(tmp_path: Path, image: Image) -> None:
    assert arrived(tmp_path, image, image.data) == list(image.unsettled)


@pytest.mark.parametrize("flipped", [0xFF, 0x01])
def test_a_flipped_byte_costs_at_most_its_entry(
    tmp_path: Path, image: Image, flipped: int
) -> None:
    for at in range(len(image.data)):
        data = bytearray(image.data)
        data[at] ^= flipped
        entries = arrived(tmp_path, image, data)
        if at < FIXED_SIZE:
            assert entries is None, at
            continue
        assert entries is not None, at
        assert image.accepted.issuperset(entries), at
        spared = [entry for entry, needs in image.unsettled.items() if at not in needs]
        assert len(spared) >= len(image.unsettled) - 1
        doubles = set(entries).difference(image.unsettled)
        in_order = [entry for entry in entries if entry in spared]
        assert in_order == spared, at
        # The mark of one batch was hit, or the words, where every cell is tried.
        assert len(doubles) <= 1, at


def test_a_cut_file_gives_what_is_whole(tmp_path: Path, image: Image) -> None:
    for size in range(len(image.data)):
        entries = arrived(tmp_path, image, image.data[:size])
        if size < CELLS_AT:
            assert entries is None, size
            continue
        whole = [entry for entry, needs in image.unsettled.items() if max(needs) < size]
        assert entries is not None, size
        assert [entry for entry in entries if entry in image.unsettled] == whole, size
        assert image.accepted.issuperset(entries), size


AREAS = {
    "words": (FIXED_SIZE, CELLS_AT),
    "tail": (TAIL_AT, TAIL_AT + 16),
    "one tail": (TAIL_AT, TAIL_AT + 8),
    "other tail": (TAIL_AT + 8, TAIL_AT + 16),
    "released": (RELEASED_AT, RELEASED_AT + 16),
    "one released": (RELEASED_AT, RELEASED_AT + 8),
    "other released": (RELEASED_AT + 8, RELEASED_AT + 16),
    "cells": (CELLS_AT, ARENA_AT),
    "arena": (ARENA_AT, ARENA_AT + ARENA),
    "everything after the header": (FIXED_SIZE, ARENA_AT + ARENA),
}


def filled_areas(size: int) -> Iterator[bytes]:
    yield bytes(size)
    yield b"\xff" * size
    drawn = random.Random(size)
    for _ in range(50):
        yield drawn.randbytes(size)


@pytest.mark.parametrize("area", AREAS)
def test_an_area_of_other_bytes_invents_nothing(
    tmp_path: Path, image: Image, area: str
) -> None:
    first, end = AREAS[area]
    for other in filled_areas(end - first):
        data = image.data[:first] + other + image.data[end:]
        entries = arrived(tmp_path, image, data) or []
        assert image.accepted.issuperset(entries)
        expected = list(image.unsettled) if end <= CELLS_AT else []
        assert [entry for entry in entries if entry in image.unsettled] == expected


def with_words(data: bytes, tail: int, released: int) -> bytes:
    """The data with both words stored twice."""
    words = [tail, ~tail & 2**64 - 1], [released, ~released & 2**64 - 1]
    changed = bytearray(data)
    struct.pack_into("<QQ", changed, TAIL_AT, *words[0])
    struct.pack_into("<QQ", changed, RELEASED_AT, *words[1])
    return bytes(changed)


def test_what_an_earlier_lap_left_is_no_entry(tmp_path: Path, image: Image) -> None:
    # These words may be right, but no entry was accepted at position 13.
    data = with_words(image.data, 14, 6)
    assert arrived(tmp_path, image, data) == list(image.unsettled)


def test_a_file_with_nothing_released_is_not_empty_when_zeroed(tmp_path: Path) -> None:
    entries = [b"one", b"two", b"three"]
    for first, end in [(TAIL_AT, TAIL_AT + 16), (FIXED_SIZE, CELLS_AT)]:
        file = made(tmp_path)
        filled(file, entries)
        path = left(file)
        data = path.read_bytes()
        path.write_bytes(data[:first] + bytes(end - first) + data[end:])
        following = adopted(tmp_path)
        assert following is not None
        assert take_all(following) == entries
        left(following).unlink()


def test_random_files_give_nothing(tmp_path: Path, image: Image) -> None:
    seed = 4096
    print("seed", seed)
    drawn = random.Random(seed)
    for size in [0, 1, FIXED_SIZE, CELLS_AT - 1, CELLS_AT, len(image.data), 100_000]:
        assert arrived(tmp_path, image, drawn.randbytes(size)) is None


@pytest.mark.parametrize(
    ("cells", "arena_bytes"),
    [(2, 1), (2, 2**32 - 1), (1 << 27, 1), (1 << 27, 2**32 - 1), (16, 200), (4, 100)],
)
def test_sizes_that_are_not_the_files_invent_nothing(
    tmp_path: Path, image: Image, cells: int, arena_bytes: int
) -> None:
    header = unpack(image.data[:FIXED_SIZE])
    hostile = header._replace(cells=cells, arena_bytes=arena_bytes).pack()
    positions = [(13, 6), (2**64 - 1, 2**64 - 9), (2**63, 2**63 - cells), (8, 0)]
    for tail, released in [*positions, (2**63, 0)]:
        data = with_words(hostile + image.data[FIXED_SIZE:], tail, released)
        entries = arrived(tmp_path, image, data) or []
        assert image.accepted.issuperset(entries)


@pytest.mark.parametrize(
    "changed",
    [
        {"cells": 0},
        {"cells": 1},
        {"cells": 12},
        {"cells": 2**28},
        {"cells": 2**63},
        {"arena_bytes": 0},
        {"arena_bytes": 2**32},
        {"arena_bytes": 2**64 - 1},
    ],
)
def test_impossible_sizes_set_the_file_aside(
    tmp_path: Path, image: Image, changed: dict[str, int]
) -> None:
    header = unpack(image.data[:FIXED_SIZE])._replace(**changed)  # type: ignore[arg-type]
    assert arrived(tmp_path, image, header.pack() + image.data[FIXED_SIZE:]) is None


def test_a_cell_that_points_outside_is_no_entry(tmp_path: Path, image: Image) -> None:
    header = unpack(image.data[:FIXED_SIZE])
    for start, size in [(2**32 - 1, 1), (0, 2**32 - 1), (ARENA - 1, ARENA + 1), (5, 0)]:
        data = bytearray(image.data)
        cell = struct.pack("<QII", 12, start, size)
        crc = crc32c_of(cell, header.seed)  # right for an entry without bytes
        struct.pack_into("<16sI", data, CELLS_AT + 12 % CELLS * CELL_SIZE, cell, crc)
        assert arrived(tmp_path, image, bytes(data)) == list(image.unsettled)[:-1]


def test_a_batch_larger_than_the_file_is_no_batch(tmp_path: Path, image: Image) -> None:
    header = unpack(image.data[:FIXED_SIZE])
    for word in [4, 100, 0xFFFFFFF, 0x80000004, 0xFFFFFFFF]:  # three are left there
        data = bytearray(image.data)
        crc = crc32c_of(struct.pack("<QI", 10, word), header.seed)
        at = CELLS_AT + 10 % CELLS * CELL_SIZE + 24
        struct.pack_into("<II", data, at, word, crc)
        assert arrived(tmp_path, image, bytes(data)) == list(image.unsettled)


def test_a_newer_file_is_left_as_it_is(tmp_path: Path, image: Image) -> None:
    data = bytearray(image.data)
    struct.pack_into("<II", data, 8, 2, 0)
    struct.pack_into("<I", data, 12, crc32c_of(data[:FIXED_SIZE]))
    with pytest.raises(NewerError, match="its version is 2"):
        unpack(bytes(data[:FIXED_SIZE]))
    path = tmp_path / image.name
    path.write_bytes(data)
    assert adopted(tmp_path) is None
    assert path.read_bytes() == data


def test_damage_keeps_the_file_aside_once_the_rest_is_settled(
    tmp_path: Path, image: Image
) -> None:
    path = tmp_path / image.name
    data = bytearray(image.data)
    data[max(image.unsettled[list(image.unsettled)[1]])] ^= 1
    path.write_bytes(data)
    file = adopted(tmp_path)
    assert file is not None
    assert len(take_all(file)) == len(image.unsettled) - 1
    spool_of(tmp_path).remove(file)
    assert [each.suffix for each in tmp_path.iterdir()] == [".bad"]


def test_foreign_files_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "0-directory.spool").mkdir()
    (tmp_path / "0-nowhere.spool").symlink_to("nowhere")
    os.mkfifo(tmp_path / "0-pipe.spool")
    (tmp_path / "0-text.spool").write_text("a note")
    (tmp_path / "0-long.spool").write_text("a note\n" * 1000)
    outside = tmp_path / "outside"
    outside.mkdir()
    linked = made(outside)
    filled(linked, [b"not here"])
    (tmp_path / "0-link.spool").symlink_to(left(linked))
    (tmp_path / "0-twice.spool").hardlink_to(linked.path)
    if os.geteuid() == 0:
        (tmp_path / "0-theirs.spool").write_bytes(Path(linked.path).read_bytes())
        os.chown(tmp_path / "0-theirs.spool", 65534, 65534)
    ours = made(tmp_path)
    filled(ours, [b"here"])
    left(ours)
    lines: list[str] = []
    spool = Spool(tmp_path, BYTES, b"\n", lines.append)
    file = spool.adopt()
    assert file is not None
    assert take_all(file) == [b"here"]
    spool.clean()
    stay = ["directory", "link", "nowhere", "pipe", "theirs", "twice"]
    if os.geteuid() != 0:
        stay.remove("theirs")
    said = [line for line in lines if " is left as it is: " in line]
    assert sorted(line.partition("/0-")[2].partition(".")[0] for line in said) == stay
    assert len(lines) == len(said) + 2
    aside = sorted(path.stem for path in tmp_path.glob("*.bad"))
    assert aside == ["0-long", "0-text"]


def test_another_layout_is_left_as_it_is(tmp_path: Path) -> None:
    other = made(tmp_path, separator=b"\r\n")
    filled(other, [b"theirs"], b"\r\n")
    path = left(other)
    before = path.read_bytes()
    assert adopted(tmp_path) is None
    assert path.read_bytes() == before
    assert adopted(tmp_path, b"\r\n") is not None
