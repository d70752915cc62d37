"""The files that a ring lies in, one after the other; and making such a ring."""

import contextlib
import logging
import math
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

from ._atomic import Finalizer, WorkerThreads
from ._letters import Letters
from ._recovery import Recovery
from ._reports import Periods, counted
from ._ring import short_repr
from ._spool import Spool, make_folder, warnings_of
from ._spool_file import SUPPORTED, SpoolFile
from ._spool_header import BYTES, LONGEST_SEPARATOR, MOST_ARENA_BYTES, MOST_CELLS
from ._spool_ring import SpoolRing

MOST_BYTES = 2**31  # pending; the file has twice as many
_MOST_ENTRIES = MOST_CELLS // 2

# How long after a failure to make a file it is tried again.
_AGAIN_SECONDS = 1.0
_NO_FILE = "entries are refused, there is no file for them"

# The folders that this process has a file in, and whose it is.
_in_use: weakref.WeakValueDictionary[str, "RingFiles"] = weakref.WeakValueDictionary()


def check(spool: Any, separator: bytes, max_bytes: int) -> str:
    """Check a layout's options against its spool; returns the directory.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: an option out of its range, or a system that has no spools.
    """
    if not isinstance(spool, (str, os.PathLike)):
        raise TypeError(f"spool={short_repr(spool)}: must be the path of a directory")
    directory = os.fsdecode(spool)
    if not directory or "\0" in directory:
        raise ValueError(f"spool={spool!r}: must be the path of a directory")
    if not SUPPORTED:
        raise ValueError(f"spool={directory!r}: only Linux has spools so far")
    if len(separator) > LONGEST_SEPARATOR:
        raise ValueError(
            f"separator={short_repr(separator)}: must have at most "
            f"{LONGEST_SEPARATOR} bytes with a spool"
        )
    if max_bytes > MOST_BYTES:
        raise ValueError(f"max_bytes={max_bytes}: must be <= {MOST_BYTES} with a spool")
    return directory


def make_ring(
    directory: str,
    name: str,
    on_full: str,
    dead_letters: bool,
    *sizes: Any,
) -> SpoolRing:
    """Make a ring whose entries lie in a file of `directory/name`.

    `dead_letters`: it keeps batches that failed. `sizes` is what ByteRing takes.

    Raises:
        ValueError: an option that a spool can't have, or the directory can't; or it is
            in use by another dispatcher of this process.
        OSError: the directory or the file can't be made.
    """
    capacity, _, _, separator, max_bytes, _ = sizes
    if on_full == "drop_oldest":
        raise ValueError(
            f"on_full={on_full!r}: must be 'drop_newest' or 'raise' with a spool, "
            "which keeps every entry that it accepted"
        )
    if capacity > _MOST_ENTRIES:
        raise ValueError(
            f"capacity={capacity}: must be <= {_MOST_ENTRIES} with a spool"
        )
    cells = 2 << (capacity - 1).bit_length()
    files = RingFiles(directory, name, cells, 2 * max_bytes, separator)
    if dead_letters:
        files.keep_letters()
    file = files.first()
    return SpoolRing(*sizes, file, files)


