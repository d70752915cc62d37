"""Batches that failed are kept as dead letters before their room is released."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from forking import each_fork, forked
from loops import eventually
from recovering import MADE, Got, entries_of, files, letters_in, spooled, until
from ringdispatch import _letters, current_batch
from ringdispatch._atomic import WorkerThreads
from ringdispatch._dead_letters import DeadFile
from ringdispatch._letters import Letters
from spools import needs_spools, spool_of, take_all
from subprocesses import run_snippet

pytestmark = needs_spools

Numbered = [b"%d" % number for number in range(8)]


async def refuse(batch: Any) -> None:
    raise ConnectionError("refused")


def blocking_refuse(batch: Any) -> None:
    raise ConnectionError("refused")


async def hang(batch: Any) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("max_in_flight", [1, 4])
@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (refuse, "ConnectionError('refused')"),
        (blocking_refuse, "ConnectionError('refused')"),
        (hang, "TimeoutError('not done within dispatch_timeout=0.05 s')"),
    ],
)
def test_a_batch_that_failed_is_kept(
    tmp_path: Path, function: Any, reason: str, max_in_flight: int
) -> None:  # C23
    ids = set()

    async def send(batch: Any) -> None:
        info = current_batch()
        assert info is not None
        ids.add(info.id)
        await function(batch)

    async def main() -> None:
        async with spooled(
            function if function is blocking_refuse else send,
            tmp_path,
            max_in_flight=max_in_flight,
            max_batch=2,
            dispatch_timeout=0.05 if function is hang else 30,
        ) as dispatcher:
            for entry in Numbered:
                assert dispatcher.enqueue(entry)
            assert await dispatcher.aflush()
            found = letters_in(tmp_path)  # a flush has waited for them
            assert sorted(e for each in found for e in entries_of(each)) == Numbered
            seen = dispatcher.statistics()
            assert (seen.failed, seen.failed_batches, seen.kept) == (8, 4, 8)
            assert (seen.left, seen.kept_dropped) == (0, 0)

    asyncio.run(main())
    found = letters_in(tmp_path)
    assert {letter.reason for letter in found} == {reason}
    assert sorted((each.first, each.count, each.attempts) for each in found) == [
        (first, 2, 1) for first in range(0, 8, 2)
    ]
    assert not any(each.recovered for each in found)
    if function is not blocking_refuse:
        assert ids == {each.id for each in found}
    assert all(name.endswith(".dead") for name in files(tmp_path))
    assert len(files(tmp_path)) <= max_in_flight


def test_one_file_takes_the_letters_of_one_after_the_other(tmp_path: Path) -> None:
    with spooled(refuse, tmp_path, max_batch=1) as dispatcher:
        for entry in Numbered:
            assert dispatcher.enqueue(entry)
    (name,) = files(tmp_path)
    assert [entries_of(letter) for letter in letters_in(tmp_path)] == [
        [entry] for entry in Numbered
    ]
    with DeadFile(tmp_path / "audit" / name) as file:  # nothing has it locked
        assert file.header.separator == b"\n"
    with spooled(refuse, tmp_path) as dispatcher:
        with DeadFile(tmp_path / "audit" / name):  # a replay goes on meanwhile
            assert dispatcher.enqueue(b"more")
            assert dispatcher.flush()
        assert len(list((tmp_path / "audit").glob("*.dead"))) == 2


def test_without_letters_none_is_written(tmp_path: Path) -> None:
    with spooled(refuse, tmp_path, dead_letters=False) as dispatcher:
        assert dispatcher.enqueue(b"entry")
        assert dispatcher.flush()
        assert (dispatcher.statistics().failed, dispatcher.statistics().kept) == (1, 0)
    assert files(tmp_path) == []


def test_a_letter_that_cannot_be_written_is_no_more_than_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_letters, "begin", full)
    with spooled(refuse, tmp_path, max_batch=1) as dispatcher:
        for entry in Numbered:
            assert dispatcher.enqueue(entry)
        assert dispatcher.flush()
        assert (dispatcher.statistics().failed, dispatcher.statistics().kept) == (8, 0)
        errors = [r.message for r in caplog.records if r.levelno == logging.ERROR]
        (message,) = errors
        assert "a failed batch is lost, no dead letter can be written" in message
        assert "No space left" in message
        monkeypatch.undo()
        assert dispatcher.enqueue(b"more")
    assert [entries_of(letter) for letter in letters_in(tmp_path)] == [[b"more"]]
    assert len(files(tmp_path)) == 1


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    with spooled(refuse, tmp_path) as dispatcher:
        shutil.rmtree(tmp_path / "audit")
        assert dispatcher.enqueue(b"entry")
        assert dispatcher.flush()
        assert dispatcher.statistics().kept == 1
    assert [entries_of(letter) for letter in letters_in(tmp_path)] == [[b"entry"]]


def test_a_letter_is_written_where_no_thread_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with spooled(refuse, tmp_path) as dispatcher:
            dispatcher._batcher.workers = NoThreads()
            for number in range(3):
                assert dispatcher.enqueue(b"%d" % number)
                assert await dispatcher.aflush()
            assert dispatcher.statistics().kept == 3

    asyncio.run(main())
    assert len(letters_in(tmp_path)) == 3
    assert len(files(tmp_path)) == 1


class NoThreads:
    """As WorkerThreads when the interpreter ends."""

    def run(self, job: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    end = staticmethod(WorkerThreads().end)


def test_the_oldest_letters_make_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_letters, "MOST_BYTES", 100_000)
    folder = tmp_path / "audit"
    folder.mkdir()
    (folder / "old.bad").write_bytes(b"x" * 60_000)
    os.utime(folder / "old.bad", (1, 1))
    with spooled(refuse, tmp_path, max_batch=1) as dispatcher:
        for number in range(2):
            assert dispatcher.enqueue(b"%d" % number * 20_000)
            assert dispatcher.flush()
        assert not (folder / "old.bad").exists()
        assert dispatcher.statistics().kept_dropped == 0
        (path,) = folder.glob("*.dead")
        with DeadFile(path):  # another begins, and this one is not removed
            assert dispatcher.enqueue(b"2" * 90_000)
            assert dispatcher.flush()
        assert dispatcher.statistics().kept_dropped == 0
        assert dispatcher.enqueue(b"3")
        assert dispatcher.flush()
        seen = dispatcher.statistics()
        assert (seen.kept, seen.kept_dropped) == (4, 2)
        assert not path.exists()
    assert [letter.first for letter in letters_in(tmp_path)] == [2, 3]
    (message,) = [m for m in caplog.messages if "the oldest are removed" in m]
    assert "old.bad" in message


def test_killed_before_the_mark_the_batch_comes_again_with_its_id(
    tmp_path: Path,
) -> None:  # C23
    ran = run_snippet(
        MADE.format(folder=str(tmp_path))
        + """
