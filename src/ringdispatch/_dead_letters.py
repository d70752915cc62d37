"""Files of dead letters: batches whose calls failed, each with what came of it.

A file has a header, a word of progress, and letters one after the other. What it says
is data: every number is checked before it is used. All is little endian, as a spool is.
"""

import contextlib
import json
import math
import os
import stat
import struct
import uuid
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from ._spool_file import NotASpoolError, crc32c_of
from ._spool_header import BYTES, LONGEST_SEPARATOR, DamagedError, NewerError
from ._spool_place import lock, unlock

VERSION = 1
LETTERS_AT = 1024
FULL_BYTES = 1 << 20  # a file of this size takes no more letters
_PROGRESS_AT = 512
_MAGIC = b"RINGDED\n"
_CRC_AT = 12
_HEADER = "<8sII16sIIQ256s"
# Before each letter: the crc32c of all that follows, and the sizes of its three parts.
_LETTER = "<IIQQ"
_LETTER_SIZE = struct.calcsize(_LETTER)
_LONGEST_ABOUT = 1 << 16
_LONGEST_REASON = 1000
_ALL_ONES = 2**64 - 1

_FLAGS = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class DeadHeader(NamedTuple):
    """What the header of a file of dead letters says.

    Attributes:
        uuid: The file's own; its first four bytes begin every crc32c.
        kind: The layout's.
        separator: What follows each entry.
        made: When, in seconds of the wall clock since 1970.
    """

    uuid: uuid.UUID
    kind: int
    separator: bytes
    made: int

    @property
    def seed(self) -> int:
        """What each crc32c in the file begins with."""
        return int.from_bytes(self.uuid.bytes[:4], "little")

    def pack(self) -> bytes:
        """The header as it stands in the file, with the word of progress."""
        fields = struct.pack(
            _HEADER,
            _MAGIC,
            VERSION,
            0,
            self.uuid.bytes,
            self.kind,
            len(self.separator),
            self.made,
            self.separator,
        ).ljust(_PROGRESS_AT, b"\0")
        fields = _with_crc(fields, crc32c_of(fields)) + _pack_progress(LETTERS_AT)
        return fields.ljust(LETTERS_AT, b"\0")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A batch that failed.

    Attributes:
        id: The batch's, as `current_batch()` had it.
        first: The position of its first entry.
        count: How many entries it had; of another process's, with those damaged.
        attempts: How many calls were made for it.
        time: When it failed, in seconds of the wall clock since 1970.
        reason: What failed: the exception's `repr`.
        recovered: Whether another process had accepted its entries.
        sizes: Of each entry, without its separator.
        payload: What the dispatch function got: the entries, each with its separator.
        end: The offset in the file behind it; not in the letter itself.
    """

    id: str
    first: int
    count: int
    attempts: int
    time: float
    reason: str
    recovered: bool
    sizes: list[int]
    payload: bytes
    end: int = 0

    def pack(self, seed: int) -> bytes:
        """The letter as it stands in the file of that seed."""
        values = {name: getattr(self, name) for name in _ABOUT}
        values["reason"] = self.reason[:_LONGEST_REASON]
        about = json.dumps(values).encode()
        lengths = struct.pack("<IQQ", len(about), len(self.sizes), len(self.payload))
        sizes = array("I", self.sizes).tobytes()
        body = b"".join((lengths, about, sizes, self.payload))
        return struct.pack("<I", crc32c_of(body, seed)) + body


# What a letter says of itself, each with its type.
_ABOUT = {
    name: kind
    for name, kind in DeadLetter.__annotations__.items()
    if name not in {"sizes", "payload", "end"}
}


class DeadFile:
    """A file of dead letters, open; locked unless it is only looked at.

    Args:
        path: Where it is.
        locked: Take the lock that its writer and `replay` take, without waiting.

    Raises:
        BlockingIOError: another process has it locked, or this one.
        FileNotFoundError: there is none, or it was removed or renamed meanwhile.
        NotASpoolError: it isn't a regular file of our own with one name.
        DamagedError: it has no intact header.
        NewerError: a newer version of this package made it.
        OSError: what else the system says.
    """

    header: DeadHeader

    def __init__(self, path: str | os.PathLike[str], *, locked: bool = True) -> None:
        self.path = Path(path)
        self._locked = locked
        flags = os.O_RDWR if locked else os.O_RDONLY
        self.fd = _open_own(self.path, flags, locked=locked)
        try:
            self.header = _unpack(os.pread(self.fd, LETTERS_AT, 0))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unlock it, also where a process forked meanwhile has it open; close it."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            _close(fd, locked=self._locked)

    @property
    def size(self) -> int:
        """The size of the file."""
        return os.fstat(self.fd).st_size

    @property
    def progress(self) -> int:
        """The offset up to which letters were replayed; of the first one if none was.

        Of the first too where its two copies differ: better twice than never.
        """
        word = os.pread(self.fd, 16, _PROGRESS_AT)
        if len(word) == 16:
            offset, complement = struct.unpack("<QQ", word)
            if offset == complement ^ _ALL_ONES and LETTERS_AT <= offset <= self.size:
                return int(offset)
        return LETTERS_AT

    def store_progress(self, offset: int) -> None:
        """Note that the letters up to this offset, a letter's `end`, were replayed."""
        os.pwrite(self.fd, _pack_progress(offset), _PROGRESS_AT)

    def letters(self, at: int | None = None) -> Iterator[DeadLetter]:
        """The intact letters from this offset on, or those that were not replayed.

        One that is damaged is passed over, where its sizes fit the file.
        """
        at = self.progress if at is None else at
        while (end := self._end_of(at)) is not None:
            letter = self._read(at, end)
            if letter is not None:
                yield letter
            at = end

    @property
    def damaged(self) -> int:
        """How many bytes are in no intact letter, of all that were written."""
        size = self.size  # a letter may come meanwhile
        damaged = 0
        at = LETTERS_AT
        while at < size and (end := self._end_of(at)) is not None:
            if self._read(at, end) is None:
                damaged += end - at
            at = end
        return damaged + max(size - at, 0)

    def _end_of(self, at: int) -> int | None:
        """Where the letter that begins there ends; None if none does."""
        prefix = _read_exactly(self.fd, _LETTER_SIZE, at)
        if len(prefix) < _LETTER_SIZE:
            return None
        _, about_size, entries, payload_size = struct.unpack(_LETTER, prefix)
        end = at + _LETTER_SIZE + about_size + 4 * entries + payload_size
        return None if about_size > _LONGEST_ABOUT or end > self.size else int(end)

    def _read(self, at: int, end: int) -> DeadLetter | None:
        """The letter that lies there; None if it is damaged."""
        data = _read_exactly(self.fd, end - at, at)
        if len(data) < end - at:
            return None  # its write has failed meanwhile
        crc, about_size, entries, payload_size = struct.unpack_from(_LETTER, data)
        if crc != crc32c_of(data[4:], self.header.seed):
            return None
        sizes_at = _LETTER_SIZE + about_size
        payload_at = sizes_at + 4 * entries
        sizes = array("I")
        sizes.frombytes(data[sizes_at:payload_at])
        if sum(sizes) + entries * len(self.header.separator) != payload_size:
            return None
        about, payload = data[_LETTER_SIZE:sizes_at], data[payload_at:]
        return _letter_of(about, sizes.tolist(), payload, end)


