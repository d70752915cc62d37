"""How a relay ends: what it was told to stop for, and what it still holds."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import sources
from ringdispatch.relay import Relay, SourceError
from ringdispatch.relay._log import Log
from ringdispatch.relay._source import AwayError
from sources import MemorySource, Target, message


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringdispatch.relay._calls._FIRST_PAUSE", 0.001)
    monkeypatch.setattr("ringdispatch.relay._calls._LONGEST_PAUSE", 0.01)
    monkeypatch.setattr("ringdispatch.relay._relay._LOOK_SECONDS", 0.01)
    monkeypatch.setattr("ringdispatch.relay._relay._FETCH_SECONDS", 0.01)


def relaying(*arguments: Any, **options: Any) -> Relay:
    return asyncio.run(sources.relaying(*arguments, **options))


class StoppingSource(MemorySource):
    """Tells when the relay stops fetching."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.stops = asyncio.Event()

    async def stop_fetching(self) -> None:
        await super().stop_fetching()
        self.stops.set()


def test_a_stop_takes_what_is_held_and_gives_back_what_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source, target = MemorySource(6), Target()
    target.refuses = {4}
    relaying(source, target, lambda relay: len(source.acknowledged) == 5, ms_delay=20)
    assert source.given_back == [("m/4", 0.0)]
    assert source.held == {}
    assert "grace" not in caplog.text


def test_a_stop_leaves_a_call_its_grace_only() -> None:
    source = MemorySource(2)
    called = threading.Event()
    cancelled = []

    async def function(records: Any, ids: list[str]) -> None:
        called.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(ids)
            raise

    relaying(source, function, lambda _: called.is_set(), grace=0.05)
    assert cancelled == [["b0/0", "b1/0"]]
    assert sorted(source.given_back) == [("m/0", 0.0), ("m/1", 0.0)]


def test_an_ordinary_function_that_hangs_is_left_in_its_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = MemorySource(1)
    called, release = threading.Event(), threading.Event()

    def function(records: Any, ids: list[str]) -> None:
        called.set()
        release.wait(30)

    try:
        relaying(source, function, lambda _: called.is_set(), grace=0.05)
        assert source.given_back == [("m/0", 0.0)]
        assert caplog.messages[-1] == (
            "ringdispatch: relay: the grace of 0.05 s is over: a call is left running, "
            "and 1 message goes back"
        )
    finally:
        release.set()


def test_an_engine_that_can_not_be_used_any_more_ends_the_relay() -> None:
    source, target = MemorySource(3), Target()
    source.error = SourceError("the consumer was removed")
    with pytest.raises(SourceError, match="the consumer was removed"):
        relaying(source, target, lambda _: False)
    assert source.closed