from ringdispatch import _letters, _ring_files, current_batch
class Killed(_letters.Letters):
    def _keep(self, letter):
        super()._keep(letter)
        os.kill(os.getpid(), signal.SIGKILL)
async def send(batch):
    say(current_batch().id)
    raise ConnectionError
_ring_files.Letters = Killed
logging.getLogger("ringdispatch").setLevel(logging.CRITICAL)
async def main():
    dispatcher = made(send)
    dispatcher.enqueue(b"entry")
    await asyncio.sleep(60)
asyncio.run(main())
""",
        code=-signal.SIGKILL,
    )
    (letter,) = letters_in(tmp_path)
    assert ran.lines == [letter.id]
    got = Got()

    async def main() -> None:
        async with spooled(got, tmp_path) as dispatcher:
            await until(lambda: dispatcher.statistics().recovered == 1)

    asyncio.run(main())
    assert [info.id for info in got.infos] == [letter.id]
    assert got.entries == entries_of(letter) == [b"entry"]


def test_an_exit_waits_for_the_letters(tmp_path: Path) -> None:
    run_snippet(
        MADE.format(folder=str(tmp_path))
        + """
async def refuse(batch):
    raise ConnectionError
dispatcher = made(refuse, ms_delay=60_000, max_batch=1)
logging.getLogger("ringdispatch").setLevel(logging.CRITICAL)
for number in range(4):
    assert dispatcher.enqueue(b"%d" % number)
