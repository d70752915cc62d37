"""A batch as messages for an engine, and back."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringdispatch import BytesBatch
from ringdispatch._bytes import restore_batch
from ringdispatch.sinks._messages import (
    Encoded,
    Message,
    UnreadableError,
    decode,
    encode,
)


def batch_of(entries: list[bytes], separator: bytes = b"\n") -> BytesBatch:
    payload = b"".join(entry + separator for entry in entries)
    return restore_batch(payload, [*map(len, entries)], len(separator))


def encoded(batch: Any, separator: bytes | None = None) -> Encoded:
    return asyncio.run(encode(batch, "b1", separator))


def whole(batch: Any, separator: bytes | None = None) -> Message:
    return encoded(batch, separator).message(0, len(batch))


def test_objects_are_lines_of_json() -> None:
    message = whole([{"a": 1}, "two\nlines", None])
    assert message == (
        "b1",
        {
            "Ringdispatch-Version": "1",
            "Ringdispatch-Batch": "b1",
            "Ringdispatch-First": "0",
            "Ringdispatch-Count": "3",
            "Ringdispatch-Layout": "objects",
        },
        b'{"a":1}\n"two\\nlines"\nnull\n',
    )
    read = decode(message.headers, message.body)
    assert read.entries == [{"a": 1}, "two\nlines", None]
    assert read.ids == ["b1/0", "b1/1", "b1/2"]


def test_bytes_go_as_they_lie() -> None:
    batch = batch_of([b"one", b"", b"three"])
    message = whole(batch, b"\n")
    assert message.body is batch.payload
    assert message.headers["Ringdispatch-Separator"] == "%0A"
    assert decode(message.headers, message.body).entries == [b"one", b"", b"three"]


@pytest.mark.parametrize("separator", [b"\n", b"a", b"aa", b"", None])
@given(
    entries=st.lists(st.text("a\n\0b", max_size=5).map(str.encode)), at=st.integers(0)
)
def test_entries_come_back_whatever_is_in_them(
    separator: bytes | None, entries: list[bytes], at: int
) -> None:
    all_of_them = encoded(batch_of(entries, separator or b""), separator)
    cut = at % (len(entries) + 1)
    found = []
    for start, end in ((0, cut), (cut, len(entries))):
        message = all_of_them.message(start, end)
        read = decode(message.headers, message.body)
        assert read.first == start
        assert read.ids == [f"b1/{index}" for index in range(start, end)]
        found += read.entries
    assert found == entries


def test_records_come_back_with_their_type() -> None:
    rows = np.array([(1, 2.5, b"x"), (2, 0.5, b"yz")], "i8,f8,S2")
    for start, end in ((0, 2), (1, 2), (2, 2)):
        message = encoded(rows).message(start, end)
        assert message.headers["Ringdispatch-Layout"] == "records"
        read = decode(message.headers, message.body)
        assert read.entries.dtype == rows.dtype
        assert read.entries.tolist() == rows[start:end].tolist()
        assert read.entries.flags.writeable


def test_a_piece_has_an_id_of_its_own() -> None:
    batch = batch_of([b"one", b"two", b"three"])
    pieces = [encoded(batch, b"\n").message(*ends) for ends in ((0, 2), (2, 3))]
    assert [piece.id for piece in pieces] == ["b1.0-2", "b1.2-3"]
    assert [piece.headers["Ringdispatch-Batch"] for piece in pieces] == ["b1", "b1"]
    assert decode(pieces[1].headers, pieces[1].body).ids == ["b1/2"]


BYTES = whole(batch_of([b"one", b"two"]), b"\n")
LENGTHS = whole(batch_of([b"one", b"two"]))
OBJECTS = whole([1, 2])
RECORDS = whole(np.zeros(2, "i8,i8"))
HUGE = b"\x93NUMPY\x01\x00v\x00{'descr': [('a','<i8')],'shape': (99999999999999,)}"


@pytest.mark.parametrize(
    ("message", "headers", "body", "why"),
    [
        (BYTES, {"Ringdispatch-Version": None}, b"", "no header Ringdispatch-Version"),
        (BYTES, {"Ringdispatch-Version": "2"}, b"", "of version 2.*install a newer"),
        (BYTES, {"Ringdispatch-Version": "x"}, b"", "Version='x': is no number"),
        (BYTES, {"Ringdispatch-Batch": ""}, b"", "no header Ringdispatch-Batch"),
        (BYTES, {"Ringdispatch-Count": "-1"}, b"", "Count='-1': is no number"),
        (BYTES, {"Ringdispatch-First": "9" * 99}, b"", "is no number"),
        (BYTES, {"Ringdispatch-Layout": "parquet"}, b"", "Layout='parquet': is none"),
        (BYTES, {}, b"one\ntw", "cut off"),
        (BYTES, {}, b"one\n", "1 entries, and should have 2"),
        (BYTES, {"Ringdispatch-Separator": ""}, b"one\ntwo\n3\n", "has 3 entries"),
        (LENGTHS, {}, LENGTHS.body[:-1], "should end at 14 B, and do at 13"),
        (LENGTHS, {}, struct.pack("<I", 2**32 - 1) * 2, "should end at"),
        (LENGTHS, {}, b"", "0 B have no 2 lengths"),
        (OBJECTS, {}, b"1\n", "1 entries"),
        (OBJECTS, {}, b"1\n2", "cut off"),
        (OBJECTS, {}, b"1\n{\n", "damaged: JSONDecodeError: Expecting"),
        (OBJECTS, {}, b"[" * 100_000 + b"\n\n", "damaged"),
        (OBJECTS, {}, b"\xff\n1\n", "damaged"),
        (RECORDS, {}, RECORDS.body[:-1], "damaged"),
        (RECORDS, {}, RECORDS.body[:20], "damaged"),
        (RECORDS, {}, b"PK\x03\x04", "damaged"),
        (RECORDS, {}, HUGE, "damaged"),
        (RECORDS, {"Ringdispatch-Count": "3"}, RECORDS.body, "damaged"),
    ],
)
def test_what_is_no_message_of_ours_is_refused(
    message: Message, headers: dict[str, str | None], body: bytes, why: str
) -> None:
    given = message.headers | headers
    with pytest.raises(UnreadableError, match=why):
        decode(
            {name: value for name, value in given.items() if value is not None}, body
        )


@pytest.mark.parametrize("message", [BYTES, LENGTHS, OBJECTS, RECORDS])
def test_no_truncation_and_no_damaged_byte_goes_by_as_another_number_of_entries(
    message: Message,
) -> None:
    for end in range(len(message.body)):
        with pytest.raises(UnreadableError):
            decode(message.headers, message.body[:end])
