"""What becomes of messages that a relay holds, whatever function and engine do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest

import sources
from loops import comes_true
from ringdispatch.relay import Relay, SourceError
from ringdispatch.relay._source import Held
from ringdispatch.sinks import SinkError
from sources import LARGEST, MemorySource, Target, message


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringdispatch.relay._calls._FIRST_PAUSE", 0.001)
    monkeypatch.setattr("ringdispatch.relay._calls._LONGEST_PAUSE", 0.01)
    monkeypatch.setattr("ringdispatch.relay._relay._LOOK_SECONDS", 0.01)


def relaying(*arguments: Any, **options: Any) -> Relay:
    return asyncio.run(sources.relaying(*arguments, **options))


def test_all_is_taken_and_acknowledged() -> None:
    source, target = MemorySource(100), Target()
    relay = relaying(source, target, lambda _: len(source.acknowledged) == 100)
    assert sorted(target.records) == [*range(100)]
    assert sorted(target.ids) == sorted(f"b{number}/0" for number in range(100))
    assert (relay.counts.messages, relay.counts.records) == (100, 100)
    assert source.closed


# ---- what fails


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_an_outage_parks_nothing_and_keeps_nothing_back(attempts: int) -> None:
    source, target = MemorySource(20), Target()
    target.away = True

    def until(_: Relay) -> bool:
        if len(target.calls) > 30:
            target.away = False
        return len(source.acknowledged) == 20

    relaying(source, target, until, attempts=attempts)
    assert sorted(target.records) == [*range(20)]
    assert source.parked == {}


def test_calls_that_fail_now_and_then_park_nothing() -> None:
    source, target = MemorySource(50), Target()

    async def flaky(records: Any, ids: list[str]) -> None:
        target.away = len(target.calls) % 2 == 0
        await target(records, ids)

    relaying(source, flaky, lambda _: len(source.acknowledged) == 50, max_batch=5)
    assert source.parked == {}


def test_halves_find_what_fails() -> None:
    source, target = MemorySource(64), Target()
    target.refuses = {17}
    relaying(source, target, lambda _: len(source.acknowledged) == 63, ms_delay=50)
    assert set(target.records) == {*range(64)} - {17}
    # Three for all, two for each halving, and those for it alone.
    assert len([count for count in target.calls if count > 1]) <= 3 + 2 * 5 + 1


def test_what_fails_alone_waits_while_nothing_else_is_taken() -> None:
    source, target = MemorySource(1), Target()
    target.refuses = {0}
    relaying(source, target, lambda relay: relay.counts.failed_calls > 30)
    assert source.parked == {}
    assert source.given_back[-1] == ("m/0", 0.0)


def test_what_fails_alone_is_parked_once_others_were_taken() -> None:
    source, target = MemorySource(1), Target()
    target.refuses = {0}
    others = 0

    def until(_: Relay) -> bool:
        nonlocal others
        if not source.waiting:
            others += 1
            source.put(f"x/{others}", *message(f"x{others}", b"%d\n" % others))
        return bool(source.parked)

    relay = relaying(source, target, until)
    assert source.parked == {"m/0": "ValueError: refused"}
    assert relay.counts.parked == 1


def test_what_fails_for_good_is_parked_at_its_first_failure_alone() -> None:
    source, target = MemorySource(8), Target()
    target.refuses, target.error = {5}, SinkError("400", retryable=False)
    relaying(source, target, lambda _: source.parked, ms_delay=50)
    assert source.parked == {"m/5": "SinkError: 400"}
    assert target.calls.count(1) <= 2


def test_a_service_that_refuses_all_for_good_has_nothing_parked() -> None:
    """Such as one whose password was changed."""
    source, target = MemorySource(8), Target()
    target.refuses = {*range(8)}
    target.error = SinkError("401", retryable=False)
    relaying(source, target, lambda relay: relay.counts.failed_calls > 40)
    assert source.parked == {}


def test_what_can_not_be_read_is_parked_with_the_reason() -> None:
    source, target = MemorySource(3), Target()
    source.put("x/1", {}, b"not ours")
    source.put("x/2", *message("x", b"1\n", count=2))
    relaying(source, target, lambda _: len(source.acknowledged) == 3 and source.parked)
    assert sorted(target.records) == [0, 1, 2]
    assert source.parked["x/1"] == "it has no header Ringdispatch-Version"
    assert "1 entries, and should have 2" in source.parked["x/2"]


def test_messages_that_fail_leave_room_for_others() -> None:
    source, target = MemorySource(), Target()
    for number in range(20):
        source.put(f"bad/{number}", *message(f"bad{number}", b"-%d\n" % (number + 1)))
    for number in range(5):
        source.put(f"m/{number}", *message(f"b{number}", b"%d\n" % number))
    target.refuses = {-number for number in range(1, 21)}
    relaying(source, target, lambda _: len(source.acknowledged) == 5, max_batch=2)
    assert sorted(target.records) == [*range(5)]
    assert {seconds for name, seconds in source.given_back if "bad" in name} >= {60.0}


class AskedError(Exception):
    """Of somebody else, who means anything by this."""

    def __init__(self, retry_after: object) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError("its own"),
        RecursionError(),
        MemoryError(),
        *map(AskedError, ["30", -30, float("nan")]),
    ],
    ids=repr,
)
def test_whatever_a_call_raises_is_a_failure(error: BaseException) -> None:
    source, target = MemorySource(4), Target()
    failures = [error] * 3

    async def function(records: Any, ids: list[str]) -> None:
        if failures:
            raise failures.pop()
        await target(records, ids)

    relay = relaying(source, function, lambda _: len(source.acknowledged) == 4)
    assert relay.counts.failed_calls == 3
    assert sorted(target.records) == [0, 1, 2, 3]


def test_a_call_that_hangs_fails_after_its_time() -> None:
    source, target = MemorySource(2), Target()
    hung = False

    async def function(records: Any, ids: list[str]) -> None:
        nonlocal hung
        if not hung:
            hung = True
            await asyncio.Event().wait()
        await target(records, ids)

    def until(_: Relay) -> bool:
        return len(source.acknowledged) == 2

    relay = relaying(source, function, until, timeout=0.05)
    assert relay.counts.failed_calls >= 1


def test_records_of_one_call_are_bounded_in_bytes() -> None:
    source, target = MemorySource(), Target()
    for number in range(10):
        body = b'"%s"\n' % (b"x" * 97)
        source.put(f"m/{number}", *message(f"b{number}", body))
    relaying(
        source,
        target,
        lambda _: len(source.acknowledged) == 10,
        ms_delay=50,
        max_batch_bytes=250,
    )
    assert max(target.calls) == 2


def test_what_was_fetched_often_is_called_for_alone() -> None:
    source, target = MemorySource(4), Target()
    source.deliveries["m/2"] = 7
    relaying(source, target, lambda _: len(source.acknowledged) == 4, ms_delay=50)
    assert sorted(target.calls) == [1, 3]


def test_a_call_that_returns_a_generator_has_failed() -> None:
    """Nothing of it has run: to acknowledge would lose what it was to take."""
    source, target = MemorySource(2), Target()

    def function(records: Any, ids: list[str]) -> Any:
        return (print(each) for each in records)

    async def later(records: Any, ids: list[str]) -> Any:
        return function(records, ids)

    for each in (function, later):
        relaying(source, each, lambda relay: relay.counts.failed_calls > 2)
        assert source.acknowledged == []
    relaying(source, target, lambda _: len(source.acknowledged) == 2)


# ---- what is held


def test_no_more_is_held_than_two_batches() -> None:
    source = MemorySource(100)
    most = 0

    async def function(records: Any, ids: list[str]) -> None:
        nonlocal most
        most = max(most, len(source.held))
        await asyncio.sleep(0.001)

    relaying(source, function, lambda _: len(source.acknowledged) == 100, max_batch=5)
    assert 5 <= most <= 10


def test_no_more_bytes_are_held_than_allowed() -> None:
    source = MemorySource()
    for number in range(50):
        body = b'"%s"\n' % (b"x" * 397)
        source.put(f"m/{number}", *message(f"b{number}", body))
    most = 0

    async def function(records: Any, ids: list[str]) -> None:
        nonlocal most
        most = max(most, sum(len(each.body) for each in source.held.values()))

    relaying(
        source,
        function,
        lambda _: len(source.acknowledged) == 50,
        max_bytes=3 * LARGEST,
    )
    assert 400 <= most <= 3 * LARGEST


def test_what_is_held_is_extended(monkeypatch: pytest.MonkeyPatch) -> None:
    source = MemorySource(3)
    monkeypatch.setattr(source, "hold_seconds", 0.03)

    async def function(records: Any, ids: list[str]) -> None:
        await comes_true(lambda: source.extended >= 9)

    relaying(source, function, lambda _: len(source.acknowledged) == 3)
    assert source.extended >= 9


class LateSource(MemorySource):
    """One with a message that arrives when nothing is fetched."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.names: set[str] = set()  # of what is extended

    async def arrived(self) -> list[Held]:
        if "late" not in self.deliveries:
            self.put("late", *message("late", b"2\n"))
        return await self.fetch(1, LARGEST, 0)

    async def extend(self, held: Iterable[Held]) -> None:
        self.names |= {each.name for each in held}


