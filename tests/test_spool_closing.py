"""What a close, or the end of the process, leaves of a spool, and what the log says."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from forking import each_fork, forked
from recovering import (
    MADE,
    Got,
    entries_of,
    files,
    letters_in,
    orphan,
    spooled,
    until,
)
from ringdispatch._letters import Letters
from ringdispatch._ring_files import RingFiles
from ringdispatch._spool_file import SpoolFile
from spools import needs_spools
from subprocesses import run_snippet

pytestmark = needs_spools

TIMED_OUT = "close timed out after 0.01 s: "


async def hang(batch: Any) -> None:
    await asyncio.sleep(60)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The log's lines, without the dispatcher's name."""
    return [message.partition(": ")[2] for message in caplog.messages]


# ---- the log says what is left, and where


@pytest.mark.parametrize("entries", [0, 3])
def test_a_close_that_timed_out_names_each_file_with_entries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, entries: int
) -> None:
    orphans = [orphan(tmp_path, *(b"%d" % n for n in range(9))) for _ in range(2)]

    async def main() -> None:
        async with spooled(hang, tmp_path, max_batch=2) as dispatcher:
            await until(lambda: dispatcher._batcher.calls)
            for number in range(entries):
                assert dispatcher.enqueue(b"new %d" % number)
            assert not await dispatcher.aclose(0.01)

    asyncio.run(main())
    own = {tmp_path / "audit" / name for name in files(tmp_path)} - {*orphans}
    assert len(own) == (entries > 0)
    lost = [f"0 entries in flight and 3 entries pending left in {path}" for path in own]
    lost.append(f"up to 9 entries of an ended process left in {min(orphans)}")
    lost.append(f"1 file of ended processes left in {tmp_path / 'audit'}")
    assert said(caplog) == [TIMED_OUT + "; ".join(lost)]


def test_a_close_that_timed_out_says_that_its_file_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with spooled(hang, tmp_path) as dispatcher:
            assert dispatcher.enqueue(b"entry")
            await until(lambda: dispatcher.statistics().in_flight)
            (path,) = (tmp_path / "audit").iterdir()
            path.unlink()
            assert not await dispatcher.aclose(0.01)
            (line,) = said(caplog)
            assert line == (
                f"{TIMED_OUT}1 entry in flight and 0 entries pending left in {path}, "
                "which another program has removed or moved"
            )

    asyncio.run(main())


@pytest.mark.parametrize("home", ["auto", "thread"])
def test_a_close_that_succeeds_says_what_it_leaves_of_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, home: str
) -> None:
    caplog.set_level(logging.INFO)
    orphans = [orphan(tmp_path, *(b"%d" % n for n in range(9))) for _ in range(3)]
    goes_on = threading.Event()
    calls: list[Any] = []

    def send(batch: Any) -> None:
        calls.append(batch)
        assert goes_on.wait(10)

    async def main() -> None:
        dispatcher = spooled(send, tmp_path, max_batch=2, home=home)
        for turn in range(2):  # opened again, it says so again
            goes_on.clear()
            async with dispatcher:
                assert dispatcher.enqueue(b"new")
                await until(lambda turn=turn: len(calls) > turn)
                closing = asyncio.ensure_future(dispatcher.aclose())
                await until(lambda: dispatcher.closed)
                goes_on.set()
                assert await closing
            assert len(files(tmp_path)) == 3
            # Two threads log: it may come before the line of what was adopted, or late.
            await until(lambda: any("left in" in each for each in said(caplog)))
            (line,) = (each for each in said(caplog) if "left in" in each)
            if turn == 0:
                count = 9 - dispatcher.statistics().recovered
                assert line == (
                    f"up to {count} entries of an ended process left in "
                    f"{min(orphans)}; "
                    f"2 files of ended processes left in {tmp_path / 'audit'}"
                )
            assert {each.levelno for each in caplog.records} == {logging.INFO}
            caplog.clear()
        assert await dispatcher.aclose()
        assert caplog.messages == []

    asyncio.run(main())


