"""AccessLogMiddleware for ASGI: requests that end otherwise; entries of one's own."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from asgi_side import (
    HEADERS,
    HELLO,
    Server,
    body,
    entries_of,
    entry_of,
    scope_of,
    sending,
    start,
)
from ringdispatch import BackgroundDispatcher, Records
from ringdispatch.asgi import AccessLogMiddleware, AccessRecord
from ringdispatch.testing import RecordingDispatcher
from support import logged

# ---- exceptions


def test_exception_before_the_first_byte() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("no such order")

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    wrapped = AccessLogMiddleware(app, dispatcher=dispatcher)
    with pytest.raises(LookupError, match="no such order"):
        asyncio.run(Server().call(wrapped))
    (entry,) = dispatcher.entries
    assert (entry["status"], entry["error"]) == (500, "LookupError")


def test_exception_after_the_first_byte() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"Hel", more=True))
        raise LookupError

    entry = entry_of(app)
    assert (entry["status"], entry["error"]) == (200, "LookupError")
    assert entry["response_bytes"] == 3


def test_exception_after_the_last_byte_changes_no_entry() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await HELLO(scope, receive, send)
        raise LookupError  # from a background task

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    wrapped = AccessLogMiddleware(app, dispatcher=dispatcher)
    with pytest.raises(LookupError):
        asyncio.run(Server().call(wrapped))
    (entry,) = dispatcher.entries
    assert entry["status"] == 201
    assert "error" not in entry


def test_exception_that_the_framework_answers() -> None:
    """It answers while it handles the exception; then its type is in the entry."""

    def answering(status: int) -> Callable[..., Any]:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                raise LookupError
            except LookupError:
                await sending(start(status), body(b"sorry"))(scope, receive, send)

        return app

    entry = entry_of(answering(500))
    assert (entry["status"], entry["error"]) == (500, "LookupError")
    assert "error" not in entry_of(answering(404))  # as a framework has its own


def test_answer_of_500_without_an_exception() -> None:
    entry = entry_of(sending(start(503), body()))
    assert entry["status"] == 503
    assert "error" not in entry


def test_application_that_answers_nothing() -> None:
    entry = entry_of(sending())
    assert (entry["status"], entry["response_bytes"]) == (500, 0)
    assert "error" not in entry


@pytest.mark.parametrize(("first", "status"), [((), 500), ((start(),), 200)])
def test_cancelled_request(first: Any, status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in first:
            await send(message)
        waiting.set()
        await asyncio.Event().wait()

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    waiting = asyncio.Event()

    async def main() -> None:
        wrapped = AccessLogMiddleware(app, dispatcher=dispatcher)
        task = asyncio.ensure_future(Server().call(wrapped))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    (entry,) = dispatcher.entries
    assert (entry["status"], entry["error"]) == (status, "CancelledError")


# ---- clients that go away

GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize("raises", [True, False])
def test_client_goes_away_before_the_start(raises: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == GONE
        if raises:
            raise RuntimeError("the body is incomplete")

    entry = entry_of(app, Server([GONE]))
    assert (entry["status"], entry["error"]) == (499, "ClientDisconnect")


def test_client_goes_away_during_the_response() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"Hel", more=True))
        assert await receive() == GONE

    entry = entry_of(app, Server([GONE]))
    assert (entry["status"], entry["error"]) == (200, "ClientDisconnect")
    assert entry["response_bytes"] == 3


@pytest.mark.parametrize(
    ("refuses_from", "status", "size"), [(0, 499, 0), (1, 200, 0), (2, 200, 6)]
)
def test_send_finds_the_client_gone(refuses_from: int, status: int, size: int) -> None:
    app = sending(start(), body(b"Hello ", more=True), body(b"World!"))
    entry = entry_of(app, Server(refuses_from=refuses_from))
    assert (entry["status"], entry["error"]) == (status, "ClientDisconnect")
    assert entry["response_bytes"] == size


def test_server_says_that_the_client_is_gone_once_all_is_sent() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await HELLO(scope, receive, send)
        assert await receive() == GONE

    assert "error" not in entry_of(app, Server([GONE]))


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
    app = AccessLogMiddleware(HELLO, dispatcher=dispatcher, entry=entry)

    async def main() -> None:
        async with dispatcher:
            await Server().call(app)

    asyncio.run(main())
    assert rows == [(201, 12, b"GET")]


def test_entry_has_all_attributes() -> None:
    seen: list[Any] = []

    def entry(record: AccessRecord) -> None:
        names = {name for name in dir(record) if not name.startswith("_")}
        seen.append({name: getattr(record, name) for name in names & set(every)})

    default = entry_of(HELLO)
    every = [*default, "error"]
    assert entries_of(HELLO, entry=entry) == []
    (record,) = seen
    for name in ("time", "duration_ms"):
        assert type(record[name]) is type(default[name])
        record[name] = default[name]
    assert record == {**default, "error": None}


def test_entry_of_none_is_none() -> None:
    assert entries_of(HELLO, entry=lambda record: None) == []
    assert entries_of(HELLO, entry=lambda record: 0) == [0]


def test_excluded_paths_have_no_entry() -> None:
    for exclude in (["/health", "/orders/1"], {"/orders/1"}, iter(["/orders/1"])):
        assert entries_of(HELLO, exclude=exclude) == []
    assert len(entries_of(HELLO, exclude=["/orders"])) == 1


def test_entry_that_raises_is_logged_and_harms_no_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher(name="access")

    def entry(record: AccessRecord) -> Any:
        raise KeyError(record.path)

    app = AccessLogMiddleware(HELLO, dispatcher=dispatcher, entry=entry)
    server = Server()

    async def main() -> None:
        for _ in range(100):
            await server.call(app)

    asyncio.run(main())
    assert len(server.sent) == 300
    line = "ringdispatch[access]: 1 request without an entry in the access log: "
    assert logged(caplog, logging.ERROR) == [line + "KeyError('/orders/1')"]
    assert caplog.records[-1].exc_info is not None


def test_full_ring_that_raises_harms_no_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def send(batch: list[Any]) -> None:
        await asyncio.Event().wait()

    async def main() -> int:
        dispatcher: BackgroundDispatcher[Any] = BackgroundDispatcher(
            send, ms_delay=60_000, capacity=2, on_full="raise"
        )
        server = Server()
        app = AccessLogMiddleware(HELLO, dispatcher=dispatcher)
        for _ in range(5):
            await server.call(app)
        assert len(server.sent) == 15
        seen = dispatcher.statistics()
        await dispatcher.aclose(timeout=0)
        return seen.rejected_full

    assert asyncio.run(main()) == 1
    assert logged(caplog, logging.ERROR) == []


def test_record_and_scope_are_freed_with_the_request() -> None:
    class Mark:
        pass

    mark = Mark()
    scope = scope_of(headers=[*HEADERS], mark=mark)
    reference = weakref.ref(mark)
    gc.disable()
    try:
        assert len(entries_of(HELLO, None, scope)) == 1
        del scope, mark
        assert reference() is None
    finally:
        gc.enable()
