"""C5, C8, C9, C18 with threads that really race, with the GIL and without it."""

from __future__ import annotations

import asyncio
import gc
import sysconfig
import time
from collections.abc import Iterator
from typing import Any

import pytest

from loops import eventually
from racing import ENTRIES, PRODUCERS, Mark, impatience, in_order_of_each, race
from ringdispatch import BackgroundDispatcher
from ringdispatch._batch import Batch
from subprocesses import run_snippet
from support import Sink, books_agree


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    with impatience():
        yield


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage collections, for tests with loops in several threads.

    CPython 3.14.5 without the GIL frees a task twice where one thread collects while
    another frees it (python/cpython#153809); asyncio.run takes hold of other threads'
    tasks.
    """
    gc.disable()
    yield
    gc.enable()


# ---- through a dispatcher, on the background thread


def counting(dispatcher: BackgroundDispatcher[Mark], whose: int) -> list[int]:
    """Enqueue everything; returns what was accepted."""
    return [n for n in range(ENTRIES) if dispatcher.enqueue((whose, n))]


@pytest.mark.parametrize(
    ("capacity", "max_batch", "max_in_flight"),
    [(65_536, None, 1), (65_536, 100, 3), (64, 10, 2), (1, 1, 1)],
)
def test_racing_producers_on_the_background_thread(
    capacity: int, max_batch: int | None, max_in_flight: int, dispatcher_class: type
) -> None:  # C5, C6, C8, C9
    sink = Sink(time.monotonic)
    dispatcher = dispatcher_class(
        sink,
        ms_delay=0.5,
        capacity=capacity,
        max_batch=max_batch,
        max_in_flight=max_in_flight,
        home="thread",
    )
    accepted: list[list[int]] = [[] for _ in range(PRODUCERS)]
    running = [True] * PRODUCERS

    def produce(whose: int) -> None:
        accepted[whose] = counting(dispatcher, whose)
        running[whose] = False

    def watch() -> None:
        last = dispatcher.statistics()
        while any(running):
            books_agree(dispatcher)
            seen = dispatcher.statistics()
            for counter in ("accepted", "dispatched", "batches", "rejected_full"):
                assert getattr(last, counter) <= getattr(seen, counter)
            last = seen

    def flush() -> None:
        while any(running):
            assert dispatcher.flush(30)

    producers = [lambda whose=whose: produce(whose) for whose in range(PRODUCERS)]
    race(*producers, watch, flush)
    assert dispatcher.close(30)
    in_order_of_each(sink.entries, accepted)
    assert max(map(len, sink.batches)) <= (max_batch or capacity)
    assert sink.most_running <= max_in_flight
    books = dispatcher.statistics()
    assert books.accepted == books.dispatched == sum(map(len, accepted))
    assert books.rejected_full == PRODUCERS * ENTRIES - books.accepted
    assert books.batches == len(sink.batches)
    assert books.peak_pending <= capacity


def test_f32_racing_close_delivers_what_was_accepted(
    dispatcher_class: type,
) -> None:  # C9, C15
    for _ in range(10):
        sink = Sink(time.monotonic)
        dispatcher = dispatcher_class(sink, ms_delay=0.5, home="thread")
        accepted: list[list[int]] = [[] for _ in range(PRODUCERS)]
        closed: list[bool] = []

        def produce(
            whose: int,
            dispatcher: BackgroundDispatcher[Mark] = dispatcher,
            accepted: list[list[int]] = accepted,
        ) -> None:
            accepted[whose] = counting(dispatcher, whose)

        def close(
            dispatcher: BackgroundDispatcher[Mark] = dispatcher,
            closed: list[bool] = closed,
        ) -> None:
            closed.append(dispatcher.close(30))

        producers = [lambda whose=whose: produce(whose) for whose in range(PRODUCERS)]
        race(*producers, close, close)
        assert closed == [True, True]
        in_order_of_each(sink.entries, accepted)
        books = dispatcher.statistics()
        assert books.accepted == books.dispatched == sum(map(len, accepted))
        assert books.rejected_closed == PRODUCERS * ENTRIES - books.accepted


def test_failed_batch_is_reported_whole_though_the_home_frees_it(
    dispatcher_class: type,
) -> None:  # C11
    class Hasty:
        """A batch whose call ends as soon as it is settled, in the other thread."""

        def __init__(self, batch: Batch) -> None:
            self._batch = batch

        def __getattr__(self, name: str) -> Any:
            return getattr(self._batch, name)

        def settle(self, failed: bool, seconds: float) -> bool:
            first = self._batch.settle(failed, seconds)
            self._batch.release()
            return first

    failed: list[Any] = []
    sink = Sink(time.monotonic)
    sink.hold()
    dispatcher = dispatcher_class(
        sink,
        ms_delay=0.5,
        home="thread",
        on_error=lambda _, batch: failed.append(batch),
    )
    dispatcher.enqueue("entry")
    eventually(lambda: sink.running)
    (call,) = dispatcher._batcher.calls
    assert call.batch is not None
    call.batch = Hasty(call.batch)  # type: ignore[assignment]
    assert not dispatcher.close(0)
    assert failed == [["entry"]]


@pytest.mark.usefixtures("uncollected")
def test_loops_in_racing_threads_wait_for_room_and_lose_nothing(
    dispatcher_class: type,
) -> None:  # C5, C9
    sink = Sink(time.monotonic)
    dispatcher = dispatcher_class(
        sink, ms_delay=0.5, capacity=3, max_batch=2, max_in_flight=2, home="thread"
    )

    async def produce(whose: int) -> None:
        for number in range(200):
            assert await dispatcher.aenqueue((whose, number), timeout=30)

    race(
        *(lambda whose=whose: asyncio.run(produce(whose)) for whose in range(PRODUCERS))
    )
    assert dispatcher.close(30)
    in_order_of_each(sink.entries, [list(range(200))] * PRODUCERS)
    assert dispatcher.statistics().peak_pending <= 3


@pytest.mark.usefixtures("uncollected")
def test_f10_threads_find_their_own_loops_in_turn(
    dispatcher_class: type,
) -> None:  # C13, C14
    sink = Sink(time.monotonic)
    dispatcher = dispatcher_class(sink, ms_delay=0.5)

    async def produce(whose: int) -> list[int]:
        accepted = []
        for number in range(500):
            if dispatcher.enqueue((whose, number)):
                accepted.append(number)
            if number % 50 == 0:
                await asyncio.sleep(0)
        return accepted

    accepted: list[list[int]] = [[] for _ in range(PRODUCERS)]

    def run(whose: int) -> None:
        for _ in range(3):
            accepted[whose] += asyncio.run(produce(whose))

    race(*(lambda whose=whose: run(whose) for whose in range(PRODUCERS)))
    assert dispatcher.close(30)
    in_order_of_each(sink.entries, accepted)
    books = dispatcher.statistics()
    assert books.accepted == books.dispatched == 3 * 500 * PRODUCERS


# Objects only: nothing of theirs is imported.
@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="a build with the GIL"
)
def test_f32_importing_leaves_the_gil_off() -> None:
    outcome = run_snippet(
        """
        import sys
        assert not sys._is_gil_enabled()
        import ringdispatch
        print(sys._is_gil_enabled())
        """,
        prelude=False,
    )
    assert outcome.lines == ["False"]
