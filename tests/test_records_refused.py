"""Records: what a field can't hold is refused by name, and nothing is stored of it."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import UserString
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from lines import Line
from ringdispatch import BackgroundDispatcher, Bytes, Objects, Records
from ringdispatch._ring import short_repr
from subprocesses import run_snippet
from support import Sink, books_agree

ROW = Records([("number", "i4"), ("price", "f4"), ("name", "S4"), ("ok", "?")])
GOOD = (1, 2.5, b"name", True)
SPACED = Records(np.dtype([("flag", "?"), ("number", "i4")], align=True))
LARGE = Records([("number", "i4"), ("text", "S300")])


class Raises:
    """A value whose own code does what it should not."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"Raises({self.error!r})"

    def __index__(self) -> int:
        raise self.error

    def __float__(self) -> float:
        raise self.error


class Unprintable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


VALUES = [
    ("i1", 128, OverflowError),
    ("i1", -129, OverflowError),
    ("u1", -1, OverflowError),
    ("u1", 256, OverflowError),
    ("i2", 2**15, OverflowError),
    ("u2", 2**16, OverflowError),
    ("i4", 2**31, OverflowError),
    ("u4", 2**32, OverflowError),
    ("i8", 2**63, OverflowError),
    ("i8", -(2**63) - 1, OverflowError),
    ("u8", 2**64, OverflowError),
    ("u8", -1, OverflowError),
    ("?", 2, OverflowError),
    ("?", -1, OverflowError),
    ("M8[s]", 2**63, OverflowError),
    ("f4", 1e300, OverflowError),
    ("f4", -3.5e38, OverflowError),
    ("f4", 2**128, OverflowError),
    ("f4", np.float64(1e300), OverflowError),
    ("f8", 10**400, OverflowError),
    ("f8", Fraction(10**400), OverflowError),
    ("f8", Decimal("1e400"), OverflowError),
    ("i4", 2.5, TypeError),
    ("i4", float("nan"), TypeError),
    ("i4", float("inf"), TypeError),
    ("i4", Fraction(1, 2), TypeError),
    ("i4", Decimal("0.5"), TypeError),
    ("i4", Decimal("NaN"), TypeError),
    ("f8", Decimal("sNaN"), TypeError),
    ("f8", 1j, TypeError),
    ("f8", np.complex128(1 + 2j), TypeError),
    ("i4", np.complex64(1), TypeError),
    ("f8", np.timedelta64(1, "s"), TypeError),
    ("i8", np.timedelta64(1, "s"), TypeError),
    ("f8", np.str_("1.5"), TypeError),
    ("f8", np.bytes_(b"1.5"), TypeError),
    ("f8", np.array("1.5"), TypeError),
    ("f8", np.array(b"1.5"), TypeError),
    ("f8", np.array("1.5", dtype=object), TypeError),
    ("f8", np.array(1j), TypeError),
    ("f8", np.array(np.datetime64(1, "s")), TypeError),
    ("f8", np.array(np.timedelta64(1, "s")), TypeError),
    ("M8[ns]", np.array(np.datetime64(10**12, "Y")), TypeError),
    ("f8", np.ma.masked, TypeError),
    ("f8", UserString("1.5"), TypeError),
    ("i4", "5", TypeError),
    ("f4", None, TypeError),
    ("?", None, TypeError),
    ("i4", b"5", TypeError),
    ("f8", np.array([1.0, 2.0]), TypeError),
    ("f8", np.array([1.0]), TypeError),
    ("i4", [1], TypeError),
    ("M8[s]", 1.5, TypeError),
    ("M8[s]", dt.datetime(2020, 2, 2, tzinfo=dt.UTC), TypeError),
    ("M8[s]", np.timedelta64(1, "s"), TypeError),
    ("M8[s]", np.datetime64("2020-02-02T20:20:20.5"), TypeError),
    ("M8[ns]", np.datetime64(10**12, "Y"), TypeError),
    ("m8[ns]", np.timedelta64(2**62, "s"), TypeError),
    ("m8[D]", np.timedelta64(400, "Y"), TypeError),
    ("m8[s]", dt.timedelta(seconds=1), TypeError),
    ("S4", b"12345", ValueError),
    ("S4", "text", TypeError),
    ("S4", bytearray(b"1"), TypeError),
    ("S8", 5, TypeError),
    ("S8", 2**64 - 1, TypeError),
    ("S8", None, TypeError),
    ("i4", Raises(TypeError("no")), TypeError),
    ("f8", Raises(ValueError("no")), TypeError),
    ("i4", Raises(OverflowError("no")), TypeError),
]
LAYOUTS: list[Callable[[str], Records]] = [
    lambda code: Records([("first", "u1"), ("field", code), ("last", "u1")]),
    lambda code: Records(np.dtype([("first", "u1"), ("field", code)], align=True)),
    lambda code: Records([("first", "u1"), ("field", code), ("last", "S300")]),
]