def letters(path: str | os.PathLike[str]) -> Iterator[DeadLetter]:
    """The intact letters of a file that were not replayed, without a lock.

    Raises:
        What DeadFile raises, but BlockingIOError.
    """
    with DeadFile(path, locked=False) as file:
        yield from file.letters()


def append(path: Path, letter: DeadLetter) -> bool:
    """Append a letter; False where the file takes no more: begin another.

    That is while a replay has it locked, or once one has begun; and where it is full
    or gone.

    Raises:
        OSError: it can't be written; the file is as before.
    """
    try:
        file = DeadFile(path)
    except (
        BlockingIOError,
        FileNotFoundError,
        NotASpoolError,
        DamagedError,
        NewerError,
    ):
        return False
    with file:
        size = file.size
        if size >= FULL_BYTES or file.progress != LETTERS_AT:
            return False
        _write_whole(file.fd, letter.pack(file.header.seed), size)
    return True


def begin(folder: Path, separator: bytes, letter: DeadLetter) -> Path:
    """Make a file with one letter.

    Raises:
        OSError: it can't be made; nothing remains.
    """
    own = uuid.uuid4()
    path = folder / f"{own}.dead"
    header = DeadHeader(own, BYTES, separator, int(letter.time))
    data = header.pack() + letter.pack(header.seed)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
    try:
        with _removed_on_failure(path):
            lock(fd)
            _write_whole(fd, data, 0)
    finally:
        _close(fd, locked=True)
    return path