def test_a_source_that_breaks_ends_the_relay_with_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = MemorySource(3), Target()

    async def broken(held: Any) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(source, "acknowledge", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        relaying(source, target, lambda _: False)
    assert len(source.given_back) == 3


def test_a_stop_leaves_what_waits_apart_its_grace() -> None:
    source = StoppingSource(1)
    called, again = threading.Event(), threading.Event()

    async def function(records: Any, ids: list[str]) -> None:
        if not called.is_set():
            called.set()
            raise ValueError
        again.set()
        await source.stops.wait()
        await asyncio.sleep(0.05)

    relaying(source, function, lambda _: again.is_set())
    assert source.acknowledged == ["m/0"]
    assert source.given_back == []


def test_a_stop_does_not_wait_for_a_fetch_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = MemorySource(), Target()
    hangs = threading.Event()

    async def fetch(*_: object) -> Any:
        hangs.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(source, "fetch", fetch)
    relaying(source, target, lambda _: hangs.is_set(), grace=0.05)
    assert source.closed


def test_a_stop_does_not_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever hands out more than it was asked for."""
    source = MemorySource(40)
    called = threading.Event()
    fetch = source.fetch
    monkeypatch.setattr(
        source, "fetch", lambda _, nbytes, seconds: fetch(40, nbytes, seconds)
    )

    async def function(records: Any, ids: list[str]) -> None:
        called.set()
        await asyncio.Event().wait()

    relaying(
        source,
        function,
        lambda _: called.is_set() and not source.waiting,
        max_batch=5,
        grace=0.05,
    )
    assert source.closed


@pytest.mark.parametrize("away", [False, True])
def test_what_a_stop_gives_back_has_not_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, away: bool
) -> None:
    monkeypatch.setattr("ringdispatch.relay._calls._FIRST_PAUSE", 60.0)
    monkeypatch.setattr("ringdispatch.relay._calls._LONGEST_PAUSE", 60.0)
    source = MemorySource(20)
    called = threading.Event()

    async def function(records: Any, ids: list[str]) -> None:
        called.set()
        if away:
            raise ConnectionError
        await asyncio.Event().wait()

    relaying(
        source,
        function,
        lambda _: called.is_set() and len(source.held) == 10,
        max_batch=5,
        grace=0.05,
    )
    assert len(source.given_back) == 10
    assert source.held == {}
    said = [each.removeprefix("ringdispatch: relay: ") for each in caplog.messages]
    call = "" if away else "a call is cancelled, and "
    assert said.pop(said.index("look out") + 1 + away) == (
        f"the grace of 0.05 s is over: {call}10 messages go back"
    )
    assert len(said) == 1 + away  # as many as before the stop
    assert not away or said[1].startswith("a call failed (5 messages)")


# ---- a replay


def test_a_replay_ends_when_nothing_is_left_but_what_fails() -> None:
    source, target = MemorySource(5), Target()
    target.refuses = {1, 3}
    relay = relaying(source, target, lambda _: False, replay=True)
    assert sorted(target.records) == [0, 2, 4]
    assert relay.counts.parked == 2
    assert source.parked == {}
    assert sorted(source.given_back) == [("m/1", 0.0), ("m/3", 0.0)]


def test_a_replay_waits_for_what_another_one_holds() -> None:
    source, target = MemorySource(2), Target()
    other = message("other", b"7\n")
    source.held["o/1"] = None  # type: ignore[assignment]
    waited = False

    def until(_: Relay) -> bool:
        nonlocal waited
        if len(source.acknowledged) == 2 and not waited:
            waited = True
            del source.held["o/1"]
            source.put("o/1", *other)
        return False

    relaying(source, target, until, replay=True)
    assert target.records[-1] == 7


def test_a_replay_calls_for_all_however_many_fail() -> None:
    source, target = MemorySource(12), Target()
    target.refuses = {*range(8)}
    relay = relaying(source, target, lambda _: False, replay=True, max_batch=2)
    assert sorted(target.records) == [8, 9, 10, 11]
    assert relay.counts.parked == 8
    assert {name for name, _ in source.given_back} == {f"m/{n}" for n in range(8)}


# ---- what its log leaves out


def unreadable(count: int) -> MemorySource:
    source = MemorySource()
    for number in range(count):
        source.put(f"x/{number}", {}, b"not ours")
    return source


@pytest.mark.parametrize("replay", [False, True])
def test_whatever_is_parked_is_told_by_the_end(
    caplog: pytest.LogCaptureFixture, replay: bool
) -> None:
    source = unreadable(27)
    done = "messages that stay" if replay else "parked messages"
    relaying(source, Target(), lambda relay: relay.counts.parked == 27, replay=replay)
    lines = [each for each in caplog.messages if ": x/" in each]
    assert len(lines) == 20
    assert caplog.messages[-1] == (
        f"ringdispatch: relay: {done}: 7 more since the last such line"
    )


def test_what_had_no_line_is_told_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ringdispatch.relay._log._QUIET_SECONDS", 0.5)
    source = unreadable(40)
    monkeypatch.setattr(source, "hold_seconds", 0.03)
    told: list[str] = []

    def until(_: Relay) -> bool:
        told[:] = [each for each in caplog.messages if "parked messages:" in each]
        return bool(told)

    relaying(source, Target(), until)
    assert told[0].endswith(" more since the last such line")


def test_lines_about_one_call_are_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    for seconds in (70, 73, 76):
        log.slow(seconds)
    log.end()
    assert caplog.messages == ["ringdispatch: relay: a call takes 70 s so far"]


@pytest.mark.parametrize(
    ("count", "of", "words"),
    [
        (1, 1, "1 message is not acknowledged"),
        (1, 3, "1 of 3 messages is not acknowledged"),
        (2, 2, "2 of 2 messages are not acknowledged"),
    ],
)
def test_messages_that_are_not_acknowledged_are_counted(
    caplog: pytest.LogCaptureFixture, count: int, of: int, words: str
) -> None:
    Log().unconfirmed(count, of)
    assert caplog.messages == [f"ringdispatch: relay: {words}, and will come again"]


def test_an_outage_is_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    Log().outage(AwayError("nats://a: Connect call failed ('127.0.0.1', 4)."))
    (line,) = caplog.messages
    assert line.endswith("Connect call failed ('127.0.0.1', 4); it is tried again")
