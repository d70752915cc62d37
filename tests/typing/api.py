"""The public face as type checkers see it; checked by mypy and pyright, never run."""

from collections.abc import Sequence
from typing import Any, assert_type

import numpy as np

import ringdispatch.opentelemetry
import ringdispatch.prometheus
from ringdispatch import (
    BackgroundDispatcher,
    BatchInfo,
    Bytes,
    BytesBatch,
    Full,
    Objects,
    Records,
    Statistics,
    current_batch,
    current_dispatcher,
    dispatchers,
)
from ringdispatch.asgi import AccessLogMiddleware, AccessRecord, LifespanMiddleware
from ringdispatch.logging import DispatchHandler
from ringdispatch.sinks import HttpSink, OtlpLogSink, SinkError, SqliteSink
from ringdispatch.testing import HANG, FaultyDispatch, RecordingDispatcher, SteppedClock
from ringdispatch.wsgi import AccessLogMiddleware as WsgiAccessLog


class Access:
    """An entry of the user's own."""


class Context:
    """What a framework hands to its handlers."""

    def wait_until(self, awaitable: object) -> None: ...


async def send(entries: list[dict[str, int]]) -> None: ...


async def send_access(entries: list[Access]) -> None: ...


async def send_any(entries: Sequence[Any]) -> int:
    return len(entries)


def write(entries: list[str]) -> None: ...


def note_drops(reason: str, count: int) -> None: ...


def failed(error: BaseException, batch: object) -> None: ...


dispatcher = BackgroundDispatcher(send, ms_delay=100)
assert_type(dispatcher, BackgroundDispatcher[dict[str, int]])
assert_type(dispatcher.enqueue({"status": 200}), bool)
assert_type(dispatcher.enqueue({"status": 200}, Context()), bool)
assert_type(dispatcher.enqueue({"status": 200}, context=None), bool)
assert_type(dispatcher.statistics(), Statistics)
assert_type(dispatcher.statistics().accepted, int)
assert_type(dispatcher.statistics().pending_bytes, int | None)
assert_type(dispatcher.pending, int)
assert_type(dispatcher.closed, bool)
assert_type(dispatcher.name, str)
assert_type(dispatcher.flush(), bool)
assert_type(dispatcher.close(timeout=None), bool)
assert_type(dispatchers(), list[BackgroundDispatcher[Any]])
assert_type(current_dispatcher(), BackgroundDispatcher[Any] | None)
assert_type(current_batch(), BatchInfo | None)

dispatcher.enqueue("not a dict")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
BackgroundDispatcher(send)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
BackgroundDispatcher(send, {"msDelay": 100})  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
BackgroundDispatcher(send, ms_delay=100, maxBatch=10)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
BackgroundDispatcher(send, 100)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

records: BackgroundDispatcher[Access] = BackgroundDispatcher(
    send_access,
    ms_delay=10.5,
    capacity=1024,
    max_batch=100,
    max_in_flight=2,
    dispatch_timeout=None,
    on_full="drop_oldest",
    layout=Objects(),
    home="thread",
    on_error=failed,
    on_drop=note_drops,
    name="access",
)
records.enqueue(Access())
ordinary = BackgroundDispatcher(write, ms_delay=1)
assert_type(ordinary, BackgroundDispatcher[str])
anything: BackgroundDispatcher[Any] = BackgroundDispatcher(send_any, ms_delay=1)


async def life() -> None:
    async with BackgroundDispatcher(send, ms_delay=10) as inner:
        assert_type(inner, BackgroundDispatcher[dict[str, int]])
        inner.bind()
        assert_type(await inner.aenqueue({}, timeout=1.0), bool)
        assert_type(await inner.aflush(), bool)
        assert_type(await inner.aclose(), bool)
    try:
        inner.enqueue({})
    except Full as full:
        print(full)


def job() -> None:
    with BackgroundDispatcher(send, ms_delay=10) as inner:
        assert_type(inner, BackgroundDispatcher[dict[str, int]])
        inner.enqueue({})


async def send_rows(rows: Any) -> None: ...


async def send_array(rows: np.ndarray[Any, np.dtype[np.void]]) -> None: ...


async def send_payload(batch: BytesBatch) -> None:
    assert_type(batch.payload, bytes)
    assert_type(batch.json_array(), bytes)
    assert_type(batch[0], bytes)
    assert_type(batch[:2], list[bytes])
    assert_type(list(batch), list[bytes])
    assert_type(len(batch), int)