@pytest.mark.parametrize(("code", "value", "error"), VALUES, ids=repr)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["packed", "padded", "large"])
def test_value_that_a_field_cannot_hold_is_named_and_nothing_stored(
    layout: Callable[[str], Records], code: str, value: Any, error: type[Exception]
) -> None:
    dtype = layout(code).dtype
    line = Line(layout(code))
    zeros = [b"" if dtype[name].kind == "S" else 0 for name in dtype.names or ()]
    row = (zeros[0], value, *zeros[2:])
    calls: list[Callable[[], Any]] = [
        lambda: line.enqueue(row),
        lambda: line.enqueue(row, context="context"),
        lambda: line.enqueue_row(*row),
        lambda: line.enqueue_row(*row, context="context"),
    ]
    for _ in range(2):  # with no window open, and with one
        before = line.books()
        for call in calls:
            with pytest.raises(error) as refused:
                call()
            assert type(refused.value) is error
            assert f"field 'field': {short_repr(value)}" in str(refused.value)
        assert line.books() == before
        assert line.enqueue(tuple(zeros))
    assert line.take().tobytes() == np.zeros(2, dtype).tobytes()


ROWS = [
    (None, TypeError),
    ([*GOOD], TypeError),
    ("abcd", TypeError),
    (np.zeros(1, ROW.dtype)[0], TypeError),
    (GOOD[:3], ValueError),
    ((*GOOD, 1), ValueError),
    ((), ValueError),
]


@pytest.mark.parametrize(("row", "error"), ROWS, ids=repr)
def test_row_of_another_shape_is_refused_by_a_message_that_lists_the_fields(
    row: Any, error: type[Exception]
) -> None:
    line = Line(ROW)
    for _ in range(2):
        before = line.books()
        with pytest.raises(error) as refused:
            line.enqueue(row)
        assert repr(row) in str(refused.value)
        for field in ("number (int32)", "price (float32)", "name (|S4)", "ok (bool)"):
            assert field in str(refused.value)
        assert line.books() == before
        assert line.enqueue(GOOD)


@pytest.mark.parametrize("fields", [(), GOOD[:3], (*GOOD, 1), (1,) * 100])
def test_fields_of_another_number_are_refused(fields: tuple[Any, ...]) -> None:
    line = Line(ROW)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=f"has {len(fields)}, must have 4 fields: "
        ):
            line.enqueue_row(*fields)
        assert line.enqueue_row(*GOOD)


def test_unknown_names_are_refused() -> None:
    line = Line(ROW)
    for named in ({"number": 1}, {"context": None, "more": 1}):
        with pytest.raises(TypeError, match="fields of a row, and context="):
            line.enqueue_row(*GOOD, **named)
    assert line.ring.tail == 0


@pytest.mark.parametrize("layout", [SPACED, ROW, LARGE], ids=["padded", "row", "large"])
@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt()], ids=repr)
def test_what_a_value_raises_its_caller_gets(
    layout: Records, error: BaseException
) -> None:
    line = Line(layout)
    row: list[Any] = [
        b"" if layout.dtype[n].kind == "S" else 0 for n in layout.dtype.names
    ]
    row[row.index(0)] = Raises(error)
    for _ in range(2):
        before = line.books()
        with pytest.raises(type(error)) as raised:
            line.enqueue(tuple(row))
        assert raised.value is error
        assert line.books() == before
        assert line.enqueue(tuple(b"" if value == b"" else 0 for value in row))


