"""What is replayed: the batches of one file, which is locked as long as that takes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ringdispatch._batch_info import BatchInfo
from ringdispatch._bytes import restore_batch
from ringdispatch._dead_letters import DeadFile, append, begin
from ringdispatch._spool import Spool
from ringdispatch._spool_file import NotASpoolError, SpoolFile
from ringdispatch._spool_header import DamagedError, NewerError
from ringdispatch._spool_place import is_locked

from ._files import (
    GoneError,
    Place,
    UnreadableError,
    header_of,
    holds_letters,
    opened,
    opened_letters,
)

_MOST_BYTES = 1 << 20  # of a batch that is made here
_APPENDING_SECONDS = 0.5
# What is damaged may be looked into.
_BAD_STAYS = "{}: what was intact in it is dispatched; it stays, purge --bad removes it"


class InUseError(Exception):
    """Another process has the file."""


@dataclass(frozen=True, slots=True)
class Item:
    """A batch to be dispatched.

    Attributes:
        info: What the function may know of it.
        batch: What the function is called with.
        separator: What ends each entry.
        count: How many entries it has.
        key: For the source it came from.
    """

    info: BatchInfo
    batch: Any
    separator: bytes
    count: int
    key: Any


class Source(Protocol):
    """A locked file."""

    def take(self, most: int) -> Item | None:
        """Take the next batch, of `most` entries where it is made here."""

    def settle(self, item: Item) -> None:
        """Note that it was dispatched: no process gets it again."""

    def keep(self, item: Item, error: BaseException | None) -> None:
        """Have it as before it was taken, for the next replay.

        `error` is what failed, where this one goes on with others.
        """

    def end(self) -> bool:
        """Unlock the file; remove it if nothing is left in it to be dispatched.

        Returns whether all in it was intact, as far as it was read now.
        """


class SpoolSource:
    """What an ended process left in its spool's file.

    Raises:
        InUseError: a process has it.
        GoneError: there is none any more.
        UnreadableError: it can't be read here.
    """

    def __init__(self, place: Place, report: Callable[[str], object]) -> None:
        with opened(place) as (fd, found):
            self._header = header_of(place, fd, found.st_size)
        self._place = place
        self._report = report
        self._is_empty = self._was_kept = False
        with _locking():
            self._file = SpoolFile(place.path)
        header = self._header
        sizes = header.cells, header.arena_bytes, header.seed, len(header.separator)
        self._file.begin(*sizes)
        if not is_locked(place.path):  # as on overlayfs
            self._file.leave()
            raise UnreadableError("its file system keeps no lock: copy it to a disk")

    def take(self, most: int) -> Item | None:
        """Take the next batch, with its own ends where it was taken before."""
        taken = self._file.take(most, _MOST_BYTES)
        if taken is None:
            self._is_empty = True
            return None
        start, end, attempts, payload, sizes = taken
        count = end - start
        which = f"{self._header.uuid}-{start}-{count}"
        separator = self._header.separator
        return Item(
            BatchInfo(which, True, start, count, attempts + 1),
            restore_batch(payload, sizes, len(separator)),
            separator,
            len(sizes),
            (start, end, attempts),
        )

    def settle(self, item: Item) -> None:
        """Note that it was dispatched: no process gets it again."""
        self._file.settle(*item.key[:2])

    def keep(self, item: Item, error: BaseException | None) -> None:
        """Have it as it was before: its process did not die of it."""
        del error
        self._was_kept = True
        self._file.keep(*item.key)

    def end(self) -> bool:
        """Unlock the file; remove it, or keep it aside if it is damaged."""
        file = self._file
        try:
            if not self._is_empty or self._was_kept:
                return True
            if self._place.kind == "bad":
                self._report(_BAD_STAYS.format(self._place.shown))
                return True
            kind, separator = self._header.kind, self._header.separator
            folder = self._place.path.parent
            Spool(folder, kind, separator, self._report_shown).remove(file)
            return not file.is_damaged
        finally:
            file.leave()

    def _report_shown(self, line: str) -> None:
        place = self._place
        self._report(line.replace(str(place.path), place.shown))


class LetterSource:
    """Dead letters that were not replayed.

    One that fails again goes into a file of its own before those behind it go on.

    Raises:
        InUseError: a process has the file.
        GoneError: there is none any more.
        UnreadableError: it can't be read here.
    """

    def __init__(self, place: Place, report: Callable[[str], object]) -> None:
        self._place = place
        self._report = report
        self._is_empty = False
        self._aside: Path | None = None
        self._file = _locked_letters(place)
        self._letters = self._file.letters()

    def take(self, most: int) -> Item | None:
        """Take the next letter, as it is."""
        del most
        letter = next(self._letters, None)
        if letter is None:
            self._is_empty = True
            return None
        separator, sizes = self._file.header.separator, letter.sizes
        return Item(
            BatchInfo(letter.id, True, letter.first, letter.count, letter.attempts + 1),
            restore_batch(letter.payload, sizes, len(separator)),
            separator,
            len(sizes),
            letter,
        )

    def settle(self, item: Item) -> None:
        """Note that it was dispatched: no process gets it again."""
        self._file.store_progress(item.key.end)

    def keep(self, item: Item, error: BaseException | None) -> None:
        """Leave it; put it aside where the letters behind it go on.

        Raises:
            OSError: that can't be written. It stays, and so do the others.
        """
        if error is None:
            return
        letter = replace(
            item.key, attempts=item.info.attempts, time=time.time(), reason=repr(error)
        )
        if self._aside is None or not append(self._aside, letter):
            self._aside = begin(self._place.path.parent, item.separator, letter)
        self._file.store_progress(item.key.end)

    def end(self) -> bool:
        """Unlock the file; remove it, or keep it aside if it is damaged."""
        with self._file as file:
            if not self._is_empty:
                return True
            path = self._place.path
            if self._place.kind == "bad":
                self._report(_BAD_STAYS.format(self._place.shown))
                return True
            if file.damaged:
                aside = path.rename(path.with_suffix(".bad"))
                self._report(
                    f"{self._place.shown} is kept aside as {aside.name}: what was "
                    "intact in it is dispatched"
                )
                return False
            path.unlink()
            return True


def _locked_letters(place: Place) -> DeadFile:
    """Lock a file of letters; a service that appends to it has it for a moment."""
    deadline = time.monotonic() + _APPENDING_SECONDS
    while True:
        try:
            with _locking():
                return DeadFile(place.path)
        except InUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_APPENDING_SECONDS / 20)


@contextmanager
def _locking() -> Iterator[None]:
    """Say what came of an attempt to lock a file."""
    try:
        yield
    except BlockingIOError:
        raise InUseError from None
    except FileNotFoundError:
        raise GoneError from None
    except (EOFError, NotASpoolError, DamagedError, NewerError) as error:
        raise UnreadableError(str(error)) from None
    except OSError as error:
        raise UnreadableError(f"can't be locked: {error.strerror}") from None


def open_source(place: Place, report: Callable[[str], object]) -> Source:
    """Lock a file, to replay what is in it.

    Raises:
        InUseError: a process has it.
        GoneError: there is none any more.
        UnreadableError: it can't be read here.
    """
    with opened(place) as (fd, _):
        has_letters = holds_letters(place, fd)
    if has_letters:
        with opened_letters(place):
            pass  # it is known here, or UnreadableError
    return (LetterSource if has_letters else SpoolSource)(place, report)
