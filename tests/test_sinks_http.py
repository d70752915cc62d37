"""HttpSink against a real server: what is sent, and what becomes of each answer."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
import traceback
from typing import Any

import pytest

pytest.importorskip("aiohttp")


from answering import Answer, Answering, answering, failing, sending
from collecting import zstd
from ringdispatch import BackgroundDispatcher, Bytes, Records
from ringdispatch.sinks import HttpSink
from subprocesses import run_snippet

SECRET = "s3cr3t-0123456789"


# ---- what is sent


def test_batch_is_a_json_array_with_a_key_of_its_own(server: Answering) -> None:
    sink = HttpSink(server.url, headers={"Authorization": SECRET})
    sending(sink, [{"order": 1}, {"order": 2}], [{"order": 3}])
    first, second = server.requests
    assert json.loads(first.body) == [{"order": 1}, {"order": 2}]
    assert first.headers[":method"] == "POST"
    assert first.headers["content-type"] == "application/json"
    assert first.headers["authorization"] == SECRET
    assert len(set(server.keys)) == 2
    assert first.connection == second.connection


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
@pytest.mark.parametrize("kind", ["json", "ndjson"])
def test_formats_and_compressions(
    server: Answering, kind: Any, compression: Any
) -> None:
    if compression == "zstd":
        zstd_or_skip()
    entries = [{"order": number, "text": "ä\n"} for number in range(3_000)]
    sink = HttpSink(server.url, format=kind, compression=compression)
    sending(sink, entries)
    (request,) = server.requests
    assert request.entries == entries
    assert request.headers.get("content-encoding") == compression
    if compression:
        assert len(request.body) < 30_000
    if kind == "ndjson" and not compression:
        assert request.body.endswith(b"\n")
        assert request.body.count(b"\n") == 3_000


def zstd_or_skip() -> None:
    try:
        zstd()
    except ImportError:
        pytest.skip("no zstd here")


def test_large_body_and_a_content_type_of_the_users(server: Answering) -> None:
    entries = [{"text": "x" * 1_500_000}]
    headers = {"content-type": "application/json; charset=utf-8"}
    sending(HttpSink(server.url, headers=headers), entries)
    (request,) = server.requests
    assert json.loads(request.body) == entries
    assert request.headers["content-type"] == headers["content-type"]


def test_nothing_in_an_entry_fails_the_batch(server: Answering) -> None:
    class Odd:
        def __str__(self) -> str:
            raise LookupError("no")

    circle: dict[str, Any] = {}
    circle["self"] = [circle, circle]  # not followed: it doubles with each level
    moment = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    entry = {"at": moment, "nan": math.nan, "inf": [math.inf, 1.5], "raw": b"\xff!"}
    raw = memoryview(b"abc")
    entries = [entry, {(1, 2): 3}, circle, Odd(), "\ud800", {1: None}, 10**5_000, raw]
    sending(HttpSink(server.url), entries)
    got = json.loads(server.requests[0].body)
    assert got[0] == {
        "at": str(moment),
        "nan": None,
        "inf": [None, 1.5],
        "raw": "\\xff!",
    }
    assert got[1] == {"(1, 2)": 3}
    assert got[2:] == [
        {"self": ["...", "..."]},
        "<Odd: LookupError in its str>",
        "\ud800",
        {"1": None},
        "<int: ValueError in its str>",
        "abc",
    ]


@pytest.mark.parametrize("separator", [b"\n", b", "])
@pytest.mark.parametrize("kind", ["json", "ndjson"])
def test_bytes_are_sent_as_they_were_encoded(
    server: Answering, kind: Any, separator: bytes
) -> None:
    server.always = Answer(most_entries=2)
    sink = HttpSink(server.url, format=kind)
    layout = Bytes(lambda entry: json.dumps(entry).encode(), separator)

    async def main() -> None:
        async with BackgroundDispatcher(sink, ms_delay=60_000, layout=layout) as each:
            for number in range(5):
                each.enqueue({"order": number})

    asyncio.run(main())
    assert server.arrived == [{"order": number} for number in range(5)]


def test_records_are_objects_of_their_fields(server: Answering) -> None:
    pytest.importorskip("numpy")
    layout = Records([("status", "u2"), ("method", "S4"), ("at", "M8[s]")])

    async def main() -> None:
        sink = HttpSink(server.url)
        async with BackgroundDispatcher(sink, ms_delay=60_000, layout=layout) as each:
            each.enqueue((200, b"GET", 0))

    asyncio.run(main())
    assert server.arrived == [
        {"status": 200, "method": "GET", "at": "1970-01-01 00:00:00+00:00"}
    ]


# ---- what is answered


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_no_redirect_is_followed(server: Answering, status: int) -> None:
    server.script = [Answer(status, {"Location": server.url})]
    error = failing(HttpSink(server.url, retry=5), [1])
    assert str(status) in str(error)
    assert "redirect" in str(error)
    assert not error.retryable
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        *((status, False) for status in (400, 401, 403, 404, 413, 422)),
        *((status, True) for status in (408, 425, 429, 500, 502, 503, 504)),
    ],
)
def test_error_names_status_and_body(
    server: Answering, status: int, retryable: bool
) -> None:
    server.always = Answer(status, body=b"because \xff of " + b"x" * 10_000)
    error = failing(HttpSink(server.url), [1])
    assert str(error).startswith(server.url.removesuffix("/logs"))
    assert f"answered {status} No: 'because \\\\xff of xxx" in str(error)
    assert len(str(error)) < 400
    assert error.retryable is retryable
    assert len(server.requests) == 1


def test_words_of_the_service_stay_on_one_line(server: Answering) -> None:
    server.script = [Answer(403, reason="\x1b[31mred " + "x" * 5_000, body=b"\n\x1b")]
    error = failing(HttpSink(server.url), [1])
    assert str(error).isprintable()
    assert "red xxx" in str(error)
    assert len(str(error)) < 400
    server.script = [Answer(instead="garbage")]
    assert str(failing(HttpSink(server.url), [1])).isprintable()


def test_answer_that_breaks_off_is_shown_as_far_as_it_came(server: Answering) -> None:
    server.script = [Answer(503, {"Content-Length": "100"}, b"be", close=True)]
    error = failing(HttpSink(server.url), [1])
    assert str(error).endswith("answered 503 No: 'be'")


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206])
def test_any_2xx_is_success(server: Answering, status: int) -> None:
    server.always = Answer(status, body=b"" if status == 204 else b"ok")
    sending(HttpSink(server.url), [1], [2])
    assert len(server.requests) == 2
    assert server.connections == 1


def test_endless_body_of_an_answer_is_not_read_to_its_end(server: Answering) -> None:
    server.script = [Answer(200, instead="endless")]
    sending(HttpSink(server.url, timeout=10), [1], [2])
    assert len(server.requests) == 2
    assert server.connections == 2


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ("reset", "the connection broke"),
        ("close", "closed without an answer"),
        ("garbage", "the answer is no HTTP"),
        ("cut", "closed without an answer"),
    ],
)
def test_broken_connection_fails_and_is_retryable(
    server: Answering, instead: str, words: str
) -> None:
    server.script = [Answer(instead=instead)]
    error = failing(HttpSink(server.url), [1])
    assert words in str(error)
    assert error.retryable
    assert len(server.requests) == 1  # on a new connection there is no second attempt
    sending(HttpSink(server.url), [2])  # it has recovered


def test_stall_ends_at_the_timeout(server: Answering) -> None:
    server.script = [Answer(instead="stall")]
    error = failing(HttpSink(server.url, timeout=0.1), [1])
    assert "no answer within timeout=0.1 s" in str(error)
    assert error.retryable


def test_service_that_is_not_there() -> None:
    with answering() as server:
        url = server.url
    error = failing(HttpSink(url), [1])
    assert "could not connect" in str(error)
    assert error.retryable


# ---- bad input


NAMED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"url": "logs.example.com/x"}, ValueError, "must begin with https://"),
    ({"url": "ftp://logs.example.com"}, ValueError, "must begin with https://"),
    ({"url": f"https://me:{SECRET}@x/"}, ValueError, "headers={'Authorization'"),
    ({"url": f"me:{SECRET}@x/"}, ValueError, "must begin with https://"),
    ({"url": "https:///x"}, ValueError, "has no host"),
    ({"url": "https://x:99999/"}, ValueError, "port is not valid"),
    ({"url": f"https://me:{SECRET}#1@x/"}, ValueError, "belong into headers"),
    ({"url": "https://[x/"}, ValueError, "host or port is not valid"),
    ({"url": "https://x/a b"}, ValueError, "white space"),
    ({"url": 1}, TypeError, "url: must be a string"),
    ({"format": "xml"}, ValueError, "format='xml'"),
    ({"format": ["json"]}, ValueError, "format=['json']"),
    ({"compression": "br"}, ValueError, "compression='br': must be 'gzip'"),
    ({"headers": [("a", "b")]}, TypeError, "headers: must be a mapping"),
    ({"headers": {"a": 1}}, TypeError, "headers: name and value of 'a'"),
    ({"headers": {"a b": "c"}}, ValueError, "'a b' is no name"),
    ({"headers": {"a\x01": "c"}}, ValueError, "is no name"),
    ({"headers": {"a": f"{SECRET}\x01"}}, ValueError, "that can't be sent"),
    ({"headers": {"a": f"{SECRET}\ud800"}}, ValueError, "that can't be sent"),
    ({"headers": {"a": f"{SECRET}\r\nb: c"}}, ValueError, "has a line break"),
    ({"headers": {"Idempotency-Key": "1"}}, ValueError, "is set by the sink"),
    ({"timeout": 0}, ValueError, "timeout=0: must be"),
    ({"timeout": math.inf}, ValueError, "timeout=inf"),
    ({"timeout": 10**400}, ValueError, "timeout="),
    ({"timeout": "1"}, TypeError, "timeout='1'"),
    ({"retry": -1}, ValueError, "retry=-1"),
    ({"retry": True}, TypeError, "retry=True"),
    ({"retry": math.nan}, ValueError, "retry=nan"),
    ({"session": 1}, TypeError, "session=1: must be an aiohttp.ClientSession"),
    ({"session": asyncio.sleep}, TypeError, "or an ordinary function that makes one"),
]


@pytest.mark.parametrize(("given", "kind", "words"), NAMED)
def test_bad_input_is_refused_by_its_own_message(
    given: dict[str, Any], kind: type[Exception], words: str
) -> None:
    options = {"url": "https://logs.example.com/", **given}
    with pytest.raises(kind) as raised:
        HttpSink(**options)
    assert words in str(raised.value)
    assert SECRET[:8] not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("retry", "words", "enough"),
    [
        (math.inf, "retry=inf: .* give the dispatcher dispatch_timeout=None$", None),
        (60, "retry=60: .* give the dispatcher dispatch_timeout=80, retry plus", 80),
    ],
)
def test_retry_that_a_timeout_ends_is_refused(
    retry: float, words: str, enough: float | None
) -> None:
    sink = HttpSink("https://logs.example.com/", retry=retry)
    with pytest.raises(ValueError, match=words):
        BackgroundDispatcher(sink, ms_delay=1)
    BackgroundDispatcher(sink, ms_delay=1, dispatch_timeout=enough)


def test_compression_that_is_not_installed_says_how_to_get_it() -> None:
    run_snippet(
        """
        sys.modules["compression.zstd"] = sys.modules["backports.zstd"] = None
        from ringdispatch.sinks import HttpSink
        try:
            HttpSink("https://logs.example.com/", compression="zstd")
        except ImportError as error:
            assert "pip install 'ringdispatch[zstd]'" in str(error), error
        else:
            raise AssertionError
        """
    )


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [("HttpSink", "aiohttp", "http"), ("OtlpLogSink", "opentelemetry.proto", "otlp")],
)
def test_sink_without_its_package_names_the_extra(
    name: str, missing: str, extra: str
) -> None:
    run_snippet(
        f"""
        class Finder:
            def find_spec(name, path=None, target=None):
                if name.startswith({missing!r}):
                    raise ModuleNotFoundError(name, name=name)

        sys.meta_path.insert(0, Finder)
        from ringdispatch import sinks
        try:
            sinks.{name}
        except ImportError as error:
            assert "pip install 'ringdispatch[{extra}]'" in str(error), error
        else:
            raise AssertionError
        sinks.SqliteSink  # needs nothing
        """
    )