def remove(path: Path) -> int | None:
    """Remove a file unless it is locked; returns how many entries its letters had.

    None where it stays. It may be any file of our own; one without letters has none.
    """
    try:
        fd = _open_own(path, os.O_RDWR, locked=True)
    except (OSError, NotASpoolError):
        return None
    try:
        count = 0
        with contextlib.suppress(DamagedError, NewerError):
            count = sum(len(letter.sizes) for letter in letters(path))
        path.unlink()
    except OSError:
        return None
    else:
        return count
    finally:
        _close(fd, locked=True)


def _open_own(path: Path, flags: int, *, locked: bool) -> int:
    """Open a regular file of our own with one name; `locked`: and lock it."""
    try:
        fd = os.open(path, flags | _FLAGS)
    except OSError as error:
        if path.is_symlink():
            raise NotASpoolError(f"{path}: must be a regular file") from error
        raise
    try:
        _check_own(fd, path)
        if locked:
            lock(fd)
            # What had the lock until now may have removed or renamed it.
            _check_own(fd, path)
    except BaseException:
        _close(fd, locked=locked)
        raise
    return fd


def _check_own(fd: int, path: Path) -> None:
    here, there = os.fstat(fd), os.lstat(path)
    if not stat.S_ISREG(here.st_mode):
        raise NotASpoolError(f"{path}: must be a regular file")
    if here.st_uid != os.geteuid():
        raise NotASpoolError(f"{path}: must be a file of user {os.geteuid()}")
    if here.st_nlink > 1:
        raise NotASpoolError(f"{path}: must be a file with one name")
    if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
        raise FileNotFoundError(f"{path}: it was replaced")


def _close(fd: int, *, locked: bool) -> None:
    try:
        if locked:
            unlock(fd)  # a child forked meanwhile has the descriptor, too
    finally:
        os.close(fd)


def _write_whole(fd: int, data: bytes, at: int) -> None:
    """Write all of it at the end of the file, or leave the file as it was."""
    written = 0
    try:
        while written < len(data):
            written += os.pwrite(fd, data[written:] if written else data, at + written)
    except BaseException:
        os.ftruncate(fd, at)
        raise


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _read_exactly(fd: int, size: int, at: int) -> bytes:
    """So many bytes; fewer where the file ends, or shrinks meanwhile."""
    pieces = []
    while size > 0 and (piece := os.pread(fd, size, at)):
        pieces.append(piece)
        size -= len(piece)
        at += len(piece)
    return b"".join(pieces)


def _unpack(data: bytes) -> DeadHeader:
    if len(data) < LETTERS_AT or data[:8] != _MAGIC:
        raise DamagedError("it doesn't begin as a file of dead letters")
    data = data[:_PROGRESS_AT]
    (crc,) = struct.unpack_from("<I", data, _CRC_AT)
    if crc != crc32c_of(_with_crc(data, 0)):
        raise DamagedError("its header fails its check")
    _, version, _, own, kind, length, made, separator = struct.unpack_from(
        _HEADER, data
    )
    if version > VERSION:
        raise NewerError(f"its version is {version}; this one reads up to {VERSION}")
    if version < 1 or length > LONGEST_SEPARATOR:
        raise DamagedError("its header has impossible sizes")
    return DeadHeader(uuid.UUID(bytes=own), kind, separator[:length], made)


def _letter_of(
    about: bytes, sizes: list[int], payload: bytes, end: int
) -> DeadLetter | None:
    """The letter, unless what it says of itself has other fields or types."""
    try:
        values: Any = json.loads(about)
        letter = DeadLetter(**values, sizes=sizes, payload=payload, end=end)
    except (ValueError, TypeError, RecursionError):
        return None
    fits = all(type(getattr(letter, name)) is kind for name, kind in _ABOUT.items())
    return letter if fits and math.isfinite(letter.time) else None


def _pack_progress(offset: int) -> bytes:
    return struct.pack("<QQ", offset, offset ^ _ALL_ONES)


def _with_crc(fields: bytes, crc: int) -> bytes:
    return fields[:_CRC_AT] + struct.pack("<I", crc) + fields[_CRC_AT + 4 :]
