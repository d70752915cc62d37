"""C23: a batch whose dispatch failed is in a dead letter before it is released."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from loops import eventually
from recovering import Got, books, files, letters, orphan, spooled, until
from ringdispatch import BackgroundDispatcher, Bytes, current_batch
from ringdispatch._dead_folder import DeadFolder
from ringdispatch._spool_file import SpoolFile
from ringdispatch._spool_recovered import MOST_DEATHS
from spools import left, needs_spools, spool_of, take, take_all

pytestmark = needs_spools


def kept(dispatcher: Any) -> tuple[int, int]:
    seen = dispatcher.statistics()
    return seen.kept, seen.kept_dropped


class Fails:
    """An async dispatch function that raises, and notes the ids it was called with."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def __call__(self, batch: Any) -> None:
        self.note()

    def note(self) -> None:
        info = current_batch()
        assert info is not None
        self.ids.append(info.id)
        raise ConnectionError("refused")


class FailsInThread(Fails):
    def __call__(self, batch: Any) -> None:  # type: ignore[override]
        self.note()


@pytest.mark.parametrize("kind", [Fails, FailsInThread])
@pytest.mark.parametrize("max_in_flight", [1, 4])
def test_a_batch_that_failed_is_a_letter_when_a_flush_returns(
    tmp_path: Path, kind: type[Fails], max_in_flight: int
) -> None:  # C23
    send = kind()
    before = time.time()

    async def main() -> None:
        async with spooled(
            send, tmp_path, max_in_flight=max_in_flight, max_batch=2
        ) as dispatcher:
            for number in range(5):
                assert dispatcher.enqueue(b"%d" % number)
            assert await dispatcher.aflush()
            assert kept(dispatcher) == (5, 0)
            assert dispatcher.statistics().failed == 5
            assert len(letters(tmp_path)) == 3
            assert dispatcher.enqueue(b"last")

    asyncio.run(main())
    found = sorted(letters(tmp_path), key=lambda letter: letter.first)
    assert {letter.id for letter in found} == set(send.ids)
    assert len(send.ids) == 4
    assert b"".join(letter.payload for letter in found) == b"0\n1\n2\n3\n4\nlast\n"
    assert [letter.sizes for letter in found] == [[1, 1], [1, 1], [1], [4]]
    for letter in found:
        assert letter.reason == "ConnectionError('refused')"
        assert (letter.attempts, letter.recovered) == (1, False)
        assert before <= letter.time <= time.time()
    assert all(name.endswith(".dead") for name in files(tmp_path))


def test_a_timeout_is_a_letter_while_the_call_goes_on(tmp_path: Path) -> None:
    goes_on = threading.Event()

    def send(batch: Any) -> None:
        goes_on.wait(30)

    async def main() -> None:
        async with spooled(send, tmp_path, dispatch_timeout=0.05) as dispatcher:
            assert dispatcher.enqueue(b"entry")
            assert await dispatcher.aflush(timeout=20)
            assert [letter.payload for letter in letters(tmp_path)] == [b"entry\n"]
            goes_on.set()

    asyncio.run(main())
    assert letters(tmp_path)[0].reason.startswith("TimeoutError")


