"""Which bodies the collector takes and refuses, and how much memory that costs."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import socket
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from collecting import running
from collector_side import Collecting, ask, collecting
from ringdispatch._collector import _server
from subprocesses import needs_signals

pytestmark = needs_signals  # of its other tests

MOST = 16 * 1024 * 1024
NDJSON = "application/x-ndjson"
HAS_ZSTD = bool(importlib.util.find_spec("_zstd"))  # of compression.zstd


@pytest.fixture(scope="module")
def shared() -> Iterator[Collecting]:
    with collecting("--quiet") as collector:
        yield collector
        assert collector.end() == (0, collector.first_line, "")


def came(collector: Collecting, body: Any, **headers: str) -> list[Any]:
    """Post a body; returns the entries that were made of it."""
    before = collector.view()["total"]
    answer = collector.post(body, **headers)
    assert (answer.status, answer.body) == (204, b""), answer
    shown = collector.view(f"after={before}")["entries"]
    return [json.loads(one["text"]) for one in reversed(shown)]


TAKEN: list[tuple[Any, str, list[Any]]] = [
    ('[{"a": 1}, 2, [3], null]', "application/json", [{"a": 1}, 2, [3], None]),
    ("[1, 2]", "application/x-www-form-urlencoded", [1, 2]),  # urllib's own
    ("[1, 2]", "", [1, 2]),
    ("[]", "", []),
    ('{\n "a": [1]\n}', "", [{"a": [1]}]),
    ('{"a": 1}\n{"a": 2}\n', NDJSON, [{"a": 1}, {"a": 2}]),
    ('{"a": 1}\r\n\r\n{"a": 2}', "", [{"a": 1}, {"a": 2}]),
    ("[1, 2]\n", NDJSON + "; charset=utf-8", [[1, 2]]),
    ("[1]\n[2]\n", "", [[1], [2]]),
    ("", NDJSON, []),
    ('"a\u2028b\x85c"\n"d"', NDJSON, ["a\u2028b\x85c", "d"]),
    ("\ufeff[1]", "", [1]),
    (r'["\ud800", "\u0000", "\ud83d\ude00"]', "", ["\ud800", "\0", "😀"]),
    ("[12345678901234567890123, 1.5e3]", "", [12345678901234567890123, 1500.0]),
]


@pytest.mark.parametrize(("text", "kind", "entries"), TAKEN)
def test_arrays_and_lines_become_entries(
    shared: Collecting, text: str, kind: str, entries: list[Any]
) -> None:
    body = text.encode()
    assert came(shared, body, **({"content_type": kind} if kind else {})) == entries


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def small_window(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=9)
    return packer.compress(data) + packer.flush()


def zstd(data: bytes) -> bytes:
    compressed: bytes = importlib.import_module("compression.zstd").compress(data)
    return compressed


WAYS: dict[str, tuple[str, Any]] = {
    "gzip": ("gzip", gzip.compress),
    "members": ("GZIP", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    "x-gzip": ("x-gzip", gzip.compress),
    "zlib": ("deflate", zlib.compress),
    "small window": ("deflate", small_window),
    "raw deflate": ("deflate", raw_deflate),
    "identity": ("identity", bytes),
}
if HAS_ZSTD:
    WAYS["zstd"] = ("zstd", zstd)
PACKED = [way for way in WAYS if way != "identity"]


@pytest.mark.parametrize("way", WAYS)
def test_packed_bodies_are_unpacked(shared: Collecting, way: str) -> None:
    encoding, pack = WAYS[way]
    body = pack(json.dumps([*range(100)]).encode())
    assert came(shared, body, content_encoding=encoding) == [*range(100)]
    # In chunks, as clients do that pack while they send.
    chunks = (body[at : at + 7] for at in range(0, len(body), 7))
    assert came(shared, chunks, content_encoding=encoding) == [*range(100)]


@pytest.mark.parametrize("way", PACKED)
def test_broken_packing_is_refused(shared: Collecting, way: str) -> None:
    encoding, pack = WAYS[way]
    whole = pack(json.dumps([*range(100)]).encode())
    before = shared.view()["posts"]
    for broken in (whole[:-1], whole[:10], b"", whole + b"x", b"\xff" * 20):
        answer = shared.post(broken, content_encoding=encoding)
        assert answer.status == 400, broken
        assert answer.body.count(b"\n") == 1
    assert shared.view()["posts"] == before


@pytest.mark.skipif(HAS_ZSTD, reason="this Python has zstd")
def test_zstd_is_refused_where_python_has_none(shared: Collecting) -> None:
    answer = shared.post(b"[1]", content_encoding="zstd")
    assert answer.status == 415
    assert b"zstd needs compression.zstd" in answer.body


DEEP = "[" * 200_000
REFUSED: list[tuple[Any, dict[str, str], int, str]] = [
    ("[1", {}, 400, "the body is not JSON: Expecting ',' delimiter"),
    ("", {}, 400, "the body is empty; send JSON"),
    (" \n", {}, 400, "the body is empty; send JSON"),
    ("[NaN]", {}, 400, "the body is not JSON: NaN is no number of JSON's"),
    ("[1]\nx\n", {}, 400, "line 2 is not JSON: Expecting value"),
    ("1\n\nx", {"content_type": NDJSON}, 400, "line 3 is not JSON: Expecting value"),
    ("Infinity\n", {"content_type": NDJSON}, 400, "line 1 is not JSON: Infinity is no"),
    (b"\xff[]", {}, 400, "the body is not UTF-8: invalid start byte"),
    ("9" * 5_000, {}, 400, "the body is not JSON: Exceeds the limit"),
    (DEEP, {}, 400, "the body is not JSON: it is nested too deeply"),
    (DEEP, {"content_type": NDJSON}, 400, "line 1 is not JSON: it is nested too"),
    (
        "[1]",
        {"content_encoding": "br"},
        415,
        "Content-Encoding 'br' is not one of gzip,",
    ),
    ("[1]", {"content_encoding": "gzip, gzip"}, 415, "'gzip, gzip' is not one of"),
    ("[1]", {"content_length": "x"}, 400, "Content-Length must be one number"),
    ("[1]", {"content_length": "-3"}, 400, "Content-Length must be one number"),
    ("[1]", {"content_length": "9" * 30}, 400, "Content-Length must be one number"),
    ("[1]", {"content_length": "16777217"}, 413, "the body has more than 16 MiB"),
    ("[1]", {"transfer_encoding": "gzip"}, 400, "Transfer-Encoding must be chunked"),
]


@pytest.mark.parametrize(("body", "headers", "status", "words"), REFUSED)
def test_bad_bodies_are_refused_in_one_line(
    shared: Collecting, body: Any, headers: dict[str, str], status: int, words: str
) -> None:
    before = shared.view()["posts"]
    answer = shared.post(body, **headers)
    assert answer.status == status
    assert words in answer.body.decode()
    assert answer.body == f"{answer.reason}\n".encode()
    assert shared.view()["posts"] == before


def test_bad_framing_is_refused(shared: Collecting) -> None:
    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % shared.port
    chunked = head + b"Transfer-Encoding: chunked\r\n"
    for text, status, words in (
        (head + b"\r\n", 411, b"a Content-Length is missing"),
        (head + b"Content-Length: 9\r\n\r\n[1]", 400, b"the body ended after 3 of 9"),
        (head + b"Content-Length: 3\r\n" * 2 + b"\r\n[1]", 400, b"must be one number"),
        (chunked + b"Content-Length: 3\r\n\r\n[1]", 400, b"must be chunked, alone"),
        (chunked + b"\r\n-3\r\n[1]", 400, b"a chunk has no size"),
        (chunked + b"\r\n3\r\n[1]x\r\n", 400, b"a chunk is not of the size"),
        (chunked + b"\r\n0\r\nx: " + b"y" * 2_000, 400, b"a trailer is too long"),
        (b"GET /\x00 HTTP/x\r\n\r\n", 400, b"Bad request version"),
        (b"GET /" + b"x" * 70_000, 414, b""),
    ):
        answer = shared.exchange(text)
        assert answer.startswith(b"HTTP/1.1 %d " % status), (text[:90], answer)
        assert words in answer
        assert (b"Connection: close" in answer) is (status != 411)
    trailers = b"\r\n3;x=y\r\n[1]\r\n0\r\nx: y\r\n\r\n"
    assert shared.exchange(chunked + trailers).startswith(b"HTTP/1.1 204 ")


def test_a_connection_goes_on_after_a_body_that_was_read(shared: Collecting) -> None:
    connection = shared.connect()
    assert ask(connection, "POST", "/", b"[1").status == 400
    before = connection.sock
    assert ask(connection, "POST", "/", b"[1]").status == 204
    assert connection.sock is before
    # The body of a GET is not read, so it must be no next request.
    smuggled = b"POST / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % shared.port
    assert ask(connection, "GET", "/", smuggled).headers["connection"] == "close"
    connection.close()


def test_a_body_is_asked_for_only_where_it_is_wanted(shared: Collecting) -> None:
    head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\nHost: "
    host = b"127.0.0.1:%d\r\nConnection: close\r\n\r\n" % shared.port
    taken = shared.exchange(head % 3 + host + b"[1]")
    assert taken.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 ")
    assert shared.exchange(head % (MOST + 1) + host).startswith(b"HTTP/1.1 413 ")
    assert shared.exchange(head % 3 + b"x" + host).startswith(b"HTTP/1.1 403 ")


# ---- 16 MiB


def test_a_body_of_16_mib_is_taken_and_one_byte_more_is_not(shared: Collecting) -> None:
    body = b'"' + b"x" * (MOST - 2) + b'"'
    assert shared.post(body).status == 204
    assert shared.kept()[-1] == "x" * (MOST - 2)
    # The client sends all of it before it reads why not.
    refused = [
        shared.post(body + b"\n"),
        shared.post(iter([body, b"\n"])),
        shared.post(gzip.compress(body + b"\n", 1), content_encoding="gzip"),
        shared.post(zlib.compress(body + b"\n", 1), content_encoding="deflate"),
    ]
    assert [answer.status for answer in refused] == [413] * 4
    assert b"unpacks to more than 16 MiB; send smaller batches" in refused[2].body
    packed = gzip.compress(body, 1)
    assert shared.post(packed, content_encoding="gzip").status == 204
    packed = zlib.compress(body, 1)
    assert shared.post(packed, content_encoding="deflate").status == 204


def bombs() -> Iterator[tuple[str, bytes]]:
    """Bodies of less than 5 MB that unpack to 4 GiB."""
    zeros = bytes(MOST)
    yield "gzip", gzip.compress(zeros) * 256
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    # Flushed in full, a part depends on nothing before it.
    yield "deflate", (packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)) * 256
    if HAS_ZSTD:
        yield "zstd", zstd(zeros) * 256


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc here")
def test_what_unpacks_to_gigabytes_is_stopped_on_the_way() -> None:
    with collecting("--quiet") as collector:
        assert collector.post(b'"' + b"x" * (MOST - 2) + b'"').status == 204
        before = collector.peak()
        for encoding, body in bombs():
            assert len(body) < 5_000_000
            answer = collector.post(body, content_encoding=encoding)
            assert (answer.status, encoding) == (413, encoding)
        most = 64
        if "ASAN_OPTIONS" in os.environ:
            most += 256  # what AddressSanitizer keeps of freed memory
        assert collector.peak() - before < most * 1024 * 1024
        assert collector.view()["posts"] == 1


def test_what_is_kept_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import deque

    from ringdispatch._collector import _store

    monkeypatch.setattr(_store, "MOST_STORED", 1_000)
    store = _store.Store()
    for number in range(20):
        store.add("/", 1, deque([b"%d" % number * 100]))
    assert store.totals == (20, 20)
    assert sum(len(one.text) for one in store.kept()) <= 1_000
    assert [one.number for one in store.kept()] == [16, 17, 18, 19, 20]


def test_a_body_that_stops_coming_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    read = _server._Handler._read_exactly

    def read_soon(handler: _server._Handler, length: int) -> bytes:
        handler.connection.settimeout(0.2)  # from here on: the head has its time
        return read(handler, length)

    monkeypatch.setattr(_server._Handler, "_read_exactly", read_soon)
    with (
        running(_server.Server(0)) as server,
        socket.create_connection(("127.0.0.1", server.port), 20) as sender,
    ):
        head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        sender.sendall(f"{head}Content-Length: 9\r\n\r\n[1,".encode())
        assert sender.recv(100).startswith(b"HTTP/1.1 408 no more came")
