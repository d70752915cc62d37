"""Files of a spool: how they are made, whose they are, and when they are removed."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loops import eventually
from places import place
from racing import race
from ringdispatch import _spool
from ringdispatch._spool_file import NotASpoolError, SpoolFile
from ringdispatch._spool_header import unpack
from ringdispatch._spool_place import allocate, is_locked
from spools import (
    RELEASED_AT,
    adopted,
    filled,
    left,
    made,
    needs_spools,
    spool_of,
    take,
    take_all,
)

pytestmark = needs_spools

HELPERS = Path(__file__).parent / "helpers"


def child(program: str, folder: Path) -> subprocess.Popen[str]:
    """A process that owns a file with one entry, says so, and goes on."""
    beginning = f"""
import ctypes, os, subprocess, sys, time
sys.path.insert(0, {str(HELPERS)!r})
from pathlib import Path
from spools import filled, made
file = made(Path({str(folder)!r}))
filled(file, [b"kept"])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", beginning + program],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


@pytest.fixture(params=["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with place(request.param, tmp_path) as folder:
        yield folder


def test_a_file_is_made_whole_and_private(folder: Path) -> None:
    file = made(folder, 16, 12_345, b"\r\n")
    header = unpack(file.fixed_header)
    path = Path(file.path)
    assert [path] == list(folder.iterdir())
    assert path.suffix == ".spool"
    found = path.stat()
    assert found.st_size == header.size == file.size
    assert found.st_blocks * 512 >= header.size  # none is missing on a full disk
    assert found.st_mode & 0o777 == 0o600
    assert path.read_bytes().startswith(header.pack())
    assert (header.cells, header.arena_bytes, header.separator) == (16, 12_345, b"\r\n")


def test_a_locked_file_is_not_adopted(folder: Path) -> None:
    file = made(folder)
    filled(file, [b"entry"])
    assert is_locked(file.path)
    with pytest.raises(BlockingIOError):
        SpoolFile(file.path)
    assert adopted(folder) is None
    # What drops a POSIX lock: the owner opens and closes the file in another way.
    with Path(file.path).open("r+b") as opened:
        opened.read()
    assert is_locked(file.path)
    file.leave()
    assert not is_locked(file.path)
    following = adopted(folder)
    assert following is not None
    assert take_all(following) == [b"entry"]


def test_the_lock_ends_with_its_object(folder: Path) -> None:
    file = made(folder)
    filled(file, [b"entry"])
    path = file.path
    del file
    assert not is_locked(path)


LIVES_ON = "os.closerange(0, 3); time.sleep(5); os._exit(0)"
CHILDREN = {
    "none": "",
    "subprocess": "kept = subprocess.Popen(['sleep', '5'], stdout=subprocess.DEVNULL)",
    "fork": f"if os.fork() == 0: {LIVES_ON}",
    "fork in C": f"if ctypes.PyDLL(None).fork() == 0: {LIVES_ON}",
}


@pytest.mark.parametrize("children", CHILDREN)
def test_a_killed_process_leaves_an_orphan_whatever_children_live_on(
    folder: Path, children: str
) -> None:
    waiting = "print('ready', flush=True)\ntime.sleep(60)"
    process = child(f"{CHILDREN[children]}\n{waiting}", folder)
    assert adopted(folder) is None
    killed(process)
    found: list[SpoolFile | None] = []

    def is_adopted() -> bool:
        found.append(adopted(folder))
        return found[-1] is not None

    eventually(is_adopted, 4.0)
    file = found[-1]
    assert file is not None
    assert take_all(file) == [b"kept"]


def test_after_an_exec_the_file_is_an_orphan(folder: Path) -> None:
    again = "import time; print('ready', flush=True); time.sleep(60)"
    process = child(
        f"os.execv(sys.executable, [sys.executable, '-c', {again!r}])", folder
    )
    file = adopted(folder)
    assert file is not None
    assert take_all(file) == [b"kept"]
    killed(process)


@pytest.mark.parametrize("fork", ["python", "c"])
def test_a_forked_child_touches_nothing_of_its_parent(folder: Path, fork: str) -> None:
    file = made(folder)
    filled(file, [b"one", b"two"])
    batch = take(file, 1)
    assert batch is not None
    pid = os.fork() if fork == "python" else ctypes.PyDLL(None).fork()
    if pid == 0:
        file.settle(batch.start, batch.end)
        touched = file.append(b"\n") or file.take(1, 1) or file.fixed_header
        file.finish()
        file.leave()
        del file
        os._exit(1 if touched else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (file.released, file.tail) == (0, 2)
    file.settle(batch.start, batch.end)
    assert file.released == 1


def test_a_name_that_leads_elsewhere_by_now_is_not_attached(folder: Path) -> None:
    file = made(folder)
    path = left(file)
    other = made(folder)
    assert not is_locked(path)
    Path(other.path).replace(path)
    with pytest.raises(BlockingIOError):
        SpoolFile(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        SpoolFile(path)


def test_only_a_plain_file_of_our_own_is_attached(tmp_path: Path) -> None:
    path = left(made(tmp_path))
    (tmp_path / "symbolic").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "short").write_bytes(bytes(4095))
    for name, words in [("symbolic", "regular"), ("pipe", "regular")]:
        with pytest.raises(NotASpoolError, match=words):
            SpoolFile(tmp_path / name)
    with pytest.raises(EOFError, match="shorter"):
        SpoolFile(tmp_path / "short")
    (tmp_path / "hard").hardlink_to(path)
    with pytest.raises(NotASpoolError, match="one name"):
        SpoolFile(path)


@pytest.mark.skipif("os.geteuid() != 0", reason="only root can give files away")
def test_a_file_of_another_user_is_not_attached(tmp_path: Path) -> None:
    path = left(made(tmp_path))
    os.chown(path, 65534, -1)
    with pytest.raises(NotASpoolError, match="of user 0"):
        SpoolFile(path)


def test_a_settled_file_is_removed(folder: Path) -> None:
    file = made(folder)
    filled(file, [b"entry"])
    assert take_all(file) == [b"entry"]
    with Path(file.path).open("rb") as opened:
        spool_of(folder).remove(file)
        assert list(folder.iterdir()) == []
        # Another process that has opened it before finds nothing to dispatch.
        opened.seek(RELEASED_AT)
        assert struct.unpack("<QQ", opened.read(16)) == (1, ~1 & 2**64 - 1)


def test_what_was_left_with_nothing_in_it_is_removed(folder: Path) -> None:
    for find in (adopted, lambda folder: spool_of(folder).clean()):
        path = left(made(folder))
        assert find(folder) is None
        assert not path.exists()


def test_a_file_in_the_making_is_left_for_an_hour(tmp_path: Path) -> None:
    young, old = tmp_path / "young.new", tmp_path / "old.new"
    young.touch()
    old.touch()
    os.utime(old, (time.time() - 3700, time.time() - 3700))
    spool_of(tmp_path).clean()
    assert [path.name for path in tmp_path.iterdir()] == ["young.new"]


def test_a_file_that_a_process_still_makes_stays_however_old_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_still(fd: int, size: int) -> None:
        os.utime(fd, (0, 0))
        spool_of(folder).clean()
        allocate(fd, size)

    monkeypatch.setattr(_spool, "allocate", stand_still)
    path = left(made(folder))
    assert list(folder.iterdir()) == [path]


def test_a_file_that_is_removed_while_it_is_made_is_an_error_that_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(fd: int, size: int) -> None:
        for path in folder.iterdir():
            path.unlink()
        allocate(fd, size)

    monkeypatch.setattr(_spool, "allocate", lose)
    with pytest.raises(FileNotFoundError) as raised:
        made(folder)
    assert "another program has removed it while it was made" in str(raised.value)
    assert str(raised.value.filename).endswith(".new")


def test_a_full_disk_is_an_error_that_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = left(made(tmp_path))

    def allocate(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_spool, "allocate", allocate)
    with pytest.raises(
        OSError, match=r"4,608 B; .* up to 4,608 B: .* replay"
    ) as raised:
        made(tmp_path)
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(tmp_path)
    assert list(tmp_path.iterdir()) == [orphan]


def test_where_nothing_reserves_blocks_zeros_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(fd: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(_spool, "allocate", allocate)
    file = made(tmp_path, cells=2, arena_bytes=(1 << 20) + 12_345)
    found = Path(file.path).stat()
    assert found.st_size == file.size == 4096 + 64 + (1 << 20) + 12_345
    assert found.st_blocks * 512 >= file.size


def test_btrfs_is_asked_to_write_in_place_before_it_has_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setattr(_spool, "filesystem", lambda path: 0x9123683E)
    monkeypatch.setattr(
        _spool, "write_in_place", lambda fd: sizes.append(os.fstat(fd).st_size)
    )
    made(tmp_path)
    assert sizes == [0]


def test_a_limit_of_the_size_of_files_is_an_error(tmp_path: Path) -> None:
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(HELPERS)!r})
from pathlib import Path
from spools import made
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    made(Path({str(tmp_path)!r}), arena_bytes=1 << 21)
except OSError as error:
    print(error.errno, "no room for a file of" in str(error))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(errno.EFBIG), "True"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["NFS", "SMB", "FUSE", "9p", "Ceph"])
def test_network_file_systems_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    number = next(number for number, name in _spool._REFUSED.items() if name == kind)
    monkeypatch.setattr(_spool, "filesystem", lambda path: number)
    with pytest.raises(ValueError, match=f"is on {kind}: choose") as raised:
        _spool.make_folder(tmp_path, "name")
    assert str(tmp_path) in str(raised.value)


def test_the_folder_is_private_and_named(tmp_path: Path) -> None:
    folder = _spool.make_folder(tmp_path / "new" / "place", "audit")
    assert folder == tmp_path / "new" / "place" / "audit"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert _spool.make_folder(tmp_path / "new" / "place", "audit") == folder
    for name in ["", ".", "..", "a/b", "/etc", "a\0b"]:
        with pytest.raises(ValueError, match="name="):
            _spool.make_folder(tmp_path, name)
    (tmp_path / "file").touch()
    for given in [(tmp_path, "file"), (tmp_path / "file", "name")]:
        with pytest.raises(FileExistsError, match="file"):
            _spool.make_folder(*given)


def test_an_open_parent_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _spool.make_folder(tmp_path, "audit")
    assert list(_spool.warnings_of(folder)) == []
    tmp_path.chmod(0o777)
    (warning,) = _spool.warnings_of(folder)
    assert "0777" in warning
    tmp_path.chmod(0o1777)
    assert list(_spool.warnings_of(folder)) == []
    monkeypatch.setattr(_spool, "filesystem", lambda path: 0x2FC12FC1)
    (warning,) = _spool.warnings_of(folder)
    assert "zfs" in warning


def test_the_pages_of_a_file_are_touched_and_it_can_be_left_meanwhile(
    folder: Path,
) -> None:
    def resident(file: SpoolFile) -> int:
        """Bytes of the mapping that a store would find mapped."""
        text = Path("/proc/self/smaps").read_text()
        _, _, rest = text.partition(file.path + "\n")
        return int(rest.partition("Rss:")[2].split()[0]) * 1024

    file = made(folder, 16, 4 << 20)
    filled(file, [b"entry"])
    assert resident(file) < 1 << 20
    if not file.populate():
        pytest.skip("this kernel is older than 5.14")
    assert resident(file) >= 4 << 20
    assert take_all(file) == [b"entry"]
    file.leave()
    assert not file.populate()
    others = [made(folder, 16, 8 << 20) for _ in range(20)]
    race(
        lambda: [other.populate() for other in others],
        lambda: [other.populate() for other in reversed(others)],
        lambda: [other.leave() for other in others],
    )
    assert not any(is_locked(other.path) for other in others)
    assert not any(
        other.path in Path("/proc/self/maps").read_text() for other in others
    )
