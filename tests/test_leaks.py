"""Every error path and lifecycle, hundreds of times over: nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from leaks import Scenarios, leaves_nothing
from ringdispatch import BackgroundDispatcher, Full, _background
from ringdispatch._batcher import Batcher
from ringdispatch._objects import ObjectRing

CAPACITY = 1024
scenario = Scenarios()


class Crash(Exception):
    pass


class Context:
    """One that raises, and keeps what it is given."""

    receipt: Any = None

    def wait_until(self, receipt: Any) -> None:
        self.receipt = receipt
        raise Crash

    def log(self, message: str) -> None:
        raise Crash


class Awaiter:
    """One that waits as it should, in two tasks."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    def wait_until(self, receipt: Any) -> None:
        async def wait() -> None:
            await receipt

        self.tasks = [asyncio.create_task(wait()) for _ in range(2)]


async def send(batch: list[Any]) -> None:
    pass


async def hang(batch: list[Any]) -> None:
    """Without a timer: a loop keeps up to a hundred that were cancelled."""
    await asyncio.Event().wait()


async def crash(batch: list[Any]) -> None:
    raise Crash(batch)


def crash_hook(*values: object) -> None:
    raise Crash(values)


def make(
    dispatch_function: Callable[[list[Any]], object] = send, **options: Any
) -> BackgroundDispatcher[Any]:
    options = {"ms_delay": 1, "capacity": CAPACITY, **options}
    return BackgroundDispatcher(dispatch_function, **options)


# ---- arguments, full rings, closed ones


@scenario
def refused_by_the_constructor() -> None:
    for options in (
        {"ms_delay": 0},
        {"ms_delay": "1"},
        {"capacity": 0},
        {"capacity": 2**48},
        {"max_batch": CAPACITY + 1},
        {"dispatch_timeout": float("nan")},
        {"on_full": "explode"},
        {"on_error": 1},
        {"on_drop": send},
        {"unknown": 1},
    ):
        with contextlib.suppress(TypeError, ValueError, MemoryError):
            make(**options)
            raise AssertionError(options)
    for arguments in ((), (1,), (1, 2, 3), (-1, 1), ("1", 1)):
        with contextlib.suppress(TypeError, OverflowError):
            ObjectRing(*arguments)
            raise AssertionError(arguments)


@scenario
def never_constructed_or_twice() -> None:
    with contextlib.suppress(RuntimeError):
        BackgroundDispatcher.__new__(BackgroundDispatcher).enqueue(object())
    dispatcher = make()
    with contextlib.suppress(RuntimeError):
        dispatcher.__init__(send, ms_delay=1)  # type: ignore[misc]


@scenario
async def wrong_arguments() -> None:
    dispatcher: Any = make()
    enqueue = dispatcher.enqueue
    for call in (
        lambda: enqueue(),
        lambda: enqueue(object(), object(), object()),
        lambda: enqueue(object(), unknown=object()),
        lambda: enqueue(object(), object(), context=object()),
        lambda: dispatcher.flush(timeout="soon"),
        lambda: dispatcher.close(timeout=-1),
        lambda: copy.copy(dispatcher),
    ):
        with contextlib.suppress(TypeError, ValueError):
            call()
            raise AssertionError
    enqueue(entry=object(), context=object())
    await dispatcher.aclose()


@scenario
async def full() -> None:
    for on_full in ("drop_newest", "drop_oldest", "raise"):
        dispatcher = make(capacity=2, on_full=on_full, on_drop=crash_hook)
        for _ in range(5):
            with contextlib.suppress(Full):
                dispatcher.enqueue(object(), context=object())
        dispatcher.statistics()
        await dispatcher.aclose()


@scenario
async def closed() -> None:
    dispatcher = make(on_drop=crash_hook)
    await dispatcher.aclose()
    assert not dispatcher.enqueue(object())
    assert not dispatcher.enqueue(object(), object())
    assert not await dispatcher.aenqueue(object())


@scenario
def opener_is_interrupted() -> None:
    dispatcher = make_interrupted()
    for _ in range(3):
        with contextlib.suppress(Crash):
            dispatcher.enqueue(object(), object())
    ring = dispatcher._batcher.ring
    take = ring.take(2)
    assert take is not None
    assert take.settle(True, 0.0)
    ring.take(1)
    assert ring.take(1) is None
    dispatcher._reject_full()
    with contextlib.suppress(Crash):
        dispatcher._offer(object(), None)
    assert ring.abandon() == 1


class Interrupted(Batcher):
    """One whose openers are hit by a signal handler that raises."""

    __slots__ = ()

    def window_opened(self, position: int, context: Any) -> bool:
        raise Crash


def make_interrupted() -> BackgroundDispatcher[Any]:
    dispatcher = make()
    dispatcher._batcher.__class__ = Interrupted
    return dispatcher


# ---- dispatches that fail


async def fail_once(
    dispatch_function: Callable[[list[Any]], object], **options: Any
) -> None:
    dispatcher = make(
        dispatch_function, on_error=crash_hook, on_drop=crash_hook, **options
    )
    dispatcher.enqueue(object(), Context())
    await dispatcher.aflush()
    await dispatcher.aclose()
    assert dispatcher.statistics().failed == 1


@scenario
async def dispatch_raises_and_so_do_the_hooks() -> None:
    await fail_once(crash)


@scenario
async def dispatch_times_out() -> None:
    await fail_once(hang, dispatch_timeout=1e-4)