def test_value_that_cannot_be_printed_is_not_stored_either() -> None:
    line = Line(ROW)
    with pytest.raises(TypeError, match="Unprintable: ZeroDivisionError in its repr"):
        line.enqueue((Unprintable(), 1, b"", True))
    assert line.books().accepted == 0


@pytest.mark.parametrize("layout", [ROW, LARGE], ids=["row", "large"])
def test_value_may_enqueue_take_and_close_while_it_is_read(layout: Records) -> None:
    # C18: the row that is being made lies nowhere near the ring
    line = Line(layout, 3, on_full="drop_oldest")
    rest = GOOD[1:] if layout is ROW else (b"text",)
    taken: list[Any] = []

    class Nested:
        def __init__(self, number: int, deed: Callable[[], object]) -> None:
            self.number = number
            self.deed = deed

        def __index__(self) -> int:
            self.deed()
            return self.number

    def put(number: int) -> None:
        assert line.enqueue((number, *rest))

    assert line.enqueue_row(Nested(4, lambda: [put(n) for n in range(4)]), *rest)
    assert line.enqueue_row(Nested(5, lambda: taken.append(line.take())), *rest)
    assert not line.enqueue_row(Nested(6, line.ring.close), *rest)
    assert taken[0]["number"].tolist() == [2, 3, 4]
    assert line.take()["number"].tolist() == [5]
    books = line.books()
    assert (books.accepted, books.evicted, books.rejected_closed) == (6, 2, 1)


def test_rows_that_will_not_come_in_are_not_looked_at() -> None:
    line = Line(ROW, 1)
    assert line.enqueue(GOOD)
    for bad in ("no row", (Unprintable(), 1, b"", True)):
        assert line.enqueue(bad) is False
    line.ring.close()
    assert line.enqueue_row(1) is False
    books = line.books()
    assert (books.rejected_full, books.rejected_closed) == (2, 1)


@pytest.mark.parametrize("layout", [Objects(), Bytes()], ids=["objects", "bytes"])
def test_layouts_without_fields_refuse_the_fields_of_a_row(layout: Any) -> None:
    line = Line(layout)
    for _ in range(2):
        for call in (
            lambda: line.enqueue_row(b"one"),
            lambda: line.enqueue_row(b"one", b"two"),
            lambda: line.enqueue_row(b"one", context="context"),
            lambda: line.enqueue_row(),
        ):
            with pytest.raises(TypeError, match=r"layout=Records\(...\): call enqueue"):
                call()
        assert line.enqueue(b"entry")
    assert line.books().accepted == 2


def test_refused_row_leaves_a_dispatcher_as_it_was() -> None:
    async def main() -> None:
        async def send(batch: Any) -> None:
            sent.extend(batch.tolist())

        sent: list[Any] = []
        async with BackgroundDispatcher(send, ms_delay=1, layout=ROW) as dispatcher:
            for row in [
                GOOD,
                (2**31, 1, b"", True),
                "no row",
                (2, 1, b"12345", 0),
                GOOD,
            ]:
                try:
                    await dispatcher.aenqueue(row)
                except (TypeError, ValueError, OverflowError):
                    with pytest.raises((TypeError, ValueError, OverflowError)):
                        dispatcher.enqueue(row)
            assert await dispatcher.aflush()
            books_agree(dispatcher)
            assert sent == [GOOD, GOOD]
            assert dispatcher.statistics().accepted == 2

    asyncio.run(main())


# ---- the constructor


