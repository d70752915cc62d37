"""What waits after its process died in a call, how long, and what need not wait."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from loops import LOOPS, run_on
from recovering import Got, books, files, orphan, spooled, until
from ringdispatch import _recovery
from ringdispatch._batch import Batch
from ringdispatch._batcher import Batcher
from ringdispatch._spool_recovered import MOST_DEATHS
from spools import filled, left, made, needs_spools, spool_of, take

pytestmark = needs_spools


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("deaths", [2, 3, 4])
def test_after_the_pause_the_call_comes_without_a_new_entry(
    tmp_path: Path,
    loop_name: str,
    deaths: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(_recovery._PAUSES, deaths, 0.5)
    orphan(tmp_path, b"in flight", b"rest", taken=(1,))
    for _ in range(deaths - 1):
        die_in_a_call(tmp_path)
    got = Got()

    async def main() -> None:
        async with spooled(got, tmp_path) as dispatcher:
            await until(lambda: dispatcher.statistics().recovered == 2)

    run_on(loop_name, main())
    assert got.entries == [b"in flight", b"rest"]
    assert [info.attempts for info in got.infos] == [deaths + 1, 1]
    why = f"{deaths} processes have died in a call for the next batch of "
    assert len([line for line in caplog.messages if why in line]) == 1


def test_a_pause_goes_by_the_clock_of_the_dispatchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is ahead of the time once `SteppedClock` was used."""
    monkeypatch.setattr(Batcher, "now", staticmethod(lambda: time.monotonic() + 3600))
    monkeypatch.setitem(_recovery._PAUSES, 2, 0.1)
    orphan(tmp_path, b"in flight", b"rest", taken=(1,))
    die_in_a_call(tmp_path)

    async def main() -> None:
        async with spooled(Got(), tmp_path) as dispatcher:
            await until(lambda: dispatcher.statistics().recovered == 2)

    asyncio.run(main())


def test_a_process_that_dies_in_the_pause_has_made_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_recovery._PAUSES, 2, 3600.0)
    path = orphan(tmp_path, b"in flight", taken=(1,))
    die_in_a_call(tmp_path)
    got = Got()

    async def main() -> None:
        async with spooled(got, tmp_path) as dispatcher:
            for number in range(3):
                assert dispatcher.enqueue(b"%d" % number)
                assert await dispatcher.aflush()

    for _ in range(MOST_DEATHS):
        asyncio.run(main())
    assert b"in flight" not in got.entries
    assert attempts_in(path.parent) == 2


@pytest.mark.parametrize("quick", [0, 3])
def test_a_call_that_its_process_outlived_counts_no_more(
    tmp_path: Path, quick: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the timer is an earlier call's."""
    monkeypatch.setattr(_recovery, "_OUTLIVED_SECONDS", 0.05)
    entries = [*quick * [b"quick"], b"in flight", b"rest"]
    path = orphan(tmp_path, *entries, taken=(1,) * (quick + 1))
    (tmp_path / "copies").mkdir()

    async def attempts() -> int:
        """As the next process would find it, were this one killed now."""
        copy = tmp_path / "copies" / path.name
        copy.write_bytes(path.read_bytes())
        return attempts_in(tmp_path / "copies")

    async def send(batch: Any) -> None:
        if batch[0] == b"in flight":
            assert await attempts() == 2
            deadline = asyncio.get_running_loop().time() + 10
            while await attempts() == 2:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.01)
            assert await attempts() == 1
        elif batch[0] == b"quick":
            await asyncio.sleep(0.02)

    async def main() -> None:
        async with spooled(send, tmp_path) as dispatcher:
            await until(lambda: dispatcher.statistics().recovered == len(entries))

    asyncio.run(main())
    assert files(tmp_path / "audit") == []


def attempts_in(folder: Path) -> int:
    """How many calls count for the next batch that was left there."""
    file = spool_of(folder).adopt()
    assert file is not None
    try:
        batch = take(file)
        assert batch is not None
        return batch.attempts
    finally:
        left(file)


def die_in_a_call(folder: Path) -> None:
    """Take the next batch, and leave its file as a process does that is killed."""
    file = spool_of(folder / "audit").adopt()
    assert file is not None
    assert take(file, 1) is not None
    left(file)


def orphan_after(folder: Path, *deaths: int) -> Path:
    """A file with batches of one entry, in whose calls so many processes have died."""
    (folder / "audit").mkdir(exist_ok=True, mode=0o700)
    file = made(folder / "audit", cells=64, arena_bytes=4096)
    filled(file, [b"%d" % number for number in range(len(deaths))])
    for number, count in enumerate(deaths):
        assert take(file, 1) is not None
        file.keep(number, number + 1, count)
    return left(file)


@pytest.mark.parametrize("dead_letters", [True, False])
def test_a_batch_waits_behind_one_that_is_called_no_more(
    tmp_path: Path, dead_letters: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_recovery._PAUSES, 4, 3600.0)
    path = orphan_after(tmp_path, MOST_DEATHS, 4)
    got = Got()

    async def main() -> None:
        async with spooled(got, tmp_path, dead_letters=dead_letters) as dispatcher:
            if dead_letters:
                await until(lambda: dispatcher.statistics().kept == 1)
            for _ in range(3):
                assert dispatcher.enqueue(b"new")
                assert await dispatcher.aflush()

    asyncio.run(main())
    assert got.entries == [b"new"] * 3
    assert path.exists()


def test_other_files_wait_for_no_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_recovery._PAUSES, 4, 3600.0)
    paused = orphan_after(tmp_path, 4)
    others = [orphan(tmp_path, b"other %d" % number) for number in range(3)]
    # It is adopted first.
    first = paused.with_name(f"{'0' * 8}{paused.name[8:]}")
    paused.rename(first)
    got = Got()

    async def main() -> None:
        async with spooled(got, tmp_path) as dispatcher:
            await until(lambda: dispatcher.statistics().recovered == 3)
            assert first.exists()

    asyncio.run(main())
    assert sorted(got.entries) == [b"other 0", b"other 1", b"other 2"]
    assert not any(path.exists() for path in others)
    assert files(tmp_path) == [first.name]


def test_no_timer_keeps_the_loop_or_the_dispatcher(tmp_path: Path) -> None:
    orphan(tmp_path, b"0", b"1")

    async def send(batch: Any) -> None:
        await asyncio.sleep(0)

    async def main() -> weakref.ref[Any]:
        dispatcher = spooled(send, tmp_path)
        dispatcher.bind()
        await until(lambda: dispatcher.statistics().recovered == 2)
        return weakref.ref(dispatcher)

    loop = asyncio.new_event_loop()
    gone: list[weakref.ref[Any]] = [loop.run_until_complete(main()), weakref.ref(loop)]
    loop.close()
    del loop
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_a_recovered_batch_that_is_to_be_left_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its loop ends while the dispatcher lives on another."""
    orphan(tmp_path, b"0")
    taken: list[Batch] = []
    begun = _recovery.Recovery.take

    def take_and_note(self: Any, most: int, due: int) -> Any:
        batch = begun(self, most, due)
        taken.extend([batch] if batch is not None else [])
        return batch

    monkeypatch.setattr(_recovery.Recovery, "take", take_and_note)

    async def send(batch: Any) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        async with spooled(send, tmp_path) as dispatcher:
            await until(lambda: taken)
            taken[0].leave()
            assert taken[0].settle(True, 0.0)
            assert books(dispatcher) == (0, 0, 0, 0)

    asyncio.run(main())
    found = spool_of(tmp_path / "audit").adopt()
    assert found is not None
    assert take(found) == (0, 1, 0, [b"0"])
