"""Bytes through a dispatcher: batches bounded in bytes, early when they are full."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from loops import LOOPS, run_on
from ringdispatch import BackgroundDispatcher, Bytes, BytesBatch, Full
from subprocesses import needs_fork, run_snippet
from support import SteppedLoop, books_agree

NEWLINE = b"\n"


class Collector:
    """A dispatch function that keeps its batches, and waits on request."""

    def __init__(self) -> None:
        self.batches: list[BytesBatch] = []
        self.gate: asyncio.Event | None = None

    async def __call__(self, batch: BytesBatch) -> None:
        self.batches.append(batch)
        if self.gate is not None:
            await self.gate.wait()

    @property
    def entries(self) -> list[list[bytes]]:
        return [list(batch) for batch in self.batches]


def test_payload_is_what_was_encoded_with_a_separator_after_each(
    stepped: SteppedLoop,
) -> None:
    collector = Collector()

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            collector,
            ms_delay=100,
            layout=Bytes(encode=lambda entry: json.dumps(entry).encode()),
        )
        for number in range(3):
            assert dispatcher.enqueue({"number": number})
        seen = dispatcher.statistics()
        assert seen.pending_bytes == 3 * len(b'{"number": 0}\n')
        assert seen.max_bytes == seen.max_batch_bytes == 16 * 1024 * 1024
        await stepped.advance(0.2)
        (batch,) = collector.batches
        assert batch.payload == b'{"number": 0}\n{"number": 1}\n{"number": 2}\n'
        assert json.loads(batch.json_array()) == [{"number": n} for n in range(3)]
        assert dispatcher.statistics().pending_bytes == 0
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_bytes_of_a_full_batch_go_out_at_once_and_the_rest_in_its_time(
    stepped: SteppedLoop,
) -> None:  # C6, C2
    collector = Collector()

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            collector, ms_delay=100, layout=Bytes(max_batch_bytes=10), max_in_flight=2
        )
        for entry in (b"four", b"3rd"):
            dispatcher.enqueue(entry)
        await stepped.settle()
        assert collector.batches == []
        dispatcher.enqueue(b"")  # its separator makes ten
        await stepped.settle()
        assert collector.entries == [[b"four", b"3rd", b""]]
        dispatcher.enqueue(b"123456")
        dispatcher.enqueue(b"123")  # more than ten: it goes with the next batch
        await stepped.settle()
        assert collector.entries[1:] == [[b"123456"]]
        await stepped.advance(0.09)
        assert len(collector.batches) == 2
        await stepped.advance(0.02)
        assert collector.entries[2:] == [[b"123"]]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_single_entry_that_fills_a_batch_goes_out_at_once(
    stepped: SteppedLoop,
) -> None:  # C6
    collector = Collector()

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            collector, ms_delay=100, layout=Bytes(max_batch_bytes=10)
        )
        dispatcher.enqueue(b"123456789")
        await stepped.settle()
        assert collector.entries == [[b"123456789"]]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_ring_that_could_not_take_its_largest_entry_again_is_emptied_early(
    stepped: SteppedLoop,
) -> None:  # C6: bytes are full before they are all used
    collector = Collector()

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            collector, ms_delay=100, layout=Bytes(max_bytes=100)
        )
        for _ in range(2):
            for _ in range(3):
                assert dispatcher.enqueue(bytes(20))
            await stepped.settle()
            assert dispatcher.pending == 3  # 63 bytes: there is room for 21 more
            assert dispatcher.enqueue(bytes(20))
            await stepped.settle()
            assert dispatcher.pending == 0
        assert [len(batch) for batch in collector.batches] == [4, 4]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_bytes_that_fill_up_again_after_an_eviction_go_out_at_once(
    stepped: SteppedLoop,
) -> None:  # C6
    collector = Collector()

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            collector, ms_delay=100, layout=Bytes(max_bytes=100), on_full="drop_oldest"
        )
        dispatcher.enqueue(bytes(98))
        assert dispatcher.enqueue(bytes(9))  # displaces it before the home looked
        await stepped.settle()
        assert [batch.nbytes for batch in collector.batches] == [10]
        assert dispatcher.statistics().evicted == 1
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_window_that_is_due_goes_out_whole_in_batches_of_max_batch_bytes(
    stepped: SteppedLoop,
) -> None:  # C1, C6
    collector = Collector()

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            collector, ms_delay=100, layout=Bytes(max_batch_bytes=10), capacity=100
        )
        collector.gate = asyncio.Event()
        dispatcher.enqueue(b"123456789")
        await stepped.settle()
        for size in (3, 3, 8, 1, 1, 1):
            dispatcher.enqueue(b"x" * size)
        await stepped.advance(0.3)
        dispatcher.enqueue(b"abc")
        collector.gate.set()
        await stepped.settle()
        sizes = [[len(entry) for entry in batch] for batch in collector.entries]
        assert sizes == [[9], [3, 3], [8], [1, 1, 1, 3]]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


@pytest.mark.parametrize("seed", range(20))
def test_random_traffic_keeps_every_bound_in_bytes(
    stepped: SteppedLoop, seed: int
) -> None:
    """C5, C6, C7, C9: whatever comes, in any order; the seed is in the test's name."""
    chance = random.Random(seed)
    separator = chance.choice([b"", b"\n", b"----"])
    max_bytes = chance.choice([4, 30, 200, 5000])
    max_batch_bytes = chance.choice([None, min(max_bytes, 25)])
    on_full = chance.choice(["drop_newest", "drop_oldest", "raise"])
    most = max_batch_bytes or max_bytes
    accepted: list[bytes] = []
    received: list[bytes] = []

    async def main() -> None:
        async def send(batch: BytesBatch) -> None:
            assert len(batch) > 0
            assert batch.nbytes <= most
            received.extend(batch)
            await asyncio.sleep(chance.choice([0, 0.01, 0.2]))

        dispatcher = BackgroundDispatcher(
            send,
            ms_delay=100,
            capacity=chance.choice([3, 1000]),
            max_in_flight=chance.choice([1, 3]),
            on_full=on_full,
            layout=Bytes(
                encode=chance.choice([None, lambda entry: entry]),
                separator=separator,
                max_bytes=max_bytes,
                max_batch_bytes=max_batch_bytes,
            ),
        )
        for number in range(300):
            entry = b"%d;" % number * chance.choice([0, 1, 3, 10])
            try:
                if dispatcher.enqueue(entry):
                    accepted.append(entry)
                else:
                    assert on_full == "drop_newest" or len(entry + separator) > most
            except Full:
                assert on_full == "raise"
            if chance.random() < 0.2:
                await stepped.advance(chance.choice([0, 0.05, 0.3]))
            books_agree(dispatcher)
            seen = dispatcher.statistics()
            assert seen.pending_bytes is not None
            assert seen.pending_bytes <= max_bytes
            if seen.pending and seen.pending_bytes >= most:
                await stepped.settle()
                left = dispatcher.statistics().pending_bytes
                assert (
                    dispatcher._batcher.ring.busy_slots or left < most
                )  # a batch is in flight
        await stepped.advance(100)
        seen = dispatcher.statistics()
        assert seen.dispatched == len(received) == len(accepted) - seen.evicted
        if on_full == "drop_oldest":
            in_order = iter(accepted)
            assert all(entry in in_order for entry in received)
        else:
            assert received == accepted
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_on_error_gets_the_batch_that_failed(stepped: SteppedLoop) -> None:  # C11
    failed: list[Any] = []

    async def main() -> None:
        async def send(batch: BytesBatch) -> None:
            raise ConnectionError

        dispatcher = BackgroundDispatcher(
            send,
            ms_delay=100,
            layout=Bytes(),
            on_error=lambda error, batch: failed.append((type(error), list(batch))),
        )
        dispatcher.enqueue(b"lost")
        await stepped.advance(0.2)
        assert failed == [(ConnectionError, [b"lost"])]
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("kind", ["async", "ordinary"])
def test_batch_may_be_written_as_it_is(loop_name: str, kind: str) -> None:
    written = bytearray()

    def write(batch: BytesBatch) -> None:
        written.extend(batch.payload)

    async def awrite(batch: BytesBatch) -> None:
        write(batch)

    async def main() -> None:
        function: Callable[[BytesBatch], object] = awrite if kind == "async" else write
        async with BackgroundDispatcher(
            function, ms_delay=1, layout=Bytes(encode=str.encode)
        ) as dispatcher:
            for number in range(1000):
                assert await dispatcher.aenqueue(f"line {number}")

    run_on(loop_name, main())
    assert written.decode().splitlines() == [f"line {n}" for n in range(1000)]


