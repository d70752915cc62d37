"""What a process left in a spool goes out in the next one, with the same ids."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from forking import each_fork, forked
from loops import eventually
from ringdispatch import BackgroundDispatcher, Bytes, current_batch
from ringdispatch._spool_recovered import MOST_DEATHS
from spools import filled, left, made, needs_spools, spool_of, take
from subprocesses import run_snippet

if TYPE_CHECKING:
    from ringdispatch import BatchInfo

pytestmark = needs_spools

MADE = """
from ringdispatch import Bytes
def made(function, **options):
    layout = Bytes(spool={folder!r})
    options = dict(name="audit", ms_delay=1, layout=layout) | options
    return BackgroundDispatcher(function, **options)
"""


def spooled(function: Any, folder: Path, **options: Any) -> BackgroundDispatcher[Any]:
    given: dict[str, Any] = {"ms_delay": 1, "name": "audit", **options}
    return BackgroundDispatcher(function, layout=Bytes(spool=folder), **given)


def orphan(folder: Path, *entries: bytes, taken: tuple[int, ...] = ()) -> Path:
    """A file as a killed process leaves it, which had taken batches of these sizes."""
    (folder / "audit").mkdir(exist_ok=True, mode=0o700)
    file = made(folder / "audit", cells=64, arena_bytes=4096)
    filled(file, list(entries))
    for count in taken:
        batch = take(file, count)
        assert batch is not None
        assert len(batch.entries) == count
    return left(file)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


class Got:
    """A dispatch function that keeps what it was called with."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.infos: list[BatchInfo] = []

    async def __call__(self, batch: Any) -> None:
        info = current_batch()
        assert info is not None
        self.infos.append(info)
        self.batches.append(batch[:])

    @property
    def entries(self) -> list[bytes]:
        return [entry for batch in self.batches for entry in batch]


def books(dispatcher: BackgroundDispatcher[Any]) -> tuple[int, ...]:
    seen = dispatcher.statistics()
    return seen.accepted, seen.dispatched, seen.recovered, seen.recovered_failed


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110, nothing notifies
            await asyncio.sleep(0.001)


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
    assert message.endswith(
        f"an ended process has left up to 10 entries, dispatched now: {path}"
    )


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


def test_a_flush_waits_for_no_recovered_batch_but_a_close_does(tmp_path: Path) -> None:
    orphan(tmp_path, b"old")

    async def main() -> None:
        goes_on = asyncio.Event()
        begun = asyncio.Event()

        async def send(batch: Any) -> None:
            if batch[0] == b"old":
                begun.set()
                await goes_on.wait()

        dispatcher = spooled(send, tmp_path, max_in_flight=2)
        async with dispatcher:
            assert dispatcher.enqueue(b"new")
            await begun.wait()
            assert await dispatcher.aflush()
            assert books(dispatcher) == (1, 1, 0, 0)
            closing = asyncio.create_task(dispatcher.aclose())
            await asyncio.sleep(0.02)
            assert not closing.done()
            goes_on.set()
            assert await closing
            assert books(dispatcher) == (1, 1, 1, 0)

    asyncio.run(main())
    assert files(tmp_path) == []


def test_what_a_close_cuts_short_is_left_again_and_counts_no_attempt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = orphan(tmp_path, b"0", b"1", b"2", taken=(2,))
    seen: list[tuple[str, int]] = []

    async def send(batch: Any) -> None:
        info = current_batch()
        assert info is not None
        seen.append((info.id, info.attempts))
        await asyncio.sleep(60)

    async def main() -> None:
        dispatcher = spooled(send, tmp_path)
        for turn in range(MOST_DEATHS + 1):  # it may be opened again
            async with dispatcher:
                await until(lambda turn=turn: len(seen) == turn + 1)
                assert not await dispatcher.aclose(0.01)
            assert files(tmp_path) == [path.name]
        assert books(dispatcher) == (0, 0, 0, 0)

    asyncio.run(main())
    assert seen == [(f"{path.stem}-0-2", 2)] * (MOST_DEATHS + 1)
    assert caplog.messages[0].endswith("; 2 entries of another process, too")
    found = spool_of(tmp_path / "audit").adopt()
    assert found is not None
    assert take(found) == (0, 2, 1, [b"0", b"1"])
    assert take(found) == (2, 3, 0, [b"2"])


def test_what_the_end_of_a_loop_cuts_short_is_left_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan(tmp_path, b"old")
    calls: list[bool] = []

    async def send(batch: Any) -> None:
        calls.append(True)
        if len(calls) == 1:
            await asyncio.sleep(60)

    dispatcher = spooled(send, tmp_path)

    async def main() -> None:
        dispatcher.bind()
        await until(lambda: calls)

    monkeypatch.setattr("ringdispatch._loop_end.END_SECONDS", 0.05, raising=False)
    asyncio.run(main())
    assert books(dispatcher) == (0, 0, 0, 0)
    asyncio.run(again(dispatcher))
    assert books(dispatcher) == (0, 0, 1, 0)
    assert files(tmp_path) == []


async def again(dispatcher: BackgroundDispatcher[Any]) -> None:
    async with dispatcher:
        await until(lambda: dispatcher.statistics().recovered == 1)


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
    assert files(tmp_path) == []


