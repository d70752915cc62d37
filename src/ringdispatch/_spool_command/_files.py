"""The files of a spool as they are found: nothing here locks or changes one."""

import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ringdispatch._dead_letters import _MAGIC, DeadFile
from ringdispatch._spool_file import NotASpoolError
from ringdispatch._spool_header import (
    BYTES,
    FIXED_SIZE,
    DamagedError,
    Header,
    NewerError,
    unpack,
)
from ringdispatch._spool_place import is_locked
from ringdispatch._spool_recovered import MOST_DEATHS

from ._reading import Reader, read_header

_SUFFIXES = (".spool", ".dead", ".bad", ".new")
_HEX = "[0-9a-f]"
_OURS = re.compile(rf"{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}")


class UsageError(Exception):
    """What was asked can't be done; one line says why, and the way out."""


class UnreadableError(Exception):
    """A file can't be read; a few words say why."""


class GoneError(UnreadableError):
    """Another process has dispatched what was in the file, and removed it."""

    def __init__(self) -> None:
        super().__init__("is gone")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is.

    Attributes:
        path: As the system is asked for it.
        shown: As the user is shown it: relative to the directory that was named.
        why: Why a directory can't be read, of which this is all that is known.
    """

    path: Path
    shown: str
    why: str = ""

    @property
    def name(self) -> str:
        """The dispatcher's."""
        folder = self.path if self.why else self.path.parent
        return folder.absolute().name

    @property
    def kind(self) -> str:
        """One of spool, dead, bad and new."""
        return "" if self.why else self.path.suffix[1:]


def find(given: str) -> list[Place]:
    """The files of a spool, of one dispatcher's directory in it, or one file.

    Raises:
        UsageError: there is no such directory, or it can't be read.
    """
    if not given or "\0" in given:
        raise UsageError(f"{given!r}: must be the path of a spool's directory")
    path = Path(given)
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            if path.suffix in _SUFFIXES:
                return [Place(path, path.name)]
            raise UsageError(
                f"{given}: is no directory and no file of a spool; name the directory "
                "that Bytes(spool=...) was given, or a directory or a file in it"
            )
        inside = sorted(each.name for each in path.iterdir())
    except FileNotFoundError:
        raise UsageError(
            f"{given}: there is no such directory; name the one that Bytes(spool=...) "
            "was given"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{given}: can't be read: {error.strerror}; run this as the user of the "
            "service"
        ) from None
    places = list(_ours(path, "", inside))
    for name in inside:
        folder = path / name
        try:
            if folder.is_dir():
                names = sorted(each.name for each in folder.iterdir())
                places += _ours(folder, f"{name}/", names)
        except FileNotFoundError:
            continue  # it was removed meanwhile
        except OSError as error:
            places.append(Place(folder, f"{name}/", _unreadable(error)))
    return places


def _ours(folder: Path, prefix: str, names: list[str]) -> Iterator[Place]:
    for name in names:
        path = folder / name
        if path.suffix in _SUFFIXES and _OURS.fullmatch(path.stem):
            yield Place(path, prefix + name)


def _unreadable(error: OSError) -> str:
    return f"can't be read: {error.strerror}"


@contextmanager
def opened(place: Place) -> Iterator[tuple[int, os.stat_result]]:
    """Open a file to read it, if it is a plain one of this user's.

    Raises:
        GoneError: it was there.
        UnreadableError: it isn't, or the system refuses.
    """
    if place.why:
        raise UnreadableError(place.why)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        before = place.path.lstat()
        if (why := _refuse(before)) is not None:
            raise UnreadableError(why)
        fd = os.open(place.path, flags)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise GoneError from None
        raise UnreadableError(_unreadable(error)) from None
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != (before.st_dev, before.st_ino):
            raise GoneError
        yield fd, found
    except OSError as error:
        raise UnreadableError(_unreadable(error)) from None
    finally:
        os.close(fd)


def _refuse(found: os.stat_result) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return "must be a regular file"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}: run this as that user"
    if found.st_nlink > 1:
        return "must be a file with one name"
    return None


@dataclass(slots=True)
class State:
    """What is known of a file.

    Attributes:
        place: Where it is.
        owner: Whether a process has it: alive, ended, or ? where that can't be found.
        entries: What is whole and not dispatched.
        damaged: How many entries more there were, as far as that can be known.
        letters: How many dead letters were not replayed.
        bytes: How large it is.
        made_at: When it was made, in seconds since 1970.
        changed_at: When it was written to, as far as the file system knows that.
        reason: Why it can't be read, or what is in it that stays.
        is_known: Whether it can be read.
    """

    place: Place
    owner: str = "?"
    entries: int | None = None
    damaged: int | None = None
    letters: int | None = None
    bytes: int | None = None
    made_at: float | None = None
    changed_at: float | None = None
    reason: str = ""
    is_known: bool = False

    @property
    def holder(self) -> str:
        """The owner as it is shown: letters and what was kept aside have none."""
        hides = self.owner == "ended" and self.place.kind in {"dead", "bad"}
        return "" if hides else self.owner

    @property
    def age(self) -> float | None:
        """Seconds since it was made, or else since it was written to."""
        at = self.made_at or self.changed_at
        return None if at is None else max(time.time() - at, 0.0)

    @property
    def idle(self) -> float | None:
        """Seconds since it was made or written to, whatever was later."""
        at = max(self.made_at or 0.0, self.changed_at or 0.0)
        return max(time.time() - at, 0.0) if at else None


