"""AccessLogMiddleware for WSGI: one entry a request, whatever becomes of it."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import sys
import time
import wsgiref.util
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher, Records
from ringdispatch.testing import RecordingDispatcher
from ringdispatch.wsgi import AccessLogMiddleware, AccessRecord
from support import logged
from wsgi_side import HELLO, Server, answering, entries_of, entry_of, environ_of

# ---- the entry


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


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"PATH_INFO": "/k\xc3\xa4se"}, {"path": "/käse"}),
        ({"PATH_INFO": "/\xff"}, {"path": "/\ufffd"}),
        ({"PATH_INFO": "/" + "x" * 2000}, {"path": "/" + "x" * 1023}),
        ({"REMOTE_ADDR": ""}, {"client": None}),
        ({"HTTP_USER_AGENT": "x" * 2000}, {"user_agent": "x" * 1024}),
        ({"HTTP_X_REQUEST_ID": "x" * 129}, {"request_id": None}),
        ({"HTTP_X_REQUEST_ID": 'a"b'}, {"request_id": None}),
        ({"HTTP_X_REQUEST_ID": "caf\xe9"}, {"request_id": None}),
    ],
)
def test_what_a_server_may_give(environ: Any, expected: dict[str, Any]) -> None:
    entry = entry_of(HELLO, environ_of(**environ))
    assert {name: entry[name] for name in expected} == expected
    assert "secret" not in repr(entry)


def test_environ_with_the_least() -> None:
    environ = environ_of()
    for name in ("REMOTE_ADDR", "HTTP_USER_AGENT", "HTTP_X_REQUEST_ID", "SCRIPT_NAME"):
        environ.pop(name, None)
    entry = entry_of(HELLO, environ)
    assert entry["client"] is entry["user_agent"] is entry["request_id"] is None


@pytest.mark.parametrize(
    ("method", "status", "size"),
    [
        ("HEAD", "200 OK", 0),
        ("GET", "204 No Content", 0),
        ("GET", "304 Not Modified", 0),
        ("GET", "200 OK", 5),
    ],
)
def test_bytes_that_go_nowhere_do_not_count(
    method: str, status: str, size: int
) -> None:
    app = answering(b"Hello", status=status)
    entry = entry_of(app, environ_of(REQUEST_METHOD=method))
    assert (entry["status"], entry["response_bytes"]) == (int(status[:3]), size)


def test_entry_is_made_once_the_last_part_is_taken() -> None:
    seen: list[int] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for part in (b"a", b"", b"bc"):
            seen.append(len(dispatcher.entries))
            yield part
        seen.append(len(dispatcher.entries))

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    Server(AccessLogMiddleware(app, dispatcher=dispatcher)).call()
    assert seen == [0, 0, 0, 0]
    assert dispatcher.entries[0]["response_bytes"] == 3
    assert "error" not in dispatcher.entries[0]


def test_bytes_that_are_written_count() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"Hello ")
        return [b"World!"]

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    server = Server(AccessLogMiddleware(app, dispatcher=dispatcher))
    server.call()
    assert server.sent == [b"Hello ", b"World!"]
    assert dispatcher.entries[0]["response_bytes"] == 12


def test_server_knows_the_length_of_a_list() -> None:
    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    app = AccessLogMiddleware(HELLO, dispatcher=dispatcher)
    assert len(app(environ_of(), lambda *_: None)) == 2  # type: ignore[arg-type]

    app = AccessLogMiddleware(lambda *_: iter([b""]), dispatcher=dispatcher)
    assert not hasattr(app(environ_of(), lambda *_: None), "__len__")


class Body:
    """A body that is iterable, and closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield from (b"a", b"b", b"c")

    def close(self) -> None:
        self.closed += 1


def test_body_is_closed_with_the_response() -> None:
    body = Body()

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return body

    entry = entry_of(app)
    assert body.closed == 1
    assert entry["response_bytes"] == 3


def test_close_that_raises_comes_after_the_entry() -> None:
    class Broken(Body):
        def close(self) -> None:
            raise LookupError("at the close")

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Broken()

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    wrapped = AccessLogMiddleware(app, dispatcher=dispatcher)
    with pytest.raises(LookupError, match="at the close"):
        Server(wrapped).call()
    assert "error" not in dispatcher.entries[0]


# ---- files that the server sends


class FileWrapper(wsgiref.util.FileWrapper):
    """As gunicorn has it: a class that the server looks for."""


def function_of_uwsgi(file: Any, size: int = 8192) -> Any:
    """As uWSGI has it: it returns the file itself, which it knows again."""
    return file


@pytest.mark.parametrize("wrapper", [FileWrapper, function_of_uwsgi])
def test_file_is_passed_unwrapped(wrapper: Any) -> None:
    made: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "5")])
        made.append(environ["wsgi.file_wrapper"](io.BytesIO(b"Hello"), 2))
        return made[0]

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    wrapped = AccessLogMiddleware(app, dispatcher=dispatcher)
    environ = environ_of(**{"wsgi.file_wrapper": wrapper})
    assert Server(wrapped).call(environ) is made[0]
    (entry,) = dispatcher.entries
    assert (entry["status"], entry["response_bytes"]) == (200, 5)


def test_no_other_body_is_taken_for_a_file() -> None:
    for wrapper in (FileWrapper, function_of_uwsgi):
        environ = environ_of(**{"wsgi.file_wrapper": wrapper})
        assert entry_of(HELLO, environ)["response_bytes"] == 12