DTYPES = [
    ([("a", "i4"), ("b", "O")], "'b'", "use Objects()"),
    ([("a", "U3")], "'a'", "encode text, and use S"),
    ([("a", "V3")], "'a'", "use S<number of bytes>"),
    ([("a", "c16")], "'a'", "two fields"),
    ([("a", "f2")], "'a'", "use f4 or f8"),
    ([("a", "S0")], "'a'", "S16"),
    ([("a", "M8")], "'a'", "M8[ms]"),
    ([("a", "m8")], "'a'", "m8[ms]"),
    ([("a", ">i4")], "'a'", "use int32"),
    ([("a", ">M8[s]")], "'a'", "use datetime64[s]"),
    ([("a", [("b", "i4")])], "'a'", "fields of the record itself"),
    ([("a", "i4", 3)], "'a'", "make each element a field"),
    (
        {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [2, 0]},
        "'b' and 'a'",
        "overlap",
    ),
    ("i4", "dtype='i4'", "named fields, such as"),
    ([], "dtype=[]", "named fields, such as"),
    (None, "dtype=None", "named fields, such as"),
    ("nonsense", "dtype='nonsense'", "not understood"),
    ([("a",)], "dtype=[('a',)]", ""),
    ([("a", "i4"), ("a", "i4")], "dtype=", "occurs more than once"),
]


@pytest.mark.parametrize(("dtype", "what", "instead"), DTYPES, ids=repr)
def test_type_that_records_do_not_keep_is_refused_with_the_way_out(
    dtype: Any, what: str, instead: str
) -> None:  # C12
    with pytest.raises(TypeError) as refused:
        Records(dtype)
    assert what in str(refused.value)
    assert instead in str(refused.value)


def test_layout_is_a_value() -> None:
    same = Records([("number", "i4"), ("price", "f4"), ("name", "S4"), ("ok", "?")])
    assert same == ROW
    assert same.dtype == ROW.dtype
    with pytest.raises(AttributeError):
        same.dtype = ROW.dtype  # type: ignore[misc]


@pytest.mark.parametrize("capacity", [2**40, 2**52, 2**58, 2**63 - 1, 2**64])
def test_f34_more_rows_than_there_is_memory_for_are_named(capacity: int) -> None:
    for layout in (ROW, Records([("text", "S4096")])):  # 2**52 of them are 2**64 bytes
        with pytest.raises(MemoryError, match=f"capacity={capacity}"):
            BackgroundDispatcher(
                Sink(float), ms_delay=1, capacity=capacity, layout=layout
            )


@pytest.mark.parametrize("max_in_flight", [10**12, 2**61 - 1, 2**63 - 1, 10**30])
def test_buffers_for_more_calls_than_there_is_memory_for_are_named(
    max_in_flight: int,
) -> None:
    with pytest.raises(MemoryError, match=r"max_in_flight=\d{12,}: "):
        BackgroundDispatcher(
            Sink(float), ms_delay=1, capacity=1, max_in_flight=max_in_flight, layout=ROW
        )


def test_numpy_is_imported_for_records_alone_and_named_where_it_is_missing() -> None:
    outcome = run_snippet(
        """
        from ringdispatch import Bytes, Objects, Records
        async def send(batch): say(list(batch))
        for layout in (Objects(), Bytes()):
            BackgroundDispatcher(send, ms_delay=1, layout=layout).enqueue(b"entry")
        assert "numpy" not in sys.modules
        sys.modules["numpy"] = None
        try:
            Records([("number", "i4")])
        except ImportError as error:
            say(error)
        """
    )
    said = "Records needs numpy: pip install 'ringdispatch[records]'"
    assert sorted(outcome.lines) == sorted([said, *["[b'entry']"] * 2])


@pytest.mark.parametrize(
    ("code", "value", "shown"),
    [
        ("i4", 10**5000, "<int: ValueError in its repr>"),
        ("f8", 10**5000, "<int: ValueError in its repr>"),
        ("S4", b"x" * 10**6, "b'xxx"),
    ],
    ids=["int", "float", "bytes"],
)
def test_message_is_short_and_names_the_field_whatever_the_value(
    code: str, value: Any, shown: str
) -> None:
    line = Line(Records([("field", code)]))
    with pytest.raises((OverflowError, ValueError), match="'field'") as refused:
        line.enqueue((value,))
    assert shown in str(refused.value)
    with pytest.raises(ValueError, match="has 2, must have 1 field: ") as refused:
        line.enqueue((value, value))
    assert len(str(refused.value)) < 400
