"""What `DispatchHandler` makes of a record."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import json
import logging
import math
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher, Bytes
from ringdispatch.logging import DispatchHandler
from ringdispatch.testing import RecordingDispatcher

Recorder = RecordingDispatcher[Any]


async def post(batch: list[Any]) -> None:
    pass


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger that nothing else hears."""
    logger = logging.getLogger("shop.orders")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    for handler in [*logger.handlers]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def recorder() -> Recorder:
    return RecordingDispatcher(post)


@pytest.fixture
def handler(log: logging.Logger, recorder: Recorder) -> DispatchHandler:
    handler = DispatchHandler(recorder)
    log.addHandler(handler)
    return handler


# ---- entries


@pytest.mark.usefixtures("handler")
def test_entry_has_time_level_logger_and_message(
    log: logging.Logger, recorder: Recorder
) -> None:
    before = dt.datetime.now(dt.UTC).timestamp() * 1000
    log.warning("order %d paid by %s", 1, "Ada")
    after = dt.datetime.now(dt.UTC).timestamp() * 1000
    [entry] = recorder.entries
    assert list(entry) == ["time", "level", "logger", "message"]
    assert math.floor(before) <= entry.pop("time") <= math.ceil(after)
    assert entry == {
        "level": "WARNING",
        "logger": "shop.orders",
        "message": "order 1 paid by Ada",
    }


def test_level_of_the_handler_counts(
    log: logging.Logger, handler: DispatchHandler, recorder: Recorder
) -> None:
    handler.setLevel(logging.WARNING)
    log.info("low")
    assert recorder.entries == []
    log.warning("high")
    assert [entry["message"] for entry in recorder.entries] == ["high"]