class Held:
    """Holds the writing of letters until `goes_on` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.goes_on = threading.Event()
        write = DeadFolder.write

        def wait(letters: DeadFolder, letter: Any) -> int:
            self.begun.set()
            assert self.goes_on.wait(30)
            return write(letters, letter)

        monkeypatch.setattr(DeadFolder, "write", wait)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


def test_a_call_keeps_its_slot_and_its_room_until_its_letter_is_on_file(
    tmp_path: Path, held: Held
) -> None:  # C6, C7
    send = Fails()

    async def main() -> None:
        async with spooled(send, tmp_path) as dispatcher:
            assert dispatcher.enqueue(b"first")
            await until(held.begun.is_set)
            assert dispatcher.enqueue(b"second")
            assert not await dispatcher.aflush(timeout=0.05)
            assert len(send.ids) == 1
            assert dispatcher._batcher.ring.busy_slots == 1
            assert dispatcher.statistics().failed == 1  # in the books at once
            held.goes_on.set()
            assert await dispatcher.aflush(timeout=20)
            assert len(send.ids) == 2

    asyncio.run(main())
    assert len(letters(tmp_path)) == 2


def test_a_close_waits_for_a_letter_and_one_that_gives_up_leaves_the_batch(
    tmp_path: Path, held: Held
) -> None:  # C15
    async def main() -> None:
        dispatcher = spooled(Fails(), tmp_path)
        assert dispatcher.enqueue(b"entry")
        await until(held.begun.is_set)
        assert not await dispatcher.aclose(0.05)
        # The process could end here: its file has the batch still.
        assert [name for name in files(tmp_path) if name.endswith(".spool")]
        held.goes_on.set()
        await until(lambda: not dispatcher._batcher.calls)

    asyncio.run(main())
    assert [letter.payload for letter in letters(tmp_path)] == [b"entry\n"]
    assert len(files(tmp_path)) == 1


def test_a_loop_that_ends_while_a_letter_is_written_frees_the_call(
    tmp_path: Path, held: Held
) -> None:  # C16
    dispatcher = spooled(Fails(), tmp_path)

    async def main() -> None:
        assert dispatcher.enqueue(b"entry")
        await until(held.begun.is_set)
        threading.Timer(0.05, held.goes_on.set).start()

    asyncio.run(main())  # it gives the letter time
    assert dispatcher.close()
    assert kept(dispatcher) == (1, 0)
    assert len(letters(tmp_path)) == 1
    assert not dispatcher._batcher.calls


def test_a_letter_that_ends_after_its_loop_was_closed_frees_the_call(
    tmp_path: Path, held: Held
) -> None:
    dispatcher = spooled(Fails(), tmp_path)
    loop = asyncio.new_event_loop()

    async def main() -> None:
        assert dispatcher.enqueue(b"entry")
        await until(held.begun.is_set)

    loop.run_until_complete(main())
    loop.close()
    held.goes_on.set()
    assert dispatcher.flush(timeout=20)
    assert dispatcher.close()
    assert kept(dispatcher) == (1, 0)
    assert len(letters(tmp_path)) == 1


@pytest.mark.parametrize("max_in_flight", [1, 4])
def test_a_recovered_batch_that_fails_is_a_letter(
    tmp_path: Path, max_in_flight: int
) -> None:
    path = orphan(tmp_path, b"0", b"1", b"2", taken=(2,))
    send = Fails()

    async def main() -> None:
        async with spooled(
            send, tmp_path, max_in_flight=max_in_flight, max_batch=2
        ) as dispatcher:
            await until(lambda: not path.exists())
            assert kept(dispatcher) == (3, 0)
            assert books(dispatcher) == (0, 0, 0, 3)

    asyncio.run(main())
    found = letters(tmp_path)
    assert [letter.payload for letter in found] == [b"0\n1\n", b"2\n"]
    assert [letter.id for letter in found] == send.ids
    assert [letter.recovered for letter in found] == [True, True]
    assert [letter.attempts for letter in found] == [2, 1]


def test_a_batch_that_kills_becomes_a_letter_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = orphan(tmp_path, b"poison", b"fine")
    for deaths in range(MOST_DEATHS):
        file = spool_of(tmp_path / "audit").adopt()
        assert file is not None
        assert take(file, 1) == (0, 1, deaths, [b"poison"])
        left(file)
    got = Got()
    errors: list[BaseException] = []

    async def main() -> None:
        async with spooled(
            got, tmp_path, on_error=lambda error, batch: errors.append(error)
        ) as dispatcher:
            await until(lambda: not path.exists())
            assert books(dispatcher) == (0, 0, 1, 1)

    asyncio.run(main())
    assert got.entries == [b"fine"]
    (letter,) = letters(tmp_path)
    assert (letter.payload, letter.attempts) == (b"poison\n", MOST_DEATHS)
    assert "its process died five times" in letter.reason
    assert "its process died five times" in caplog.text
    assert len(errors) == 1


KILLED = """
import os, signal
from ringdispatch import BackgroundDispatcher, Bytes, current_batch, _ring_files
from ringdispatch._dead_folder import DeadFolder
write = DeadFolder.write
def then_die(letters, letter):
    write(letters, letter)
    os.kill(os.getpid(), signal.SIGKILL)
