"""What a spool survives of its place: a full disk, a directory that is gone, a reboot.

The file systems are real ones, small, mounted for the test; that takes root.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from places import MIB, mounted
from recovering import MADE, Got, files, spooled, until
from ringdispatch import BackgroundDispatcher, Bytes, _spool
from spools import needs_spools
from subprocesses import run_snippet

pytestmark = needs_spools

PIECE = b"x" * 100_000

# A service whose sink is away: it accepts five large entries, and is killed.
KILLED = (
    MADE
    + """
async def send(batch):
    await asyncio.sleep(60)
layout = Bytes(spool={folder!r}, max_bytes=1 << 20)
dispatcher = made(send, layout=layout, dispatch_timeout=None, home="thread")
{then}
for number in range(5):
    assert dispatcher.enqueue(b"%d" % number + b"x" * 100_000)
eventually(lambda: dispatcher.statistics().in_flight)
os.kill(os.getpid(), signal.SIGKILL)
"""
)


def killed(folder: Path, then: str = "") -> None:
    run_snippet(KILLED.format(folder=str(folder), then=then), code=-9)


def made(folder: Path, function: Any = None) -> BackgroundDispatcher[Any]:
    layout = Bytes(spool=folder, max_bytes=MIB)
    return BackgroundDispatcher(
        function or Got(), ms_delay=1, name="audit", layout=layout
    )


def succeed(folder: Path) -> list[bytes]:
    got = Got()

    async def main() -> None:
        async with made(folder, got) as dispatcher:
            await until(lambda: dispatcher.statistics().recovered == 5)

    asyncio.run(main())
    assert files(folder) == []
    assert all(entry[1:] == PIECE for entry in got.entries)
    return [entry[:1] for entry in got.entries]


ALL = [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk_refuses_the_start_and_its_error_names_the_way_out(
    tmp_path: Path, kind: str
) -> None:
    with mounted(kind, 16 * MIB, tmp_path) as mount:
        filler = mount.fill()
        with pytest.raises(OSError, match=r"no room for .* spool replay") as raised:
            made(mount.path)
        assert raised.value.errno == errno.ENOSPC
        assert files(mount.path) == [filler.name]
        filler.unlink()
        dispatcher = made(mount.path)
        assert dispatcher.enqueue(b"entry")
        assert dispatcher.close()


@pytest.mark.parametrize("max_bytes", [16 * MIB, 2**31])
def test_max_bytes_beyond_the_room_of_the_disk_is_refused(
    tmp_path: Path, max_bytes: int
) -> None:  # C12
    with mounted("tmpfs", 16 * MIB, tmp_path) as mount:
        layout = Bytes(spool=mount.path, max_bytes=max_bytes)
        with pytest.raises(OSError, match=r"choose a smaller max_bytes or capacity"):
            BackgroundDispatcher(Got(), ms_delay=1, layout=layout, name="audit")
        assert files(mount.path) == []


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_that_others_fill_stops_no_service_and_loses_nothing(
    tmp_path: Path, kind: str
) -> None:  # C23
    fill = """
with open({place!r} + "/filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError as error:
        say(error.strerror)
"""
    with mounted(kind, 24 * MIB, tmp_path) as mount:
        killed(mount.path, fill.format(place=str(mount.path)))
        filler = mount.path / "filler"
        assert filler.stat().st_size > MIB
        # A successor has no room for its own file, and takes nothing of the other's.
        with pytest.raises(OSError, match="what ended processes have left there"):
            made(mount.path)
        filler.unlink()
        assert succeed(mount.path) == ALL


def test_what_lies_on_a_disk_is_there_after_it_was_mounted_again(
    tmp_path: Path,
) -> None:  # C23
    with mounted("ext4", 16 * MIB, tmp_path) as mount:
        killed(mount.path)
        mount.unmount()
        assert files(mount.path) == []
        mount.mount()
        assert succeed(mount.path) == ALL


def test_overlayfs_which_keeps_no_lock_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # C12
    with mounted("overlay", 16 * MIB, tmp_path) as mount:
        with pytest.raises(ValueError, match="is on overlayfs, as a container's"):
            made(mount.path)
        # One that is not known by its number is known by the lock.
        monkeypatch.setattr(_spool, "filesystem", lambda path: 0xEF53)
        with pytest.raises(
            OSError, match="its file system can't lock or map"
        ) as raised:
            made(mount.path)
        assert raised.value.errno == errno.ENOLCK
        assert files(mount.path) == []


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_directory_that_is_removed_is_reported_and_stops_nothing(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, got = tmp_path / "spool", Got()

    async def main() -> None:
        async with spooled(got, folder) as dispatcher:
            assert dispatcher.enqueue(b"before")
            assert await dispatcher.aflush()
            if how == "removed":
                shutil.rmtree(folder)
            else:
                folder.rename(tmp_path / "other")
            await until(lambda: dispatcher.enqueue(b"after") and caplog.records)
            assert await dispatcher.aflush()
            assert await dispatcher.aclose()
            assert dispatcher.statistics().left == 0
        async with dispatcher:  # another file, in a directory that is made again
            assert dispatcher.enqueue(b"again")
            (name,) = files(folder)
            assert await dispatcher.aflush()
            assert name.endswith(".spool")

    asyncio.run(main())
    assert {*got.entries} == {b"before", b"after", b"again"}
    (record,) = caplog.records
    assert record.levelno >= logging.WARNING
    assert f"{folder}/audit/" in record.getMessage()
    assert "is gone" in record.getMessage()
    assert files(folder) == []


def test_a_relative_directory_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A daemon changes its working directory once it is up."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    dispatcher = spooled(Got(), Path("spool"))
    assert dispatcher.enqueue(b"entry")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert dispatcher.close()
    assert files(tmp_path) == []
    with dispatcher:
        assert dispatcher.enqueue(b"another file")
        assert len(files(tmp_path / "spool")) == 1
    assert files(tmp_path) == []
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert caplog.messages == []
