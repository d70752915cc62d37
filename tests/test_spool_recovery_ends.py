"""What ends amid a recovery: a close, a loop, a child, the process; and ids."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from forking import each_fork, forked
from recovering import MADE, Got, books, files, orphan, spooled, until
from ringdispatch import BackgroundDispatcher, current_batch
from ringdispatch._spool_recovered import MOST_DEATHS
from spools import left, needs_spools, spool_of, take
from subprocesses import run_snippet


@needs_spools
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


@needs_spools
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
    line = f"timed out after 0.01 s: up to 3 entries of an ended process left in {path}"
    assert len(caplog.messages) == MOST_DEATHS + 1
    assert all(message.endswith(line) for message in caplog.messages)
    found = spool_of(tmp_path / "audit").adopt()
    assert found is not None
    assert take(found) == (0, 2, 1, [b"0", b"1"])
    assert take(found) == (2, 3, 0, [b"2"])


@needs_spools
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


def test_a_batch_has_an_id_in_every_layout() -> None:
    infos: list[Any] = []
    outside: list[Any] = [current_batch()]
    done = threading.Event()

    def send(batch: list[int]) -> None:
        infos.extend([current_batch(), current_batch()])
        done.set()

    dispatcher = BackgroundDispatcher(send, ms_delay=60_000, max_batch=2)
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


@needs_spools
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


@needs_spools
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


@needs_spools
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
        if {how == "killed"}:
            os.kill(os.getpid(), signal.SIGKILL)
        begun.set()
        await asyncio.sleep(60)
dispatcher = made(send, max_batch=3, home="thread", max_in_flight=2)
assert dispatcher.enqueue(b"new")
assert begun.wait(10)
assert dispatcher.flush()
say(dispatcher.statistics().recovered)
""",
        code=-9 if how == "killed" else 0,
        stderr=""
        if how == "killed"
        else r"ringdispatch\[audit\]: the process ended: "
        r"(up to 4 entries of an ended process|1 file of ended processes) left in "
        rf"{path.parent}.*",
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


def test_code_that_outlives_its_call_belongs_to_no_batch() -> None:
    seen: list[Any] = []

    async def main() -> None:
        ended = asyncio.Event()

        async def later() -> None:
            seen.append(current_batch())
            await ended.wait()
            seen.append(current_batch())

        async def send(batch: Any) -> None:
            tasks.append(asyncio.create_task(later()))
            await asyncio.sleep(0)

        tasks: list[asyncio.Task[None]] = []
        async with BackgroundDispatcher(send, ms_delay=1) as dispatcher:
            assert dispatcher.enqueue(b"entry")
            assert await dispatcher.aflush()
            await until(lambda: dispatcher._engine.calls.first() is None)
            ended.set()
            await tasks[0]

    asyncio.run(main())
    assert seen[0].start == 0
    assert seen[1] is None
