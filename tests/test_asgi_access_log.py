"""AccessLogMiddleware for ASGI: one entry a request, whatever becomes of it."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest

from asgi_side import HELLO, Server, body, entry_of, scope_of, sending, start
from ringdispatch import BackgroundDispatcher
from ringdispatch.asgi import AccessLogMiddleware, AccessRecord
from ringdispatch.testing import RecordingDispatcher
from support import Sink, SteppedLoop

# ---- the default entry


def test_default_entry() -> None:
    before = time.time() * 1000
    entry = entry_of(HELLO)
    after = time.time() * 1000
    assert before - 1 <= entry.pop("time") <= after
    assert 0 <= entry.pop("duration_ms") <= after - before + 1
    assert entry == {
        "method": "GET",
        "path": "/orders/1",
        "route": None,
        "status": 201,
        "response_bytes": 12,
        "client": "203.0.113.7",
        "request_id": "id-1",
        "user_agent": "test/1",
    }


def test_duration_has_whole_microseconds() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.01)
        await HELLO(scope, receive, send)

    duration = entry_of(app)["duration_ms"]
    assert 10 <= duration < 10_000
    assert re.fullmatch(r"\d+(\.\d{1,3})?", repr(duration))


@pytest.mark.parametrize(
    ("given", "request_id"),
    [
        (b"7b1e3c2a-1d2f-4c55", "7b1e3c2a-1d2f-4c55"),
        (b"a.b:c+d/e=f_g", "a.b:c+d/e=f_g"),
        (b"x" * 128, "x" * 128),
        (b"x" * 129, None),
        (b"x" * 5000, None),
        (b"", None),
        (b"two words", None),
        (b'"}\n{"forged"', None),
        (b"caf\xe9", None),
        (b"trailing\n", None),
    ],
)
def test_request_id_is_one_or_none(given: bytes, request_id: str | None) -> None:
    scope = scope_of(headers=[(b"accept", b"*/*"), (b"x-request-id", given)])
    assert entry_of(HELLO, None, scope)["request_id"] == request_id


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({"client": None}, {"client": None}),
        ({"client": ["::1", 80]}, {"client": "::1"}),
        ({"headers": []}, {"user_agent": None, "request_id": None}),
        ({"headers": [[b"user-agent", b"\xff" * 2000]]}, {"user_agent": "ÿ" * 1024}),
        ({"path": "/" + "x" * 2000}, {"path": "/" + "x" * 1023}),
        ({"path": "/käse"}, {"path": "/käse"}),
    ],
)
def test_what_a_server_may_give(scope: Any, expected: dict[str, Any]) -> None:
    entry = entry_of(HELLO, None, scope_of(**scope))
    assert {name: entry[name] for name in expected} == expected
    assert "secret" not in repr(entry)


def test_scope_without_a_client() -> None:
    scope = scope_of()
    del scope["client"], scope["root_path"]
    assert entry_of(HELLO, None, scope)["client"] is None


def test_path_is_the_one_that_came_in() -> None:
    async def router(scope: Any, receive: Any, send: Any) -> None:
        scope["path"] = "/rest"
        await HELLO(scope, receive, send)

    assert entry_of(router)["path"] == "/orders/1"


# ---- responses


@pytest.mark.parametrize(
    ("method", "status", "size"),
    [("HEAD", 200, 0), ("GET", 204, 0), ("GET", 304, 0), ("GET", 200, 5)],
)
def test_bytes_that_go_nowhere_do_not_count(
    method: str, status: int, size: int
) -> None:
    app = sending(start(status), body(b"Hello"))
    entry = entry_of(app, None, scope_of(method=method))
    assert (entry["status"], entry["response_bytes"]) == (status, size)


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
@pytest.mark.parametrize(
    ("headers", "size"),
    [([(b"content-length", b"4711")], 4711), ([], 0), ([(b"Content-Length", b"")], 0)],
)
def test_file_that_the_server_reads(kind: str, headers: Any, size: int) -> None:
    sent = {"type": f"http.response.{kind}", "path": "/tmp/x", "file": 3}
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(headers=headers))
        await send(sent)
        seen.append(len(dispatcher.entries))

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    server = Server()
    asyncio.run(server.call(AccessLogMiddleware(app, dispatcher=dispatcher)))
    assert server.sent[1] == sent
    assert seen == [1]
    assert dispatcher.entries[0]["response_bytes"] == size


def test_zero_copy_in_parts_ends_with_the_last() -> None:
    part = {"type": "http.response.zerocopysend", "file": 3, "more_body": True}
    headers = [(b"content-length", b"9")]
    app = sending(start(headers=headers), part, {**part, "more_body": False})
    assert entry_of(app)["response_bytes"] == 9


def test_trailers_end_the_response() -> None:
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(trailers=True))
        await send(body(b"Hello"))
        trailers = {"type": "http.response.trailers", "headers": []}
        await send({**trailers, "more_trailers": True})
        seen.append(len(dispatcher.entries))
        await send(trailers)
        seen.append(len(dispatcher.entries))

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    asyncio.run(Server().call(AccessLogMiddleware(app, dispatcher=dispatcher)))
    assert seen == [0, 1]
    assert dispatcher.entries[0]["response_bytes"] == 5


def test_entry_is_made_once_the_last_byte_is_sent_not_before() -> None:
    seen: list[int] = []

    class Slow(Server):
        async def send(self, message: Any) -> None:
            await super().send(message)
            seen.append(len(dispatcher.entries))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await HELLO(scope, receive, send)
        seen.append(len(dispatcher.entries))
        await send(body())  # against the protocol: nothing is counted twice

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    server = Slow()
    asyncio.run(server.call(AccessLogMiddleware(app, dispatcher=dispatcher)))
    assert seen == [0, 0, 0, 1, 1]
    assert len(server.sent) == 4


def test_background_tasks_do_not_count(stepped: SteppedLoop, sink: Sink) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await HELLO(scope, receive, send)
        await asyncio.sleep(3600)

    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=10)
        wrapped = AccessLogMiddleware(app, dispatcher=dispatcher)
        request = asyncio.ensure_future(Server().call(wrapped))
        await stepped.advance(1)
        assert len(sink.entries) == 1
        await stepped.advance(3600)
        await request
        assert dispatcher.statistics().accepted == 1

    stepped.run_until_complete(main())


def test_streams_pass_part_by_part(stepped: SteppedLoop, sink: Sink) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(headers=[(b"content-type", b"text/event-stream")]))
        for number in range(3):
            await send(body(b"data: %d\n\n" % number, more=True))
            await asyncio.sleep(10)
        await send(body())

    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=10)
        server = Server()
        wrapped = AccessLogMiddleware(app, dispatcher=dispatcher)
        request = asyncio.ensure_future(server.call(wrapped))
        for number in range(3):
            await stepped.advance(1 if number == 0 else 10)
            assert len(server.sent) == 2 + number
            assert sink.entries == []
        await stepped.advance(10)
        await request
        (entry,) = sink.entries
        assert entry["response_bytes"] == 27
        assert "error" not in entry

    stepped.run_until_complete(main())


@pytest.mark.parametrize("kind", ["websocket", "lifespan.of.tomorrow"])
def test_all_but_http_passes_through_untouched(kind: str) -> None:
    given: list[Any] = []

    async def app(*arguments: Any) -> None:
        given.append(arguments)

    arguments = ({"type": kind, "path": "/x"}, object(), object())
    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    asyncio.run(AccessLogMiddleware(app, dispatcher=dispatcher)(*arguments))  # type: ignore[arg-type]
    assert all(a is b for a, b in zip(given[0], arguments, strict=True))
    assert dispatcher.entries == []


def test_messages_pass_as_the_same_objects() -> None:
    messages = [start(), body(b"Hello")]
    received = {"type": "http.request", "body": b"?"}
    passed: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope is outer
        assert await receive() is received
        for message in messages:
            await send(message)

    async def receive() -> Any:
        return received

    async def send(message: Any) -> None:
        passed.append(message)

    outer = scope_of()
    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    asyncio.run(AccessLogMiddleware(app, dispatcher=dispatcher)(outer, receive, send))
    assert all(a is b for a, b in zip(passed, messages, strict=True))


def test_body_is_counted_as_the_application_sent_it() -> None:
    """A middleware outside, such as Starlette's for gzip, changes the message."""

    class Zipped(Server):
        async def send(self, message: Any) -> None:
            if "body" in message:
                message["body"] = b"zip"
            await super().send(message)

    assert entry_of(sending(start(), body(b"Hello")), Zipped())["response_bytes"] == 5


