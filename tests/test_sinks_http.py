"""HttpSink against a real server that answers, stalls, breaks and recovers."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import json
import logging
import math
import ssl
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

import aiohttp

from answering import OK, Answer, Answering, answering
from collecting import zstd
from ringdispatch import BackgroundDispatcher, Bytes, Records
from ringdispatch.sinks import HttpSink, SinkError
from ringdispatch.sinks._post import retry_after
from subprocesses import needs_fork, run_snippet

SECRET = "s3cr3t-0123456789"
UNAVAILABLE = Answer(503, body=b"later")


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering() as running:
        yield running


def sending(sink: HttpSink[Any], *batches: list[Any]) -> None:
    """Call the sink with each batch, on one loop, and close it."""

    async def main() -> None:
        try:
            for batch in batches:
                await sink(batch)
        finally:
            await sink.aclose()

    asyncio.run(main())


def failing(sink: HttpSink[Any], *batches: list[Any]) -> SinkError:
    with pytest.raises(SinkError) as raised:
        sending(sink, *batches)
    return raised.value


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


# ---- reused connections


def test_reused_connection_that_was_closed_is_tried_on_a_new_one(
    server: Answering,
) -> None:
    sink = HttpSink(server.url)

    async def main() -> None:
        await sink([1])
        server.script = [Answer(instead="reset")]
        await sink([2])
        await sink.aclose()

    asyncio.run(main())
    assert [request.connection for request in server.requests] == [1, 1, 2]
    assert server.keys[1] == server.keys[2]
    assert server.arrived == [1, 2]


def test_new_connection_that_breaks_too_fails(server: Answering) -> None:
    sink = HttpSink(server.url)

    async def main() -> None:
        await sink([1])
        server.always = Answer(instead="reset")
        with pytest.raises(SinkError, match="the connection broke"):
            await sink([2])
        await sink.aclose()

    asyncio.run(main())
    assert [request.connection for request in server.requests] == [1, 1, 2]


def test_reused_connection_that_breaks_within_the_answer_fails(
    server: Answering,
) -> None:
    sink = HttpSink(server.url)

    async def main() -> None:
        await sink([1])
        server.script = [Answer(instead="cut")]
        with pytest.raises(SinkError, match="without an answer"):
            await sink([2])
        await sink.aclose()

    asyncio.run(main())
    assert len(server.requests) == 2


def test_all_idle_connections_may_be_gone(server: Answering) -> None:
    sink = HttpSink(server.url)

    async def main() -> None:
        await asyncio.gather(*(sink([number]) for number in range(5)))
        server.drop_connections()
        await asyncio.gather(*(sink([number]) for number in range(5, 10)))
        await sink.aclose()

    asyncio.run(main())
    assert sorted(server.arrived) == [*range(10)]


# ---- 413


def test_too_large_batch_goes_in_halves(server: Answering) -> None:
    server.always = Answer(most_entries=2)
    sending(HttpSink(server.url), [*range(5)])
    assert server.arrived == [*range(5)]
    key = server.keys[0]
    assert server.keys == [
        *(key, f"{key}.0", f"{key}.1", f"{key}.1.0", f"{key}.1.1"),
    ]


def test_one_entry_that_is_too_large_fails_the_batch(server: Answering) -> None:
    server.script = [Answer(413), OK, Answer(413), Answer(413), OK]
    error = failing(HttpSink(server.url, retry=5), [1, 2, 3, 4])
    assert server.arrived == [1, 2, 4]
    assert "413" in str(error)
    assert str(error).endswith("; 3 of 4 entries arrived")
    assert not error.retryable


def test_service_that_goes_away_between_halves(server: Answering) -> None:
    server.script = [Answer(413), OK, UNAVAILABLE]
    error = failing(HttpSink(server.url), [1, 2, 3, 4])
    assert "503" in str(error)
    assert str(error).endswith("; 2 of 4 entries arrived")
    assert error.retryable


# ---- retry


def test_retry_goes_on_until_it_arrives_with_the_same_key(server: Answering) -> None:
    server.script = [UNAVAILABLE, Answer(instead="reset"), Answer(429)]
    sending(HttpSink(server.url, retry=30), [1, 2])
    assert server.arrived == [1, 2]
    assert len(set(server.keys)) == 1
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 404, 413, 422, 302])
def test_retry_leaves_alone_what_is_final(server: Answering, status: int) -> None:
    server.always = Answer(status)
    assert not failing(HttpSink(server.url, retry=30), [1]).retryable
    assert len(server.requests) == 1


def test_retry_ends_in_time(server: Answering) -> None:
    server.always = UNAVAILABLE
    began = time.monotonic()
    error = failing(HttpSink(server.url, retry=0.3), [1])
    assert 0.3 <= time.monotonic() - began < 5
    assert error.retryable
    assert len(server.requests) >= 2


def test_retry_waits_as_long_as_the_service_asks(server: Answering) -> None:
    server.script = [Answer(429, {"Retry-After": "1"})]
    began = time.monotonic()
    sending(HttpSink(server.url, retry=30), [1])
    assert time.monotonic() - began >= 1
    assert server.arrived == [1]


def test_retry_after_beyond_the_time_fails_at_once(server: Answering) -> None:
    server.always = Answer(503, {"Retry-After": "3600"})
    error = failing(HttpSink(server.url, retry=30), [1])
    assert error.retry_after == 3600
    assert len(server.requests) == 1


def test_retry_after_is_a_number_or_a_date() -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
    assert 50 < (retry_after(email.utils.format_datetime(later)) or 0) <= 60
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after(" 7 ") == 7
    for value in (
        "",
        "soon",
        "-1",
        "1.5",
        "٣",
        "Jan 1 07:28:00 9999999999999999999 Oct",
    ):
        assert retry_after(value) is None


def test_date_without_a_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    if hasattr(time, "tzset"):
        time.tzset()
    try:
        assert 50 < (retry_after(later.ctime()) or 0) <= 60
    finally:
        monkeypatch.undo()
        if hasattr(time, "tzset"):
            time.tzset()


def test_no_service_stops_an_endless_retry_for_ever(
    server: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringdispatch.sinks._post._LONGEST_PAUSE", 0.01)
    server.script = [Answer(503, {"Retry-After": "9" * 400})]
    sending(HttpSink(server.url, retry=math.inf), [1])
    assert server.arrived == [1]


def test_endless_retry_is_cut_short_by_close_and_holds_its_slot(
    server: Answering,
) -> None:
    server.always = UNAVAILABLE
    sink = HttpSink(server.url, retry=math.inf)

    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=1, dispatch_timeout=None)
        dispatcher.enqueue(1)
        while not server.requests:  # noqa: ASYNC110, the server has another loop
            await asyncio.sleep(0.001)
        dispatcher.enqueue(2)
        await asyncio.sleep(0.05)
        assert (dispatcher.pending, dispatcher.statistics().in_flight) == (1, 1)
        assert not await dispatcher.aclose(timeout=0.1)
        assert dispatcher.statistics().failed == 1

    asyncio.run(main())
    assert len(set(server.keys)) == 1


# ---- secrets


@pytest.mark.parametrize(
    "answer",
    [
        Answer(403, body=f"no such key: {SECRET}, {SECRET}".encode()),
        Answer(403, body=b"x" * 195 + SECRET.encode()),
        Answer(302, {"Location": f"http://x/?{SECRET}"}),
        Answer(instead="garbage"),
        Answer(instead="reset"),
        Answer(instead="stall"),
    ],
)
def test_no_secret_in_message_log_repr_or_traceback(
    server: Answering, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.always = answer
    sink = HttpSink(
        f"{server.url}/{SECRET}?key={SECRET}",
        headers={"Authorization": f"Bearer {SECRET}"},
        timeout=0.2,
    )
    caught: list[BaseException] = []

    async def main() -> None:
        async with BackgroundDispatcher(
            sink, ms_delay=1, on_error=lambda error, _: caught.append(error)
        ) as dispatcher:
            dispatcher.enqueue(1)

    asyncio.run(main())
    (error,) = caught
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    texts = [str(error), repr(error), repr(sink), str(sink), *shown.format()]
    texts += [record.getMessage() for record in caplog.records]
    texts += [record.exc_text or "" for record in caplog.records]
    assert SECRET[:8] not in "\n".join(texts)
    assert error.__context__ is None
    assert isinstance(error, SinkError)


def test_cancelled_call_has_no_secret_in_its_traceback(server: Answering) -> None:
    server.script = [Answer(instead="stall"), Answer(instead="half")]
    sink = HttpSink(
        f"{server.url}/{SECRET}?key={SECRET}",
        headers={"Authorization": f"Bearer {SECRET}"},
    )

    async def main() -> None:
        for requests in (1, 2):  # without an answer, and within one
            task = asyncio.ensure_future(sink([1]))
            while len(server.requests) < requests:  # noqa: ASYNC110, another loop's
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as raised:
                await task
            error = raised.value
            shown = traceback.TracebackException.from_exception(
                error, capture_locals=True
            )
            assert "_post" in "".join(shown.format())
            assert SECRET[:8] not in "".join(shown.format())
            assert error.__context__ is None
        await sink.aclose()

    asyncio.run(main())


def test_secrets_of_an_own_session_are_hidden_too(server: Answering) -> None:
    server.always = Answer(403, body=f"no such key: {SECRET}".encode())

    def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET}"})

    error = failing(HttpSink(server.url, session=make), [1])
    assert str(error).endswith("answered 403 No: 'no such key: ***'")


# ---- loops, sessions, forks


def test_client_is_made_anew_for_each_loop(server: Answering) -> None:
    sink = HttpSink(server.url)
    dispatcher = BackgroundDispatcher(sink, ms_delay=1)

    async def main(number: int) -> None:
        dispatcher.enqueue(number)
        assert await dispatcher.aflush()

    for number in range(2):
        asyncio.run(main(number))
    dispatcher.enqueue(2)  # on the background thread
    assert dispatcher.close()
    assert server.arrived == [0, 1, 2]
    assert server.connections == 3
    assert dispatcher.statistics().failed == 0


def test_loop_that_is_dropped_leaves_nothing_to_warn_of(server: Answering) -> None:
    sink = HttpSink(server.url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(sink([1]))
    loop.run_until_complete(loop.shutdown_default_executor())
    server.drop_connections()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    sending(sink, [2])
    assert server.arrived == [1, 2]


def test_sink_that_nothing_closes_closes_its_connections(server: Answering) -> None:
    async def on_its_loop() -> None:
        sink = HttpSink(server.url)
        await sink([1])
        session = session_of(sink)
        del sink
        async with asyncio.timeout(10):
            while not session.closed:  # noqa: ASYNC110, nothing says so
                await asyncio.sleep(0.001)

    asyncio.run(on_its_loop())
    sinks = [HttpSink(server.url)]

    async def without() -> None:
        await sinks[0]([2])
        server.drop_connections()
        await asyncio.sleep(0.01)

    asyncio.run(without())
    session = session_of(sinks.pop())
    assert session.closed
    assert server.arrived == [1, 2]


def session_of(sink: HttpSink[Any]) -> aiohttp.ClientSession:
    (client,) = sink._clients.values()
    return client.session


def test_own_session_is_used_and_left_open(server: Answering) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession(headers={"X-Mine": "yes"}) as session:
            sink = HttpSink(server.url, session=session)
            async with BackgroundDispatcher(sink, ms_delay=1) as dispatcher:
                dispatcher.enqueue(1)
            assert not session.closed

    asyncio.run(main())
    assert server.requests[0].headers["x-mine"] == "yes"


def test_function_makes_the_session_on_each_loop(server: Answering) -> None:
    made: list[aiohttp.ClientSession] = []

    def make() -> aiohttp.ClientSession:
        made.append(aiohttp.ClientSession())
        return made[-1]

    sink = HttpSink(server.url, session=make)
    sending(sink, [1], [2])
    sending(sink, [3])
    assert len(made) == 2
    assert all(session.closed for session in made)
    assert server.arrived == [1, 2, 3]


def test_function_that_makes_something_else_fails_by_name(server: Answering) -> None:
    made: Any = dict
    sink = HttpSink(server.url, session=made)
    with pytest.raises(TypeError, match=r"made an object of type dict: must make an"):
        sending(sink, [1])


def test_session_of_another_loop_fails_by_name(server: Answering) -> None:
    sinks: list[HttpSink[Any]] = []

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            sinks.append(HttpSink(server.url, session=session))
            await sinks[0]([1])

    asyncio.run(main())
    assert "works on its own loop only" in str(failing(sinks[0], [2]))
    assert server.arrived == [1]


def test_proxy_that_refuses_is_named(server: Answering) -> None:
    server.always = Answer(407)

    def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(proxy=server.url)

    error = failing(HttpSink("https://logs.example.com/", session=make), [1])
    assert "its proxy answered 407 No" in str(error)
    assert not error.retryable


def test_session_that_was_closed_fails_by_name(server: Answering) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            sink = HttpSink(server.url, session=session)
        with pytest.raises(SinkError, match="can't be sent: RuntimeError"):
            await sink([1])

    asyncio.run(main())


@needs_fork
def test_forked_child_opens_its_own_connection(server: Answering) -> None:
    ended = run_snippet(
        f"""
        from ringdispatch.sinks import HttpSink

        sink = HttpSink({server.url!r})
        dispatcher = BackgroundDispatcher(sink, ms_delay=1)
        dispatcher.enqueue("parent")
        assert dispatcher.flush()
        if (child := os.fork()) == 0:
            dispatcher.enqueue("child")
            assert dispatcher.close()
            sys.exit()
        os.waitpid(child, 0)
        dispatcher.enqueue("parent again")
        assert dispatcher.close()
        """,
        warnings=("ignore:.*fork:DeprecationWarning",),
    )
    assert ended.stdout == ""
    assert server.arrived == ["parent", "child", "parent again"]
    assert [request.connection for request in server.requests] == [1, 2, 1]


def test_program_that_just_ends_sends_all_and_prints_nothing(
    server: Answering,
) -> None:
    run_snippet(
        f"""
        from ringdispatch.sinks import HttpSink

        dispatcher = BackgroundDispatcher(HttpSink({server.url!r}), ms_delay=60_000)

        async def main():
            dispatcher.enqueue("in a loop")

        asyncio.run(main())
        dispatcher.enqueue("without")
        """
    )
    assert server.arrived == ["in a loop", "without"]


# ---- TLS


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[tuple[Answering, Path]]:
    trustme = pytest.importorskip("trustme")
    own = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.issue_cert("localhost").configure_cert(context)
    path = tmp_path / "ca.pem"
    own.cert_pem.write_to_path(str(path))
    with answering(context) as running:
        yield running, path


def test_certificates_are_checked(authority: tuple[Answering, Path]) -> None:
    server, _ = authority
    error = failing(HttpSink(server.url), [1])
    assert "its certificate is not trusted" in str(error)
    assert not error.retryable
    assert server.requests == []


def test_certificate_of_a_trusted_authority(authority: tuple[Answering, Path]) -> None:
    server, path = authority
    context = ssl.create_default_context(cafile=str(path))

    def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))

    sending(HttpSink(server.url, session=make), [1])
    assert server.arrived == [1]
    wrong = server.url.replace("localhost", "127.0.0.1")
    error = failing(HttpSink(wrong, session=make), [2])
    assert "its certificate is not trusted" in str(error)


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


def test_endless_retry_beside_a_timeout_is_refused() -> None:
    sink = HttpSink("https://logs.example.com/", retry=math.inf)
    with pytest.raises(ValueError, match=r"give the dispatcher dispatch_timeout=None"):
        BackgroundDispatcher(sink, ms_delay=1)
    BackgroundDispatcher(sink, ms_delay=1, dispatch_timeout=None)


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