def test_file_without_a_length_has_none() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return FileWrapper(io.BytesIO(b"Hello"))

    environ = environ_of(**{"wsgi.file_wrapper": FileWrapper})
    assert entry_of(app, environ)["response_bytes"] == 0


# ---- other ends


def test_exception_before_the_start() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise LookupError("no such order")

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    with pytest.raises(LookupError, match="no such order"):
        Server(AccessLogMiddleware(app, dispatcher=dispatcher)).call()
    (entry,) = dispatcher.entries
    assert (entry["status"], entry["error"]) == (500, "LookupError")


@pytest.mark.parametrize(("parts", "status"), [(0, 500), (2, 200)])
def test_exception_in_the_body(parts: int, status: int) -> None:
    """Before its first byte the server answers 500."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(parts):
            yield b"part"
        raise LookupError

    entry = entry_of(app)
    assert (entry["status"], entry["error"]) == (status, "LookupError")
    assert entry["response_bytes"] == 4 * parts


def test_exception_that_the_application_hands_over() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        try:
            raise LookupError
        except LookupError:
            start_response("500 Oh", [], sys.exc_info())
        return [b"sorry"]

    entry = entry_of(app)
    assert (entry["status"], entry["error"]) == (500, "LookupError")
    assert entry["response_bytes"] == 5


def test_exception_that_the_framework_answers() -> None:
    """It answers while it handles the exception; then its type is in the entry."""

    def answering_to(status: str) -> Any:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            try:
                raise LookupError
            except LookupError:
                start_response(status, [])
            return [b"sorry"]

        return app

    assert entry_of(answering_to("500 Oh"))["error"] == "LookupError"
    assert "error" not in entry_of(answering_to("404 Not Found"))


def test_generator_that_is_closed_early() -> None:
    closed: list[bool] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            for _ in range(100):
                yield b"part"
        finally:
            closed.append(True)

    entry = entry_of(app, None, 3)
    assert closed == [True]
    assert (entry["status"], entry["error"]) == (200, "ClientDisconnect")


def test_body_that_is_never_asked_for() -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body()

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    body = AccessLogMiddleware(app, dispatcher=dispatcher)(
        environ_of(), lambda *_: None
    )
    body.close()  # type: ignore[attr-defined]
    body.close()  # type: ignore[attr-defined]
    assert [entry["error"] for entry in dispatcher.entries] == ["ClientDisconnect"]


@pytest.mark.parametrize(
    ("environ", "headers"),
    [
        ({"REQUEST_METHOD": "HEAD"}, []),
        ({}, [("content-length", "4")]),  # a server may stop at the announced length
    ],
)
def test_close_before_the_last_part_may_be_right(environ: Any, headers: Any) -> None:
    app = answering(b"part", b"", status="200 OK", headers=headers)
    assert "error" not in entry_of(app, environ_of(**environ), 1)


# ---- entries of one's own


def test_entry_makes_a_row_for_records() -> None:
    pytest.importorskip("numpy")
    rows: list[Any] = []

    async def send(batch: Any) -> None:
        rows.extend(batch.tolist())

    def entry(record: AccessRecord) -> tuple[Any, ...]:
        return record.status, record.response_bytes, record.method.encode()

    layout = Records([("status", "u2"), ("size", "i8"), ("method", "S8")])
    dispatcher = BackgroundDispatcher(send, ms_delay=1, layout=layout)
    with dispatcher:
        Server(AccessLogMiddleware(HELLO, dispatcher=dispatcher, entry=entry)).call()
    assert rows == [(201, 12, b"GET")]


def test_entry_of_none_and_excluded_paths() -> None:
    assert entries_of(HELLO, entry=lambda record: None) == []
    assert entries_of(HELLO, exclude=["/health", "/orders/1"]) == []
    assert len(entries_of(HELLO, exclude=["/orders"])) == 1


def test_entry_that_raises_is_logged_and_harms_no_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher(name="access")

    def entry(record: AccessRecord) -> Any:
        raise KeyError(record.route)

    app = AccessLogMiddleware(HELLO, dispatcher=dispatcher, entry=entry)
    server = Server(app)
    server.call()
    assert server.sent == [b"Hello ", b"World!"]
    line = "ringdispatch[access]: 1 request without an entry in the access log: "
    assert logged(caplog, logging.ERROR) == [line + "KeyError(None)"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dispatcher": None}, "dispatcher=None: must be a BackgroundDispatcher, such"),
        ({"app": None}, "app=None: must be the application to wrap"),
        (
            {"app": lambda scope, receive, send: None},
            r"must take \(environ, start_response\), but takes \(scope, rec",
        ),
        ({"entry": 1}, "entry=1: must be a function that takes a record"),
        ({"entry": lambda: None}, r"entry=<.*: must take \(record\), but takes \(\):"),
        (
            {"entry": asyncio.sleep},
            "entry=<function sleep .*: .* neither async nor a g",
        ),
        ({"exclude": "/health"}, "exclude='/health': must be paths, such as "),
        ({"exclude": [re.compile("/x")]}, r"exclude=\[re.compile.*: must be paths"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    given: Any = {"app": HELLO, "dispatcher": RecordingDispatcher(), **options}
    with pytest.raises(TypeError, match=message):
        AccessLogMiddleware(**given)