def look(place: Place) -> State:
    """Find what can be known of a file.

    Raises:
        GoneError: it was there.
    """
    state = State(place)
    try:
        with opened(place) as (fd, found):
            state.bytes = found.st_size
            state.changed_at = found.st_mtime
            try:
                state.owner = "alive" if is_locked(place.path) else "ended"
            except OSError as error:  # it can only be read
                state.reason = f"can't be asked for its lock: {error.strerror}"
            _look_inside(state, fd, found.st_size)
    except GoneError:
        raise
    except UnreadableError as error:
        state.reason = str(error)
    return state


def look_at_all(places: list[Place]) -> Iterator[State]:
    """Find what can be known of each file that is still there."""
    for place in places:
        with suppress(GoneError):
            yield look(place)


def _look_inside(state: State, fd: int, size: int) -> None:
    kind = state.place.kind
    if kind == "new":
        state.reason = "is being made" if state.owner == "alive" else "never finished"
        return
    if holds_letters(state.place, fd):
        _look_at_letters(state)
        return
    header = header_of(state.place, fd, size)
    state.made_at = header.made
    reader = Reader(fd, size, header)
    at_once = reader.unsettled
    entries = poisoned = 0
    for lying in reader.read():
        entries += len(lying.entries)
        poisoned += len(lying.entries) if lying.attempts >= MOST_DEATHS else 0
    if state.owner == "alive" and reader.makes_sense:
        entries = at_once - reader.damaged  # others are dispatched meanwhile
    state.entries = entries
    state.damaged = reader.damaged if reader.makes_sense else None
    state.is_known = True
    words = [state.reason, damage_of(reader, size)]
    if kind == "bad" and not any(words):
        words = [_why_aside(fd, entries, poisoned)]
    state.reason = "; ".join(filter(None, words))


def damage_of(reader: Reader, size: int) -> str:
    """What is damaged in a file that was read; empty where nothing is."""
    damaged = reader.damaged
    words = []
    if size < reader.whole_size:
        words.append(f"cut to {size:,} of {reader.whole_size:,} B")
    elif not reader.makes_sense:
        words.append("damaged: its entries are looked for one by one")
    if damaged:
        words.append(f"{_entries_are(damaged)} damaged")
    return ", ".join(words)


def _entries_are(count: int) -> str:
    return "1 entry is" if count == 1 else f"{count:,} entries are"


def _why_aside(fd: int, entries: int, poisoned: int) -> str:
    """Why a file was kept aside in which no entry that is left is damaged."""
    try:
        unpack(os.pread(fd, FIXED_SIZE, 0))
    except DamagedError as error:
        return str(error)
    if poisoned:
        return f"{_entries_are(poisoned)} in batches whose processes died"
    return "" if entries else "what was intact in it is dispatched"


def _look_at_letters(state: State) -> None:
    with opened_letters(state.place) as file:
        state.made_at = file.header.made
        state.entries = state.letters = state.damaged = 0
        for letter in file.letters():
            state.entries += len(letter.sizes)
            state.letters += 1
            state.reason = letter.reason
        if damage := damage_in(file):
            state.damaged = None
            state.reason = damage
        state.is_known = True


def damage_in(file: DeadFile) -> str:
    """What is damaged in a file of letters; empty where nothing is."""
    if not file.damaged:
        return ""
    with suppress(OSError):  # it can only be read
        if is_locked(file.path):
            return ""  # a letter may be in the writing
    # What wrote one has ended, since or before.
    damaged = file.damaged
    return f"{damaged:,} B of its letters are damaged" if damaged else ""


def holds_letters(place: Place, fd: int) -> bool:
    """Whether an open file has dead letters: it says so, whatever its name does."""
    return place.kind == "dead" or os.pread(fd, len(_MAGIC), 0) == _MAGIC


@contextmanager
def opened_letters(place: Place) -> Iterator[DeadFile]:
    """Open a file of dead letters to read it.

    Raises:
        UnreadableError: it is damaged, of a newer version, or of an unknown layout.
    """
    try:
        with DeadFile(place.path, locked=False) as file:
            check_layout(file.header.kind)
            yield file
    except (DamagedError, NewerError, NotASpoolError) as error:
        raise UnreadableError(str(error)) from None


def check_layout(kind: int) -> None:
    """Check that entries are laid out as it is known here.

    Raises:
        UnreadableError: they are not.
    """
    if kind != BYTES:
        raise UnreadableError(f"its layout, {kind}, is not known here")


def header_of(place: Place, fd: int, size: int) -> Header:
    """The header of an open file that can be read here.

    Raises:
        UnreadableError: it is damaged, of a newer version, or of an unknown layout.
    """
    try:
        leniently = place.kind == "bad"
        header = read_header(fd, size, place.path.stem, leniently=leniently)
    except (DamagedError, NewerError) as error:
        raise UnreadableError(str(error)) from None
    check_layout(header.kind)
    return header