@scenario
async def dispatch_is_cancelled() -> None:
    async def cancel(batch: list[Any]) -> None:
        raise asyncio.CancelledError

    await fail_once(cancel)


@scenario
async def dispatch_in_a_worker_thread() -> None:
    for function in (len, crash_hook, send):  # returns, raises, returns an awaitable
        dispatcher = make(partial(function), on_error=crash_hook)
        dispatcher.enqueue(object())
        await dispatcher.aclose()


@scenario
async def dispatches_from_within() -> None:
    async def enqueue_and_flush(batch: list[Any]) -> None:
        if batch != ["nested"]:
            dispatcher.enqueue("nested")
            await dispatcher.aflush()
            await dispatcher.aclose()

    dispatcher = make(enqueue_and_flush, max_in_flight=2)
    dispatcher.enqueue(object())
    await dispatcher.aflush()


# ---- waiters


@scenario
async def contexts() -> None:
    dispatcher = make()
    awaiter = Awaiter()
    dispatcher.enqueue(object(), awaiter)
    await dispatcher.aflush()
    await asyncio.gather(*awaiter.tasks)
    dispatcher.enqueue(object(), Context())
    await dispatcher.aclose()


@scenario
async def waits_for_room_in_vain() -> None:
    dispatcher = make(hang, capacity=1)
    dispatcher.enqueue(object())
    await asyncio.sleep(0)
    for _ in range(2):
        await dispatcher.aenqueue(object(), timeout=0)
    waiter = asyncio.create_task(dispatcher.aenqueue(object()))
    await asyncio.sleep(0)
    waiter.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiter
    assert not await dispatcher.aclose(0)


@scenario
async def flush_and_close_run_out_of_time() -> None:
    dispatcher = make(hang, max_batch=1, on_error=crash_hook)
    for _ in range(3):
        dispatcher.enqueue(object(), Context())
    assert not await dispatcher.aflush(0)
    flush = asyncio.create_task(dispatcher.aflush())
    await asyncio.sleep(0)
    flush.cancel()
    assert not await dispatcher.aclose(0)
    assert not await dispatcher.aclose(0)
    books = dispatcher.statistics()
    assert (books.failed, books.abandoned) == (1, 2)


@scenario
async def evictions() -> None:
    dispatcher = make(capacity=1, on_full="drop_oldest", on_drop=crash_hook)
    for _ in range(20):
        dispatcher.enqueue(object(), Awaiter())
    await dispatcher.aclose()
    assert dispatcher.statistics().evicted == 19


# ---- loops that come and go

lasting = BackgroundDispatcher[Any](send, ms_delay=1, capacity=CAPACITY)


@scenario
def one_asyncio_run_after_the_other() -> None:
    async def main() -> None:
        for _ in range(10):
            lasting.enqueue(object(), Awaiter())

    asyncio.run(main())
    assert not lasting.pending


@scenario
def loop_closed_under_pending_entries_and_a_dispatch() -> None:
    dispatcher = make(hang, max_batch=1)

    async def main() -> None:
        dispatcher.enqueue(object(), Context())
        dispatcher.enqueue(object())
        while not dispatcher.statistics().in_flight:  # noqa: ASYNC110 - a few steps
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    dispatcher.close(0)


@scenario
async def fixed_to_a_loop() -> None:
    dispatcher = make()
    async with dispatcher:
        dispatcher.enqueue(object())
    with contextlib.suppress(RuntimeError):
        dispatcher.close()


# ---- without a loop


@scenario
def background_thread() -> None:
    with make(home="thread") as dispatcher:
        dispatcher.enqueue(object(), Context())
        assert dispatcher.flush()
        dispatcher.enqueue(object())
    with contextlib.suppress(RuntimeError):
        dispatcher.bind()


@partial(scenario, times=400)
def background_thread_that_ends() -> None:
    _background._IDLE_SECONDS = 0.0
    with make(home="thread") as dispatcher:
        dispatcher.enqueue(object())
    for thread in threading.enumerate():
        if thread.name == "ringdispatch":
            thread.join()


@scenario
def background_thread_runs_out_of_time() -> None:
    dispatcher = make(hang, max_batch=1, on_error=crash_hook, on_drop=crash_hook)
    dispatcher.enqueue(object(), Context())
    dispatcher.enqueue(object())
    assert not dispatcher.flush(0)
    assert not dispatcher.close(0)


@scenario
def dropped_unclosed() -> None:
    make()
    dispatcher = make()
    dispatcher.enqueue(object())
    dispatcher.flush()
    dispatcher._batcher.ring.close()
    make_interrupted_with_entries()


def make_interrupted_with_entries() -> None:
    """What it holds is freed with it."""
    dispatcher = make_interrupted()
    for _ in range(3):
        with contextlib.suppress(Crash):
            dispatcher.enqueue(object())
    assert dispatcher.pending == 3


@scenario
def in_a_cycle_with_its_dispatch_function() -> None:
    class Service:
        def __init__(self) -> None:
            self.dispatcher = make(self.send)

        async def send(self, batch: list[Any]) -> None: ...

    service = Service()
    service.dispatcher.enqueue(service)
    service.dispatcher.close()


if hasattr(os, "fork"):

    @partial(scenario, times=200)
    def fork() -> None:
        lasting.enqueue(object())
        child = os.fork()
        if child == 0:
            lasting.enqueue(object())
            os._exit(0 if lasting.pending <= 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        lasting.flush()


# ---- what is held


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", scenario)
def test_nothing_is_left_behind_by(name: str) -> None:
    leaves_nothing(__file__, name)
