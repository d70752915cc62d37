"""HttpSink against a real server: second attempts, halves, retries."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from answering import OK, Answer, Answering, failing, sending
from recovering import orphan, spooled, until
from ringdispatch import BackgroundDispatcher, Bytes, BytesBatch, current_batch
from ringdispatch.sinks import HttpSink, SinkError
from ringdispatch.sinks._post import retry_after
from spools import needs_spools

UNAVAILABLE = Answer(503, body=b"later")


# ---- the log


@pytest.mark.parametrize("retry", [None, 60])
def test_outage_is_logged_once_where_it_is_ridden_out(
    server: Answering, caplog: pytest.LogCaptureFixture, retry: float | None
) -> None:
    sink = HttpSink(server.url, retry=retry)

    async def main() -> None:
        for _ in range(2):  # the second comes too soon after the first
            server.script = [UNAVAILABLE, UNAVAILABLE]
            try:
                await sink([1])
            except SinkError:
                assert retry is None
        await sink.aclose()

    with caplog.at_level("INFO", "ringdispatch"):
        asyncio.run(main())
    lines = [record.getMessage() for record in caplog.records]
    if retry is None:
        assert lines == []  # the dispatcher reports what failed
    else:
        began, ended = lines
        assert began.endswith("answered 503 No: 'later'; it is tried again")
        assert re.fullmatch(
            r"ringdispatch: HttpSink\(.*\) works again, after [0-9.]+ s", ended
        )


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


# ---- the key


def test_key_is_the_id_of_a_batch_and_of_nothing_made_of_it(
    server: Answering,
) -> None:
    sink = HttpSink(server.url)
    ids = []

    async def send(batch: BytesBatch) -> None:
        info = current_batch()
        assert info is not None
        ids.append(info.id)
        await sink(batch)
        await sink(batch)  # as a decorator that tries again
        await sink([int(entry) for entry in batch])
        await sink([-int(entry) for entry in batch])
        await sink([int(entry) for entry in batch[1:]])

    async def main() -> None:
        options: Any = {"layout": Bytes(), "ms_delay": 10_000}
        async with BackgroundDispatcher(send, **options) as dispatcher:
            for entries in ([1, 2], [3, 4, 5]):
                for entry in entries:
                    assert dispatcher.enqueue(b"%d" % entry)
                assert await dispatcher.aflush()
        await sink.aclose()

    asyncio.run(main())
    keys = server.keys
    assert [*keys[0:2], *keys[5:7]] == [ids[0], ids[0], ids[1], ids[1]]
    assert len(keys) == 10
    assert len(set(keys)) == 8


def test_key_of_a_list_is_the_id_until_the_list_was_cut(server: Answering) -> None:
    sink = HttpSink(server.url)
    ids = []

    async def send(batch: list[int]) -> None:
        info = current_batch()
        assert info is not None
        ids.append(info.id)
        await sink(batch)
        await sink(batch)
        del batch[0]
        await sink(batch)
        batch += [4, 5]
        await sink(batch)

    async def main() -> None:
        async with BackgroundDispatcher(send, ms_delay=10_000) as dispatcher:
            for entry in (1, 2, 3):
                assert dispatcher.enqueue(entry)
        await sink.aclose()

    asyncio.run(main())
    assert server.keys[:2] == ids * 2
    assert len(set(server.keys)) == 3
    assert server.arrived == [1, 2, 3, 1, 2, 3, 2, 3, 2, 3, 4, 5]


@needs_spools
def test_batch_of_another_process_has_the_key_that_it_had_there(
    server: Answering, tmp_path: Path
) -> None:
    path = orphan(tmp_path, b"1", b"2")
    sink = HttpSink(server.url)

    async def main() -> None:
        async with spooled(sink, tmp_path) as dispatcher:
            await until(lambda: dispatcher.statistics().recovered == 2)

    asyncio.run(main())
    assert server.keys == [f"{path.stem}-0-2"]
    assert server.arrived == [1, 2]


# ---- retry


@needs_spools
def test_batch_of_which_some_is_damaged_has_the_key_that_it_had_whole(
    server: Answering, tmp_path: Path
) -> None:
    path = orphan(tmp_path, b"111", b"222", b"333", taken=(3,))
    path.write_bytes(path.read_bytes().replace(b"222", b"223"))
    sink = HttpSink(server.url)

    async def main() -> None:
        async with spooled(sink, tmp_path) as dispatcher:
            await until(lambda: dispatcher.statistics().recovered == 2)

    asyncio.run(main())
    assert server.keys == [f"{path.stem}-0-3"]
    assert server.arrived == [111, 333]


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
    error = failing(HttpSink(server.url, retry=4), [1])
    assert 4 <= time.monotonic() - began < 20
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
    monkeypatch.setattr("ringdispatch.sinks._attempts._LONGEST_PAUSE", 0.01)
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
