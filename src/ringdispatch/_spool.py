"""The directory of a spool: making files in it, and adopting what others left."""

import contextlib
import errno
import os
import time
import uuid
import weakref
from collections.abc import Callable, Container, Iterator
from pathlib import Path

from ._spool_file import NotASpoolError, SpoolFile
from ._spool_header import DamagedError, Header, NewerError, unpack
from ._spool_place import (
    allocate,
    filesystem,
    is_locked,
    lock,
    unlock,
    write_in_place,
)

# Numbers of statfs(2) (linux/magic.h): locks or mappings of these don't reach from one
# process to another, or a store may fail. A mapping of overlayfs is one of the file
# below, and keeps no lock of the file that was opened.
_REFUSED = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "SMB",
    0xFE534D42: "SMB",
    0x65735546: "FUSE",
    0x01021997: "9p",
    0x00C36400: "Ceph",
    0x794C7630: "overlayfs, as a container's own files are",
}
_WARNED = {0x2FC12FC1: "zfs", 0xCA451A4E: "bcachefs"}
_BTRFS = 0x9123683E

# Errors of making a file, and what they mean.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNABLE = {errno.ENOLCK, errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}

_UNFINISHED_SECONDS = 3600.0  # after which a file that is still being made is removed
_CHUNK = bytes(1 << 20)


