"""The fixed header of a spool's file: what made it, and how it is laid out.

It is data, and nothing else: read from a copy, every number checked before it is used.
"""

import contextlib
import itertools
import struct
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from ._spool_file import crc32c_of

VERSION = 1
FIXED_SIZE = 1024
CELLS_AT = 4096
CELL_SIZE = 32

# Kinds of layouts.
BYTES = 1

LONGEST_SEPARATOR = 256
MOST_CELLS = 2**27
MOST_ARENA_BYTES = 2**32 - 1

_MAGIC = b"RINGSPL\n"
_START = "<8sII16sQQI"
_FORMAT = _START + "IQ256s"
_CRC_AT = 12
_SIZES_AT = 32


class Header(NamedTuple):
    """What the fixed header says.

    Attributes:
        uuid: The file's own; its first four bytes begin every crc32c.
        cells: How many cells there are, a power of two.
        arena_bytes: The size of the arena.
        kind: The layout's.
        separator: What follows each entry.
        made: When, in seconds of the wall clock since 1970.
    """

    uuid: uuid.UUID
    cells: int
    arena_bytes: int
    kind: int
    separator: bytes
    made: int

    @property
    def size(self) -> int:
        """The size of the whole file."""
        return CELLS_AT + CELL_SIZE * self.cells + self.arena_bytes

    @property
    def seed(self) -> int:
        """What each crc32c in the file begins with."""
        return int.from_bytes(self.uuid.bytes[:4], "little")

    def pack(self) -> bytes:
        """The header as it stands in the file."""
        fields = struct.pack(
            _FORMAT,
            _MAGIC,
            VERSION,
            0,
            self.uuid.bytes,
            self.cells,
            self.arena_bytes,
            self.kind,
            len(self.separator),
            self.made,
            self.separator,
        ).ljust(FIXED_SIZE, b"\0")
        return _with_crc(fields, crc32c_of(fields))


class DamagedError(Exception):
    """The header fails its checks."""


class NewerError(Exception):
    """A newer version of this package made the file."""


def unpack(data: bytes) -> Header:
    """Read a header.

    Raises:
        DamagedError: it is none, or not as it was written.
        NewerError: it is intact, and of a version that is not known here.
    """
    if len(data) != FIXED_SIZE or data[:8] != _MAGIC:
        raise DamagedError("it doesn't begin as the file of a spool")
    (crc,) = struct.unpack_from("<I", data, _CRC_AT)
    if crc != crc32c_of(_with_crc(data, 0)):
        raise DamagedError("its header fails its check")
    fields = struct.unpack_from(_FORMAT, data)
    _, version, _, own, cells, arena_bytes, kind, length, made, separator = fields
    if version > VERSION:
        raise NewerError(f"its version is {version}; this one reads up to {VERSION}")
    is_power = cells >= 2 and cells & (cells - 1) == 0
    if (
        version < 1
        or not is_power
        or cells > MOST_CELLS
        or not 1 <= arena_bytes <= MOST_ARENA_BYTES
        or length > LONGEST_SEPARATOR
    ):
        raise DamagedError("its header has impossible sizes")
    own = uuid.UUID(bytes=own)
    return Header(own, cells, arena_bytes, kind, separator[:length], made)


def unpack_leniently(data: bytes, size: int, name: str) -> Iterator[Header]:
    """What a damaged header may have said before: each of these is to be tried.

    Args:
        data: The header, of which some is right.
        size: The file's.
        name: The file's, without its suffix: its uuid.
    """
    if len(data) != FIXED_SIZE:
        return
    uuids = [data[16:32]]
    with contextlib.suppress(ValueError):
        uuids.insert(0, uuid.UUID(name).bytes)  # a batch's id has it
    cells, arena_bytes = struct.unpack_from("<QQ", data, _SIZES_AT)
    left = size - CELLS_AT
    sizes = (
        (cells, arena_bytes),
        (cells, left - CELL_SIZE * cells),
        ((left - arena_bytes) // CELL_SIZE, arena_bytes),
    )
    for own, size_of in itertools.product(uuids, sizes):
        with contextlib.suppress(DamagedError, struct.error):
            start = struct.pack(_START, _MAGIC, VERSION, 0, own, *size_of, BYTES)
            fields = start + data[len(start) :]
            yield unpack(_with_crc(fields, crc32c_of(fields)))


def _with_crc(fields: bytes, crc: int) -> bytes:
    return fields[:_CRC_AT] + struct.pack("<I", crc) + fields[_CRC_AT + 4 :]