def test_what_arrives_while_calls_fail_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringdispatch.relay._calls._FIRST_PAUSE", 60.0)
    source, target = LateSource(2), Target()
    monkeypatch.setattr(source, "hold_seconds", 0.03)

    target.away = True
    relaying(source, target, lambda _: "late" in source.names, grace=0.01)
    assert source.names == {"m/0", "m/1", "late"}


def test_a_message_that_comes_again_while_it_is_held_is_held_once() -> None:
    source, target = MemorySource(1), Target()

    async def function(records: Any, ids: list[str]) -> None:
        first = source.held["m/0"].handle
        source.put("m/0", *message("b0", b"0\n"))
        await comes_true(lambda: not source.waiting)
        await asyncio.sleep(0.01)
        assert source.held["m/0"].handle is not first
        await target(records, ids)

    relay = relaying(source, function, lambda _: source.acknowledged)
    assert source.acknowledged == ["m/0"]
    assert target.records == [0]
    assert (relay.counts.redelivered, relay.counts.failed_calls) == (1, 0)


def test_another_message_of_the_same_name_is_another() -> None:
    """Such as the first one of a stream that was removed, and made again."""
    source, target = MemorySource(1), Target()

    async def function(records: Any, ids: list[str]) -> None:
        if not target.calls:
            source.times["m/0"] = 0.0
            source.put("m/0", *message("new", b"1\n"))
            await comes_true(lambda: not source.waiting)
        await target(records, ids)

    relaying(source, function, lambda _: len(source.acknowledged) == 2)
    assert target.records == [0, 1]


