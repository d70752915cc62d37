"""Records: batches get whole buffers, and buffers are used again."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lines import Line
from loops import eventually
from ringdispatch import BackgroundDispatcher, Records
from subprocesses import needs_fork, run_snippet
from support import SteppedLoop

NUMBERS = Records([("number", "u4"), ("square", "u8")])
LARGE = Records([("number", "u4"), ("square", "u8"), ("text", "S500")])


def fill(line: Line, numbers: range, *more: bytes) -> None:
    for number in numbers:
        assert line.enqueue((number, number**2, *more))


def address(batch: Any) -> int:
    """Where the buffer lies that a batch is in."""
    found: int = batch.__array_interface__["data"][0]
    return found


def numbers_of(batch: Any) -> list[int]:
    numbers: list[int] = batch["number"].tolist()
    assert batch["square"].tolist() == [number**2 for number in numbers]
    return numbers


@pytest.mark.parametrize("max_in_flight", [1, 2, 5])
def test_batches_that_are_freed_use_the_same_buffers(max_in_flight: int) -> None:
    # C7
    line = Line(NUMBERS, 10, max_in_flight=max_in_flight)
    seen = set()
    out: list[Any] = []
    for number in range(100):
        fill(line, range(number, number + 7))
        out.append(line.take())
        assert numbers_of(out[-1]) == list(range(number, number + 7))
        seen.add(address(out[-1]))
        if len(out) == max_in_flight:
            del out[number % max_in_flight]
    assert len(seen) == max_in_flight + 1


def test_whole_ring_is_handed_out_without_copying() -> None:
    line = Line(NUMBERS, 10)
    places = []
    for _ in range(4):
        fill(line, range(10))
        places.append(address(line.take()))
    assert places[0] != places[1]
    assert places[:2] == places[2:]


@pytest.mark.parametrize(
    ("began", "count"),
    [(0, 7), (3, 7), (3, 5)],
    ids=["whole", "to the end", "across"],
)
def test_few_rows_that_come_before_a_take_are_copied_instead_of_it(
    began: int, count: int
) -> None:
    line = Line(NUMBERS, 10)
    fill(line, range(10))
    first = address(line.take())
    fill(line, range(10))
    line.take()  # from the second buffer: the ring goes on in the first
    fill(line, range(10))
    if began:
        line.take(began)
        fill(line, range(10, 10 + began))
    kept = line.take(count)
    assert address(kept) == first + began * NUMBERS.dtype.itemsize
    fill(line, range(began + 10, began + 12))
    assert numbers_of(kept) == [*range(began, began + count)]
    assert numbers_of(line.take()) == [*range(began + count, began + 12)]


def test_part_of_the_ring_is_copied_and_the_rest_stays() -> None:
    line = Line(NUMBERS, 10)
    fill(line, range(10))
    first, second = line.take(4), line.take(3)
    fill(line, range(10, 17))  # across the end
    third = line.take()
    parts = [numbers_of(batch) for batch in (first, second, third)]
    assert parts == [[*range(4)], [*range(4, 7)], [*range(7, 17)]]
    assert len({address(batch) for batch in (first, second, third)}) == 3


@pytest.mark.parametrize(
    ("layout", "more"), [(NUMBERS, ()), (LARGE, (b"x" * 500,))], ids=["small", "large"]
)
def test_batch_that_is_kept_stays_as_it_was(
    layout: Records, more: tuple[bytes, ...]
) -> None:  # C7
    line = Line(layout, 16)
    fill(line, range(9), *more)
    kept = line.take()
    before = kept.tobytes()
    view = kept["square"][3:5]  # a part of it keeps the whole
    places = set()
    for number in range(9, 5009, 5):
        fill(line, range(number, number + 5), *more)
        batch = line.take(2 + number % 5)
        places.add(address(batch))
        del batch
        while line.take() is not None:
            pass
    assert kept.tobytes() == before
    assert address(kept) not in places
    assert len(places) <= 3
    del kept
    assert view.tolist() == [9, 16]


def test_writing_to_a_batch_changes_no_other() -> None:
    line = Line(NUMBERS, 8)
    fill(line, range(8))
    first = line.take(3)
    second = line.take(3)
    fill(line, range(8, 11))
    first["number"], second["square"] = 99, 99
    assert numbers_of(line.take()) == [6, 7, 8, 9, 10]
    assert first["number"].tolist() == [99] * 3
    assert second["number"].tolist() == [3, 4, 5]


def test_batch_outlives_its_ring() -> None:
    line = Line(NUMBERS, 8)
    fill(line, range(5))
    batch = line.ring.take(8)
    assert batch is not None
    numbers = batch.value
    del batch, line
    gc.collect()
    assert numbers_of(numbers) == [0, 1, 2, 3, 4]


def test_batch_that_is_freed_unread_gives_its_buffer_back() -> None:
    line = Line(NUMBERS, 8)
    places = set()
    for number in range(50):
        fill(line, range(number, number + 3))
        batch = line.ring.take(8)
        assert batch is not None
        if number % 2:
            places.add(address(batch.value))
        batch.release()
        assert batch.value is None
        del batch
    assert len(places) <= 2


def test_entries_are_nothing_to_the_garbage_collector() -> None:
    line = Line(NUMBERS, 2000)
    fill(line, range(2000))
    line.ring.abandon()
    gc.collect()
    gc.disable()
    try:
        tracked, blocks = len(gc.get_objects()), gc.get_count()[0]
        for number in range(2000):
            line.enqueue_row(number, number)
        # Far less than one each; another thread may just be ending.
        assert len(gc.get_objects()) <= tracked + 100
        assert gc.get_count()[0] <= blocks + 100
    finally:
        gc.enable()
    take = line.ring.take(2000)
    assert take is not None
    assert not gc.is_tracked(take.raw)


def test_values_are_not_kept() -> None:
    class Number(float):
        pass

    line = Line(Records([("real", "f8"), ("single", "f4")]))
    number = Number(5)
    gone = weakref.ref(number)
    assert line.enqueue((number, number))
    assert line.enqueue_row(number, number)
    del number
    assert gone() is None
    assert line.take().tolist() == [(5.0, 5.0)] * 2


def test_capacity_of_one_row_of_one_byte() -> None:
    line = Line(Records([("flag", "?")]), 1, on_full="drop_oldest")
    for flag in (True, False, True):
        assert line.enqueue_row(flag)
    assert line.take().tolist() == [(True,)]
    assert line.books().evicted == 2
    assert line.take() is None


# ---- with a dispatcher


def test_dispatcher_that_is_dropped_leaves_the_batch_to_who_keeps_it(
    stepped: SteppedLoop,
) -> None:  # F35
    kept: list[Any] = []

    async def main() -> None:
        async def send(batch: Any) -> None:
            kept.append(batch)

        dispatcher = BackgroundDispatcher(send, ms_delay=100, layout=NUMBERS)
        for number in range(3):
            dispatcher.enqueue_row(number, number**2)
        gone = weakref.ref(dispatcher)
        del dispatcher
        await stepped.advance(0.2)
        gc.collect()
        assert gone() is None
        assert numbers_of(kept[0]) == [0, 1, 2]

    stepped.run_until_complete(main())


def test_buffers_of_slow_receivers_are_replaced_and_never_shared() -> None:  # C7
    """Batches are kept for a while, on another thread, and read again at the end."""
    kept: list[tuple[Any, bytes]] = []
    received: list[int] = []

    async def send(batch: Any) -> None:
        received.extend(numbers_of(batch))
        kept.append((batch, batch.tobytes()))
        if len(kept) % 5 == 0:
            assert all(batch.tobytes() == before for batch, before in kept)
            kept[:] = kept[::2][-6:]

    dispatcher = BackgroundDispatcher(
        send,
        ms_delay=0.2,
        capacity=256,
        max_batch=100,
        max_in_flight=3,
        home="thread",
        layout=NUMBERS,
    )
    accepted = []
    for number in range(20_000):
        if dispatcher.enqueue_row(number, number**2):
            accepted.append(number)
        elif number % 64 == 0:
            time.sleep(0)
    assert dispatcher.close()
    assert received == accepted
    assert dispatcher.statistics().failed == 0


def test_large_rows_from_racing_threads_come_whole() -> None:  # C18
    sums: list[int] = []

    async def send(batch: Any) -> None:
        for number, _, text in batch.tolist():
            assert text == b"%d " % number * 60
        sums.extend(batch["number"].tolist())

    dispatcher = BackgroundDispatcher(
        send, ms_delay=1, capacity=50, home="thread", layout=LARGE
    )

    def produce(whose: int) -> None:
        for number in range(whose, 4000, 4):
            while not dispatcher.enqueue((number, 0, b"%d " % number * 60)):
                time.sleep(0)

    threads = [threading.Thread(target=produce, args=(whose,)) for whose in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dispatcher.close()
    assert sorted(sums) == list(range(4000))


# ---- forks


@needs_fork
def test_forked_child_has_buffers_of_its_own() -> None:  # C17
    outcome = run_snippet(
        """
        from ringdispatch import Records
        kept = []
        async def send(batch):
            kept.append(batch)
            say(name, batch["number"].tolist())
        name = "parent"
        dispatcher = BackgroundDispatcher(
            send, ms_delay=60_000, capacity=8, layout=Records([("number", "u4")]))
        for number in range(3):
            dispatcher.enqueue_row(number)
        assert dispatcher.flush()
        dispatcher.enqueue_row(3)  # the parent's to send
        pid = os.fork()
        if pid == 0:
            signal.alarm(15)
            name = "child"
            for first in range(10, 60, 5):  # more than once round
                for number in range(first, first + 5):
                    assert dispatcher.enqueue((number,))
                assert dispatcher.flush()
                kept[1:] = []
            assert kept[0]["number"].tolist() == [0, 1, 2]
            kept.clear()
            dispatcher.enqueue_row(99)
            assert dispatcher.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert kept[0]["number"].tolist() == [0, 1, 2]
        dispatcher.enqueue_row(4)
        assert dispatcher.close()
        """,
        warnings=("ignore:This process:DeprecationWarning",),
    )
    child = [[*range(first, first + 5)] for first in range(10, 60, 5)]
    assert outcome.lines == [
        "parent [0, 1, 2]",
        *(f"child {numbers}" for numbers in child),
        "child [99]",
        "parent [3, 4]",
    ]


@pytest.mark.parametrize("read", [bytes, np.array, lambda batch: batch.copy()])
def test_batch_may_be_read_on_any_thread(read: Callable[[Any], Any]) -> None:
    batches: list[Any] = []

    def send(batch: Any) -> None:  # in a worker thread
        batches.append(batch)

    dispatcher = BackgroundDispatcher(
        send, ms_delay=60_000, max_batch=3, layout=NUMBERS
    )
    for number in range(3):
        dispatcher.enqueue_row(number, number**2)
    eventually(lambda: batches)
    (batch,) = batches
    before = bytes(read(batch))
    assert dispatcher.close()
    batches.clear()
    assert bytes(read(batch)) == before


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_batches_wait_for_memory_with_a_delay_between_tries_and_one_line() -> None:
    outcome = run_snippet(
        """
        import resource
        from pathlib import Path
        from ringdispatch import Records
        rows, kept, tried, logged = 1_000_000, [], 0, []
        class Lines(logging.Handler):
            def emit(self, record): logged.append(record.getMessage())
        logging.getLogger("ringdispatch").addHandler(Lines())
        class Counting(BackgroundDispatcher):
            def take(self):
                global tried
                tried += 1
                return super().take()
        async def send(batch): kept.append(batch)
        async def until(condition):
            async with asyncio.timeout(10):
                while not condition():
                    await asyncio.sleep(0.01)
        async def main():
            global tried
            dispatcher = Counting(
                send, ms_delay=50, capacity=rows, layout=Records([("x", "f8")]))
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            room = pages * resource.getpagesize() + 3 * 8 * rows
            resource.setrlimit(resource.RLIMIT_AS, (room, room))
            sent = 0
            while not logged:  # each batch that is kept keeps a buffer
                sent += dispatcher.enqueue((sent,))
                await asyncio.sleep(0.02)
            tried = 0
            assert not await dispatcher.aflush(0.5)
            assert dispatcher.pending > 0
            assert tried <= 12, tried
            kept.clear()
            await until(lambda: not dispatcher.pending)
            assert await dispatcher.aclose()
            seen = dispatcher.statistics()
            assert seen.dispatched == seen.accepted == sent, seen
        asyncio.run(main())
        say(*logged)
        """
    )
    (line,) = outcome.lines
    assert line.count("no memory for a batch, its entries wait: no 8,000,000") == 1