@pytest.mark.usefixtures("handler")
def test_traceback_is_text_of_many_lines(
    log: logging.Logger, recorder: Recorder
) -> None:
    try:
        try:
            {}["address"]
        except KeyError as error:
            raise ValueError("no\naddress") from error
    except ValueError:
        log.exception("order failed", stack_info=True)
    [entry] = recorder.entries
    lines = entry["exception"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "KeyError: 'address'" in lines
    assert lines[-2:] == ["ValueError: no", "address"]
    assert entry["stack"].startswith("Stack (most recent call last):\n")
    assert entry["message"] == "order failed"
    assert json.loads(json.dumps(entry)) == entry


@pytest.mark.usefixtures("handler")
def test_no_exception_leaves_no_key(log: logging.Logger, recorder: Recorder) -> None:
    log.info("fine", exc_info=True)  # noqa: LOG014, there is none
    assert "exception" not in recorder.entries[0]
    log.info("given", exc_info=ValueError("this one"))
    assert recorder.entries[1]["exception"] == "ValueError: this one"


@pytest.mark.usefixtures("handler")
def test_record_of_another_process_keeps_its_traceback(
    log: logging.Logger, recorder: Recorder
) -> None:
    made = logging.makeLogRecord(
        {
            "name": "far",
            "levelno": logging.ERROR,
            "msg": "broken",
            "exc_text": "Traceback: far away",
        }
    )
    log.handle(made)
    assert recorder.entries[0]["exception"] == "Traceback: far away"
    assert recorder.entries[0]["logger"] == "far"


@pytest.mark.usefixtures("handler")
def test_extra_comes_along_and_ours_win(
    log: logging.Logger, recorder: Recorder
) -> None:
    extra = {"tenant": 7, "time": 0, "level": "x", "exception": "theirs", "path": None}
    log.info("a", extra=extra)
    log.error("b", extra=extra, exc_info=ValueError("ours"))
    first, second = recorder.entries
    assert (first["tenant"], first["path"], first["exception"]) == (7, None, "theirs")
    assert first["time"] > 0
    assert first["level"] == "INFO"
    assert second["exception"] == "ValueError: ours"


@pytest.mark.usefixtures("handler")
def test_name_of_the_task_is_no_extra(log: logging.Logger, recorder: Recorder) -> None:
    async def main() -> None:
        log.info("in a task")

    asyncio.run(main())
    [entry] = recorder.entries
    assert list(entry) == ["time", "level", "logger", "message"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="records have no task")
def test_formatter_may_name_the_task(
    log: logging.Logger, handler: DispatchHandler, recorder: Recorder
) -> None:
    handler.setFormatter(logging.Formatter("%(taskName)s: %(message)s"))

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("paying")
        log.info("in a task")

    asyncio.run(main())
    assert recorder.entries == ["paying: in a task"]


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Price(float):
    def __str__(self) -> str:
        return "expensive"


def itself() -> list[Any]:
    ring: list[Any] = []
    ring.extend([ring, {"again": ring}])
    return ring


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "shipped"),
    [
        (None, None),
        (True, True),
        ("text", "text"),
        (2.5, 2.5),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Price(2.5), 2.5),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (2**64 - 1, 2**64 - 1),
        (2**64, str(2**64)),
        (10**5000, "<int: ValueError in its str>"),
        ("half \udcff", "half \\udcff"),
        (b"\xff", r"b'\xff'"),
        ((1, "a", [None]), [1, "a", [None]]),
        ({1: {2}, None: Unprintable()}, None),
        (itself(), ["<itself>", {"again": "<itself>"}]),
        (deep(3), [[[[]]]]),
        (deep(10_000), None),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (Unprintable(), "<Unprintable: RuntimeError in its str>"),
        (threading.Lock(), None),
        (ValueError("no"), "no"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.usefixtures("handler")
def test_any_extra_is_shipped(
    log: logging.Logger, recorder: Recorder, value: object, shipped: object
) -> None:
    log.info("with it", extra={"it": value})
    [entry] = recorder.entries
    encoded = json.dumps(entry, allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(encoded) == entry
    if shipped is not None or value is None:
        assert entry["it"] == shipped
        assert type(entry["it"]) is type(shipped)
    else:
        assert entry["it"] is not None


@pytest.mark.usefixtures("handler")
def test_extra_that_changes_later_is_shipped_as_it_was(
    log: logging.Logger, recorder: Recorder
) -> None:
    items = ["a"]
    log.info("with them", extra={"items": items, "nested": {"items": items}})
    items.append("b")
    [entry] = recorder.entries
    assert entry["items"] == ["a"]
    assert entry["nested"] == {"items": ["a"]}


def test_message_that_utf8_has_no_form_for_is_shipped(
    handler: DispatchHandler, recorder: Recorder
) -> None:
    # By the handler alone: what pytest would capture could not be printed.
    record = logging.makeLogRecord({"msg": "file %s, größer", "args": ("caf\udce9",)})
    record.exc_info = (OSError, OSError("caf\udce9"), None)
    record.__dict__["caf\udce9"] = 1
    handler.handle(record)
    [entry] = recorder.entries
    assert entry["message"] == "file caf\\udce9, größer"
    assert entry["exception"] == "OSError: caf\\udce9"
    assert entry["caf\\udce9"] == 1


def test_record_that_can_not_be_formatted_is_shown_on_stderr(
    handler: DispatchHandler, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    handler.handle(logging.makeLogRecord({"msg": "next"}))
    assert [entry["message"] for entry in recorder.entries] == ["next"]
    assert "--- Logging error ---" in capsys.readouterr().err


def test_full_dispatcher_that_raises_is_shown_on_stderr(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    full = BackgroundDispatcher[Any](
        post, ms_delay=60_000, capacity=1, max_batch=1, on_full="raise"
    )
    handler = DispatchHandler(full)
    log.addHandler(handler)

    async def main() -> None:
        for number in range(3):
            log.info("line %d", number)
        assert "ringdispatch" in capsys.readouterr().err
        assert await full.aclose()

    asyncio.run(main())
    assert full.statistics().rejected_full == 2


# ---- formatters and filters


def test_entry_is_what_a_formatter_makes(
    log: logging.Logger, handler: DispatchHandler, recorder: Recorder
) -> None:
    handler.setFormatter(logging.Formatter("%(levelname)s %(tenant)s %(message)s"))
    log.info("paid", extra={"tenant": 7})

    class Row(logging.Formatter):
        def format(self, record: logging.LogRecord) -> Any:
            return (record.levelno, record.getMessage())

    handler.setFormatter(Row())
    log.info("paid")
    assert recorder.entries == ["INFO 7 paid", (20, "paid")]


def test_formatted_traceback_is_there_once(
    log: logging.Logger, handler: DispatchHandler, recorder: Recorder
) -> None:
    """Two handlers with formatters share the record, not what they make of it."""
    shown = Recorder(post)
    second = DispatchHandler(shown)
    for each in (handler, second):
        each.setFormatter(logging.Formatter("[%(name)s] %(message)s"))
    log.addHandler(second)
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed")
    assert recorder.entries == shown.entries
    [line] = recorder.entries
    assert line.startswith("[shop.orders] failed\nTraceback")
    assert line.count("Traceback") == line.count("[shop.orders]") == 1


def test_record_stays_as_it_was(handler: DispatchHandler, recorder: Recorder) -> None:
    record = logging.makeLogRecord({"msg": "a %s", "args": ("b",), "d": [1]})
    error = ValueError("c")
    record.exc_info = (ValueError, error, None)
    before = dict(vars(record))
    handler.handle(record)
    assert vars(record) == before
    assert (recorder.entries[0]["message"], recorder.entries[0]["d"]) == ("a b", [1])


def test_formatter_of_a_handler_before_it_adds_no_extra(
    log: logging.Logger, handler: DispatchHandler, recorder: Recorder
) -> None:
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.handlers.insert(0, stream)
    log.info("a", extra={"tenant": 7})
    assert list(recorder.entries[0]) == ["time", "level", "logger", "message", "tenant"]


def test_filters_let_pass_drop_and_change(
    log: logging.Logger, handler: DispatchHandler, recorder: Recorder
) -> None:
    class Tenant(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            record.tenant = 7
            return record.getMessage() != "secret"

    handler.addFilter(Tenant())
    log.info("secret")
    log.info("open")
    [entry] = recorder.entries
    assert (entry["message"], entry["tenant"]) == ("open", 7)
    assert handler.suppressed == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="filters only judge")
def test_filter_may_put_another_record_in_its_place(
    log: logging.Logger, handler: DispatchHandler, recorder: Recorder
) -> None:
    def hidden(record: logging.LogRecord) -> Any:
        return logging.makeLogRecord({**vars(record), "msg": "***", "args": ()})

    handler.addFilter(hidden)
    log.info("password %s", "x")
    assert recorder.entries[0]["message"] == "***"


def test_handle_takes_no_lock(
    log: logging.Logger, handler: DispatchHandler, recorder: Recorder
) -> None:
    handler.acquire()  # by this thread, which may log all the same; as may others
    try:
        thread = threading.Thread(target=log.info, args=["line"])
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
    finally:
        handler.release()
    assert len(recorder.entries) == 1


def test_layout_of_bytes_takes_the_entry_or_the_line(log: logging.Logger) -> None:
    payloads: list[bytes] = []

    def send(batch: Any) -> None:
        payloads.append(batch.payload)

    def encode(entry: object) -> bytes:
        return json.dumps(entry).encode()

    for layout, formatter in (
        (Bytes(encode), None),
        (Bytes(str.encode), logging.Formatter("%(message)s")),
    ):
        own = DispatchHandler(dispatch_function=send, ms_delay=1, layout=layout)
        own.setFormatter(formatter)
        log.addHandler(own)
        log.info("größer")
        own.close()
        log.removeHandler(own)
    assert json.loads(payloads[0])["message"] == "größer"
    assert payloads[1].decode().strip() == "größer"
