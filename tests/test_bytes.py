"""Bytes: what is encoded comes out as it went in, and is kept within its bounds."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lines import Line
from ringdispatch import BackgroundDispatcher, Bytes, BytesBatch
from ringdispatch._bytes import restore_batch
from support import SteppedLoop, books_agree

# ---- what a batch is


@settings(max_examples=200, deadline=None, print_blob=True)
@given(
    rounds=st.lists(
        st.tuples(st.lists(st.binary(max_size=40), max_size=9), st.integers(0, 9)),
        max_size=20,
    ),
    separator=st.sampled_from([b"", b"\n", b"\0" * 33]),
    max_bytes=st.integers(1, 300),
    capacity=st.integers(1, 20),
)
def test_bytes_come_out_as_they_went_in_however_they_lie_in_the_arena(
    rounds: list[tuple[list[bytes], int]],
    separator: bytes,
    max_bytes: int,
    capacity: int,
) -> None:  # C5, C7
    max_bytes += len(separator)
    line = Line(Bytes(separator=separator, max_bytes=max_bytes), capacity)
    pending: deque[bytes] = deque()
    batches: list[tuple[BytesBatch, list[bytes]]] = []
    for entries, most in rounds:
        for entry in entries:
            size = sum(len(each) + len(separator) for each in [*pending, entry])
            fits = size <= max_bytes and len(pending) < capacity
            assert line.enqueue(entry) is fits
            if fits:
                pending.append(entry)
        if most and (batch := line.take(most)) is not None:
            batches.append((batch, [pending.popleft() for _ in range(len(batch))]))
        assert line.books().pending_bytes == sum(map(len, pending)) + len(
            separator
        ) * len(pending)
    for batch, expected in batches:
        assert list(batch) == expected
        assert batch.payload == b"".join(entry + separator for entry in expected)
        assert batch.nbytes == len(batch.payload)


def test_positions_beyond_four_gigabytes_are_no_end() -> None:
    """They are kept in 32 bits; an entry of 1 MiB at a time goes there."""
    large = bytes(2**20 - 1)
    line = Line(Bytes(max_bytes=2**22 - 3))
    for _ in range(2**12 - 1):
        assert line.enqueue(large)
        assert line.take().nbytes == 2**20
    sent = []
    for number in range(3000):
        sent.append(b"%d" % number * (number % 300))
        assert line.enqueue(sent[-1])
        if number % 7 == 6:
            batch = line.take(5)
            assert list(batch) == sent[: len(batch)]
            del sent[: len(batch)]
        if len(sent) > 50:
            while (batch := line.take()) is not None:
                assert list(batch) == sent[: len(batch)]
                del sent[: len(batch)]
    assert list(line.take()) == sent


def batch_of(*entries: bytes, separator: bytes = b"\n") -> BytesBatch:
    line = Line(Bytes(separator=separator), len(entries))
    for entry in entries:
        assert line.enqueue(entry)
    batch: BytesBatch = line.take()
    return batch


def test_batch_reads_as_a_sequence() -> None:
    entries = [b"zero", b"", b"two", b"three", b"4"]
    batch = batch_of(*entries)
    assert len(batch) == 5
    assert list(batch) == entries
    assert [batch[which] for which in range(-5, 5)] == entries * 2
    assert batch[True] == b""
    for part in (
        slice(None),
        slice(1, 3),
        slice(-2, None),
        slice(None, None, -1),
        slice(4, 0, -2),
        slice(99),
        slice(7, 99),
        slice(3, 1),
    ):
        assert batch[part] == entries[part]
    first, second = iter(batch), iter(batch)
    assert (next(first), next(first), next(second)) == (b"zero", b"", b"zero")
    assert b"two" in batch  # type: ignore[operator]
    assert list(reversed(batch)) == entries[::-1]  # type: ignore[call-overload]
    assert batch.nbytes == len(batch.payload) == sum(map(len, entries)) + 5
    assert repr(batch) == "<BytesBatch of length 5, 18 B>"


@pytest.mark.parametrize("which", [5, -6, 2**62, -(2**62), 2**100, -(2**100)])
def test_index_beyond_the_batch_is_an_index_error(which: int) -> None:
    with pytest.raises(IndexError):
        batch_of(*[b"entry"] * 5)[which]


@pytest.mark.parametrize("which", [1.0, "1", None])
def test_index_that_is_none_is_a_type_error(which: Any) -> None:
    with pytest.raises(TypeError):
        batch_of(b"a", b"b")[which]


@pytest.mark.parametrize("name", ["payload", "nbytes", "more"])
def test_batch_cannot_be_changed(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(batch_of(b"a"), name, b"other")
    with pytest.raises(TypeError):
        batch_of(b"a")[0] = b"other"  # type: ignore[index]


@pytest.mark.parametrize("separator", [b"", b"\n", b", \r\n and so on "])
@pytest.mark.parametrize("count", [1, 2, 1000])
def test_json_array_is_one_of_the_entries(separator: bytes, count: int) -> None:
    values = [{"number": number, "text": "ä" * number} for number in range(count)]
    batch = batch_of(*(json.dumps(v).encode() for v in values), separator=separator)
    assert json.loads(batch.json_array()) == values


@pytest.mark.parametrize("separator", [b"", b"\n", b"--"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_batch_can_be_sent_to_another_process(protocol: int, separator: bytes) -> None:
    line = Line(Bytes(separator=separator, max_bytes=30))
    for _ in range(4):  # the arena's end comes at another place each time
        entries = [b"[1]", b"22", b"3333"]
        for entry in entries:
            assert line.enqueue(entry)
        batch = line.take()
        there = pickle.loads(pickle.dumps(batch, protocol))
        assert list(there) == entries
        assert (there.payload, there[-2]) == (batch.payload, b"22")
        assert there.json_array() == b"[[1],22,3333]"
    assert list(copy.deepcopy(batch)) == entries
    assert list(pickle.loads(pickle.dumps(BytesBatch(), protocol))) == []


@pytest.mark.parametrize(
    ("payload", "sizes", "separator_size"),
    [
        (b"ab", [1], 0),
        (b"ab", [3], 0),
        (b"ab", [1, 1], 1),
        (b"ab", [2, 2**64 - 1], 1),
        (b"", [2**64 - 1], 1),
        (b"ab", [0], 2**64 - 1),
        (b"ab", [], 0),
    ],
)
def test_pickled_batch_that_is_none_is_refused(
    payload: bytes, sizes: list[int], separator_size: int
) -> None:
    """It would be read beyond its end."""
    with pytest.raises(ValueError, match="do not fit its payload"):
        restore_batch(payload, sizes, separator_size)


def test_batch_of_nothing_is_an_empty_one() -> None:
    batch = BytesBatch()
    assert (len(batch), list(batch), batch[:], batch.payload) == (0, [], [], b"")
    assert batch.json_array() == b"[]"


def test_batch_outlives_its_ring_and_what_comes_after() -> None:  # C7
    line = Line(Bytes(max_bytes=64))
    kept = []
    for number in range(500):
        assert line.enqueue(b"%d" % number)
        assert line.enqueue(b"%d!" % number)
        kept.append(line.take())
    del line
    assert [list(b) for b in kept] == [[b"%d" % n, b"%d!" % n] for n in range(500)]


def test_iterator_goes_on_where_it_was() -> None:
    line = Line(Bytes())
    for number in range(4):
        line.enqueue(b"%d" % number)
    iterator = iter(line.take())
    assert next(iterator) == b"0"
    assert list(iterator) == [b"1", b"2", b"3"]
    assert list(iterator) == []


# ---- what comes in

KINDS: list[Callable[[bytes], Any]] = [
    bytes,
    bytearray,
    memoryview,
    lambda data: memoryview(bytearray(data)),
    lambda data: memoryview(b"ab" + data + b"cd")[2:-2],
    type("Subclass", (bytes,), {}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encode", [None, lambda entry: entry])
def test_everything_that_is_bytes_is_taken(kind: Any, encode: Any) -> None:
    line = Line(Bytes(encode))
    for data in (b"some", b"", b"more" * 1000):
        assert line.enqueue(kind(data))
    assert list(line.take()) == [b"some", b"", b"more" * 1000]


def test_what_the_caller_changes_later_is_in_no_batch() -> None:
    line = Line(Bytes())
    mine = bytearray(b"before")
    assert line.enqueue(mine)
    mine[:] = b"after, and of another size: nothing holds it"
    assert list(line.take()) == [b"before"]


def test_encode_may_enqueue_take_and_close() -> None:  # C18
    deeds: dict[Any, Callable[[], object]] = {
        "nests": lambda: [line.enqueue(number) for number in range(4)],
        "takes": lambda: taken.append(line.take()),
        "closes": lambda: line.ring.close(),
    }
    taken: list[Any] = []

    def encode(entry: Any) -> bytes:
        deeds.get(entry, int)()
        return str(entry).encode()

    line = Line(Bytes(encode, max_bytes=20), 3, on_full="drop_oldest")
    assert line.enqueue("nests")
    assert line.enqueue("takes")
    assert not line.enqueue("closes")
    assert [list(batch) for batch in taken] == [[b"2", b"3", b"nests"]]
    assert list(line.take()) == [b"takes"]
    books = line.books()
    assert (books.accepted, books.evicted, books.rejected_closed) == (6, 2, 1)


# ---- bounds


def test_newest_entry_displaces_as_many_whole_ones_as_it_needs() -> None:
    line = Line(Bytes(max_bytes=100), on_full="drop_oldest")
    for number in range(10):
        assert line.enqueue(b"%d" % number * 9)
    assert line.enqueue(b"new" * 7)  # 22 bytes with its separator
    assert list(line.take()) == [b"%d" % n * 9 for n in range(3, 10)] + [b"new" * 7]
    assert line.books().evicted == 3
    assert line.enqueue(bytes(50))
    assert line.enqueue(bytes(99))
    assert [len(entry) for entry in line.take()] == [99]
    assert line.books().evicted == 4


@pytest.mark.parametrize("separator", [b"", b"\n"])
def test_entries_of_no_bytes_are_bounded_by_their_number(separator: bytes) -> None:
    line = Line(Bytes(separator=separator, max_bytes=100), 50)
    assert [line.enqueue(b"") for _ in range(51)] == [True] * 50 + [False]
    batch = line.take()
    assert list(batch) == [b""] * 50
    assert batch.payload == separator * 50
    assert line.take() is None


def test_waiting_entry_is_encoded_once_and_is_the_rings_own(
    stepped: SteppedLoop,
) -> None:
    encoded: list[str] = []
    sent: list[bytes] = []
    shared = bytearray()

    def encode(entry: str) -> bytearray:
        encoded.append(entry)
        shared[:] = entry.encode()
        return shared  # to be used again for the next one

    async def main() -> None:
        async def send(batch: BytesBatch) -> None:
            sent.extend(batch)
            await asyncio.sleep(1)

        dispatcher = BackgroundDispatcher(
            send, ms_delay=100, layout=Bytes(encode, max_bytes=10)
        )
        names = ["one", "two", "three", "four", "five", "sixsixsix"]
        tasks = [asyncio.create_task(dispatcher.aenqueue(name)) for name in names]
        vain = asyncio.create_task(dispatcher.aenqueue("vain", timeout=0.01))
        await stepped.advance(20)
        assert [await task for task in tasks] == [True] * 6
        assert await vain is False
        assert encoded == [*names, "vain"]
        assert sent == [name.encode() for name in names]
        assert dispatcher.statistics().rejected_full == 1
        books_agree(dispatcher)
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())
