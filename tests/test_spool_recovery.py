"""What a process left in a spool goes out in the next one, with the same ids."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from loops import eventually
from recovering import (
    Got,
    books,
    entries_of,
    files,
    letters_in,
    orphan,
    spooled,
    until,
)
from ringdispatch import current_batch
from ringdispatch._spool_recovered import MOST_DEATHS, ProcessDiedError
from spools import filled, left, made, needs_spools, spool_of, take

pytestmark = needs_spools


@pytest.mark.parametrize("max_in_flight", [1, 4])
def test_what_was_left_goes_out_with_its_ends_and_ids(
    tmp_path: Path, max_in_flight: int, caplog: pytest.LogCaptureFixture
) -> None:  # C23
    caplog.set_level(logging.INFO)
    path = orphan(tmp_path, *(b"%d" % n for n in range(10)), taken=(3, 2))
    got = Got()

    async def main() -> None:
        async with spooled(
            got, tmp_path, max_batch=4, max_in_flight=max_in_flight
        ) as dispatcher:  # nothing is enqueued
            await until(lambda: dispatcher.statistics().recovered == 10)
            await until(lambda: not path.exists())
            assert books(dispatcher) == (0, 0, 10, 0)
            seen = dispatcher.statistics()
            assert (seen.batches, seen.dispatched_batches) == (0, 0)

    asyncio.run(main())
    # Those that were taken have the same ends; the others are as large as may be.
    assert [len(batch) for batch in got.batches] == [3, 2, 4, 1]
    assert got.entries == [b"%d" % n for n in range(10)]
    uuid = path.stem
    assert [(i.id, i.start, i.count, i.attempts) for i in got.infos] == [
        (f"{uuid}-0-3", 0, 3, 2),
        (f"{uuid}-3-2", 3, 2, 2),
        (f"{uuid}-5-4", 5, 4, 1),
        (f"{uuid}-9-1", 9, 1, 1),
    ]
    assert all(info.recovered for info in got.infos)
    assert files(tmp_path) == []
    (message,) = caplog.messages
    assert message.endswith(f"an ended process has left up to 10 entries in {path}")


def test_several_files_and_a_worker_thread(tmp_path: Path) -> None:
    for number in range(3):
        orphan(tmp_path, b"%d" % number, b"%d more" % number)
    got: list[bytes] = []
    infos = []

    def send(batch: Any) -> None:
        infos.append(current_batch())
        got.extend(batch)

    with spooled(send, tmp_path, home="thread") as dispatcher:
        assert dispatcher.enqueue(b"new")
        eventually(lambda: dispatcher.statistics().recovered == 6)
        assert dispatcher.flush()
        assert books(dispatcher) == (1, 1, 6, 0)
    assert sorted(got) == sorted(
        [b"new"] + [b"%d" % n for n in range(3)] + [b"%d more" % n for n in range(3)]
    )
    assert len({info.id for info in infos if info is not None}) == 4
    assert files(tmp_path) == []


def test_recovered_and_new_batches_take_turns(tmp_path: Path) -> None:
    orphan(tmp_path, *(b"old %d" % n for n in range(6)))
    got = Got()

    async def main() -> None:
        dispatcher = spooled(got, tmp_path, max_batch=2)
        for number in range(6):
            assert dispatcher.enqueue(b"new %d" % number)
        async with dispatcher:
            await until(lambda: len(got.entries) == 12)

    asyncio.run(main())
    assert [info.recovered for info in got.infos] == [True, False] * 3
    for which in (b"old", b"new"):
        mine = [entry for entry in got.entries if entry.startswith(which)]
        assert mine == [b"%b %d" % (which, n) for n in range(6)]


def test_a_recovered_batch_that_fails_is_reported_and_settled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    orphan(tmp_path, b"0", b"1")
    errors: list[tuple[BaseException, list[bytes]]] = []

    async def send(batch: Any) -> None:
        raise ConnectionError

    async def main() -> None:
        async with spooled(
            send,
            tmp_path,
            on_error=lambda error, batch: errors.append((error, batch[:])),
        ) as dispatcher:
            await until(lambda: dispatcher.statistics().recovered_failed == 2)
            assert dispatcher.statistics().failed_batches == 0

    asyncio.run(main())
    assert [batch for _, batch in errors] == [[b"0", b"1"]]
    assert "dispatch failed (2 entries)" in caplog.text
    (letter,) = letters_in(tmp_path)
    assert (letter.recovered, letter.first, letter.attempts) == (True, 0, 1)
    assert letter.reason == "ConnectionError()"
    assert entries_of(letter) == [b"0", b"1"]
    assert len(files(tmp_path)) == 1


def poisoned(folder: Path) -> Path:
    """A file with a batch in whose calls five processes died, and another one."""
    path = orphan(folder, b"good", b"poison", b"fine", taken=(1,))
    for deaths in range(MOST_DEATHS):
        file = spool_of(folder / "audit").adopt()
        assert file is not None
        if deaths == 0:
            batch = take(file, 1)
            assert batch is not None
            file.settle(batch.start, batch.end)
        assert take(file, 1) == (1, 2, deaths, [b"poison"])
        left(file)
    return path


def test_a_batch_that_kills_becomes_a_letter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # C23
    path = poisoned(tmp_path)
    got = Got()
    errors: list[tuple[BaseException, list[bytes]]] = []

    async def main() -> None:
        async with spooled(
            got,
            tmp_path,
            on_error=lambda error, batch: errors.append((error, batch[:])),
        ) as dispatcher:
            await until(lambda: not path.exists())
            seen = dispatcher.statistics()
            assert (seen.recovered, seen.recovered_failed, seen.kept) == (1, 1, 1)

    asyncio.run(main())
    assert got.entries == [b"fine"]
    ((error, batch),) = errors
    assert isinstance(error, ProcessDiedError)
    assert batch == [b"poison"]
    assert "dispatch failed (1 entry)" in caplog.text
    (letter,) = letters_in(tmp_path)
    assert "its process died five times" in letter.reason
    assert (letter.id, letter.attempts) == (f"{path.stem}-1-1", MOST_DEATHS)
    assert entries_of(letter) == [b"poison"]


def test_a_batch_that_kills_is_not_called_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = poisoned(tmp_path)
    got = Got()

    async def main() -> None:
        async with spooled(got, tmp_path, dead_letters=False) as dispatcher:
            await until(lambda: dispatcher.statistics().recovered == 1)
            await until(lambda: not path.exists())

    asyncio.run(main())
    assert got.entries == [b"fine"]
    assert "1 of its entries are in batches whose processes died" in caplog.text
    assert files(tmp_path) == [f"{path.stem}.bad"]
    (tmp_path / "audit" / f"{path.stem}.bad").rename(path)
    kept = spool_of(tmp_path / "audit").adopt()
    assert kept is not None
    assert take(kept) == (1, 2, MOST_DEATHS, [b"poison"])
    assert take(kept) is None


def test_a_file_of_another_layout_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "audit").mkdir()
    other = made(tmp_path / "audit", separator=b"\0")
    filled(other, [b"entry"], b"\0")
    path = left(other)
    got = Got()

    async def main() -> None:
        async with spooled(got, tmp_path) as dispatcher:
            assert dispatcher.enqueue(b"new")
            assert await dispatcher.aflush()

    asyncio.run(main())
    assert got.entries == [b"new"]
    assert files(tmp_path) == [path.name]
    (message,) = [each for each in caplog.messages if "another layout" in each]
    assert message.endswith(
        f"{path} is left as it is: it is of another layout, separator=b'\\x00' there "
        "and separator=b'\\n' here; python -m ringdispatch spool replay dispatches it"
    )


def test_an_idle_process_looks_no_more_and_a_window_looks_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = Got()

    async def main() -> None:
        async with spooled(got, tmp_path) as dispatcher:
            engine: Any = dispatcher
            recovery = engine._batcher.recovery
            now = engine._batcher.now()
            monkeypatch.setattr(recovery, "_now", lambda: now)
            assert dispatcher.enqueue(b"new")
            assert await dispatcher.aflush()
            path = orphan(tmp_path, b"late")
            assert dispatcher.enqueue(b"sooner")
            assert await dispatcher.aflush()
            assert got.entries == [b"new", b"sooner"]
            monkeypatch.setattr(recovery, "_now", lambda: now + 1.1)
            await asyncio.sleep(0.02)
            assert path.exists()  # idle
            assert dispatcher.enqueue(b"later")
            await until(lambda: dispatcher.statistics().recovered == 1)
            await until(lambda: not path.exists())

    asyncio.run(main())
    assert sorted(got.entries) == [b"late", b"later", b"new", b"sooner"]


def test_no_memory_for_a_recovered_batch_takes_nothing_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    orphan(tmp_path, b"old")
    got = Got()
    failures = []

    def fails(*given: Any) -> None:
        failures.append(given)
        raise MemoryError("none")

    async def main() -> None:
        with monkeypatch.context() as patched:
            patched.setattr("ringdispatch._recovery.take_recovered", fails)
            patched.setattr("ringdispatch._recovery._LOOK_SECONDS", 60.0)
            dispatcher = spooled(got, tmp_path)
            dispatcher.bind()
            await until(lambda: failures)
            assert dispatcher.enqueue(b"new")
            assert await dispatcher.aflush()
        assert len(failures) == 1  # it is tried once a second
        recovery = dispatcher._engine.recovery
        assert recovery is not None
        recovery._again_at = 0.0
        assert dispatcher.enqueue(b"newer")
        await until(lambda: dispatcher.statistics().recovered == 1)
        assert await dispatcher.aclose()

    asyncio.run(main())
    assert "no memory for a batch" in caplog.text
    assert sorted(got.entries) == [b"new", b"newer", b"old"]
    assert files(tmp_path) == []


def test_of_a_damaged_file_what_is_intact_goes_out_and_the_file_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = orphan(tmp_path, b"first", b"second", b"third")
    data = path.read_bytes()
    assert data.count(b"second") == 1
    path.write_bytes(data.replace(b"second", b"secomd"))
    got = Got()

    async def main() -> None:
        async with spooled(got, tmp_path) as dispatcher:
            await until(lambda: not path.exists())
            assert books(dispatcher) == (0, 0, 2, 0)

    asyncio.run(main())
    assert got.entries == [b"first", b"third"]
    assert files(tmp_path) == [f"{path.stem}.bad"]
    assert "what was intact in it is dispatched" in caplog.text
