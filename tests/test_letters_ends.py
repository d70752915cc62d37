"""What waits for a dead letter, and what becomes of it at each end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loops import comes_true, eventually
from recovering import Got, entries_of, files, letters_in, orphan, spooled, until
from ringdispatch import _loop_end, current_batch
from ringdispatch._call import Call
from ringdispatch._letters import Letters
from ringdispatch._recovery import Recovery
from ringdispatch._spool_place import is_locked
from spools import needs_spools

pytestmark = needs_spools


class Held:
    """Letters that are written once they may be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.may_write = threading.Event()
        keep = Letters._keep

        def wait(letters: Letters, letter: Any) -> None:
            self.begun.set()
            assert self.may_write.wait(20)
            keep(letters, letter)

        monkeypatch.setattr(Letters, "_keep", wait)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Any:
    held = Held(monkeypatch)
    yield held
    held.may_write.set()


class Turns:
    """Awaited for ever, with nothing to keep the task but the loop's next turn."""

    def __await__(self) -> Iterator[None]:
        while True:
            yield


async def refuse(batch: Any) -> None:
    raise ConnectionError("refused")


async def hang(batch: Any) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("recovered", [False, True])
def test_the_slot_and_the_room_wait_for_the_letter(
    tmp_path: Path, held: Held, recovered: bool
) -> None:
    calls: list[list[bytes]] = []

    async def send(batch: Any) -> None:
        calls.append(batch[:])
        if len(calls) == 1:
            raise ConnectionError

    async def main() -> None:
        async with spooled(send, tmp_path, max_batch=1) as dispatcher:
            assert dispatcher.enqueue(b"0")
            await until(held.begun.is_set)
            seen = dispatcher.statistics()
            assert (seen.failed, seen.in_flight, seen.kept) == (1, 0, 0)
            assert dispatcher.enqueue(b"1")
            assert not await dispatcher.aflush(timeout=0.05)
            assert calls == [[b"0"]]
            held.may_write.set()
            assert await dispatcher.aflush()
            assert calls == [[b"0"], [b"1"]]
            assert dispatcher.statistics().kept == 1

    if recovered:
        orphan(tmp_path, b"0")

        async def again() -> None:
            async with spooled(send, tmp_path, max_batch=1) as dispatcher:
                await until(held.begun.is_set)
                assert dispatcher.statistics().recovered_failed == 1
                assert dispatcher.enqueue(b"1")
                assert not await dispatcher.aflush(timeout=0.05)
                held.may_write.set()
                assert await dispatcher.aflush()
                await until(lambda: dispatcher.statistics().kept == 1)

        asyncio.run(again())
        assert calls == [[b"0"], [b"1"]]
    else:
        asyncio.run(main())
    (letter,) = letters_in(tmp_path)
    assert entries_of(letter) == [b"0"]
    assert letter.recovered is recovered
    assert len(files(tmp_path)) == 1


def test_a_close_waits_for_the_letter_in_its_time(tmp_path: Path, held: Held) -> None:
    async def main() -> None:
        dispatcher = spooled(refuse, tmp_path)
        assert dispatcher.enqueue(b"entry")
        await until(held.begun.is_set)
        closing = asyncio.ensure_future(dispatcher.aclose())
        done, _ = await asyncio.wait({closing}, timeout=0.05)
        assert not done
        held.may_write.set()
        assert await closing
        assert dispatcher.statistics().kept == 1

    asyncio.run(main())
    assert len(letters_in(tmp_path)) == len(files(tmp_path)) == 1


def test_a_letter_that_outlasts_the_close_is_settled_late(
    tmp_path: Path, held: Held
) -> None:
    async def main() -> None:
        dispatcher = spooled(refuse, tmp_path)
        assert dispatcher.enqueue(b"entry")
        await until(held.begun.is_set)
        assert not await dispatcher.aclose(0.01)
        assert [Path(name).suffix for name in files(tmp_path)] == [".spool"]
        held.may_write.set()
        await comes_true(
            lambda: [Path(name).suffix for name in files(tmp_path)] == [".dead"]
        )
        seen = dispatcher.statistics()
        assert (seen.failed, seen.left, seen.kept) == (1, 0, 1)

    asyncio.run(main())


def test_what_a_close_cuts_short_is_left_and_no_letter(tmp_path: Path) -> None:
    with spooled(hang, tmp_path) as dispatcher:
        assert dispatcher.enqueue(b"entry")
        eventually(lambda: dispatcher.statistics().in_flight == 1)
        assert not dispatcher.close(0.01)
        assert dispatcher.statistics().left == 1
    assert letters_in(tmp_path) == []
    # A worker thread may be touching the pages still.
    eventually(lambda: not any(map(is_locked, (tmp_path / "audit").iterdir())))
    got = Got()
    with spooled(got, tmp_path) as dispatcher:
        assert dispatcher.enqueue(b"new")
        eventually(lambda: dispatcher.statistics().recovered == 1)
    assert sorted(got.entries) == [b"entry", b"new"]


@pytest.mark.parametrize("recovered", [False, True])
def test_a_loop_that_ends_waits_for_the_letter(
    tmp_path: Path, held: Held, recovered: bool
) -> None:
    if recovered:
        orphan(tmp_path, b"entry")
    dispatcher = spooled(refuse, tmp_path)

    async def main() -> None:
        async with asyncio.timeout(10):
            if recovered:
                await dispatcher.__aenter__()
            else:
                assert dispatcher.enqueue(b"entry")
            await until(held.begun.is_set)
        asyncio.get_running_loop().call_later(0.05, held.may_write.set)

    asyncio.run(main())
    assert dispatcher.statistics().kept == 1
    assert dispatcher.close()
    (letter,) = letters_in(tmp_path)
    assert letter.recovered is recovered
    assert len(files(tmp_path)) == 1