rows_layout = Records([("status", "u2")])
rows = BackgroundDispatcher(send_rows, ms_delay=10, layout=rows_layout)
assert_type(rows, BackgroundDispatcher[tuple[Any, ...]])
assert_type(rows.enqueue((200,)), bool)
assert_type(rows.enqueue_row(200, context=Context()), bool)

payloads = BackgroundDispatcher(
    send_payload, ms_delay=10, max_batch=9, layout=Bytes(max_batch_bytes=1_000_000)
)
assert_type(payloads, BackgroundDispatcher[Any])
assert_type(payloads.statistics().max_batch_bytes, int | None)
BackgroundDispatcher(send, ms_delay=10, layout=Bytes())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
BackgroundDispatcher(send, ms_delay=10, layout=rows_layout)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
BackgroundDispatcher(send_payload, ms_delay=10)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
BackgroundDispatcher(send_payload, ms_delay=10, layout=rows_layout)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
BackgroundDispatcher(send_array, ms_delay=10, layout=rows_layout)
BackgroundDispatcher(send_array, ms_delay=10)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
BackgroundDispatcher(send_array, ms_delay=10, layout=Bytes())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


def configured(on_full: str, home: str) -> None:
    BackgroundDispatcher(send, ms_delay=10, on_full=on_full)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    BackgroundDispatcher(send, ms_delay=10, home=home)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


BackgroundDispatcher(send, ms_delay=10, on_full="drop_newest", home="auto")
BackgroundDispatcher(send, ms_delay=10, on_full="raise", home="thread")
BackgroundDispatcher(send, ms_delay=10, on_full="block")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
BackgroundDispatcher(send, ms_delay=10, home="process")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

# Which sink takes which layout.
http = HttpSink("https://logs.example.com/", format="ndjson", compression="zstd")
sqlite = SqliteSink("entries.db", "access")
columns = SqliteSink("entries.db", "access", ["status", "seconds"])
otlp = OtlpLogSink("http://127.0.0.1:4318", resource={"service.name": "shop"})
posted = BackgroundDispatcher(http, ms_delay=10)
assert_type(posted, BackgroundDispatcher[Any])
posted.enqueue({"status": 200})
inserted = BackgroundDispatcher(sqlite, ms_delay=10)
assert_type(inserted, BackgroundDispatcher[Any])
with_columns = BackgroundDispatcher(columns, ms_delay=10)
assert_type(with_columns, BackgroundDispatcher[Any])
logged_by_otlp = BackgroundDispatcher(otlp, ms_delay=10)
assert_type(logged_by_otlp, BackgroundDispatcher[Any])

posted_rows = BackgroundDispatcher(http, ms_delay=10, layout=rows_layout)
assert_type(posted_rows, BackgroundDispatcher[tuple[Any, ...]])
inserted_rows = BackgroundDispatcher(sqlite, ms_delay=10, layout=rows_layout)
assert_type(inserted_rows, BackgroundDispatcher[tuple[Any, ...]])
rows_with_columns = BackgroundDispatcher(columns, ms_delay=10, layout=rows_layout)
assert_type(rows_with_columns, BackgroundDispatcher[tuple[Any, ...]])
rows_by_otlp = BackgroundDispatcher(otlp, ms_delay=10, layout=rows_layout)
assert_type(rows_by_otlp, BackgroundDispatcher[tuple[Any, ...]])
rows_by_otlp.enqueue({"status": 200})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

posted_bytes = BackgroundDispatcher(http, ms_delay=10, layout=Bytes())
assert_type(posted_bytes, BackgroundDispatcher[Any])
inserted_bytes = BackgroundDispatcher(sqlite, ms_delay=10, layout=Bytes())
assert_type(inserted_bytes, BackgroundDispatcher[Any])
BackgroundDispatcher(columns, ms_delay=10, layout=Bytes())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
BackgroundDispatcher(otlp, ms_delay=10, layout=Bytes())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]

