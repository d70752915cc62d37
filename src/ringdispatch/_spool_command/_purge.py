"""`spool purge`: removes what is not wanted any more."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ringdispatch._spool_place import lock

from ._files import GoneError, Place, State, UnreadableError, opened

# A file that is younger may still be in the making: for a moment it is not locked.
_MAKING_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which files are to be removed.

    Attributes:
        dead: Dead letters.
        bad: What was kept aside.
        orphans: What ended processes left, and files that were never finished.
        older_than: Seconds since a file was made or written to, at least.
    """

    dead: bool
    bad: bool
    orphans: bool
    older_than: float

    def has(self, state: State) -> bool:
        """Whether the file is one of them, if no process has it."""
        kind, idle = state.place.kind, state.idle
        if idle is not None and idle < self.older_than:
            return False
        if kind == "new":
            return self.orphans and (idle is None or idle >= _MAKING_SECONDS)
        # Of a directory that can't be read there is no kind.
        kinds = {"dead": self.dead, "bad": self.bad, "spool": self.orphans}
        return kinds.get(kind, True)


def remove(state: State) -> None:
    """Remove a file, if it is as it was seen, and no process has it.

    Raises:
        UnreadableError: it is not; it stays.
    """
    with opened(state.place) as (_, found):
        if (found.st_size, found.st_mtime) != (state.bytes, state.changed_at):
            raise UnreadableError("was written to since")
        with _locked(state.place):
            try:
                state.place.path.unlink()
            except OSError as error:
                why = f"can't be removed: {error.strerror}"
                raise UnreadableError(why) from None


@contextmanager
def _locked(place: Place) -> Iterator[None]:
    """Lock the file, and be sure that it still has its name."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(place.path, flags)
    try:
        lock(fd)
        if not os.path.samestat(os.fstat(fd), place.path.lstat()):
            raise GoneError
        yield
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN}:
            raise UnreadableError("another process has it now") from None
        raise
    finally:
        os.close(fd)