def test_a_close_says_nothing_of_files_that_processes_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    orphan(tmp_path, b"entry", name="other")
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "mine.spool").write_bytes(b"no spool" * 1000)

    async def main() -> None:
        dispatcher = spooled(Got(), tmp_path)
        caplog.clear()  # it has named that one
        async with dispatcher:
            assert dispatcher.enqueue(b"entry")

    asyncio.run(main())
    assert caplog.messages == []


# ---- dead letters that are still being written


@pytest.fixture
def may_write(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Until it is set, letters are in the making, as on a slow disk."""
    may_write = threading.Event()
    keep = Letters._keep

    def wait(letters: Letters, letter: Any) -> None:
        assert may_write.wait(20)
        keep(letters, letter)

    monkeypatch.setattr(Letters, "_keep", wait)
    yield may_write
    may_write.set()


@pytest.mark.parametrize("recovered", [False, True])
def test_a_batch_whose_letter_outlasts_a_close_is_dispatched_once(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    may_write: threading.Event,
    recovered: bool,
) -> None:
    if recovered:
        orphan(tmp_path, b"first")
    calls: list[list[bytes]] = []

    async def send(batch: Any) -> None:
        calls.append(batch[:])
        if batch[0] == b"first":
            raise ConnectionError

    async def main() -> None:
        dispatcher = spooled(send, tmp_path, max_in_flight=2)
        async with dispatcher:
            if not recovered:
                assert dispatcher.enqueue(b"first")
            seen = dispatcher.statistics
            await until(lambda: seen().failed + seen().recovered_failed)
            assert not await dispatcher.aclose(0.01)
            what = "dead letters of 1 entry still being written"
            assert said(caplog)[-1].startswith(TIMED_OUT + what)
        async with dispatcher:
            assert dispatcher.enqueue(b"second")
            await until(lambda: seen().dispatched == 1)
            may_write.set()
            await until(lambda: seen().kept == 1)
            assert seen().left == 0
            # What a look finds now, it takes.
            recovery: Any = dispatcher._batcher.recovery
            recovery._look_at = 0.0
            assert dispatcher.enqueue(b"third")
            assert await dispatcher.aflush()
            await until(lambda: not dispatcher._batcher.calls)

    asyncio.run(main())
    assert calls == [[b"first"], [b"second"], [b"third"]]
    (letter,) = letters_in(tmp_path)
    assert entries_of(letter) == [b"first"]
    assert [Path(name).suffix for name in files(tmp_path)] == [".dead"]


def test_one_that_a_close_cut_short_goes_on_in_a_file_of_its_own(
    tmp_path: Path, may_write: threading.Event
) -> None:
    async def send(batch: Any) -> None:
        if batch[0] == b"failing":
            raise ConnectionError
        await asyncio.sleep(60)

    async def main() -> None:
        dispatcher = spooled(send, tmp_path, max_batch=1, max_in_flight=2)
        async with dispatcher:
            assert dispatcher.enqueue(b"failing")
            assert dispatcher.enqueue(b"slow")
            await until(lambda: dispatcher.statistics().failed)
            assert not await dispatcher.aclose(0.01)
        before = files(tmp_path)
        dispatcher._batcher.ring.close(reopen=True)
        assert dispatcher.enqueue(b"slow")
        assert len(files(tmp_path)) == len(before) + 1
        assert dispatcher.statistics().left == 1
        may_write.set()
        assert not await dispatcher.aclose(0.01)

    asyncio.run(main())


# ---- the end of the process


@pytest.mark.parametrize("recovered", [False, True])
@pytest.mark.parametrize("how", ["stalled", "background"])
def test_what_exit_cuts_short_on_any_loop_is_left(
    tmp_path: Path, how: str, recovered: bool
) -> None:  # C16, C23
    if recovered:
        orphan(tmp_path, b"slow")
    where = "up to 1 entry of an ended process left in "
    where = where if recovered else "1 entry in flight and 0 entries pending left in "
    outcome = run_snippet(
        MADE.format(folder=str(tmp_path))
        + f"""
import atexit
from ringdispatch import _loop_end, _process
_process.END_SECONDS = 5.0
_loop_end.END_SECONDS = 0.1
logging.basicConfig(format="%(message)s")
begun = threading.Event()
async def send(batch):
    if batch[0] == b"slow":
        begun.set()
        await asyncio.sleep(60)
home = "thread" if {how!r} == "background" else "auto"
dispatcher = made(send, max_batch=1, home=home)
def first():
    if not {recovered}:
        assert dispatcher.enqueue(b"slow")
async def main():
    dispatcher.bind()
    first()
    while not begun.is_set():
        await asyncio.sleep(0.001)
    if not {recovered}:
        assert dispatcher.enqueue(b"quick")
if {how!r} == "background":
    first()
    if {recovered}:
        assert dispatcher.enqueue(b"quick")
    assert begun.wait(10)
else:
    loop = new_loop()
    loop.run_until_complete(main())  # and never closed, as some servers leave it
@atexit.register
def tell():
    seen = dispatcher.statistics()
    say(seen.failed, seen.kept, seen.left, seen.recovered_failed)
atexit.unregister(_process.at_exit)
atexit.register(_process.at_exit)  # before what tells
""",
        stderr=rf"ringdispatch\[audit\]: the process ended: {where}\S+",
    )
    assert outcome.lines == [f"0 0 {int(not recovered)} 0"]
    got = Got()

    async def succeed() -> None:
        async with spooled(got, tmp_path) as dispatcher:
            await until(lambda: dispatcher.statistics().recovered)

    asyncio.run(succeed())
    assert got.entries == [b"slow"]
    assert [info.attempts for info in got.infos] == [1]
    assert files(tmp_path) == []


# ---- pages


@pytest.mark.parametrize("bound", [False, True])
def test_the_pages_of_a_file_made_later_are_touched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: bool
) -> None:
    touched = note_touched(monkeypatch)

    dispatcher = spooled(Got(), tmp_path)

    def look(turn: int) -> None:
        assert len(touched) == turn + 1
        assert touched[-1] in [str(path) for path in (tmp_path / "audit").iterdir()]

    async def main() -> None:
        for turn in range(3):
            async with dispatcher:  # it has a home before there is a file
                for _ in range(2):
                    assert dispatcher.enqueue(b"entry")
                    assert await dispatcher.aflush()
                look(turn)

    if bound:
        asyncio.run(main())
        return
    for turn in range(3):
        with dispatcher:
            for _ in range(2):
                assert dispatcher.enqueue(b"entry")
                assert dispatcher.flush()
            look(turn)


def note_touched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    touched: list[str] = []
    populate = RingFiles.populate

    def note(self: Any, file: SpoolFile, workers: Any) -> None:
        touched.append(file.path)
        populate(self, file, workers)

    monkeypatch.setattr(RingFiles, "populate", note)
    return touched


@each_fork
def test_the_pages_of_a_childs_file_are_touched_where_it_has_a_home(
    tmp_path: Path, fork: str
) -> None:
    outcome = forked(
        MADE.format(folder=str(tmp_path)).replace("\n", "\n    ")
        + """
    from ringdispatch import _ring_files
    populate = _ring_files.RingFiles.populate
    def note(self, file, workers):
        say(name, os.path.exists(file.path))
        populate(self, file, workers)
    _ring_files.RingFiles.populate = note
    dispatcher = made(lambda batch: None)
    assert dispatcher.enqueue(b"entry")
    assert dispatcher.flush()
    def body():
        async def main():
            dispatcher.bind()
            await asyncio.sleep(0.01)  # its pump finds no file
            assert dispatcher.enqueue(b"entry")
            assert await dispatcher.aclose()
        asyncio.run(main())
    join(child(body))
    assert dispatcher.close()
    """,
        fork=fork,
    )
    assert outcome.lines == ["parent True", "child True"]


def test_a_close_ends_its_file_where_the_folder_cant_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the process has no descriptors left."""

    def refuse(self: Path, pattern: str) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def main() -> None:
        async with spooled(Got(), tmp_path) as dispatcher:
            assert dispatcher.enqueue(b"entry")
            assert await dispatcher.aflush()
            monkeypatch.setattr(Path, "glob", refuse)
            assert await dispatcher.aclose()
            monkeypatch.undo()

    asyncio.run(main())
    assert files(tmp_path) == []
