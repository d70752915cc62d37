"""Records: what goes in as a row comes out as numpy would have laid it out."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lines import Line
from ringdispatch import BackgroundDispatcher, Records, _fields
from ringdispatch._records import RecordRing
from ringdispatch._ring import Ring
from support import Sink, SteppedLoop, books_agree

# ---- every type, every place, every value


def integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low = -(2 ** (bits - 1)) if signed else 0
    high = 2 ** (bits - signed) - 1
    return st.integers(low, high) | st.sampled_from([low, high, 0, 1])


def texts(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=size)


singles = st.floats(width=32) | st.floats().filter(
    # What would become infinite is refused.
    lambda value: not math.isfinite(value) or abs(value) < 3.4e38
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "?": st.booleans() | st.integers(0, 1),
    "i1": integers(8, signed=True),
    "i2": integers(16, signed=True),
    "i4": integers(32, signed=True),
    "i8": integers(64, signed=True),
    "u1": integers(8, signed=False),
    "u2": integers(16, signed=False),
    "u4": integers(32, signed=False),
    "u8": integers(64, signed=False),
    "f4": singles | st.integers(-(2**63), 2**63 - 1),
    "f8": st.floats()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-(2**900), 2**900),
    "S1": texts(1),
    "S7": texts(7),
    "S8": texts(8),
    "S300": texts(300),
    "M8[s]": integers(64, signed=True),
    "M8[25us]": integers(64, signed=True),
    "m8[D]": integers(64, signed=True),
}
codes = st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=6)


@st.composite
def dtypes(draw: st.DrawFn) -> Any:
    """Packed, aligned as in C, or with gaps of any size and in any order."""
    chosen = draw(codes)
    fields = [(f"field {which}", code) for which, code in enumerate(chosen)]
    how = draw(st.sampled_from(["packed", "aligned", "placed"]))
    if how != "placed":
        return np.dtype(fields, align=how == "aligned")
    end = 0
    offsets = [0] * len(fields)
    for which in draw(st.permutations(range(len(fields)))):
        offsets[which] = end + draw(st.integers(0, 9))
        end = offsets[which] + np.dtype(chosen[which]).itemsize
    return np.dtype(
        {
            "names": [name for name, _ in fields],
            "formats": chosen,
            "offsets": offsets,
            "itemsize": end + draw(st.integers(0, 9)),
        }
    )


@st.composite
def rows_of_a_type(draw: st.DrawFn) -> tuple[Any, list[tuple[Any, ...]]]:
    dtype = draw(dtypes())
    columns = [
        VALUES[code] for code in map(code_of, map(dtype.__getitem__, dtype.names))
    ]
    return dtype, draw(st.lists(st.tuples(*columns), min_size=1, max_size=8))


def code_of(dtype: Any) -> str:
    code = "?" if dtype.kind == "b" else dtype.str[1:]
    return "i1" if code == "i1" else code


def used_bytes(batch: Any) -> list[list[bytes]]:
    """Every byte of every field, and none between them."""
    return [[row[name].tobytes() for name in batch.dtype.names] for row in batch]


def as_numpy(rows: list[tuple[Any, ...]], dtype: Any) -> Any:
    batch = np.zeros(len(rows), dtype)
    for which, row in enumerate(rows):
        for name, value in zip(dtype.names, row, strict=True):
            # As numpy does it, of integers larger than it knows as well.
            batch[name][which] = float(value) if dtype[name].kind == "f" else value
    return batch


@settings(max_examples=400, deadline=None, print_blob=True)
@given(rows_of_a_type(), st.integers(0, 7))
def test_batch_is_bit_for_bit_what_numpy_makes_of_the_rows(
    given_rows: tuple[Any, list[tuple[Any, ...]]], before: int
) -> None:
    dtype, rows = given_rows
    line = Line(Records(dtype), 8)
    zeros = tuple(b"" if dtype[name].kind == "S" else 0 for name in dtype.names)
    for _ in range(before):  # the rows lie across the buffer's end
        assert line.enqueue_row(*zeros)
        assert len(line.take(1)) == 1
    for which, row in enumerate(rows):
        assert line.enqueue_row(*row) if which % 2 else line.enqueue(row)
    batch = line.take()
    assert batch.dtype == dtype
    expected = as_numpy(rows, dtype)
    assert used_bytes(batch) == used_bytes(expected)
    # Between the fields too, nothing is left of what was in the buffer before.
    assert batch.tobytes() == expected.tobytes()


NUMPYS = [
    np.bool_(True),
    *(np.dtype(code).type(100) for code in "bBhHiIlLqQ"),
    *(np.dtype(code).type(1.5) for code in "efdg"),
    np.datetime64("2020-02-02T20:20:20"),
    np.datetime64("NaT", "ms"),
    np.timedelta64(90, "m"),
    np.bytes_(b"text"),
]


HELD = {"?": range(2), "i1": range(-128, 128), "u8": range(2**64)}


def is_held(value: Any, code: str) -> bool:
    """Whether a field holds the value, and no other instead."""
    if value.dtype.kind in "SMm":
        return bool(value.dtype.kind == code[0])
    if code in ("f4", "f8"):
        return True
    if code in ("M8[s]", "m8[s]"):
        return bool(value.dtype.kind in "iu")
    return code in HELD and int(value) in HELD[code] and int(value) == value


@pytest.mark.parametrize("value", NUMPYS, ids=repr)
@pytest.mark.parametrize("code", ["?", "i1", "u8", "f4", "f8", "M8[s]", "m8[s]", "S5"])
def test_numpys_own_values_are_taken_as_they_are_or_not_at_all(
    value: Any, code: str
) -> None:
    line = Line(Records([("field", code)]))
    if is_held(value, code):
        assert line.enqueue((value,))
        (stored,) = line.take()["field"]
        assert stored == np.array(value).astype(code) or np.isnat(value)
    else:
        with pytest.raises((TypeError, OverflowError)) as refused:
            line.enqueue((value,))
        assert "'field'" in str(refused.value)
        assert repr(value) in str(refused.value)
        assert line.ring.tail == 0


def test_objects_that_are_numbers_are_taken() -> None:
    class Index:
        def __index__(self) -> int:
            return 7

    class Float:
        def __float__(self) -> float:
            return 0.25

    class Status(IntEnum):
        OK = 200

    line = Line(Records([("whole", "i4"), ("real", "f8")]))
    for whole, real in [
        (Index(), Index()),
        (Status.OK, Status.OK),
        (True, True),
        (3.0, Float()),
        (Decimal("4.0"), Decimal("0.5")),
        (Fraction(10, 2), Fraction(1, 2)),
        (np.array(6), np.array(2.5)),
    ]:
        assert line.enqueue_row(whole, real)
    assert line.take().tolist() == [
        (7, 7.0),
        (200, 200.0),
        (1, 1.0),
        (3, 0.25),
        (4, 0.5),
        (5, 0.5),
        (6, 2.5),
    ]


def test_tuples_of_any_kind_are_rows() -> None:
    class Row(NamedTuple):
        number: int
        name: bytes

    line = Line(Records([("number", "i4"), ("name", "S4")]))
    assert line.enqueue(Row(1, b"one"))
    assert line.enqueue_row(*Row(2, b"two"))
    assert line.take().tolist() == [(1, b"one"), (2, b"two")]


# ---- through a dispatcher


def test_dispatch_function_gets_an_array_that_is_its_own(
    stepped: SteppedLoop,
) -> None:
    batches: list[Any] = []

    async def send(batch: Any) -> None:
        batches.append(batch)
        batch["count"] += 1

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            send, ms_delay=100, layout=Records([("count", "u2"), ("cost", "f4")])
        )
        assert dispatcher.enqueue((1, 0.5))
        assert dispatcher.enqueue_row(2, 1.5)
        assert await dispatcher.aenqueue((3, 2.5))
        assert dispatcher.statistics().pending_bytes == 3 * 6
        await stepped.advance(0.2)
        assert dispatcher.enqueue_row(9, 9.5)
        await stepped.advance(0.2)
        assert isinstance(batches[0], np.ndarray)
        assert batches[0].flags.writeable
        assert [batch.tolist() for batch in batches] == [
            [(2, 0.5), (3, 1.5), (4, 2.5)],
            [(10, 9.5)],
        ]
        seen = dispatcher.statistics()
        assert (seen.pending_bytes, seen.max_bytes) == (0, 65_536 * 6)
        assert seen.max_batch_bytes == 65_536 * 6
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_row_may_carry_its_openers_context(stepped: SteppedLoop, sink: Sink) -> None:
    given: list[Any] = []

    class Context:
        def wait_until(self, receipt: Any) -> None:
            given.append(receipt)

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            sink, ms_delay=100, layout=Records([("number", "u2")])
        )
        assert dispatcher.enqueue_row(1, context=Context())
        assert dispatcher.enqueue_row(2, context=Context())  # no opener
        await stepped.advance(0.2)
        assert len(given) == 1
        assert await given[0] is None
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_on_error_gets_the_array_that_failed(stepped: SteppedLoop, sink: Sink) -> None:
    failed: list[Any] = []

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            sink,
            ms_delay=100,
            layout=Records([("number", "u2")]),
            on_error=lambda error, batch: failed.append(batch.tolist()),
        )
        sink.error = ConnectionError()
        dispatcher.enqueue((1,))
        await stepped.advance(0.2)
        assert failed == [[(1,)]]
        sink.error = None
        books_agree(dispatcher)
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_rows_that_no_array_can_be_made_of_fail_and_are_handed_on_as_they_lie(
    stepped: SteppedLoop, sink: Sink
) -> None:  # C9, C11
    failed: list[Any] = []

    class Unreadable(Records):
        def make_ring(
            self, capacity: int, max_batch: int, max_in_flight: int, *place: str
        ) -> Ring:
            rules = list(_fields.rules_of(self.dtype))
            return RecordRing(
                capacity, max_batch, max_in_flight, self.dtype.itemsize, rules, refuse
            )

    def refuse(buffer: Any) -> Any:
        raise MemoryError("no array")

    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            sink,
            ms_delay=100,
            layout=Unreadable([("number", "u2")]),
            on_error=lambda *arguments: failed.append(arguments),
        )
        for number in range(3):
            assert dispatcher.enqueue((number,))
        await stepped.advance(0.2)
        ((error, rows),) = failed
        assert str(error) == "no array"
        assert memoryview(rows).cast("H").tolist() == [0, 1, 2]
        seen = dispatcher.statistics()
        assert (seen.failed, seen.in_flight) == (3, 0)
        assert await dispatcher.aclose()
        books_agree(dispatcher)

    stepped.run_until_complete(main())
    assert sink.batches == []


def test_waiting_row_comes_in_when_there_is_room(
    stepped: SteppedLoop, sink: Sink
) -> None:
    async def main() -> None:
        dispatcher = BackgroundDispatcher(
            sink, ms_delay=100, capacity=1, layout=Records([("number", "u2")])
        )
        sink.hold()
        dispatcher.enqueue((1,))
        await stepped.advance(0.2)
        dispatcher.enqueue((2,))
        waiting = asyncio.create_task(dispatcher.aenqueue((3,)))
        refused = asyncio.create_task(dispatcher.aenqueue((-1,)))
        await stepped.advance(1)
        assert not waiting.done()
        sink.release()
        await stepped.advance(1)
        assert await waiting
        with pytest.raises(OverflowError, match="'number': -1"):
            await refused
        assert await dispatcher.aclose()
        assert [batch[0].tolist() for batch in sink.batches] == [(1,), (2,), (3,)]
        books_agree(dispatcher)

    stepped.run_until_complete(main())
