"""Where a spool meets the collector, a waiter, a fork, and names that are no files."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recovering import MADE, Got, orphan, spooled, until
from ringdispatch import BackgroundDispatcher, Bytes
from ringdispatch._enqueue import EnqueueBase, install_enqueue
from ringdispatch._ring_files import RingFiles
from ringdispatch._spool_ring import SpoolRing
from spools import Files, adopted, needs_spools

pytestmark = needs_spools


@install_enqueue
class Enqueuer(EnqueueBase):
    def __init__(self, ring: SpoolRing) -> None:
        self._attach(ring, "drop_newest")


def ring_in(folder: Path, files: Files | None = None) -> SpoolRing:
    """A ring for 8 entries in a file of that folder."""
    made = Files(folder, 16, 512)
    return SpoolRing(8, 4, None, b"\n", 256, 256, made.another(0), files or made)


def test_a_batch_that_outlives_its_cleared_ring_is_settled(tmp_path: Path) -> None:
    gc.collect()
    ring = ring_in(tmp_path)
    enqueuer = Enqueuer(ring)
    for entry in (b"1", b"2"):
        assert enqueuer.enqueue(entry)
    batch = ring.take(4)
    assert ring.place is not None
    path = Path(ring.place)
    del enqueuer
    box: list[object] = [ring, batch]
    box.append(box)
    del ring, batch, box
    gc.collect()
    assert path.exists()
    assert adopted(tmp_path) is None  # failed, and nothing keeps letters here
    assert not path.exists()


COLLECTED = (
    "from ringdispatch import BackgroundDispatcher\n"
    + MADE
    + """