def test_aenqueue_refuses_what_enqueue_refuses(stepped: SteppedLoop) -> None:
    async def main() -> None:
        async with BackgroundDispatcher(
            Collector(), ms_delay=1, layout=Bytes()
        ) as dispatcher:
            with pytest.raises(TypeError, match=r"'text'.*encode it"):
                await dispatcher.aenqueue("text")
            with pytest.raises(ValueError, match="must be contiguous"):
                await dispatcher.aenqueue(memoryview(b"abcdef")[::2])
            assert dispatcher.statistics().accepted == 0

    stepped.run_until_complete(main())


@needs_fork
def test_forked_child_starts_with_an_empty_arena() -> None:  # C17
    outcome = run_snippet(
        """
        from ringdispatch import Bytes
        async def send(batch): say(name, list(batch), batch.payload)
        name = "parent"
        dispatcher = BackgroundDispatcher(
            send, ms_delay=60_000, layout=Bytes(max_bytes=50))
        for entry in (b"x" * 10, b"mine", b"too"):
            assert dispatcher.enqueue(entry)
        pid = os.fork()
        if pid == 0:
            signal.alarm(15)
            name = "child"
            assert dispatcher.statistics().pending_bytes == 0
            assert dispatcher.enqueue(b"y" * 49)
            assert not dispatcher.enqueue(b"z" * 50)
            assert dispatcher.statistics().rejected_oversized == 1
            assert dispatcher.close()
            sys.exit(0)  # not os._exit(): the home may be writing its report
        assert os.waitpid(pid, 0)[1] == 0
        assert dispatcher.close()
        """,
        warnings=("ignore:This process:DeprecationWarning",),
        stderr=r"ringdispatch\[send\]: 1 entry rejected_oversized; [^\n]*",
    )
    ys = b"y" * 49
    entries = [b"x" * 10, b"mine", b"too"]
    assert outcome.lines == [
        f"child {[ys]} {bytes(ys + NEWLINE)}",
        f"parent {entries} {NEWLINE.join([*entries, b''])!r}",
    ]
