"""Batches as OpenTelemetry log records, over OTLP/HTTP."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from ringdispatch import __version__

from . import _json
from ._attempts import Failure
from ._checks import check_mapping
from ._client import Session
from ._error import RecordArray
from ._http import rows_of
from ._post import PostingSink
from ._types import Batch

_DEEPEST = 16  # levels of a nested attribute
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)

# OpenTelemetry's numbers, by the names of logging's levels and of others.
_SEVERITIES = {
    "TRACE": 1,
    "DEBUG": 5,
    "INFO": 9,
    "SUCCESS": 9,  # loguru's
    "NOTICE": 10,
    "WARN": 13,
    "WARNING": 13,
    "ERROR": 17,
    "CRITICAL": 21,
    "FATAL": 21,
    "EMERGENCY": 24,
}
_NAMES = {1: "TRACE", 5: "DEBUG", 9: "INFO", 13: "WARN", 17: "ERROR", 21: "FATAL"}


class OtlpLogSink(PostingSink, Generic[Batch]):
    """Posts each batch as log records over OTLP/HTTP, as protobuf.

    An entry is a mapping, a row of `Records`, or a text. Of a mapping, `time` (a
    datetime, or a number since 1970 in s, ms, us or ns, by its size), `level` (a name,
    or a number of logging's), `message`, `trace_id`, `span_id` and `exception` become
    what OpenTelemetry has for them; everything else becomes an attribute. Values that
    it doesn't know are encoded by `str`.

    A batch of which the collector rejects some records has failed, and the message says
    how many arrived. All else is as with `HttpSink`.

    Args:
        url: The collector's, such as `http://127.0.0.1:4318`; without a path, that of
            OTLP is appended, `/v1/logs`.
        resource: What sends the records: attributes such as `service.name`.
        compression: `"gzip"`, `"zstd"`, or None.
        headers: Of each request. Credentials belong here: messages never show them.
        timeout: Seconds that one attempt may take, > 0.
        session: As with `HttpSink`.
        retry: As with `HttpSink`.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
        ImportError: opentelemetry-proto or aiohttp is not installed.
    """

    content_type = "application/x-protobuf"

    def __init__(
        self: "OtlpLogSink[list[Any] | RecordArray]",
        url: str,
        *,
        resource: Mapping[str, Any] | None = None,
        compression: Literal["gzip", "zstd"] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 20.0,
        session: Session = None,
        retry: float | None = None,
    ) -> None:
        super().__init__(
            url,
            compression=compression,
            headers=headers,
            timeout=timeout,
            session=session,
            retry=retry,
        )
        parts = urlsplit(self._url)
        if parts.path in {"", "/"}:
            self._url = parts._replace(path="/v1/logs").geturl()
        given = check_mapping("resource", resource)
        self._resource = {"service.name": "unknown_service", **given}

    def prepare(self, layout: object, dispatch_timeout: float | None) -> None:
        """Look at the dispatcher's options, and refuse what contradicts the sink's."""
        super().prepare(layout, dispatch_timeout)
        if hasattr(layout, "separator"):
            raise TypeError(
                f"layout={layout!r}: OtlpLogSink makes log records of mappings: give "
                "Objects() or Records(...), or send encoded entries by an HttpSink"
            )

    async def __call__(self, batch: Batch) -> None:
        """Post a batch.

        Raises:
            SinkError: it did not arrive, or not all of it.
        """
        given: Any = batch
        entries = given if isinstance(given, list) else rows_of(given)
        await self._send(entries, self._encode)

    def _encode(self, entries: Sequence[Any]) -> bytes:
        request = service.ExportLogsServiceRequest()
        of_resource = request.resource_logs.add()
        for key, value in self._resource.items():
            _set_value(_added(of_resource.resource.attributes, key), value)
        of_scope = of_resource.scope_logs.add()
        of_scope.scope.name = "ringdispatch"
        of_scope.scope.version = __version__
        now = time.time_ns()
        add = of_scope.log_records.add
        for entry in entries:
            if isinstance(entry, Mapping):
                _fill(add(), entry, now)
            else:
                _set_value(add(observed_time_unix_nano=now).body, entry)
        return request.SerializeToString()

    def _join(self, chunks: list[bytes]) -> bytes:
        return b"".join(chunks)  # so protobuf joins messages of repeated fields

    def _rejected(self, answer: bytes, count: int) -> Failure | None:
        response = service.ExportLogsServiceResponse()
        try:
            response.ParseFromString(answer)
        except DecodeError:
            return None  # the status says that they were accepted
        partial = response.partial_success
        rejected = min(max(partial.rejected_log_records, 0), count)
        if not rejected:
            return None
        why = self._redacted(partial.error_message)[:200]
        message = f"{self._origin} rejected {rejected} of {count} records: {why!r}"
        return Failure(message, retryable=False, arrived=count - rejected)


def _fill(record: LogRecord, entry: Mapping[Any, Any], now: int) -> None:
    """Fill a record from a mapping, in one pass: this is most of what a batch costs."""
    add, field = record.attributes.add, _FIELDS.get
    for key, value in entry.items():
        fill = field(key)
        if fill is not None and (value is None or fill(record, value)):
            continue
        added = add()
        try:
            added.key = key
        except (TypeError, ValueError):  # no text, or half a surrogate pair
            added.key = _text(key)
        kind = type(value)
        try:
            if kind is str:
                added.value.string_value = value
            elif kind is bool:
                added.value.bool_value = value
            elif kind is int:
                added.value.int_value = value
            elif kind is float:
                added.value.double_value = value
            else:
                _set_value(added.value, value)
        except ValueError:  # the same, or more than 64 bits
            _set_value(added.value, value)
    if not record.time_unix_nano:
        record.observed_time_unix_nano = now


def _added(attributes: Any, key: Any) -> Any:
    """The value, yet to be set, of an attribute that is added."""
    added = attributes.add()
    added.key = _text(key)
    return added.value


# What becomes a field of the record. Each returns whether it did: else the value is
# kept as an attribute.


def _fill_time(record: LogRecord, value: Any) -> bool:
    if record.time_unix_nano or (moment := _nanoseconds(value)) is None:
        return False
    record.time_unix_nano = moment
    return True


def _fill_level(record: LogRecord, value: Any) -> bool:
    if record.severity_text:
        return False
    record.severity_number, record.severity_text = severity(value)
    return True


def _fill_body(record: LogRecord, value: Any) -> bool:
    if record.HasField("body"):
        return False
    _set_value(record.body, value)
    return True


def _fill_trace(record: LogRecord, value: Any) -> bool:
    record.trace_id = _identifier(value, 16)
    return bool(record.trace_id)


def _fill_span(record: LogRecord, value: Any) -> bool:
    record.span_id = _identifier(value, 8)
    return bool(record.span_id)


def _fill_exception(record: LogRecord, value: Any) -> bool:
    _set_value(_added(record.attributes, "exception.stacktrace"), value)
    return True


_FIELDS: dict[Any, Callable[[LogRecord, Any], bool]] = {
    "time": _fill_time,
    "timestamp": _fill_time,
    "level": _fill_level,
    "severity": _fill_level,
    "message": _fill_body,
    "body": _fill_body,
    "trace_id": _fill_trace,
    "span_id": _fill_span,
    "exception": _fill_exception,
}


def severity(level: Any) -> tuple[Any, str]:
    """OpenTelemetry's number and name of a level: 0 where it is not known."""
    if isinstance(level, str):
        number = _SEVERITIES.get(level)
        if number is None:
            number = _SEVERITIES.get(level.upper(), 0)
        return number, level if level.isascii() else _text(level)
    if isinstance(level, bool) or not isinstance(level, int | float):
        return 0, _text(level)
    # logging's tens are fours of OpenTelemetry's, whose lowest is 1.
    tens, ones = divmod(int(min(max(0, level), 53)), 10)  # NaN is 0
    number = min(4 * tens + 1 + min(ones, 3), 24)
    return number, _NAMES[number - (number - 1) % 4]


def _nanoseconds(moment: Any) -> int | None:
    """A moment as OpenTelemetry counts it; None where it is none."""
    if isinstance(moment, int | float) and not isinstance(moment, bool):
        for most, unit in ((1e11, 10**9), (1e14, 10**6), (1e17, 10**3), (1.8e19, 1)):
            if 0 < moment < most:
                return int(moment * unit)
    elif isinstance(moment, datetime):
        try:
            # Without a zone it is taken for the machine's own, as datetime does.
            since = moment.astimezone(UTC) - _EPOCH
        except (OverflowError, ValueError):  # in UTC it is before year 1 or after 9999
            return None
        nanoseconds = since // _MICROSECOND * 1_000
        return nanoseconds if 0 < nanoseconds < 2**64 else None
    return None


def _identifier(value: Any, size: int) -> bytes:
    """The bytes of an id, from a number, bytes or hexadecimal digits; else none."""
    try:
        if isinstance(value, str):
            value = bytes.fromhex(value)
        elif isinstance(value, int):
            value = value.to_bytes(size)
    except (ValueError, OverflowError):
        return b""
    return value if isinstance(value, bytes) and len(value) == size else b""


def _text(value: Any) -> str:
    """A text that protobuf takes: without halves of surrogate pairs."""
    text = value if isinstance(value, str) else _json.as_text(value)
    return text.encode("utf-8", "replace").decode()


def _set_value(to: AnyValue, value: Any, within: tuple[int, ...] = ()) -> None:
    """Set a value; `within`: the ids of the containers that it is in."""
    if isinstance(value, str):
        to.string_value = value if value.isascii() else _text(value)
    elif isinstance(value, bool):
        to.bool_value = value
    elif isinstance(value, int) and _SMALLEST <= value <= _LARGEST:
        to.int_value = value
    elif isinstance(value, float):
        to.double_value = value
    elif value is None:
        pass  # an empty value
    elif isinstance(value, bytes | bytearray | memoryview):
        to.bytes_value = bytes(value)
    elif (
        not isinstance(value, Mapping | list | tuple)
        or len(within) == _DEEPEST
        or id(value) in within
    ):
        to.string_value = _text(value)
    elif isinstance(value, Mapping):
        to.kvlist_value.SetInParent()
        for key, each in value.items():
            added = _added(to.kvlist_value.values, key)
            _set_value(added, each, (*within, id(value)))
    else:
        to.array_value.SetInParent()
        for each in value:
            _set_value(to.array_value.values.add(), each, (*within, id(value)))
