"""C5 and C6: order, the size of a batch, and how many calls run at once."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest

from loops import LOOPS, Place, run_on
from support import Sink, SteppedLoop, books_agree

# Bounds of batches, which the model of a ring in a file checks too.
pytestmark = pytest.mark.usefixtures("in_memory")


def test_entries_keep_their_order_within_and_across_batches(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C5
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, capacity=8, max_batch=3)
        for number in range(100):
            dispatcher.enqueue(number)
            if number % 5 == 4:  # wraps round the ring again and again
                await stepped.advance(0.2)
        assert sink.entries == list(range(100))
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


@pytest.mark.parametrize("loop_name", LOOPS)
def test_each_threads_entries_keep_their_order(
    loop_name: str, dispatcher_class: type
) -> None:  # C5
    sink = Place()
    dispatcher = dispatcher_class(sink, ms_delay=1, max_batch=100, max_in_flight=3)
    started = threading.Barrier(4)

    def produce(name: int) -> None:
        started.wait()
        for number in range(5000):
            dispatcher.enqueue((name, number))

    async def main() -> None:
        dispatcher.bind()
        threads = [asyncio.to_thread(produce, name) for name in range(4)]
        await asyncio.gather(*threads)
        assert await dispatcher.aclose()

    run_on(loop_name, main())
    for name in range(4):
        assert [n for who, n in sink.entries if who == name] == list(range(5000))
    assert max(map(len, sink.batches)) <= 100  # C6
    assert sink.most_running <= 3


def test_batches_start_in_order(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C5
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=2, max_in_flight=4)
        sink.hold()
        for number in range(20):
            dispatcher.enqueue(number)
        await stepped.advance(0.2)
        assert sink.batches == [[0, 1], [2, 3], [4, 5], [6, 7]]
        sink.release()
        await stepped.settle()
        assert sink.entries == list(range(20))
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_max_batch_dispatches_early_and_leaves_the_rest_to_its_time(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C6, C2
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=3, max_in_flight=2)
        for entry in "abcde":
            dispatcher.enqueue(entry)
        await stepped.settle()
        assert sink.batches == [["a", "b", "c"]]
        await stepped.advance(0.09)
        assert len(sink.batches) == 1
        await stepped.advance(0.02)
        assert sink.batches == [["a", "b", "c"], ["d", "e"]]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_full_ring_dispatches_early_without_max_batch(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C6: max_batch is the capacity then
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, capacity=5)
        assert [dispatcher.enqueue(n) for n in range(6)] == [True] * 5 + [False]
        await stepped.settle()
        assert sink.batches == [[0, 1, 2, 3, 4]]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


@pytest.mark.parametrize("max_batch", [1, 2, 4095, 4096, 4097, 10_000])
def test_every_full_batch_is_announced(
    stepped: SteppedLoop, sink: Sink, max_batch: int, dispatcher_class: type
) -> None:  # C6: also beyond the look round, and after batches that were not full
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=max_batch)
        for rounds in range(1, 4):
            before = len(sink.batches)
            dispatcher.enqueue("alone")
            await stepped.advance(0.2)
            for number in range(max_batch):
                assert dispatcher.enqueue(number)
            await stepped.settle()
            assert dispatcher.pending == 0, rounds
            assert len(sink.batches) == before + 2
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_max_in_flight_is_never_exceeded_and_entries_wait_in_the_ring(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C6
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=2, max_in_flight=2)
        sink.hold()
        for number in range(9):
            dispatcher.enqueue(number)
        await stepped.advance(10)
        assert sink.running == 2
        assert dispatcher.pending == 5
        assert dispatcher.statistics().in_flight == 4
        assert stepped.timers() == stepped.timers()[:2]  # the calls' own, no window's
        sink.release()
        await stepped.settle()  # at once: no time passes
        assert [len(batch) for batch in sink.batches] == [2, 2, 2, 2, 1]
        assert sink.most_running == 2
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_one_free_slot_is_used_while_others_are_taken(
    stepped: SteppedLoop,
    dispatcher_class: type,
) -> None:  # C6
    gates = [asyncio.Event() for _ in range(5)]
    started: list[int] = []

    async def main() -> None:
        async def sink(batch: list[int]) -> None:
            started.append(batch[0])
            await gates[batch[0]].wait()

        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=1, max_in_flight=2)
        for number in range(5):
            dispatcher.enqueue(number)
        await stepped.settle()
        assert started == [0, 1]
        gates[1].set()
        await stepped.settle()
        assert started == [0, 1, 2]
        gates[2].set()
        await stepped.settle()
        assert started == [0, 1, 2, 3]
        for gate in gates:
            gate.set()
        assert await dispatcher.aclose()
        assert started == [0, 1, 2, 3, 4]

    stepped.run_until_complete(main())


def test_window_that_is_due_goes_out_whole_in_batches_of_max_batch(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C1, C6
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=4)
        sink.hold()
        for number in range(4):
            dispatcher.enqueue(number)
        await stepped.settle()
        for number in range(4, 11):
            dispatcher.enqueue(number)
        await stepped.advance(0.3)
        assert sink.batches == [[0, 1, 2, 3]]
        sink.release()
        await stepped.settle()  # three of them were not a full batch, but were due
        assert sink.batches[1:] == [[4, 5, 6, 7], [8, 9, 10]]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_entries_after_the_window_was_due_belong_to_a_later_one(
    stepped: SteppedLoop,
    dispatcher_class: type,
) -> None:  # C1: they wait their own delay, also when they came while others went out
    batches: list[tuple[float, list[Any]]] = []

    async def main() -> None:
        began = stepped.time()

        async def sink(batch: list[Any]) -> None:
            batches.append((round(stepped.time() - began, 2), batch))
            if batch == [0, 1]:
                dispatcher.enqueue("later")
                await asyncio.sleep(0.03)

        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=3)
        dispatcher.enqueue(0)
        dispatcher.enqueue(1)
        await stepped.advance(1)
        assert batches == [(0.1, [0, 1]), (0.2, ["later"])]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_entries_that_join_a_backlog_do_not_inherit_its_age(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C1: their window opened when the backlog became due
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=4)
        for number in range(3):
            dispatcher.enqueue(number)
        await stepped.advance(0.05)
        sink.hold()
        dispatcher.enqueue(3)  # a full batch, which takes the slot
        await stepped.settle()
        for number in range(4, 11):
            dispatcher.enqueue(number)
        await stepped.advance(0.2)
        gate = sink._gate
        assert gate is not None
        sink.hold()
        gate.set()  # 4 to 7 go out; 8 to 10 are due and wait
        await stepped.settle()
        assert sink.entries == list(range(8))
        await stepped.advance(0.02)
        dispatcher.enqueue("joins, and fills the batch")
        dispatcher.enqueue("later")
        await stepped.advance(0.02)
        sink.release()
        await stepped.settle()
        assert sink.entries[8:] == [8, 9, 10, "joins, and fills the batch"]
        await stepped.advance(0.05)
        assert dispatcher.pending == 1
        await stepped.advance(0.02)
        assert sink.entries[12:] == ["later"]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_window_left_over_while_the_slot_was_taken_goes_out_when_it_is_free(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C6: it was due meanwhile
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        sink.hold()
        dispatcher.enqueue("a")
        await stepped.advance(0.15)
        dispatcher.enqueue("b")
        await stepped.advance(5)
        assert sink.batches == [["a"]]
        sink.release()
        await stepped.settle()
        assert sink.batches == [["a"], ["b"]]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_window_not_yet_due_when_the_slot_is_free_waits_for_its_time(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C1, C6
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        sink.hold()
        dispatcher.enqueue("a")
        await stepped.advance(0.15)
        dispatcher.enqueue("b")
        await stepped.advance(0.099)  # looked at, a moment before its time
        sink.release()
        await stepped.advance(0.0005)
        assert sink.batches == [["a"]]
        await stepped.advance(0.001)
        assert sink.batches == [["a"], ["b"]]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


@pytest.mark.parametrize("seed", range(20))
def test_random_traffic_keeps_every_bound(
    stepped: SteppedLoop, seed: int, dispatcher_class: type
) -> None:
    """C5, C6: whatever comes, in any order; the seed is in the test's name."""
    chance = random.Random(seed)
    max_batch = chance.choice([1, 2, 3, 7, 50])
    max_in_flight = chance.choice([1, 2, 5])
    capacity = max(max_batch, chance.choice([1, 8, 60]))
    received: list[int] = []
    running = 0

    async def sink(batch: list[int]) -> None:
        nonlocal running
        running += 1
        assert 1 <= len(batch) <= max_batch
        assert running <= max_in_flight
        received.extend(batch)
        await asyncio.sleep(chance.choice([0, 0.01, 0.2, 1]))
        running -= 1

    async def main() -> None:
        dispatcher = dispatcher_class(
            sink,
            ms_delay=chance.choice([1, 100]),
            capacity=capacity,
            max_batch=max_batch,
            max_in_flight=max_in_flight,
        )
        accepted = []
        for number in range(400):
            if dispatcher.enqueue(number):
                accepted.append(number)
            if chance.random() < 0.2:
                await stepped.advance(chance.choice([0, 0.001, 0.05, 0.3]))
            books_agree(dispatcher)
        await stepped.advance(2.0 * 400)
        assert received == accepted
        assert dispatcher.statistics().dispatched == len(accepted)
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())