HttpSink("https://logs.example.com/", format="xml")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
HttpSink("https://logs.example.com/", compression="br")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
of_access: HttpSink[list[Access]] = HttpSink("https://logs.example.com/")
typed: BackgroundDispatcher[Access] = BackgroundDispatcher(of_access, ms_delay=10)
typed.enqueue("no access")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
no_payloads: SqliteSink[BytesBatch] = SqliteSink("entries.db", "access", ["a"])  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
no_records: OtlpLogSink[BytesBatch] = OtlpLogSink("http://127.0.0.1:4318")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def of_one_batch(
    lists: HttpSink[list[Access]],
    payloads: HttpSink[BytesBatch],
    table: SqliteSink[list[Access]],
    records: OtlpLogSink[list[Access]],
) -> None:
    assert_type(BackgroundDispatcher(lists, ms_delay=10), BackgroundDispatcher[Access])
    BackgroundDispatcher(lists, ms_delay=10, layout=rows_layout)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    BackgroundDispatcher(lists, ms_delay=10, layout=Bytes())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    BackgroundDispatcher(payloads, ms_delay=10, layout=Bytes())
    BackgroundDispatcher(payloads, ms_delay=10)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    BackgroundDispatcher(payloads, ms_delay=10, layout=rows_layout)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert_type(BackgroundDispatcher(table, ms_delay=10), BackgroundDispatcher[Access])
    BackgroundDispatcher(table, ms_delay=10, layout=rows_layout)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    BackgroundDispatcher(table, ms_delay=10, layout=Bytes())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert_type(
        BackgroundDispatcher(records, ms_delay=10), BackgroundDispatcher[Access]
    )
    BackgroundDispatcher(records, ms_delay=10, layout=rows_layout)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    BackgroundDispatcher(records, ms_delay=10, layout=Bytes())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def post_by_hand() -> None:
    try:
        await of_access([Access()])
    except SinkError as error:
        assert_type(error.retryable, bool)
        assert_type(error.retry_after, float | None)
    finally:
        await of_access.aclose()


recorder = RecordingDispatcher[dict[str, int]](layout=Objects(), capacity=10)
assert_type(recorder.enqueue({"status": 200}), bool)
RecordingDispatcher(on_full="block")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
stands_in: BackgroundDispatcher[dict[str, int]] = recorder
faulty: BackgroundDispatcher[Any] = BackgroundDispatcher(
    FaultyDispatch(None, OSError("refused"), OSError, HANG, 2, 2.5, then=None),
    ms_delay=10,
)
FaultyDispatch("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def step() -> None:
    with SteppedClock() as clock:
        await clock.advance(0.1)
        assert_type(clock.elapsed, float)


# ---- ASGI


async def application(scope: Any, receive: Any, send: Any) -> None: ...


def access_row(record: AccessRecord) -> tuple[int, bytes] | None:
    assert_type(record.time, int)
    assert_type(record.route, str | None)
    assert_type(record.duration_ms, float)
    return record.status, record.method.encode()


LifespanMiddleware(application, dispatchers=[dispatcher, rows], timeout=None)
logged = AccessLogMiddleware(
    application, dispatcher=rows, entry=access_row, exclude={"/health"}, timeout=1
)
LifespanMiddleware(logged, dispatchers=(dispatcher,))
LifespanMiddleware(application, dispatchers=dispatcher)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
AccessLogMiddleware(application, dispatcher=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# ---- WSGI


def wsgi_application(environ: Any, start_response: Any) -> list[bytes]:
    return []


wsgi = WsgiAccessLog(wsgi_application, dispatcher=rows, entry=access_row, exclude=["/"])
WsgiAccessLog(wsgi, dispatcher=dispatcher)
WsgiAccessLog(wsgi, dispatcher=dispatcher, timeout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

handler = DispatchHandler(dispatcher, level="INFO")
assert_type(handler.suppressed, int)
assert_type(handler.dispatcher, BackgroundDispatcher[Any])
DispatchHandler("shop.log.dispatcher")
DispatchHandler(dispatch_function=send_any, ms_delay=100, capacity=10, level=10)
DispatchHandler(dispatch_function="shop.log.send", ms_delay=100)
DispatchHandler(dispatch_function=send_payload, ms_delay=10, layout=Bytes())
DispatchHandler(dispatch_function=send_rows, ms_delay=10, layout=Records([("a", "u2")]))
DispatchHandler(dispatch_function=http, ms_delay=10, layout=Bytes())
DispatchHandler(dispatch_function=columns, ms_delay=10)
DispatchHandler(dispatch_function=otlp, ms_delay=10, layout=rows_layout)
DispatchHandler(dispatch_function=otlp, ms_delay=10, layout=Bytes())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
DispatchHandler(dispatch_function=columns, ms_delay=10, layout=Bytes())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
DispatchHandler(dispatch_function=send, ms_delay=10, layout=rows_layout)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
DispatchHandler(dispatch_function=send_any, ms_delay=100, on_full="block")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
DispatchHandler(dispatch_function=send_any, ms_delay=100, home="loop")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
DispatchHandler()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
DispatchHandler(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
DispatchHandler(dispatcher, ms_delay=100)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
DispatchHandler(dispatch_function=send_any)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

collector = ringdispatch.prometheus.register()
assert_type(collector, ringdispatch.prometheus.DispatcherCollector)
ringdispatch.opentelemetry.instrument(None)
ringdispatch.opentelemetry.instrument(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