"""
    )
    found = letters_in(tmp_path)
    assert [entries_of(letter) for letter in found] == [[b"%d" % n] for n in range(4)]
    assert {Path(name).suffix for name in files(tmp_path)} == {".dead"}


def test_a_disk_that_is_full_costs_letters_only(tmp_path: Path) -> None:
    ran = run_snippet(
        MADE.format(folder=str(tmp_path))
        + """
import resource
async def refuse(batch):
    raise ConnectionError
logging.getLogger("ringdispatch").setLevel(logging.CRITICAL)
layout = Bytes(spool=folder, max_bytes=100_000)
dispatcher = BackgroundDispatcher(refuse, ms_delay=1, layout=layout, name="audit")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for size in (20_000, 20_000, 20_000, 60_000, 1_000):
    assert dispatcher.enqueue(bytes(size))
    assert dispatcher.flush()
    say(dispatcher.statistics().failed, dispatcher.statistics().kept)
assert dispatcher.close()
""".replace("folder,", f"{str(tmp_path)!r},")
    )
    assert ran.lines == ["1 1", "2 2", "3 2", "4 2", "5 3"]
    assert [letter.sizes for letter in letters_in(tmp_path)] == [
        [20_000],
        [20_000],
        [1_000],
    ]
    assert {Path(name).suffix for name in files(tmp_path)} == {".dead"}


@each_fork
def test_a_child_forked_while_a_letter_is_written(tmp_path: Path, fork: str) -> None:
    outcome = forked(
        MADE.format(folder=str(tmp_path)).replace("\n", "\n    ")
        + """
    from ringdispatch import _letters
    begun, may_write = threading.Event(), threading.Event()
    keep = _letters.Letters._keep
    def wait(self, letter):
        if name == "parent":
            begun.set()
            assert may_write.wait(10)
        keep(self, letter)
    _letters.Letters._keep = wait
    async def refuse(batch):
        raise ConnectionError
    logging.getLogger("ringdispatch").setLevel(logging.CRITICAL)
    dispatcher = made(refuse, home="thread")
    assert dispatcher.enqueue(b"parent")
    assert begun.wait(10)
    def body():
        assert dispatcher.statistics().kept == 0
        assert dispatcher.enqueue(b"child")
        assert dispatcher.close()
        assert dispatcher.statistics().kept == 1
        say(name, "kept")
    pid = child(body)
    join(pid)
    may_write.set()
    assert dispatcher.close()
    assert dispatcher.statistics().kept == 1
    """,
        fork,
    )
    assert outcome.lines == ["child kept"]
    entries = sorted(e for each in letters_in(tmp_path) for e in entries_of(each))
    assert entries == [b"child", b"parent"]
    assert {Path(name).suffix for name in files(tmp_path)} == {".dead"}


def test_what_fails_for_want_of_memory_stays_in_the_spool(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_memory(letters: Letters, letter: Any) -> None:
        raise MemoryError

    async def main() -> None:
        async with spooled(refuse, tmp_path) as dispatcher:
            with monkeypatch.context() as patch:
                patch.setattr(Letters, "_keep", no_memory)
                assert dispatcher.enqueue(b"entry")
                await until(lambda: dispatcher.statistics().failed == 1)
                await until(lambda: not dispatcher._batcher.calls)
            assert dispatcher._batcher.ring.busy_slots == 0
            assert dispatcher.statistics().kept == 0

    asyncio.run(main())
    assert (
        "left in the spool, no dead letter can be written: MemoryError" in caplog.text
    )
    found: list[Any] = []

    def adopts() -> Any:
        gc.collect()  # tracebacks refer to the batch, and its thread a moment longer
        found.append(spool_of(tmp_path / "audit").adopt())
        return found[-1]

    eventually(adopts)
    assert take_all(found[-1]) == [b"entry"]