class RingFiles:
    """The files of one ring: the first, and another after a fork or a reopening.

    Nothing here logs, as `enqueue` may be what has a file made: what there is to say
    waits for `take_notes()`.
    """

    _now = staticmethod(time.monotonic)  # see Batcher.now

    def __init__(
        self,
        directory: str,
        name: str,
        cells: int,
        arena_bytes: int,
        separator: bytes,
    ) -> None:
        # never changed
        # absolute: the process may go elsewhere
        self._directory = str(Path(directory).absolute())
        self._name = name
        self._sizes = cells, min(arena_bytes, MOST_ARENA_BYTES)
        self._separator = separator
        # any thread, by single operations
        self._notes: deque[tuple[int, str]] = deque()
        # any thread, plain stores
        self._again_at = -math.inf
        self._reported = Periods(self._now)
        self._key = ""  # in _in_use
        self._spool: Spool | None = None
        self._adopted: SpoolFile | None = None
        self._others_told = False
        self.letters: Letters | None = None

    def keep_letters(self) -> None:
        """Keep the batches that fail as dead letters; before the ring is made."""
        folder = Path(self._directory) / self._name
        self.letters = Letters(folder, self._separator, self._now)

    def first(self) -> SpoolFile:
        """Make the constructor's file, and remove files that hold nothing.

        Raises:
            ValueError: the directory can't be a spool, or is in use.
            OSError: it or the file can't be made.
        """
        return self._make(0, clean=True)

    def another(self, position: int) -> SpoolFile | None:
        """Make a file for entries from `position` on; None where that fails.

        It is tried once a second at most.
        """
        now = self._now()
        if now < self._again_at:
            return None
        try:
            file = self._make(position)
        except (OSError, ValueError) as error:
            self._again_at = now + _AGAIN_SECONDS
            self._report(logging.ERROR, _NO_FILE, error)
            return None
        self._reported.end(_NO_FILE)
        return file

    # ---- what other processes left

    def make_recovery(
        self, ring: SpoolRing, calls: Container[Any], now: Callable[[], float]
    ) -> Recovery:
        """Make what hands out the batches that they left."""
        return Recovery(ring, self, calls, now)

    def adopt(
        self, known: Container[str] = (), paused: Container[str] = ()
    ) -> SpoolFile | None:
        """Attach to a file that a process left; None if there is none.

        `known`: those that were adopted before; `paused`: those that are to wait.
        """
        try:
            file = None if self._spool is None else self._spool.adopt(paused)
        except OSError as error:
            what = "no file of ended processes can be adopted"
            self._report(logging.WARNING, what, error)
            return None
        self._adopted = file
        if file is not None:
            self._others_told = False
        if file is not None and file.path not in known:
            count = counted(file.tail - file.released, "entry")
            why = f"an ended process has left up to {count} in {file.path}"
            self._notes.append((logging.INFO, why))
        return file

    def report_pause(self, file: SpoolFile, deaths: int, seconds: float) -> None:
        """Report that the next batch of a file waits, and why."""
        why = f"{deaths} processes have died in a call for the next batch of "
        why += f"{file.path}: it waits for {seconds:.0f} s"
        self._notes.append((logging.INFO, why))

    def others_left(self) -> Iterator[str]:
        """What ended processes left and this one leaves; `end` says it if not asked."""
        self._others_told = True
        if self._spool is None:
            return
        file, adopted = self._adopted, None
        if file is not None and file.fixed_header and not file.is_done:
            adopted = file.path
            count = counted(file.tail - file.released, "entry")
            yield f"up to {count} of an ended process left in {adopted}"
        if orphans := self._spool.count_orphans(but=adopted):
            files = counted(orphans, "file")
            yield f"{files} of ended processes left in {self._spool.folder}"

    def end_adopted(self, file: SpoolFile) -> None:
        """Remove a file in which all is settled; else leave it."""
        try:
            if self._spool is not None and file.is_done:
                self._spool.remove(file)
        except OSError as error:
            self._warn(f"{file.path} is done with, and stays: {error}")
        finally:
            self._adopted = None
            file.leave()

    # ---- its own

    def populate(self, file: SpoolFile, workers: WorkerThreads) -> None:
        """Have a worker thread touch the pages of a file."""
        with contextlib.suppress(RuntimeError):  # no thread: stores touch them
            workers.run((file.populate, Finalizer(bool)))

    def end(self, file: SpoolFile | None) -> None:
        """Remove a file in which all is settled, leave any other; leave its folder."""
        if _in_use.get(self._key) is self:
            _in_use.pop(self._key, None)
        if file is not None:
            try:
                if not self._others_told and (others := "; ".join(self.others_left())):
                    self._notes.append((logging.INFO, others))
            finally:
                self.discard(file)

    def discard(self, file: SpoolFile) -> None:
        """Remove a file in which all is settled; leave any other to be adopted."""
        try:
            if self._spool is not None and file.released == file.tail:
                self._spool.remove(file)
        except OSError as error:  # the next process removes it
            self._warn(f"{file.path} is empty, and stays: {error}")
        finally:
            file.leave()

    def take_notes(self) -> list[tuple[int, str]]:
        """What is to be logged, each with its level, once."""
        notes = []
        with contextlib.suppress(IndexError):  # another thread may take some
            while True:
                notes.append(self._notes.popleft())
        return notes

    def _report(self, level: int, what: str, error: Exception) -> None:
        """Log what may come again and again, once a period."""
        if self._reported.begin(what):
            self._notes.append((level, f"{what}: {error}"))

    def _warn(self, message: str) -> None:
        self._notes.append((logging.WARNING, message))

    def _make(self, position: int, *, clean: bool = False) -> SpoolFile:
        folder = make_folder(self._directory, self._name)
        key = os.path.realpath(folder)
        if _in_use.setdefault(key, self) is not self:
            raise ValueError(
                f"name={self._name!r}: another dispatcher has this name in "
                f"spool={self._directory!r}: give each a name of its own"
            )
        self._key = key
        self._others_told = False
        try:
            self._spool = Spool(folder, BYTES, self._separator, self._warn)
            if clean:
                for warning in warnings_of(folder):
                    self._warn(warning)
                self._spool.clean()
            return self._spool.make(*self._sizes, position)
        except BaseException:
            _in_use.pop(key, None)
            raise
