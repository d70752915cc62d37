"""Who waits is looked for again, whatever became of the first timer, wake or look."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from loops import LOOPS, comes_true, eventually, new_loop
from recovering import Got, orphan, spooled
from ringdispatch import BackgroundDispatcher, Bytes, _recovery, _waiting
from ringdispatch._waiting import RoomQueue
from spools import left, needs_spools, spool_of, take

DROPS = 0.1  # seconds between two reports, here


async def hang(batch: Any) -> None:
    del batch
    await asyncio.sleep(3600)


class Told:
    """Counts the drops that `on_drop` is told of."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, reason: str, count: int) -> None:
        del reason
        self.count += count


# ---- the recovery


def paused(folder: Path, *entries: bytes) -> Path:
    """A file that is to wait: two processes died in a call for its first entry."""
    path = orphan(folder, *entries, taken=(1,))
    file = spool_of(folder / "audit").adopt()
    assert file is not None
    assert take(file, 1) is not None
    left(file)
    return path


@needs_spools
@pytest.mark.parametrize("where", ["loop", "thread"])
def test_pause_ends_where_the_dispatcher_has_moved(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # C23
    monkeypatch.setitem(_recovery._PAUSES, 2, 0.5)
    paused(tmp_path, b"in flight", b"rest")
    dispatcher = spooled(Got(), tmp_path)

    async def first() -> None:
        dispatcher.enqueue(b"a")
        assert await dispatcher.aflush()

    async def second() -> None:
        dispatcher.enqueue(b"b")
        await comes_true(lambda: dispatcher.statistics().recovered == 2)

    asyncio.run(first())
    if where == "loop":
        asyncio.run(second())
    else:
        dispatcher.enqueue(b"b")
        eventually(lambda: dispatcher.statistics().recovered == 2)
    assert dispatcher.close()


@needs_spools
def test_pause_ends_while_another_process_has_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # C23
    monkeypatch.setitem(_recovery._PAUSES, 2, 1.0)
    path = paused(tmp_path, b"in flight", b"rest")
    dispatcher = spooled(Got(), tmp_path)
    recovery = dispatcher._batcher.recovery
    assert recovery is not None

    async def main() -> None:
        dispatcher.bind()
        await comes_true(lambda: str(path) in recovery._paused)
        file = spool_of(tmp_path / "audit").adopt()
        assert file is not None
        looked = recovery._look_at
        await comes_true(lambda: recovery._look_at > looked)
        left(file)
        await comes_true(lambda: dispatcher.statistics().recovered == 2)
        await comes_true(lambda: recovery._paused == {})
        assert await dispatcher.aclose()

    asyncio.run(main())


@needs_spools
def test_nothing_looks_for_a_paused_file_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # C3
    monkeypatch.setitem(_recovery._PAUSES, 2, 1.0)
    path = paused(tmp_path, b"in flight")
    dispatcher = spooled(Got(), tmp_path)
    recovery = dispatcher._batcher.recovery
    assert recovery is not None

    async def main() -> None:
        dispatcher.bind()
        await comes_true(lambda: str(path) in recovery._paused)
        path.unlink()
        await comes_true(lambda: recovery._paused == {})
        await comes_true(lambda: recovery._timer is None)
        assert await dispatcher.aclose()

    asyncio.run(main())


@needs_spools
def test_recovery_goes_on_in_a_loop_whose_tasks_were_cancelled(
    tmp_path: Path,
) -> None:
    orphan(tmp_path, *[b"%d" % number for number in range(6)])

    async def send(batch: Any) -> None:
        del batch
        await asyncio.sleep(0.05)

    async def main() -> None:
        async with spooled(send, tmp_path, max_batch=1) as dispatcher:
            await comes_true(lambda: dispatcher.statistics().recovered >= 1)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await comes_true(lambda: dispatcher.statistics().recovered == 6)

    asyncio.run(main())


@needs_spools
def test_end_of_a_loop_that_was_left_stops_no_recovery_elsewhere(
    tmp_path: Path,
) -> None:
    orphan(tmp_path, *[b"%d" % number for number in range(6)])
    closing, may_end = threading.Event(), threading.Event()

    class Closing:
        async def __call__(self, batch: Any) -> None:
            del batch
            await asyncio.sleep(0.05)

        async def aclose(self) -> None:
            closing.set()
            await asyncio.sleep(0.2)

    dispatcher = spooled(Closing(), tmp_path, max_batch=1)
    recovery = dispatcher._batcher.recovery
    assert recovery is not None
    recovery._look_at = float("inf")
    lived = threading.Event()

    async def first() -> None:
        dispatcher.bind()
        dispatcher.enqueue(b"a")
        assert await dispatcher.aflush()
        lived.set()
        await comes_true(may_end.is_set)

    async def second() -> None:
        recovery._look_at = 0.0
        dispatcher.bind()
        await comes_true(closing.is_set)
        may_end.set()
        await comes_true(lambda: dispatcher.statistics().recovered == 6)
        assert await dispatcher.aclose()

    other = threading.Thread(target=asyncio.run, args=(first(),), daemon=True)
    other.start()
    assert lived.wait(20)
    asyncio.run(second())
    other.join(20)
    assert not other.is_alive()


@needs_spools
def test_process_without_a_loop_keeps_no_file_of_another(tmp_path: Path) -> None:
    path = orphan(tmp_path, *[b"%d" % number for number in range(6)])

    async def send(batch: Any) -> None:
        del batch
        await asyncio.sleep(0.05)

    dispatcher = spooled(send, tmp_path, max_batch=1)

    async def main() -> None:
        dispatcher.bind()
        await comes_true(lambda: dispatcher.statistics().recovered >= 1)

    asyncio.run(main())
    file = spool_of(tmp_path / "audit").adopt()
    assert file is not None
    assert file.path == str(path)
    left(file)
    assert dispatcher.close()


@needs_spools
def test_recovered_batch_is_tried_again_after_a_want_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan(tmp_path, b"1", b"2")
    take_recovered, fails = _recovery.take_recovered, [True]

    def failing(*args: Any) -> Any:
        if fails:
            fails.pop()
            raise MemoryError("once")
        return take_recovered(*args)

    monkeypatch.setattr(_recovery, "take_recovered", failing)

    async def main() -> None:
        async with spooled(Got(), tmp_path) as dispatcher:
            await comes_true(lambda: dispatcher.statistics().recovered == 2)

    asyncio.run(main())


@needs_spools
def test_pause_is_logged_when_it_begins(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setitem(_recovery._PAUSES, 2, 3600.0)
    paused(tmp_path, b"in flight")

    async def main() -> None:
        dispatcher = spooled(Got(), tmp_path)
        dispatcher.bind()
        await comes_true(lambda: "it waits for 3" in caplog.text)
        assert dispatcher.statistics().recovered == 0
        await dispatcher.aclose()

    asyncio.run(main())


# ---- waits


def test_wake_for_room_that_was_lost_is_made_up_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C20
    wake, fails = RoomQueue.wake, [True]

    def failing(self: RoomQueue, count: int) -> None:
        if fails and count == 4:  # that of the first batch
            fails.pop()
            raise MemoryError("once")
        wake(self, count)

    monkeypatch.setattr(RoomQueue, "wake", failing)

    async def main() -> None:
        got: list[int] = []

        async def send(batch: list[int]) -> None:
            got.extend(batch)

        async with BackgroundDispatcher(send, ms_delay=20, capacity=4) as dispatcher:
            async with asyncio.timeout(20):
                waits = [dispatcher.aenqueue(number) for number in range(8)]
                assert all(await asyncio.gather(*waits))
            await dispatcher.aflush()
            assert got == [4, 5, 6, 7]
            assert dispatcher.statistics().failed == 4
        assert fails == []

    asyncio.run(main())


def test_call_on_a_loop_that_stopped_is_settled_in_time() -> None:  # C11
    failed: list[BaseException] = []
    dispatcher: BackgroundDispatcher[str] = BackgroundDispatcher(
        hang,
        ms_delay=1,
        dispatch_timeout=0.1,
        on_error=lambda error, batch: failed.append(error),
    )

    async def first() -> None:
        dispatcher.enqueue("in flight")
        await comes_true(lambda: dispatcher.statistics().batches == 1)

    async def second() -> None:
        dispatcher.enqueue("pending")
        assert not await dispatcher.aflush(0.01)  # it moves here
        await comes_true(lambda: failed)

    stopped = asyncio.new_event_loop()
    stopped.run_until_complete(first())
    asyncio.run(second())
    stopped.close()
    assert isinstance(failed[0], TimeoutError)


@pytest.mark.parametrize("slots", [2, 3])
def test_each_call_on_a_loop_that_stopped_is_settled_in_time(
    slots: int,
) -> None:  # C11
    failed: list[list[str]] = []
    dispatcher: BackgroundDispatcher[str] = BackgroundDispatcher(
        hang,
        ms_delay=1,
        max_batch=1,
        max_in_flight=slots,
        dispatch_timeout=0.1,
        on_error=lambda error, batch: failed.append(batch),
    )

    async def first() -> None:
        dispatcher.enqueue("one")
        dispatcher.enqueue("two")
        await comes_true(lambda: dispatcher.statistics().batches == 2)

    async def move() -> None:
        assert not await dispatcher.aflush(0.01)

    async def settle() -> None:
        assert await dispatcher.aflush(None)

    stopped = asyncio.new_event_loop()
    stopped.run_until_complete(first())
    asyncio.run(move())  # to a loop that ends before the calls' time
    asyncio.run(settle())
    assert sorted(failed) == [["one"], ["two"]]
    stopped.close()


def test_timer_for_a_call_on_another_loop_keeps_nothing() -> None:  # C16
    released = asyncio.Event()

    async def send(batch: list[str]) -> None:
        if batch == ["in flight"]:
            await released.wait()

    async def first(dispatcher: BackgroundDispatcher[str]) -> None:
        dispatcher.enqueue("in flight")
        await comes_true(lambda: dispatcher.statistics().batches == 1)

    async def second(dispatcher: BackgroundDispatcher[str]) -> None:
        dispatcher.enqueue("pending")
        assert not await dispatcher.aflush(0.01)  # it moves here

    async def release(dispatcher: BackgroundDispatcher[str]) -> None:
        released.set()
        await comes_true(lambda: dispatcher.statistics().dispatched == 1)

    made: BackgroundDispatcher[str] = BackgroundDispatcher(
        send, ms_delay=1, dispatch_timeout=3600, max_in_flight=1
    )
    loops = asyncio.new_event_loop(), asyncio.new_event_loop()
    loops[0].run_until_complete(first(made))
    loops[1].run_until_complete(second(made))
    loops[0].run_until_complete(release(made))
    assert loops[1].run_until_complete(made.aflush())
    gone = weakref.ref(made._batcher)  # what it would hold
    del made
    gc.collect()
    assert gone() is None
    for loop in loops:
        loop.close()


def test_flush_takes_another_home_where_its_own_stops() -> None:  # C14
    got: list[int] = []

    async def send(batch: list[int]) -> None:
        got.extend(batch)

    dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
    loop = asyncio.new_event_loop()
    there, may_stop = threading.Event(), threading.Event()

    async def main() -> None:
        dispatcher.bind()
        dispatcher.enqueue(1)
        loop.stop()  # before what is posted from here on
        there.set()
        may_stop.wait(20)

    def run() -> None:
        loop.run_until_complete(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert there.wait(20)
    threading.Timer(0.1, may_stop.set).start()
    assert dispatcher.flush(20)
    assert got == [1]
    thread.join(20)
    assert dispatcher.close()
    loop.close()


def test_flushes_that_were_not_told_are_told_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C14
    resolve_all, fails = _waiting.resolve_all, [True]

    def failing(futures: list[Any]) -> None:
        if fails and len(futures) > 1:
            fails.pop()
            raise MemoryError("once")
        resolve_all(futures)

    async def send(batch: Any) -> None:
        del batch
        await asyncio.sleep(0.05)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        monkeypatch.setattr(_waiting, "resolve_all", failing)
        dispatcher.enqueue(1)
        async with asyncio.timeout(20):
            flushes = [dispatcher.aflush(None) for _ in range(3)]
            assert all(await asyncio.gather(*flushes))
        assert fails == []
        assert await dispatcher.aclose()

    asyncio.run(main())


def test_receipt_of_an_opener_ends_when_it_is_evicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C16
    monkeypatch.setattr("ringdispatch._reports.HOOK_SECONDS", DROPS)

    class Event:
        receipt: Any = None

        def wait_until(self, receipt: Any) -> None:
            self.receipt = receipt

    async def main() -> None:
        dispatcher: BackgroundDispatcher[Any] = BackgroundDispatcher(
            hang,
            ms_delay=1,
            capacity=8,
            dispatch_timeout=None,
            on_full="drop_oldest",
        )
        dispatcher.enqueue("in flight")
        await comes_true(lambda: dispatcher.statistics().in_flight == 1)
        event = Event()
        dispatcher.enqueue("opener", event)
        for number in range(7):
            dispatcher.enqueue(number)
        await comes_true(lambda: dispatcher._batcher._timer is None)
        await asyncio.sleep(0)
        for number in range(10):
            dispatcher.enqueue(number)
        async with asyncio.timeout(20):
            await event.receipt
        await dispatcher.aclose(0.01)

    asyncio.run(main())


# ---- drops


def test_drops_are_told_after_a_report_that_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C10
    monkeypatch.setattr("ringdispatch._reports.HOOK_SECONDS", DROPS)
    told = Told()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
            hang, ms_delay=1, capacity=2, dispatch_timeout=None, on_drop=told
        )
        for number in range(10):
            dispatcher.enqueue(number)
        await comes_true(lambda: told.count)
        drops = dispatcher._batcher.drops
        report, fails = drops.report_now, [True]

        def failing(**options: Any) -> None:
            if fails:
                fails.pop()
                raise MemoryError("once")
            report(**options)

        monkeypatch.setattr(drops, "report_now", failing)
        for number in range(5):
            dispatcher.enqueue(number)
        await comes_true(lambda: not fails)
        assert not dispatcher.enqueue(5)
        await comes_true(lambda: told.count == dispatcher.statistics().rejected_full)
        await dispatcher.aclose(0.01)

    asyncio.run(main())


def test_drops_are_told_where_the_timer_was_made_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C10
    monkeypatch.setattr("ringdispatch._reports.HOOK_SECONDS", DROPS)
    told = Told()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def late(seconds: float, *args: Any, **options: Any) -> Any:
            handle = call_later(seconds, *args, **options)
            if seconds == DROPS:
                time.sleep(DROPS / 2)
            return handle

        monkeypatch.setattr(loop, "call_later", late)
        dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
            hang, ms_delay=1, capacity=2, dispatch_timeout=None, on_drop=told
        )
        for _ in range(5):
            for number in range(5):
                dispatcher.enqueue(number)
            await comes_true(
                lambda: told.count == dispatcher.statistics().rejected_full
            )
        await dispatcher.aclose(0.01)

    asyncio.run(main())


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("again", [True, False])
def test_drops_are_told_where_the_first_came_between_two_runs(
    loop_name: str, again: bool
) -> None:  # C10
    told, got = Told(), Told()
    layout = Bytes(max_bytes=100, max_batch_bytes=10)
    dispatcher: BackgroundDispatcher[bytes] = BackgroundDispatcher(
        lambda batch: got("", len(batch)), ms_delay=1, layout=layout, on_drop=told
    )

    async def first() -> None:
        dispatcher.bind()
        dispatcher.enqueue(b"ok")
        assert await dispatcher.aflush()

    async def second() -> None:
        dispatcher.enqueue(b"y" * 50)
        await comes_true(lambda: told.count == 2)

    loop = new_loop(loop_name)
    loop.run_until_complete(first())
    if not again:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    assert not dispatcher.enqueue(b"x" * 50)
    if not again:
        loop = new_loop(loop_name)
    loop.run_until_complete(second())
    loop.run_until_complete(dispatcher.aclose())
    loop.close()


def test_flush_that_is_closed_after_its_loop_raises_nothing() -> None:  # C20
    async def send(batch: Any) -> None:
        del batch

    dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
    flush = dispatcher.aflush()

    async def main() -> None:
        dispatcher.enqueue(1)
        assert flush.send(None) is not None  # it waits

    asyncio.run(main())
    flush.close()
    assert dispatcher.statistics().dispatched == 1
    assert dispatcher.close()


def test_flush_after_a_close_tells_of_drops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C10
    monkeypatch.setattr("ringdispatch._background._IDLE_SECONDS", 0.01)
    told = Told()

    async def send(batch: Any) -> None:
        del batch

    dispatcher = BackgroundDispatcher(send, ms_delay=1, on_drop=told)
    dispatcher.enqueue(1)
    home = dispatcher._batcher.home
    assert home is not None
    assert dispatcher.close()

    def ended() -> bool:
        gc.collect()  # what another test left there would keep the thread
        return home.closed

    eventually(ended)
    assert not dispatcher.enqueue(2)
    assert dispatcher.flush()
    eventually(lambda: told.count == 1)  # the home's thread may do it, in its last step
