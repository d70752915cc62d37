"""What is replayed: the batches of one file, which is locked as long as that takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ringdispatch._batch_info import BatchInfo
from ringdispatch._bytes import restore_batch
from ringdispatch._spool import Spool
from ringdispatch._spool_file import NotASpoolError, SpoolFile

from ._files import GoneError, Place, UnreadableError, header_of, opened

_MOST_BYTES = 1 << 20  # of a batch that is made here


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
        """Note that it was dispatched: nobody gets it again."""

    def keep(self, item: Item) -> None:
        """Have it as it was before it was taken."""

    def end(self, *, whole: bool) -> None:
        """Unlock the file; remove it if the `whole` of it was dispatched."""


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
        try:
            self._file = SpoolFile(place.path)
        except BlockingIOError:
            raise InUseError from None
        except FileNotFoundError:
            raise GoneError from None
        except (EOFError, NotASpoolError) as error:
            raise UnreadableError(str(error)) from None
        except OSError as error:
            raise UnreadableError(f"can't be locked: {error.strerror}") from None
        header = self._header
        sizes = header.cells, header.arena_bytes, header.seed, len(header.separator)
        self._file.begin(*sizes)

    def take(self, most: int) -> Item | None:
        """Take the next batch, with its own ends where it was taken before."""
        taken = self._file.take(most, _MOST_BYTES)
        if taken is None:
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
        """Note that it was dispatched: nobody gets it again."""
        self._file.settle(*item.key[:2])

    def keep(self, item: Item) -> None:
        """Have it as it was before: its process did not die of it."""
        self._file.keep(*item.key)

    def end(self, *, whole: bool) -> None:
        """Unlock the file; remove it, or keep it aside if it is damaged."""
        file = self._file
        try:
            if not whole or not file.is_done:
                return
            if self._place.kind == "bad":  # what is damaged may be looked into
                self._report(
                    f"{self._place.shown}: what was intact in it is dispatched; it "
                    "stays, and purge --bad removes it"
                )
                return
            kind, separator = self._header.kind, self._header.separator
            folder = self._place.path.parent
            Spool(folder, kind, separator, self._report).remove(file)
        finally:
            file.leave()


def open_source(place: Place, report: Callable[[str], object]) -> Source:
    """Lock a file, to replay what is in it.

    Raises:
        InUseError: a process has it.
        GoneError: there is none any more.
        UnreadableError: it can't be read here.
    """
    return SpoolSource(place, report)
