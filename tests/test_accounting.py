"""C7 to C9: bounds, and counters that say what really happened."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import weakref
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher, Full, Statistics
from support import Sink, SteppedLoop, books_agree

# ---- bounds


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 8, 1000])
def test_capacity_is_exact(
    stepped: SteppedLoop, sink: Sink, capacity: int, dispatcher_class: type
) -> None:
    # C7
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, capacity=capacity)
        accepted = [dispatcher.enqueue(number) for number in range(capacity + 3)]
        assert accepted == [True] * capacity + [False] * 3
        assert dispatcher.pending == capacity
        await stepped.advance(0.2)
        assert sink.entries == list(range(capacity))
        seen = dispatcher.statistics()
        assert seen.capacity == seen.peak_pending == seen.accepted == capacity
        assert seen.rejected_full == 3

    stepped.run_until_complete(main())


# Objects only: who is alive.
@pytest.mark.parametrize("on_full", ["drop_newest", "drop_oldest", "raise"])
def test_stuck_dispatches_hold_at_most_capacity_and_their_batches(
    stepped: SteppedLoop, sink: Sink, on_full: str
) -> None:  # C7
    class Entry:
        pass

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            sink, ms_delay=100, capacity=3, max_in_flight=2, on_full=on_full
        )
        sink.hold()
        alive: weakref.WeakSet[Entry] = weakref.WeakSet()
        most = 0
        for _ in range(100):
            for _ in range(5):
                entry = Entry()
                alive.add(entry)
                with contextlib.suppress(Full):
                    dispatcher.enqueue(entry)
                del entry
            await stepped.advance(0.03)
            seen = dispatcher.statistics()
            books_agree(dispatcher)
            assert len(alive) == seen.pending + seen.in_flight
            most = max(most, len(alive))
        assert most == 3 * (1 + 2)
        dispatcher._batcher.ring.abandon()
        sink.release()

    sink.batches = Forgetful()
    stepped.run_until_complete(main())


class Forgetful(list[list[Any]]):
    """Batches that the sink does not keep."""

    def append(self, batch: list[Any]) -> None:
        del batch


# ---- counters


@pytest.mark.parametrize("on_full", ["drop_newest", "drop_oldest"])
def test_counters_say_what_the_dispatch_function_got(
    stepped: SteppedLoop, sink: Sink, on_full: str, dispatcher_class: type
) -> None:  # C8, C9
    async def main() -> None:
        failures: list[list[int]] = []
        dispatcher = dispatcher_class(
            sink,
            ms_delay=100,
            capacity=7,
            max_batch=3,
            on_full=on_full,
            on_error=lambda error, batch: failures.append(batch),
        )
        accepted = 0
        for number in range(200):
            accepted += dispatcher.enqueue(number)
            sink.error = ValueError("no") if number % 11 == 0 else None
            if number % 9 == 0:
                await stepped.advance(0.07)
            books_agree(dispatcher)
        sink.error = None
        await stepped.advance(1.0)
        seen = dispatcher.statistics()
        failed = [entry for batch in failures for entry in batch]
        assert sink.entries == sorted(set(sink.entries))  # once each, in order
        assert seen.batches == len(sink.batches)
        assert seen.failed_batches == len(failures) > 0
        assert seen.failed == len(failed)
        assert seen.dispatched == len(sink.entries) - len(failed)
        assert seen.accepted == accepted
        assert seen.pending == seen.in_flight == seen.abandoned == 0
        if on_full == "drop_newest":
            assert seen.rejected_full == 200 - accepted > 0
            assert seen.evicted == 0
        else:
            assert accepted == 200
            assert seen.evicted == 200 - len(sink.entries) > 0
            assert seen.rejected_full == 0

    stepped.run_until_complete(main())


def test_entries_count_as_in_flight_from_take_to_settlement(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C8
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)

        def where() -> tuple[int, int, int]:
            seen = dispatcher.statistics()
            return seen.pending, seen.in_flight, seen.dispatched

        sink.hold()
        dispatcher.enqueue("a")
        dispatcher.enqueue("b")
        assert where() == (2, 0, 0)
        await stepped.advance(0.11)
        assert where() == (0, 2, 0)
        dispatcher.enqueue("c")
        assert where() == (1, 2, 0)
        sink.release()
        await stepped.settle()
        assert where() == (1, 0, 2)

    stepped.run_until_complete(main())


def test_late_result_changes_no_count(
    stepped: SteppedLoop, dispatcher_class: type
) -> None:  # C9, C11
    async def stubborn(batch: list[str]) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(10)

    async def main() -> None:
        dispatcher = dispatcher_class(stubborn, ms_delay=100, dispatch_timeout=1)
        dispatcher.enqueue("a")
        await stepped.advance(1.2)
        at_timeout = dispatcher.statistics()
        assert (at_timeout.failed, at_timeout.in_flight) == (1, 0)
        await stepped.advance(20)
        assert dispatcher._batcher.ring.busy_slots == 0  # it has really ended
        assert dispatcher.statistics() == at_timeout

    stepped.run_until_complete(main())


# Objects only: the others know bytes.
def test_statistics_are_one_frozen_snapshot(stepped: SteppedLoop, sink: Sink) -> None:
    # C8
    dispatcher = BackgroundDispatcher(sink, ms_delay=100, capacity=9)
    seen = dispatcher.statistics()
    assert isinstance(seen, Statistics)
    assert dataclasses.asdict(seen) == {
        field.name: 0 for field in dataclasses.fields(Statistics)
    } | {
        "capacity": 9,
        "max_batch": 9,
        "pending_bytes": None,
        "max_bytes": None,
        "max_batch_bytes": None,
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.accepted = 1  # type: ignore[misc]
    assert not hasattr(seen, "__dict__")


def test_peak_pending_is_the_most_that_ever_waited(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        for count, peak in [(3, 3), (1, 3), (5, 5), (2, 5)]:
            for number in range(count):
                dispatcher.enqueue(number)
            assert dispatcher.statistics().peak_pending == peak
            await stepped.advance(0.2)
        assert dispatcher.statistics().peak_pending == 5

    stepped.run_until_complete(main())


def test_oldest_age_counts_from_the_opening_of_the_window(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)

        def age() -> float:
            return round(dispatcher.statistics().oldest_age_seconds, 6)

        assert age() == 0.0
        dispatcher.enqueue("a")
        await stepped.advance(0.04)
        dispatcher.enqueue("b")
        await stepped.advance(0.02)
        assert age() == 0.06
        await stepped.advance(0.06)
        assert age() == 0.0

    stepped.run_until_complete(main())


@pytest.mark.parametrize("flushes", [0, 3])
def test_oldest_age_grows_while_entries_wait_for_a_slot(
    stepped: SteppedLoop, sink: Sink, flushes: int, dispatcher_class: type
) -> None:  # an upper bound, however often it was read
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=2)
        sink.hold()
        for number in range(3):
            dispatcher.enqueue(number)
        await stepped.advance(4)
        for _ in range(flushes):
            flush = asyncio.create_task(dispatcher.aflush(timeout=0.5))
            await stepped.advance(1)
            assert flush.done()
        await stepped.advance(1)
        assert dispatcher.pending == 1
        assert dispatcher.statistics().oldest_age_seconds >= 5 + flushes - 1e-6
        sink.release()
        await stepped.settle()

    stepped.run_until_complete(main())


def test_dispatch_seconds_run_until_the_batch_is_settled(
    stepped: SteppedLoop, dispatcher_class: type
) -> None:
    async def main() -> None:
        durations = iter([0.25, 0.5, 60.0])

        async def send(batch: list[str]) -> None:
            await asyncio.sleep(next(durations))
            if batch == ["b"]:
                raise ValueError("no")

        dispatcher = dispatcher_class(send, ms_delay=100, dispatch_timeout=2)
        for entry, total in [("a", 0.25), ("b", 0.75), ("c", 2.75)]:
            dispatcher.enqueue(entry)
            await stepped.advance(5)
            seconds = dispatcher.statistics().dispatch_seconds_total
            assert seconds == pytest.approx(total)

    stepped.run_until_complete(main())
