"""Files of a spool, made and read without a dispatcher."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from ringdispatch._spool import Spool
from ringdispatch._spool_file import SUPPORTED, SpoolFile
from ringdispatch._spool_header import BYTES

needs_spools = pytest.mark.skipif(not SUPPORTED, reason="Linux has them")

CELLS_AT = 4096
CELL_SIZE = 32
TAIL_AT = 1024
RELEASED_AT = 1088


class Taken(NamedTuple):
    start: int
    end: int
    attempts: int
    entries: list[bytes]


def cells_for(capacity: int) -> int:
    """How many the file of a ring has."""
    cells = 1
    while cells < capacity:
        cells *= 2
    return 2 * cells


def spool_of(folder: Path, separator: bytes = b"\n") -> Spool:
    return Spool(folder, BYTES, separator, print)


def made(
    folder: Path,
    cells: int = 8,
    arena_bytes: int = 256,
    separator: bytes = b"\n",
    position: int = 0,
) -> SpoolFile:
    return spool_of(folder, separator).make(cells, arena_bytes, position)


class Files:
    """The files of a ring, without the checks of RingFiles and dead letters."""

    letters = None

    def __init__(self, folder: Path, *sizes: int, separator: bytes = b"\n") -> None:
        self.folder = folder
        self.sizes = sizes
        self.separator = separator
        self.fails = False

    def another(self, position: int) -> SpoolFile | None:
        if self.fails:
            return None
        self.last = made(self.folder, *self.sizes, self.separator, position)
        return self.last

    def discard(self, file: SpoolFile) -> None:
        if file.released == file.tail:
            spool_of(self.folder, self.separator).remove(file)
        file.leave()

    end = discard


def filled(file: SpoolFile, entries: list[bytes], separator: bytes = b"\n") -> None:
    for entry in entries:
        assert file.append(entry + separator)


def left(file: SpoolFile) -> Path:
    """Leave the file, as the death of its process does."""
    file.leave()
    return Path(file.path)


def adopted(folder: Path, separator: bytes = b"\n") -> SpoolFile | None:
    return spool_of(folder, separator).adopt()


def successor(file: SpoolFile, separator: bytes = b"\n") -> SpoolFile:
    """Leave the file, and attach to it as the next process would."""
    found = adopted(left(file).parent, separator)
    assert found is not None
    return found


def take(
    file: SpoolFile, most: int = 1000, most_bytes: int = 1 << 20, separator: int = 1
) -> Taken | None:
    batch = file.take(most, most_bytes)
    if batch is None:
        return None
    start, end, attempts, payload, sizes = batch
    entries = []
    at = 0
    for size in sizes:
        entries.append(payload[at : at + size])
        at += size + separator
    assert at == len(payload)
    return Taken(start, end, attempts, entries)


def take_all(file: SpoolFile, most: int = 1000, separator: int = 1) -> list[bytes]:
    """All that is not settled, in batches that are settled at once."""
    entries: list[bytes] = []
    while batch := take(file, most, separator=separator):
        assert batch.entries
        entries += batch.entries
        file.settle(batch.start, batch.end)
    assert file.is_done
    return entries