def test_an_engine_that_is_away_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ringdispatch.relay._relay._FETCH_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    source, target = MemorySource(3), Target()
    source.away = True

    def until(_: Relay) -> bool:
        if "memory: away" in caplog.text:
            source.away = False
        return len(source.acknowledged) == 3

    relaying(source, target, until)
    assert caplog.text.count("memory: away; it is tried again") == 1
    assert caplog.text.count("works again, after") == 1


def test_an_engine_that_comes_later_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ringdispatch.relay._relay._FETCH_SECONDS", 0.01)
    source, target = MemorySource(1), Target()
    source.opens = False

    def until(_: Relay) -> bool:
        if "memory: not there; it is tried again" in caplog.text:
            source.opens = True
        return bool(source.acknowledged)

    relaying(source, target, until)
    assert target.records == [0]


def test_a_stop_ends_the_wait_for_an_engine() -> None:
    source = MemorySource(1)
    source.opens = False
    relaying(source, Target(), lambda _: True)
    assert source.deliveries == {}
    assert source.closed


# ---- bad input


def generator(records: Any, ids: list[str]) -> Any:
    yield records


async def async_generator(records: Any, ids: list[str]) -> Any:
    yield records


class Generates:
    def __call__(self, records: Any, ids: list[str]) -> Any:
        yield records


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (generator, "not a generator, which does nothing when called: remove its yi"),
        (async_generator, "must be a plain or async function, not a generator"),
        (partial(generator), "not a generator"),
        (Generates(), "not a generator"),
        (lambda records: None, "must take two arguments"),
        (1, "must be callable"),
    ],
)
def test_functions_that_can_not_take_messages_are_refused(
    function: Any, why: str
) -> None:
    with pytest.raises(TypeError, match=f"^function=.*: .*{why}"):
        Relay(MemorySource(), function)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"max_bytes": LARGEST - 1}, "max_bytes=999: must be at least 1,000"),
    ],
)
def test_bad_options_are_told_before_anything_is_fetched(
    options: dict[str, Any], why: str
) -> None:
    source = MemorySource(1)
    with pytest.raises(SourceError, match=why):
        relaying(source, Target(), lambda _: False, **options)
    assert source.deliveries == {}