import gc
from pathlib import Path
from ringdispatch._spool import Spool
from ringdispatch._spool_recovered import take_recovered
layout = Bytes(spool={folder!r}, dead_letters=False)
ring = made(print, name="other", layout=layout)._batcher.ring
file = Spool(Path({folder!r}, "audit"), 1, b"\\n", print).adopt()
gc.collect()
box = [take_recovered(ring, file)]
box.append(box)
del box
gc.collect()
print(ring.snapshot(0.0)[-4:-2])
"""
)


def test_a_recovered_batch_in_a_cycle_is_collected(tmp_path: Path) -> None:
    orphan(tmp_path, b"1", b"2", b"3")
    ended = subprocess.run(
        [sys.executable, "-c", COLLECTED.format(folder=str(tmp_path))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "(0, 3)\n"


def test_a_waiter_is_served_when_a_slow_call_releases_the_file(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        got = Got()

        async def send(batch: Any) -> None:
            if batch[0] == b"slow":
                await gate.wait()
            await got(batch)

        sizes: dict[str, Any] = {"capacity": 4, "max_batch": 4, "max_in_flight": 2}
        dispatcher = spooled(send, tmp_path, **sizes)
        for first in (b"slow", b"fast"):
            for entry in (first, b"", b"", b""):
                assert dispatcher.enqueue(entry)
            await dispatcher.aflush(0.1)
        assert len(got.entries) == 4
        assert not dispatcher.enqueue(b"refused")
        waiter = asyncio.create_task(dispatcher.aenqueue(b"late", timeout=30.0))
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.wait_for(waiter, 10)
        assert await dispatcher.aclose()
        assert got.entries[-1] == b"late"

    asyncio.run(main())


def test_a_waiter_is_served_once_a_file_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        got = Got()
        dispatcher = spooled(got, tmp_path)
        assert await dispatcher.aclose()
        dispatcher._batcher.ring.close(reopen=True)  # its file is gone with the close
        made = RingFiles.another
        tried = asyncio.Event()

        def fails(*_: object) -> None:
            tried.set()

        monkeypatch.setattr(RingFiles, "another", fails)
        waiter = asyncio.create_task(dispatcher.aenqueue(b"late", timeout=30.0))
        await tried.wait()
        monkeypatch.setattr(RingFiles, "another", made)
        assert await asyncio.wait_for(waiter, 10)
        assert await dispatcher.aclose()
        assert got.entries == [b"late"]

    asyncio.run(main())


def test_a_close_while_a_file_is_made_leaves_none(tmp_path: Path) -> None:
    class Closing(Files):
        def another(self, position: int) -> Any:
            file = super().another(position)
            ring.close()
            ring.end_file()
            return file

        def end(self, file: Any) -> None:
            ended.append(file)
            if file is not None:
                self.discard(file)

    ended: list[Any] = []
    files = Closing(tmp_path, 16, 512)
    ring = ring_in(tmp_path, files)
    ring.close()
    ring.end_file()
    ring.close(reopen=True)
    assert not Enqueuer(ring).enqueue(b"1")
    assert ring.place is None
    assert list(tmp_path.iterdir()) == []
    assert ended[-1] is None  # the name, which was taken for it, is free


def test_a_child_that_closes_what_it_inherited_may_use_the_name(
    tmp_path: Path,
) -> None:
    inherited = spooled(print, tmp_path)
    assert inherited.enqueue(b"of the parent")
    pid = os.fork()
    if pid == 0:
        try:
            inherited.close()
            spooled(print, tmp_path)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert inherited._batcher.ring.place is not None
    assert Path(inherited._batcher.ring.place).exists()
    assert inherited.close()


def test_directories_named_as_files_stop_no_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "audit"
    (folder / "a.new").mkdir(parents=True)
    os.utime(folder / "a.new", (0, 0))
    (folder / "b.bad").mkdir()
    (folder / "b.spool").write_bytes(b"no spool" * 1000)
    (folder / "c.spool").mkdir()
    made: BackgroundDispatcher[Any] = BackgroundDispatcher(
        print, ms_delay=1, name="audit", layout=Bytes(spool=tmp_path)
    )
    assert made.close()
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.new",
        "b.bad",
        "b.spool",
        "c.spool",
    ]
    for name in ("a.new", "b.spool", "c.spool"):
        assert caplog.text.count(f"{folder / name} is left as it is") == 1


def test_recovery_goes_on_where_tasks_were_cancelled_and_the_loop_goes_on(
    tmp_path: Path,
) -> None:
    entries: list[bytes] = []

    async def send(batch: Any) -> None:
        entries.extend(batch)
        await asyncio.sleep(0.05)

    async def main() -> None:
        async with spooled(send, tmp_path) as dispatcher:
            mine = asyncio.all_tasks()
            assert dispatcher.enqueue(b"new")
            await until(lambda: entries)
            others = asyncio.all_tasks() - mine  # the calls in flight
            assert all(other.cancel() for other in others)
            await asyncio.gather(*others)
            path = orphan(tmp_path, b"left")
            async with asyncio.timeout(20):
                while path.exists():
                    assert dispatcher.enqueue(b"more")  # it looks where one is taken
                    await asyncio.sleep(0.05)

    asyncio.run(main())
    assert b"left" in entries


def test_recovery_goes_on_where_tasks_were_cancelled_twice(tmp_path: Path) -> None:
    """The second time that is the task, too, which gives the calls their time."""
    entries: list[bytes] = []
    may_end = asyncio.Event()

    async def send(batch: Any) -> None:
        entries.extend(batch)
        await may_end.wait()

    async def main() -> None:
        async with spooled(send, tmp_path) as dispatcher:
            mine = asyncio.all_tasks()
            assert dispatcher.enqueue(b"new")
            await until(lambda: entries)
            others = asyncio.all_tasks() - mine
            for _ in range(2):
                for other in others:
                    other.cancel()
                await asyncio.sleep(0.01)
                others = asyncio.all_tasks() - mine
            may_end.set()
            path = orphan(tmp_path, b"left")
            async with asyncio.timeout(20):
                while path.exists():
                    assert dispatcher.enqueue(b"more")
                    await asyncio.sleep(0.05)

    asyncio.run(main())
    assert b"left" in entries
