"""Where a spool may lie, and what may run out there: disks, tmpfs, limits of memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from loops import eventually

CGROUPS = Path("/sys/fs/cgroup")
MIB = 1 << 20


@contextlib.contextmanager
def place(kind: str, tmp_path: Path) -> Iterator[Path]:
    """A folder on "disk" or "tmpfs"."""
    if kind == "disk":
        yield tmp_path
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm")
    folder = Path("/dev/shm") / f"ringdispatch-{tmp_path.name}-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Mount:
    """A small file system: "tmpfs", "overlay" on such a one, or "ext4" in a file."""

    def __init__(self, kind: str, size: int, tmp_path: Path) -> None:
        self.path = tmp_path / "mount"
        self.path.mkdir()
        self._what = ["-t", "tmpfs", "-o", f"size={size},mode=0700", "none"]
        self._below: Mount | None = None
        if kind == "overlay":
            (tmp_path / "below").mkdir()
            self._below = Mount("tmpfs", size, tmp_path / "below")
            folders = {
                name: self._below.path / name
                for name in ("lowerdir", "upperdir", "workdir")
            }
            for folder in folders.values():
                folder.mkdir()
            options = ",".join(f"{name}={path}" for name, path in folders.items())
            self._what = ["-t", "overlay", "-o", options, "none"]
        if kind == "ext4":
            image = tmp_path / "image"
            with image.open("wb") as file:
                file.truncate(size)
            _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
            self._what = ["-o", "loop", str(image)]
        self.mount()

    def mount(self) -> None:
        _run("mount", *self._what, str(self.path))

    def unmount(self, *options: str) -> None:
        _run("umount", *options, str(self.path))

    def remove(self) -> None:
        if self.path.is_mount():
            self.unmount("-l")
        if self._below is not None:
            self._below.remove()

    def fill(self) -> Path:
        """Leave no room for any other file."""
        filler = self.path / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        return filler


@contextlib.contextmanager
def mounted(kind: str, size: int, tmp_path: Path) -> Iterator[Mount]:
    try:
        mount = Mount(kind, size, tmp_path)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no {kind} can be mounted here: {error}")
    try:
        yield mount
    finally:
        mount.remove()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class MemoryLimit:
    """A control group whose processes may have so much memory together."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.folder.mkdir()
        is_first = (folder / "memory.limit_in_bytes").exists()  # version 1
        self._events = "memory.oom_control" if is_first else "memory.events"
        name = "memory.limit_in_bytes" if is_first else "memory.max"
        (folder / name).write_text(str(limit))

    @property
    def procs(self) -> Path:
        """What a process writes its id to, to join."""
        return self.folder / "cgroup.procs"

    @property
    def kills(self) -> int:
        """How many of them the kernel has killed for want of memory."""
        lines = (self.folder / self._events).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def remove(self) -> None:
        def is_removed() -> bool:
            with contextlib.suppress(OSError):  # the dead are still being buried
                self.folder.rmdir()
            return not self.folder.exists()

        eventually(is_removed)


@contextlib.contextmanager
def memory_limit(limit: int) -> Iterator[MemoryLimit]:
    try:
        group = MemoryLimit(_own_group() / f"ringdispatch-{os.getpid()}", limit)
    except (OSError, LookupError) as error:
        pytest.skip(f"no group with a limit of memory can be made here: {error}")
    try:
        yield group
    finally:
        group.remove()


def _own_group() -> Path:
    """The group below which this process may make one that counts memory."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups[controllers] = path.strip("/")
    for controllers, path in groups.items():
        if "memory" in controllers.split(","):
            return CGROUPS / "memory" / path
    # Of version 2: one that has processes can have no groups below it that count.
    group = CGROUPS / groups[""]
    for above in (group, group.parent):
        enabled = above / "cgroup.subtree_control"
        if enabled.exists() and "memory" in enabled.read_text().split():
            return above
    raise LookupError("none has the controller of memory")
