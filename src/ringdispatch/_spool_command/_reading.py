"""Reads a spool's file without a lock, and without writing to it.

Every entry has a check of its own, so that the file of a living process may be read,
too: what that process overwrites meanwhile fails the check, and is not shown.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ringdispatch._spool_file import crc32c_of
from ringdispatch._spool_header import (
    CELL_SIZE,
    CELLS_AT,
    FIXED_SIZE,
    DamagedError,
    Header,
    unpack,
    unpack_leniently,
)

_TAIL_AT = 1024
_RELEASED_AT = 1088
_COUNT_MASK = 0xFFFFFFF
_ATTEMPTS_SHIFT = 28
_MOST_ATTEMPTS = 7
_SETTLED = 1 << 31
_BLOCK = 2048  # cells that are read at once
_TRIES = 5  # to read two words while their owner stores both


@dataclass(frozen=True, slots=True)
class Mark:
    """What is noted of a batch that a process took."""

    count: int
    attempts: int
    settled: bool


class Lying(NamedTuple):
    """Entries as they lie in the file: a batch that was taken, or one entry."""

    id: str | None
    attempts: int  # calls that were made for it
    entries: list[bytes]


class Reader:
    """A spool's file, read by `pread` from an open descriptor.

    Args:
        fd: The file.
        size: How large it is.
        header: What its fixed header says.

    Attributes:
        makes_sense: Whether it says which entries are in it. If not, they are looked
            for one by one, and nothing says how many there were.
        damaged: How many entries `read()` has left out so far as they are not whole.
    """

    def __init__(self, fd: int, size: int, header: Header) -> None:
        self._fd = fd
        self._size = size
        self._header = header
        self._seed = header.seed
        self._mask = header.cells - 1
        self._cells = min(max(size - CELLS_AT, 0) // CELL_SIZE, header.cells)  # there
        self._block: tuple[int, bytes] = -1, b""  # the last that was read
        self.damaged = 0
        self._arena_at = CELLS_AT + CELL_SIZE * header.cells
        words = self._read_words()
        self.makes_sense = words is not None
        if words is None:
            newest = self._newest()
            words = newest, max(newest - header.cells, 0)
        self.tail, self.released = words

    def _read_words(self) -> tuple[int, int] | None:
        """`tail` and `released`; None if no kill can have left them so."""
        for _ in range(_TRIES):
            # All at once: in between, their owner may go round the whole ring.
            data = os.pread(self._fd, _RELEASED_AT + 16 - _TAIL_AT, _TAIL_AT)
            if len(data) < _RELEASED_AT + 16 - _TAIL_AT:
                return None
            tail = _pair(data, 0)
            released = _pair(data, _RELEASED_AT - _TAIL_AT)
            first, last = released[1], tail[0]
            if (
                0 <= tail[0] - tail[1] <= 1
                and first <= released[0] <= last
                and last - first <= self._header.cells
            ):
                return last, first
        return None

    def _positions(self) -> Iterator[int]:
        """The position that each cell claims to have."""
        for index in range(self._cells):
            yield int.from_bytes(self._cell(index)[:8], "little")

    def _newest(self) -> int:
        newest = 0
        for position in self._positions():
            if position >= newest and self._entry(position) is not None:
                newest = position + 1
        return newest

    @property
    def whole_size(self) -> int:
        """The size that the file was made with."""
        return self._header.size

    @property
    def has_entries(self) -> bool:
        """Whether there is any that is whole, dispatched or not."""
        return any(self._entry(position) is not None for position in self._positions())

    def _cell(self, position: int) -> bytes:
        block, index = divmod(position & self._mask, _BLOCK)
        if block != self._block[0]:
            size = CELL_SIZE * _BLOCK
            self._block = block, os.pread(self._fd, size, CELLS_AT + size * block)
        return self._block[1][CELL_SIZE * index : CELL_SIZE * (index + 1)]

    def _mark(self, position: int) -> Mark | None:
        """The mark of the batch that begins there; None where none does."""
        cell = self._cell(position)
        if len(cell) < CELL_SIZE:
            return None
        word, crc = struct.unpack_from("<II", cell, 24)
        if not word:
            return None
        data = struct.pack("<QI", position, word)
        count = word & _COUNT_MASK
        most = min(self.tail - position, self._header.cells)
        if crc != crc32c_of(data, self._seed) or not 1 <= count <= most:
            return None
        attempts = word >> _ATTEMPTS_SHIFT & _MOST_ATTEMPTS
        return Mark(count, attempts, bool(word & _SETTLED))

    def _entry(self, position: int) -> bytes | None:
        """The entry of that position without its separator; None unless it is whole."""
        cell = self._cell(position)
        arena, separator = self._header.arena_bytes, self._header.separator
        if len(cell) < CELL_SIZE:
            return None
        at, start, size, crc = struct.unpack_from("<QIII", cell)
        if at != position or start >= arena or not len(separator) <= size <= arena:
            return None
        first = min(size, arena - start)
        if self._arena_at + start + first > self._size:
            return None
        data = os.pread(self._fd, first, self._arena_at + start)
        if first < size:
            data += os.pread(self._fd, size - first, self._arena_at)
        seen = crc32c_of(data, crc32c_of(cell[:16], self._seed))
        if len(data) < size or seen != crc or not data.endswith(separator):
            return None
        return data[: size - len(separator)]

    @property
    def unsettled(self) -> int:
        """How many entries are not settled; some of these may be damaged."""
        position, settled = self.released, 0
        while position < self.tail and (mark := self._mark(position)):
            position += mark.count
            settled += mark.count if mark.settled else 0
        return self.tail - self.released - settled

    def read(self) -> Iterator[Lying]:
        """What is whole and not settled, in its order; then `damaged` is known."""
        position = self.released
        missing = []
        cut = 0
        while position < self.tail:
            index = position & self._mask
            if index >= self._cells:  # the file was cut
                following = min(position + self._header.cells - index, self.tail)
                cut += following - position
                position = following
                continue
            mark = self._mark(position)
            following = position + (1 if mark is None else mark.count)
            if mark is None or not mark.settled:
                entries = []
                for each in range(position, following):
                    entry = self._entry(each)
                    if entry is None:
                        missing.append(each)
                    else:
                        entries.append(entry)
                if entries and mark:
                    which = f"{self._header.uuid}-{position}-{mark.count}"
                    yield Lying(which, mark.attempts, entries)
                elif entries:
                    yield Lying(None, 0, entries)
            position = following
        if self.makes_sense:
            self.damaged = cut + self._count_damaged(missing)

    def _count_damaged(self, missing: list[int]) -> int:
        """How many of these positions an owner can't have overwritten meanwhile.

        It does that only behind the word of what is released.
        """
        words = self._read_words() if missing else None
        if words is None:  # it made sense before: its owner is storing
            return 0
        return sum(position >= words[1] for position in missing)


def _pair(data: bytes, at: int) -> tuple[int, int]:
    """A word that was stored twice, the second time as its complement."""
    word, complement = struct.unpack_from("<QQ", data, at)
    return word, complement ^ (2**64 - 1)


def read_header(fd: int, size: int, name: str, *, leniently: bool = False) -> Header:
    """Read the header of an open file.

    Args:
        fd: The file.
        size: How large it is.
        name: The file's, without its suffix: its uuid.
        leniently: Whether to try what a damaged header says.

    Raises:
        DamagedError: it is none, or says nothing of use.
        NewerError: a newer version made the file.
    """
    data = os.pread(fd, FIXED_SIZE, 0)
    try:
        return unpack(data)
    except DamagedError:
        if not leniently:
            raise
        for header in unpack_leniently(data, size, name):
            if Reader(fd, size, header).has_entries:
                return header
        raise
