"""Bytes: what is none, or does not fit, is refused, and nothing is stored of it."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from lines import Line
from ringdispatch import BackgroundDispatcher, Bytes, BytesBatch, Full
from support import SteppedLoop, books_agree

ENTRIES = [
    ("text", TypeError, "encode it, or give Bytes(encode=...)"),
    (5, TypeError, "must be bytes, bytearray or memoryview"),
    (None, TypeError, "must be bytes, bytearray or memoryview"),
    ([b"a"], TypeError, "must be bytes, bytearray or memoryview"),
    (array("B", b"a"), TypeError, "must be bytes, bytearray or memoryview"),
    (memoryview(b"abcdef")[::2], ValueError, "must be contiguous: pass bytes(entry)"),
]


@pytest.mark.parametrize(("entry", "error", "instead"), ENTRIES)
def test_entry_that_is_no_bytes_is_named_and_nothing_stored(
    entry: Any, error: type[Exception], instead: str
) -> None:
    line = Line(Bytes())
    for _ in range(2):  # with no window open, and with one
        before = line.books()
        with pytest.raises(error) as refused:
            line.enqueue(entry)
        assert repr(entry) in str(refused.value)
        assert instead in str(refused.value)
        assert line.books() == before
        assert line.enqueue(b"good")
    assert list(line.take()) == [b"good"] * 2


@pytest.mark.parametrize("made", ["text", None, 5, [b"a"], memoryview(b"abc")[::2]])
def test_encode_that_makes_no_bytes_is_named_and_nothing_stored(made: Any) -> None:
    def encode(entry: Any) -> Any:
        return made if entry == "bad" else b"good"

    line = Line(Bytes(encode))
    for _ in range(2):
        with pytest.raises(TypeError) as refused:
            line.enqueue("bad")
        assert f"encode={encode!r}: returned {made!r}" in str(refused.value)
        assert line.enqueue("good")
    assert line.books().accepted == 2


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()], ids=repr)
def test_what_encode_raises_its_caller_gets(error: BaseException) -> None:
    def encode(entry: str) -> bytes:
        if entry == "bad":
            raise error
        return entry.encode()

    line = Line(Bytes(encode))
    for number in range(2):
        before = line.books()
        with pytest.raises(type(error)) as raised:
            line.enqueue("bad")
        assert raised.value is error
        assert line.books() == before
        assert line.enqueue(f"good {number}")
    assert list(line.take()) == [b"good 0", b"good 1"]


def test_entry_that_will_not_come_in_is_not_encoded() -> None:
    encoded: list[Any] = []

    def encode(entry: bytes) -> bytes:
        encoded.append(entry)
        return entry

    line = Line(Bytes(encode), 1)
    assert line.enqueue(b"in")
    assert not line.enqueue(b"full")
    line.ring.close()
    assert not line.enqueue(b"closed")
    assert encoded == [b"in"]


@pytest.mark.parametrize("on_full", ["drop_newest", "drop_oldest", "raise"])
def test_nothing_is_encoded_for_a_closed_ring(
    stepped: SteppedLoop, on_full: str
) -> None:  # C15
    def encode(entry: object) -> bytes:
        raise AssertionError("it was closed")

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            in_vain, ms_delay=1, layout=Bytes(encode), on_full=on_full
        )
        await dispatcher.aclose()
        assert not dispatcher.enqueue("entry")
        assert not await dispatcher.aenqueue("entry")
        assert dispatcher.statistics().rejected_closed == 2

    stepped.run_until_complete(main())


def test_entry_whose_time_cannot_be_read_is_freed() -> None:  # C9
    class Timeless:
        def now(self) -> float:
            raise OverflowError("no time")

    line = Line(Bytes(), listener=Timeless())
    entry = bytearray(b"entry")
    with pytest.raises(OverflowError, match="no time"):
        line.enqueue(entry)
    entry += b", and more"  # nothing reads its memory any more
    assert line.books().accepted == 0


# ---- the constructor


async def in_vain(batch: object) -> bytes:
    raise AssertionError("it should not be called or awaited")


OPTIONS = [
    ({"encode": 5}, TypeError, "encode=5"),
    ({"separator": "\n"}, TypeError, r"separator='\\n'"),
    ({"separator": None}, TypeError, "separator=None"),
    ({"max_bytes": 0}, ValueError, "max_bytes=0"),
    ({"max_bytes": 2.5}, TypeError, "max_bytes=2.5"),
    ({"max_bytes": True}, TypeError, "max_bytes=True"),
    ({"max_bytes": 2**32}, ValueError, "max_bytes=4294967296: must be <= 4294967295"),
    ({"max_batch_bytes": 0}, ValueError, "max_batch_bytes=0"),
    ({"max_batch_bytes": "1"}, TypeError, "max_batch_bytes='1'"),
    ({"encode": in_vain}, TypeError, "encode=.*in_vain.*plain function"),
    ({"max_bytes": 9, "separator": b"1234567890"}, ValueError, "at most 9 bytes"),
    ({"max_bytes": 9, "max_batch_bytes": 10}, ValueError, "max_batch_bytes=10.*=9"),
]


@pytest.mark.parametrize(
    ("options", "error", "message"), OPTIONS, ids=[message for *_, message in OPTIONS]
)
def test_option_out_of_its_range_is_named(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:  # C12
    with pytest.raises(error, match=message):
        Bytes(**options)


# ---- bounds


def test_f27_entry_larger_than_the_ring_is_refused_and_counted() -> None:
    """Whatever `on_full` says, it displaces nothing, and the others go out."""
    for on_full in ("drop_newest", "drop_oldest", "raise"):
        for layout in (Bytes(max_bytes=100), Bytes(max_batch_bytes=100)):
            line = Line(layout, on_full=on_full)
            assert line.enqueue(b"x" * 100) is False  # and the separator
            assert line.enqueue(b"before")
            for size in (100, 101, 10_000, 2**24):
                assert line.enqueue(bytes(size)) is False
                assert line.enqueue(bytearray(size)) is False
            assert line.enqueue(b"x" * 92)
            books = line.books()
            assert (books.rejected_oversized, books.rejected_full) == (9, 0)
            assert (books.accepted, books.evicted) == (2, 0)
            assert list(line.take()) == [b"before", b"x" * 92]
            assert line.enqueue(b"x" * 99)  # exactly as large as it may be
            assert line.take().nbytes == 100


def test_f27_oversized_entries_are_reported_with_the_way_out(
    stepped: SteppedLoop, caplog: pytest.LogCaptureFixture
) -> None:  # C10
    drops: list[tuple[str, int]] = []
    sent: list[bytes] = []

    async def main() -> None:
        async def send(batch: BytesBatch) -> None:
            sent.extend(batch)

        dispatcher = BackgroundDispatcher(
            send,
            ms_delay=100,
            layout=Bytes(max_bytes=100, max_batch_bytes=50),
            on_drop=lambda reason, count: drops.append((reason, count)),
        )
        assert not await dispatcher.aenqueue(bytes(50))
        assert not dispatcher.enqueue(bytes(1000))
        assert dispatcher.enqueue(b"fits")
        await stepped.advance(0.2)
        assert drops == [("rejected_oversized", 2)]
        assert "raise max_batch_bytes" in caplog.text
        assert sent == [b"fits"]
        assert dispatcher.statistics().rejected_oversized == 2
        books_agree(dispatcher)
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_bytes_make_a_ring_full_before_entries_do() -> None:  # C7
    line = Line(Bytes(max_bytes=100), on_full="raise")
    assert line.enqueue(bytes(59))
    with pytest.raises(Full, match=r"full \(1 pending\): raise capacity or max_bytes"):
        line.enqueue(bytes(40))
    assert line.enqueue(bytes(39))
    with pytest.raises(Full, match=r"full \(2 pending\)"):
        line.enqueue(b"")
    books = line.books()
    assert (books.rejected_full, books.accepted) == (2, 2)
    assert (books.pending_bytes, books.max_bytes, books.max_batch_bytes) == (100,) * 3


def test_f34_more_bytes_than_there_is_memory_for_are_named() -> None:
    async def send(batch: BytesBatch) -> None: ...

    with pytest.raises(MemoryError, match="max_bytes=100, capacity=1099511627776"):
        BackgroundDispatcher(
            send, ms_delay=1, capacity=2**40, layout=Bytes(max_bytes=100)
        )