def test_clock_that_is_set_changes_no_duration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ringdispatch.asgi

    monkeypatch.setattr(ringdispatch.asgi, "time_ns", lambda: 0)
    entry = entry_of(HELLO)
    assert entry["time"] == 0
    assert 0 <= entry["duration_ms"] < 10_000


# ---- bad input


class Unprintable:
    def __repr__(self) -> str:
        raise LookupError


async def async_entry(record: AccessRecord) -> object:
    return record.path


def yielding(record: AccessRecord) -> Any:
    yield record.path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dispatcher": None},
            r"dispatcher=None: must be a BackgroundDispatcher, such as .*ms_delay=100",
        ),
        ({"dispatcher": "d"}, "dispatcher='d': must be a BackgroundDispatcher"),
        (
            {"dispatcher": Unprintable()},
            "dispatcher=<Unprintable: LookupError in its repr>: must be a Background",
        ),
        ({"app": None}, "app=None: must be the application to wrap"),
        (
            {"app": lambda environ, start_response: []},
            r"must take \(scope, receive, send\), but takes \(environ, start_res",
        ),
        ({"dispatcher": BackgroundDispatcher}, "must be a BackgroundDispatcher"),
        ({"entry": ("time", "path")}, r"entry=\('time', 'path'\): must be a function"),
        ({"entry": {}}, "entry={}: must be a function that takes a record"),
        ({"entry": async_entry}, "entry=<function async_.*: .* neither async nor a g"),
        ({"entry": yielding}, "entry=<function yield.*: .* neither async nor a gene"),
        ({"entry": lambda: None}, r"entry=<.*: must take \(record\), but takes \(\):"),
        ({"entry": lambda a, b: a}, r"must take \(record\), but takes \(a, b\): miss"),
        ({"exclude": "/health"}, "exclude='/health': must be paths, such as "),
        ({"exclude": 3}, "exclude=3: must be paths, such as "),
        ({"exclude": [re.compile("/x")]}, r"exclude=\[re.compile.*: must be paths"),
        ({"timeout": "5"}, "timeout='5': must be a number of seconds"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    given: Any = {"app": HELLO, "dispatcher": RecordingDispatcher(), **options}
    with pytest.raises(TypeError, match=message):
        AccessLogMiddleware(**given)