def test_a_recovered_batch_has_its_time_when_a_loop_ends(tmp_path: Path) -> None:
    orphan(tmp_path, b"entry")
    began = asyncio.Event()

    async def send(batch: Any) -> None:
        began.set()
        await asyncio.sleep(0.05)

    dispatcher = spooled(send, tmp_path)

    async def main() -> None:
        await dispatcher.__aenter__()
        await began.wait()

    asyncio.run(main())
    assert dispatcher.statistics().recovered == 1
    assert dispatcher.close()
    assert files(tmp_path) == []


def test_a_call_that_the_end_of_a_loop_cuts_short_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_loop_end, "END_SECONDS", 0.1)
    dispatcher = spooled(hang, tmp_path)

    async def main() -> None:
        assert dispatcher.enqueue(b"entry")
        await until(lambda: dispatcher.statistics().in_flight == 1)

    asyncio.run(main())
    assert dispatcher.statistics().failed == 1
    assert dispatcher.close()
    assert dispatcher.statistics().kept == 1
    (letter,) = letters_in(tmp_path)
    assert "the loop ended" in letter.reason
    assert len(files(tmp_path)) == 1


def test_a_loop_closed_while_a_letter_is_written(tmp_path: Path, held: Held) -> None:
    dispatcher = spooled(refuse, tmp_path)
    loop = asyncio.new_event_loop()

    async def main() -> None:
        assert dispatcher.enqueue(b"entry")
        await until(held.begun.is_set)

    loop.run_until_complete(main())
    loop.close()
    assert dispatcher.enqueue(b"another")  # on a thread, once there is a slot
    held.may_write.set()
    assert dispatcher.flush()
    assert dispatcher.statistics().kept == 2
    assert dispatcher.close()
    assert len(letters_in(tmp_path)) == 2


def test_a_call_freed_with_its_loop_when_its_letter_has_just_been_written(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bytes] = []
    written = threading.Event()
    # Its thread goes no further.
    monkeypatch.setattr(Call, "_letter_written", lambda call: written.set())

    async def send(batch: Any) -> None:
        calls.append(batch[:])
        if len(calls) == 1:
            try:
                await Turns()
            except GeneratorExit:
                held.may_write.set()
                assert written.wait(20)
                raise

    async def main() -> None:
        assert dispatcher.enqueue(b"0")
        await until(lambda: calls)
        assert dispatcher.enqueue(b"1")

    dispatcher = spooled(send, tmp_path, max_batch=1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    assert written.is_set()
    assert dispatcher.flush()  # on a thread
    assert calls == [[b"0"], [b"1"]]
    assert dispatcher.close()


def test_tools_may_look_at_all_tasks_while_a_letter_is_written(
    tmp_path: Path, held: Held
) -> None:
    async def main() -> None:
        async with spooled(refuse, tmp_path) as dispatcher:
            assert dispatcher.enqueue(b"entry")
            await until(held.begun.is_set)
            mine = asyncio.current_task()
            assert mine is not None
            names = [task.get_name() for task in asyncio.all_tasks()]
            assert names == [mine.get_name()]
            held.may_write.set()

    asyncio.run(main())
    assert len(letters_in(tmp_path)) == 1


def test_a_recovered_batch_without_memory_for_its_letter_waits_and_did_not_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    may_write = threading.Event()
    keep = Letters._keep

    def fails(letters: Letters, letter: Any) -> None:
        if not may_write.is_set():
            raise MemoryError
        keep(letters, letter)

    async def refuse_all(batch: Any) -> None:
        info = current_batch()
        assert info is not None
        seen.append((info.start, info.attempts))
        raise ConnectionError

    async def main() -> None:
        async with spooled(refuse_all, tmp_path, max_batch=1) as dispatcher:
            await until(lambda: seen)
            await until(lambda: not dispatcher._batcher.calls)
            recovery: Any = dispatcher._batcher.recovery
            assert not recovery.wants_call  # for a second
            may_write.set()
            monkeypatch.setattr(recovery, "_again_at", 0.0)
            dispatcher._batcher.wake()
            await until(lambda: dispatcher.statistics().kept == 2)

    monkeypatch.setattr("ringdispatch._recovery._LOOK_SECONDS", 60.0)
    monkeypatch.setattr(Letters, "_keep", fails)
    orphan(tmp_path, b"0", b"1")
    asyncio.run(main())
    assert seen == [(0, 1), (0, 1), (1, 1)]
    assert [each.attempts for each in letters_in(tmp_path)] == [1, 1]
    assert len(files(tmp_path)) == 1


def test_only_the_home_looks_for_what_to_recover(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: set[int] = set()
    wants_call: Any = Recovery.wants_call

    def wants(recovery: Recovery) -> bool:
        if recovery._files._directory == str(tmp_path):  # not an earlier test's
            looked.add(threading.get_ident())
        return bool(wants_call.fget(recovery))

    monkeypatch.setattr(Recovery, "wants_call", property(wants))

    async def main() -> None:
        orphan(tmp_path, b"0", b"1")
        async with spooled(refuse, tmp_path, max_batch=1) as dispatcher:
            await until(held.begun.is_set)
            held.may_write.set()
            await until(lambda: dispatcher.statistics().kept == 2)
            assert looked == {threading.get_ident()}

    asyncio.run(main())
    assert len(letters_in(tmp_path)) == 2
