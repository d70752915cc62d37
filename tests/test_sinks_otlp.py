"""OtlpLogSink against a receiver built from the classes of opentelemetry-proto."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import math
import time
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("opentelemetry.proto")

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from answering import Answer, Answering
from ringdispatch import BackgroundDispatcher, Bytes, Records
from ringdispatch.sinks import OtlpLogSink, SinkError


@pytest.fixture
def server(server: Answering) -> Answering:
    server.always = Answer(200)
    return server


def requests(server: Answering) -> list[ExportLogsServiceRequest]:
    """What arrived, as a collector parses it."""
    found = []
    for post in server.requests:
        request = ExportLogsServiceRequest()
        request.ParseFromString(post.unpacked)
        found.append(request)
    return found


def records(server: Answering) -> list[LogRecord]:
    return [
        record
        for request in requests(server)
        for of_resource in request.resource_logs
        for of_scope in of_resource.scope_logs
        for record in of_scope.log_records
    ]


def value(given: AnyValue) -> Any:
    """An attribute's value as Python's own."""
    kind = given.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [value(each) for each in given.array_value.values]
    if kind == "kvlist_value":
        return {each.key: value(each.value) for each in given.kvlist_value.values}
    return getattr(given, kind)


def attributes(record: LogRecord) -> dict[str, Any]:
    return {each.key: value(each.value) for each in record.attributes}


def send(server: Answering, *entries: Any, **options: Any) -> list[LogRecord]:
    async def main() -> None:
        sink = OtlpLogSink(server.url, **options)
        try:
            await sink([*entries])
        finally:
            await sink.aclose()

    asyncio.run(main())
    return records(server)


def test_attributes_of_every_kind(server: Answering) -> None:
    class Odd:
        def __str__(self) -> str:
            return "odd"

    given = {
        "text": "ä\0",
        "half": "\ud800",
        "yes": True,
        "int": -(2**63),
        "large": 2**63,
        "float": 0.5,
        "nan": math.nan,
        "bytes": b"\xff\0",
        "view": memoryview(b"\xff"),
        "none": None,
        "list": [1, "a", None, [], {"b": (2,)}],
        "mapping": {"a": {"b": {}}},
        "odd": Odd(),
        "date": dt.date(2026, 1, 2),
        7: "key",
    }
    (record,) = send(server, given)
    got = attributes(record)
    assert math.isnan(got.pop("nan"))
    assert got["text"] == "ä\0"
    assert (got["half"], got["large"], got["7"]) == ("?", str(2**63), "key")
    assert got["yes"] is True
    assert (got["int"], got["float"], got["bytes"]) == (-(2**63), 0.5, b"\xff\0")
    assert got["view"] == b"\xff"
    assert got["none"] is None
    assert got["list"] == [1, "a", None, [], {"b": [2]}]
    assert got["mapping"] == {"a": {"b": {}}}
    assert (got["odd"], got["date"]) == ("odd", "2026-01-02")


def test_circle_of_attributes_ends(server: Answering) -> None:
    circle: list[Any] = []
    circle += [1, circle, circle]  # not followed: it doubles with each level
    (record,) = send(server, {"circle": circle})
    assert attributes(record) == {"circle": [1, *["[1, [...], [...]]"] * 2]}


def test_attribute_that_is_nested_deeply_ends_as_text(server: Answering) -> None:
    deep: list[Any] = ["innermost"]
    for _ in range(30):
        deep = [deep]
    (record,) = send(server, {"deep": deep, "huge": 10**5_000})
    got = attributes(record)
    assert got["huge"] == "<int: ValueError in its str>"
    assert str(got["deep"]).count("[") == 31
    assert "innermost" in str(got["deep"])


def test_known_keys_become_fields(server: Answering) -> None:
    (record,) = send(
        server,
        {
            "time": 1_767_225_600_000,
            "level": "WARNING",
            "logger": "shop",
            "message": "order 1 paid",
            "exception": "Traceback ...",
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "span_id": 0xB7AD6B7169203331,
        },
    )
    assert record.time_unix_nano == 1_767_225_600 * 10**9
    assert record.observed_time_unix_nano == 0
    assert record.severity_number == SeverityNumber.SEVERITY_NUMBER_WARN
    assert record.severity_text == "WARNING"
    assert value(record.body) == "order 1 paid"
    assert record.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert record.span_id.hex() == "b7ad6b7169203331"
    assert attributes(record) == {
        "exception.stacktrace": "Traceback ...",
        "logger": "shop",
    }


@pytest.mark.parametrize("given", ["xyz", "00", 2**200, -1, b"short", 1.5])
def test_identifier_that_is_none_becomes_an_attribute(
    server: Answering, given: Any
) -> None:
    (record,) = send(server, {"trace_id": given})
    assert record.trace_id == b""
    assert "trace_id" in attributes(record)


MOMENT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SECONDS = int(MOMENT.timestamp())


@pytest.mark.parametrize(
    "given",
    [MOMENT, SECONDS, float(SECONDS), *(SECONDS * 10**unit for unit in (3, 6, 9))],
)
def test_time_in_any_unit(server: Answering, given: Any) -> None:
    (record,) = send(server, {"timestamp": given})
    assert record.time_unix_nano == SECONDS * 10**9


def test_time_is_exact_to_the_microsecond(server: Answering) -> None:
    moments = [MOMENT.replace(microsecond=each) for each in range(123_000, 124_000)]
    got = send(server, *({"time": moment} for moment in moments))
    assert [record.time_unix_nano % 10**9 for record in got] == [
        moment.microsecond * 1_000 for moment in moments
    ]


@pytest.mark.parametrize(
    "given",
    [
        dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=5))),
        dt.datetime.max.replace(tzinfo=dt.UTC),
        MOMENT.replace(year=1969),
    ],
)
def test_time_that_has_no_number_becomes_an_attribute(
    server: Answering, given: dt.datetime
) -> None:
    (record,) = send(server, {"time": given})
    assert record.time_unix_nano == 0
    assert attributes(record) == {"time": str(given)}


@pytest.mark.parametrize("given", [None, "soon", -5, True, math.nan, math.inf, 2**70])
def test_without_a_time_the_record_has_when_it_was_seen(
    server: Answering, given: Any
) -> None:
    (record,) = send(server, {"time": given})
    assert record.time_unix_nano == 0
    assert abs(record.observed_time_unix_nano - time.time_ns()) < 60 * 10**9


@pytest.mark.parametrize(
    ("level", "name"),
    [
        *(
            (level, "SEVERITY_NUMBER_TRACE")
            for level in ("trace", 1, 0, -1e9, math.nan)
        ),
        *((level, "SEVERITY_NUMBER_DEBUG") for level in ("DEBUG", logging.DEBUG)),
        *((level, "SEVERITY_NUMBER_INFO") for level in ("Info", logging.INFO)),
        *((level, "SEVERITY_NUMBER_INFO2") for level in ("NOTICE", 21)),
        *((level, "SEVERITY_NUMBER_WARN") for level in ("warn", logging.WARNING)),
        *((level, "SEVERITY_NUMBER_ERROR") for level in ("error", logging.ERROR)),
        *((level, "SEVERITY_NUMBER_FATAL") for level in ("critical", 50, "Fatal")),
        *((level, "SEVERITY_NUMBER_FATAL4") for level in (59, 10**30, math.inf)),
        *((level, "SEVERITY_NUMBER_UNSPECIFIED") for level in ("loud", True, [])),
    ],
)
def test_severities(server: Answering, level: Any, name: str) -> None:
    (record,) = send(server, {"level": level})
    if name == "SEVERITY_NUMBER_TRACE" and not isinstance(level, str):
        assert 1 <= record.severity_number <= 4
    else:
        assert SeverityNumber.Name(record.severity_number) == name
    assert record.severity_text


def test_entry_that_is_no_mapping_is_the_body(server: Answering) -> None:
    assert [value(record.body) for record in send(server, "text", 7, ["a"])] == [
        *("text", 7, ["a"]),
    ]


def test_records_become_attributes(server: Answering) -> None:
    pytest.importorskip("numpy")
    layout = Records([("time", "M8[ms]"), ("method", "S4"), ("seconds", "f8")])

    async def main() -> None:
        sink = OtlpLogSink(server.url)
        async with BackgroundDispatcher(sink, ms_delay=60_000, layout=layout) as each:
            each.enqueue((SECONDS * 1000, b"GET", 0.5))

    asyncio.run(main())
    (record,) = records(server)
    assert attributes(record) == {"method": "GET", "seconds": 0.5}
    assert record.time_unix_nano == SECONDS * 10**9


def test_resource_scope_and_order_of_a_large_batch(server: Answering) -> None:
    entries = [{"message": str(number)} for number in range(1_000)]
    got = send(server, *entries, resource={"service.name": "shop", "replicas": 3})
    assert [value(record.body) for record in got] == [*map(str, range(1_000))]
    assert len(server.requests) == 1
    for of_resource in requests(server)[0].resource_logs:
        found = {
            each.key: value(each.value) for each in of_resource.resource.attributes
        }
        assert found == {"service.name": "shop", "replicas": 3}
        assert of_resource.scope_logs[0].scope.name == "ringdispatch"
    assert MessageToDict(requests(server)[0])["resourceLogs"]


@pytest.mark.parametrize("compression", ["gzip", None])
def test_headers_and_path(server: Answering, compression: Any) -> None:
    url = server.url.removesuffix("/logs")

    async def main() -> None:
        for each in (url, url + "/", url + "/mine"):
            sink = OtlpLogSink(each, compression=compression, headers={"X-Key": "1"})
            await sink(["text"])
            await sink.aclose()

    asyncio.run(main())
    assert [post.path for post in server.requests] == ["/v1/logs", "/v1/logs", "/mine"]
    headers = server.requests[0].headers
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["x-key"] == "1"
    assert headers.get("content-encoding") == compression
    assert len(records(server)) == 3


def test_records_that_the_collector_rejects_fail_the_batch(server: Answering) -> None:
    response = ExportLogsServiceResponse()
    response.partial_success.rejected_log_records = 2
    response.partial_success.error_message = "too old"
    server.always = Answer(200, body=response.SerializeToString())
    with pytest.raises(SinkError) as raised:
        send(server, "a", "b", "c", retry=5)
    words = str(raised.value)
    assert "rejected 2 of 3 records: 'too old'; 1 of 3 entries arrived" in words
    assert not raised.value.retryable
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"", b"\xff garbage", b"{}"])
def test_other_answers_of_2xx_are_success(server: Answering, body: bytes) -> None:
    server.always = Answer(200, body=body)
    assert len(send(server, "a")) == 1


def test_too_large_and_unavailable(server: Answering) -> None:
    server.script = [Answer(413), Answer(503), Answer(200), Answer(200)]
    send(server, "a", "b", retry=30)
    assert len(set(server.keys)) == 3


def test_bad_input_is_refused_by_its_own_message() -> None:
    with pytest.raises(TypeError, match="resource: must be a mapping, not list"):
        OtlpLogSink("http://127.0.0.1:4318", resource=[1])  # type: ignore[arg-type]
    sink: Any = OtlpLogSink("http://127.0.0.1:4318", retry=math.inf)
    with pytest.raises(TypeError, match=r"OtlpLogSink makes log records of mappings"):
        BackgroundDispatcher(sink, ms_delay=1, layout=Bytes(), dispatch_timeout=None)
    with pytest.raises(ValueError, match="dispatch_timeout=30 would end it"):
        BackgroundDispatcher(sink, ms_delay=1)