def test_a_batch_that_kills_is_not_called_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = orphan(tmp_path, b"good", b"poison", b"fine", taken=(1,))
    for deaths in range(MOST_DEATHS):
        file = spool_of(tmp_path / "audit").adopt()
        assert file is not None
        if deaths == 0:
            batch = take(file, 1)
            assert batch is not None
            file.settle(batch.start, batch.end)
        assert take(file, 1) == (1, 2, deaths, [b"poison"])
        left(file)
    got = Got()

    async def main() -> None:
        async with spooled(got, tmp_path) as dispatcher:
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
    assert caplog.text.count("it is of another layout") == 1


def test_an_idle_process_looks_no_more_and_a_window_looks_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = Got()

    async def main() -> None:
        async with spooled(got, tmp_path) as dispatcher:
            engine: Any = dispatcher
            recovery = engine._batcher.recovery
            assert dispatcher.enqueue(b"new")
            assert await dispatcher.aflush()
            path = orphan(tmp_path, b"late")
            assert dispatcher.enqueue(b"sooner")
            assert await dispatcher.aflush()
            assert got.entries == [b"new", b"sooner"]
            now = engine._batcher.now()
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


def test_a_batch_has_an_id_in_every_layout() -> None:
    infos: list[Any] = []
    outside: list[Any] = [current_batch()]
    done = threading.Event()

    def send(batch: list[int]) -> None:
        infos.extend([current_batch(), current_batch()])
        done.set()

    dispatcher = BackgroundDispatcher(send, ms_delay=1, max_batch=2)
    for number in range(4):
        assert dispatcher.enqueue(number)
    assert dispatcher.close()
    assert outside == [None]
    assert [(i.start, i.count, i.recovered, i.attempts) for i in infos[::2]] == [
        (0, 2, False, 1),
        (2, 2, False, 1),
    ]
    assert infos[0] == infos[1]
    uuids = {info.id.removesuffix(f"-{info.start}-{info.count}") for info in infos}
    assert len(uuids) == 1
    assert len(uuids.pop()) == 36


def test_an_id_in_a_spool_is_that_of_the_file(tmp_path: Path) -> None:
    got = Got()

    async def main() -> None:
        dispatcher = spooled(got, tmp_path)
        for _ in range(2):
            async with dispatcher:
                assert dispatcher.enqueue(b"entry")
                (name,) = files(tmp_path)
                assert await dispatcher.aflush()
                assert got.infos[-1].id.startswith(name.removesuffix(".spool") + "-")

    asyncio.run(main())
    assert [(info.start, info.count) for info in got.infos] == [(0, 1), (1, 1)]
    assert len({info.id[:36] for info in got.infos}) == 2


@each_fork
def test_a_child_takes_nothing_of_what_its_parent_recovers(
    tmp_path: Path, fork: str
) -> None:  # C17
    orphan(tmp_path, b"0", b"1", b"2")
    outcome = forked(
        MADE.format(folder=str(tmp_path)).replace("\n", "\n    ")
        + """
    begun, waits = threading.Event(), []
    async def send(batch):
        say(name, batch[:])
        if batch[0] == b"0":
            waits.extend([asyncio.get_running_loop(), asyncio.Event()])
            begun.set()
            await waits[1].wait()
    dispatcher = made(send, max_batch=1, home="thread")
    assert dispatcher.enqueue(b"new")
    assert begun.wait(10)
    def body():
        assert dispatcher.enqueue(b"mine")
        assert dispatcher.close()
        assert dispatcher.statistics().recovered == 0
        books(dispatcher)
    join(child(body))
    waits[0].call_soon_threadsafe(waits[1].set)
    eventually(lambda: dispatcher.statistics().recovered == 3)
    assert dispatcher.close()
    books(dispatcher)
    """,
        fork=fork,
    )
    assert outcome.lines[:3] == [
        "parent [b'0']",
        "child [b'mine']",
        "accepted=1 dispatched=1",
    ]
    assert sorted(outcome.lines[3:-1]) == [
        "parent [b'1']",
        "parent [b'2']",
        "parent [b'new']",
    ]
    assert outcome.lines[-1] == "accepted=1 dispatched=1"
    assert files(tmp_path) == []


@pytest.mark.parametrize("how", ["killed", "exit"])
def test_what_ends_with_the_process_that_recovers_goes_to_the_next(
    tmp_path: Path, how: str
) -> None:  # C23
    path = orphan(tmp_path, *(b"%d" % n for n in range(6)), taken=(2,))
    outcome = run_snippet(
        MADE.format(folder=str(tmp_path))
        + f"""
from ringdispatch import _process
_process.END_SECONDS = 0.2
logging.basicConfig(format="%(message)s")
begun = threading.Event()
async def send(batch):
    if b"2" in batch[:]:
        begun.set()
        if {how == "killed"}:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(60)
dispatcher = made(send, max_batch=3, home="thread", max_in_flight=2)
assert dispatcher.enqueue(b"new")
assert begun.wait(10)
assert dispatcher.flush()
say(dispatcher.statistics().recovered)
""",
        code=-9 if how == "killed" else 0,
        stderr="" if how == "killed" else r".*of another process, too.*",
    )
    assert outcome.lines == ([] if how == "killed" else ["2"])
    kept = spool_of(tmp_path / "audit").adopt()
    assert kept is not None
    if kept.path != str(path):  # its own: it was killed before "new" was settled
        left(kept)
        kept = next(
            file
            for file in spool_of(tmp_path / "audit")._orphans()
            if file.path == str(path)
        )
    attempts = 1 if how == "killed" else 0
    assert take(kept) == (2, 5, attempts, [b"2", b"3", b"4"])
    assert take(kept) == (5, 6, 0, [b"5"])