def make_folder(directory: str | os.PathLike[str], name: str) -> Path:
    """Make `directory/name`, or refuse the place.

    Raises:
        ValueError: no directory can have the name, or the file system can't hold a
            spool.
        OSError: it can't be made, isn't a directory, or isn't ours to write.
    """
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise ValueError(f"name={name!r}: must be the name of a directory")
    folder = Path(directory) / name
    given = f"spool={os.fspath(directory)!r}"
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        kind = filesystem(folder)
    except OSError as error:
        why = f"{given}: must be a directory, there or to be made: {error.strerror}"
        raise OSError(error.errno, why, error.filename) from error
    if kind in _REFUSED:
        raise ValueError(
            f"{given}: is on {_REFUSED[kind]}: choose a directory on a local file "
            "system, or on tmpfs"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        why = f"{given}: must be ours to write: {os.strerror(errno.EACCES)}"
        raise PermissionError(errno.EACCES, why, str(folder))
    return folder


def warnings_of(folder: Path) -> Iterator[str]:
    """What an operator should know of the place."""
    if system := _WARNED.get(filesystem(folder)):
        yield f"{folder}: on {system} a full disk may end the process by SIGBUS"
    for place in (folder.parent, folder):
        mode = place.stat().st_mode
        if mode & 0o022 and not mode & 0o1000:
            yield f"{place}: others may write to it (mode {mode & 0o7777:04o})"


def _no_file() -> None:
    """Stand in for a reference to a file where there is none."""


class Spool:
    """The files of one name and layout: it makes them, adopts orphans, removes both.

    Args:
        folder: Where they are.
        kind: The layout's.
        separator: What follows each entry.
        report: Called with a line for the log, once per file that stays, is set aside
            or is gone.
    """

    def __init__(
        self, folder: Path, kind: int, separator: bytes, report: Callable[[str], object]
    ) -> None:
        self.folder = folder
        self._kind = kind
        self._separator = separator
        self._report = report
        self._reported: set[Path] = set()
        # The last that was made; its lock may end with its last reference.
        self._own: Callable[[], SpoolFile | None] = _no_file

    # ---- making

    def make(self, cells: int, arena_bytes: int, position: int = 0) -> SpoolFile:
        """Make a file for entries from `position` on: whole, locked, in its place.

        Raises:
            OSError: the disk is full, or what else the system says; nothing remains.
        """
        header = self.new_header(cells, arena_bytes)
        made = self.folder / f"{header.uuid}.new"
        try:
            _write_new(made, header)
            file = SpoolFile(made)
            _begin(file, header, position)
            _check_lock(made)
            file.path = str(made.with_suffix(".spool"))
            made.rename(file.path)
        except BaseException as error:
            made.unlink(missing_ok=True)
            if isinstance(error, FileNotFoundError):
                raise self._removed(error) from error
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise self._full(error, header.size) from error
            if isinstance(error, OSError) and error.errno in _UNABLE:
                raise self._unable(error) from error
            raise
        self._own = weakref.ref(file)
        return file

    def new_header(self, cells: int, arena_bytes: int) -> Header:
        """The header of a new file of this process."""
        return Header(
            uuid.uuid4(),
            cells,
            arena_bytes,
            self._kind,
            self._separator,
            int(time.time()),
        )

    def _full(self, error: OSError, size: int) -> OSError:
        """The error of a full disk, with the way out."""
        left = 0
        for path in self.folder.glob("*.spool"):
            with contextlib.suppress(OSError):  # it may be gone by now
                left += path.lstat().st_size
        return OSError(
            error.errno,
            f"no room for a file of {size:,} B; what ended processes have left there "
            f"takes up to {left:,} B: python -m ringdispatch spool replay needs no "
            "room; or choose a smaller max_bytes or capacity",
            str(self.folder),
        )

    def _removed(self, error: OSError) -> OSError:
        """The error of a file, or a folder, that went while the file was made."""
        why = "another program has removed it while it was made; try again"
        return FileNotFoundError(error.errno, why, error.filename)

    def _unable(self, error: OSError) -> OSError:
        """The error of a file system that can't hold a spool."""
        return OSError(
            error.errno,
            f"its file system can't lock or map a file ({error.strerror}): choose a "
            "directory on a local one, or on tmpfs",
            str(self.folder),
        )

    # ---- adopting

    def clean(self) -> None:
        """Remove files that hold nothing, and those that were never finished."""
        oldest = time.time() - _UNFINISHED_SECONDS
        for path in self.folder.glob("*.new"):
            try:
                if path.lstat().st_mtime < oldest and not is_locked(path):
                    path.unlink(missing_ok=True)
            except FileNotFoundError:
                continue  # it is whole by now
            except OSError as error:  # such as a directory
                self._report_once(path, error)
        for file in self._orphans():
            file.leave()

    def adopt(self, skipped: Container[str] = ()) -> SpoolFile | None:
        """Attach to a file that a process left, but these; None if there is none."""
        self._look_for_own()
        return next(self._orphans(skipped), None)

    def count_orphans(self, *, but: str | None = None) -> int:
        """How many files no process has, without that one and those reported."""
        count = 0
        with contextlib.suppress(OSError):  # the folder may be gone, or closed to us
            for path in self.folder.glob("*.spool"):
                if path in self._reported or str(path) == but:
                    continue
                with contextlib.suppress(OSError):  # so may be the file
                    count += not is_locked(path)
        return count

    def _look_for_own(self) -> None:
        """Report once that the own file was removed or moved by another."""
        own = self._own()
        if own is None or Path(own.path).exists():
            return
        # In use it is if it was neither left nor removed meanwhile, nor a parent's.
        if self._own() is own and own.fixed_header:
            self._report(
                f"{own.path} is gone, another program has removed or moved it: what "
                "this process accepts until it is restarted is lost if it is killed"
            )
        self._own = _no_file

    def _orphans(self, skipped: Container[str] = ()) -> Iterator[SpoolFile]:
        """Attach to each orphan with entries for us; remove those without."""
        for path in sorted(self.folder.glob("*.spool")):
            if str(path) in skipped:
                continue
            try:
                file = SpoolFile(path)
            except (BlockingIOError, FileNotFoundError):
                continue  # a process has it, or has just removed it
            except EOFError as error:
                self._set_aside(path, error)
                continue
            except (OSError, NotASpoolError) as error:
                self._report_once(path, error)
                continue
            if not self._begin_orphan(path, file):
                file.leave()
            elif file.is_done:
                self.remove(file)
            else:
                yield file

    def _begin_orphan(self, path: Path, file: SpoolFile) -> bool:
        """Read its header; False unless it is a file for this layout."""
        try:
            header = unpack(file.fixed_header)
        except DamagedError as error:
            self._set_aside(path, error)
            return False
        except NewerError as error:
            self._report_once(path, error)
            return False
        if (header.kind, header.separator) != (self._kind, self._separator):
            self._report_once(path, self._other_layout(header))
            return False
        _begin(file, header)
        return True

    def _other_layout(self, header: Header) -> str:
        """Why a file is not for us, and what is."""
        there, here = f"kind={header.kind}", f"kind={self._kind}"
        if there == here:
            there, here = (
                f"separator={each!r}" for each in (header.separator, self._separator)
            )
        return (
            f"it is of another layout, {there} there and {here} here; "
            "python -m ringdispatch spool replay dispatches it"
        )

    def _report_once(self, path: Path, why: object) -> None:
        if path not in self._reported:
            self._reported.add(path)
            self._report(f"{path} is left as it is: {why}")

    # ---- the end of a file

    def remove(self, file: SpoolFile) -> None:
        """End the use of a file in which all is settled; a damaged one is kept."""
        path = Path(file.path)
        if file.poisoned:
            why = f"{file.poisoned} of its entries are in batches whose processes died"
            self._set_aside(path, why)
        elif file.is_damaged:
            self._set_aside(path, "what was intact in it is dispatched")
        else:
            file.finish()
            if self._own() is file:
                self._own = _no_file
            path.unlink(missing_ok=True)
        file.leave()

    def _set_aside(self, path: Path, why: object) -> None:
        aside = path.with_suffix(".bad")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return  # its process has removed it
        except OSError as error:
            self._report_once(path, error)
        else:
            self._report(f"{path} is kept aside as {aside.name}: {why}")


def _begin(file: SpoolFile, header: Header, position: int | None = None) -> None:
    """Use the file as its header says; `position`: as a new one."""
    sizes = header.cells, header.arena_bytes, header.seed, len(header.separator)
    file.begin(*sizes, position)


def _check_lock(path: Path) -> None:
    """Check that the mapping keeps the lock, which not every stack of systems does."""
    if not is_locked(path):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path))


def _write_new(path: Path, header: Header) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        lock(fd)  # however long this takes, it is no file of an ended process
        if filesystem(path) == _BTRFS:
            write_in_place(fd)
        _reserve(fd, header.size)
        os.pwrite(fd, header.pack(), 0)
        unlock(fd)  # for the mapping
    finally:
        os.close(fd)


def _reserve(fd: int, size: int) -> None:
    """Take the file's blocks now: a store into a hole of a full disk is a SIGBUS."""
    while True:
        try:
            return allocate(fd, size)
        except InterruptedError:
            continue  # by a signal, whose handler has run
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
            break
    with os.fdopen(fd, "wb", closefd=False) as file:
        for at in range(0, size, len(_CHUNK)):
            file.write(_CHUNK[: size - at])
    return None