DeadFolder.write = then_die
def send(batch):
    print(current_batch().id, flush=True)
    raise ConnectionError
dispatcher = BackgroundDispatcher(
    send, name="audit", ms_delay=1, layout=Bytes(spool={folder!r})
)
dispatcher.enqueue(b"entry")
dispatcher.flush()
"""


def test_killed_between_the_letter_and_its_release_both_have_one_id(
    tmp_path: Path,
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(folder=str(tmp_path))],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    got = Got()

    async def main() -> None:
        async with spooled(got, tmp_path) as dispatcher:
            await until(lambda: dispatcher.statistics().recovered == 1)

    asyncio.run(main())
    (letter,) = letters(tmp_path)
    assert [letter.id] == [info.id for info in got.infos] == killed.stdout.split()
    assert got.entries == [b"entry"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small tmpfs")
def test_on_a_full_disk_the_batch_is_failed_and_said_to_be_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "none", tmp_path], check=True
    )
    try:

        async def main() -> None:
            layout = Bytes(spool=tmp_path, max_bytes=64 << 10)
            async with BackgroundDispatcher(
                Fails(), name="audit", ms_delay=1, capacity=64, layout=layout
            ) as dispatcher:
                room = os.statvfs(tmp_path)
                full = tmp_path / "full"
                full.write_bytes(bytes(room.f_bavail * room.f_bsize))
                for _ in range(3):
                    assert dispatcher.enqueue(b"entry")
                    assert await dispatcher.aflush()
                assert kept(dispatcher) == (0, 0)
                full.unlink()
                assert dispatcher.enqueue(b"later")
                assert await dispatcher.aflush()
                assert kept(dispatcher) == (1, 0)
                assert dispatcher.statistics().failed == 4

        asyncio.run(main())
        assert [letter.payload for letter in letters(tmp_path)] == [b"later\n"]
        assert [name.rpartition(".")[2] for name in files(tmp_path)] == ["dead"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    lost = [r for r in caplog.records if "no dead letter can be written" in r.message]
    assert [record.levelno for record in lost] == [logging.ERROR]  # one a period


def test_where_the_directory_is_gone_the_batch_is_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with spooled(Fails(), tmp_path) as dispatcher:
            for path in (tmp_path / "audit").iterdir():
                path.unlink()
            (tmp_path / "audit").rmdir()
            assert dispatcher.enqueue(b"entry")
            assert await dispatcher.aflush()
            assert kept(dispatcher) == (0, 0)

    asyncio.run(main())
    assert "no dead letter can be written: [Errno 2]" in caplog.text


def test_what_fails_for_want_of_memory_stays_in_the_spool(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_memory(letters: DeadFolder, letter: Any) -> int:
        raise MemoryError

    async def main() -> None:
        dispatcher = spooled(Fails(), tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(DeadFolder, "write", no_memory)
            assert dispatcher.enqueue(b"entry")
            await until(lambda: dispatcher.statistics().failed == 1)
            await until(lambda: not dispatcher._batcher.calls)
        assert dispatcher._batcher.ring.busy_slots == 0
        assert kept(dispatcher) == (0, 0)
        assert await dispatcher.aflush()  # it is reported
        assert await dispatcher.aclose()

    asyncio.run(main())
    message = "no dead letter was written: the batch stays in the spool"
    (logged,) = (record for record in caplog.records if message in record.message)
    assert logged.exc_info is not None
    assert logged.exc_info[0] is MemoryError
    for record in caplog.records:
        if record.exc_info:
            traceback.clear_frames(record.exc_info[2])  # they have the batch
    found: list[SpoolFile | None] = []

    def adopts() -> SpoolFile | None:
        gc.collect()  # tracebacks refer to the batch, and its thread a moment longer
        found.append(spool_of(tmp_path / "audit").adopt())
        return found[-1]

    eventually(adopts)
    assert found[-1] is not None
    assert take_all(found[-1]) == [b"entry"]
