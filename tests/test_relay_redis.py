"""What a relay asks of a redis-server, and parks there, whatever is in the way."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("redis")

from nats_servers import on_loop, serving
from redis_servers import RedisServer, serving_redis
from ringdispatch.relay import RedisStreamSource, SourceError, _redis_stream
from ringdispatch.relay._source import AwayError, Held
from sources import Target, message, opened, relaying

ROOM = 2**20


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(module_server: RedisServer) -> RedisServer:
    with module_server.client() as client:
        client.flushall()
    return module_server


def put(server: RedisServer, count: int = 1, body: bytes = b"1\n") -> None:
    """Add messages of one entry each."""
    with server.client() as client:
        for number in range(count):
            headers, entry = message(f"b{number}", body)
            client.xadd("S", {**headers, "body": entry})


async def fetched(source: RedisStreamSource) -> list[Held]:
    """What the next answer with messages has."""
    async with asyncio.timeout(20):
        while not (found := await source.fetch(1_000, ROOM, 0.5)):
            pass
    return found


def warnings(server: RedisServer, **options: Any) -> list[str]:
    """What a relay says at the start, except of the server's settings."""

    async def main() -> list[str]:
        source = RedisStreamSource(server.url, "S", **options)
        try:
            return (await source.open()).warnings
        finally:
            await source.close()

    return [line for line in on_loop(main()) if "appendonly" not in line]


def test_a_stream_that_was_not_there_is_told_of(server: RedisServer) -> None:
    (line,) = warnings(server)
    assert line == (
        f"{server.url}: stream 'S' was not there: it is made, and gateways must send "
        "to this name"
    )
    assert warnings(server) == []


def test_what_was_parked_is_told_at_the_start(server: RedisServer) -> None:
    put(server)
    with server.client() as client:
        client.xadd("S-dead", {"a": "b"})
        client.xadd("S-dead", {"a": "b"})
        (line,) = warnings(server)
        assert "stream 'S-dead' holds 2 messages that were parked: --replay-de" in line
        client.delete("S-dead")
        assert warnings(server) == []
        client.set("S-dead", "no stream")
        (line,) = warnings(server)
        assert "stream 'S-dead': WRONGTYPE" in line


def failure(url: str) -> Exception:
    """What a relay does not start for."""

    async def main() -> None:
        async with opened(RedisStreamSource(url, "S")):
            pass

    with pytest.raises((SourceError, AwayError)) as caught:
        on_loop(main())
    assert len(str(caught.value)) < 250
    return caught.value


def test_a_database_that_is_not_there_is_refused(server: RedisServer) -> None:
    error = failure(server.url.replace("/0", "/99"))
    assert isinstance(error, SourceError)
    assert "/99: DB index is out of range: give the number of one that" in str(error)


def test_a_server_that_may_have_no_tls(server: RedisServer) -> None:
    error = failure(server.url.replace("redis:", "rediss:"))
    assert str(error).endswith("(it may have no TLS: give redis:// if that is meant)")


def test_another_server_than_redis(tmp_path: Path) -> None:
    with serving(tmp_path) as nats:
        for scheme, why in (
            ("redis", "no Redis answers there: Protocol Error: b'INFO"),
            ("rediss", "(it may have no TLS: give redis:// if that is meant)"),
        ):
            assert why in str(failure(nats.url.replace("nats", scheme)))


# ---- dead letters


def test_a_reason_of_any_text_is_parked(server: RedisServer) -> None:
    put(server)

    async def main() -> None:
        async with opened(RedisStreamSource(server.url, "S")) as source:
            (held,) = await fetched(source)
            await source.park(held, "ValueError: \ud800 é\r\nmore")

    on_loop(main())
    (parked,) = server.messages("S-dead")
    assert parked["Ringdispatch-Reason"].decode() == "ValueError: \\ud800 é more"


def test_what_is_none_of_ours_is_parked_byte_by_byte(server: RedisServer) -> None:
    raw = b"\xff\xfe\x80raw"
    with server.client() as client:
        client.xadd("S", {raw: raw, b"body": raw})

    async def main() -> None:
        source = RedisStreamSource(server.url, "S")
        await relaying(source, Target(), lambda relay: relay.counts.parked)

    on_loop(main())
    with server.client() as client:
        ((_, parked),) = client.xrange("S-dead")
        assert client.xlen("S") == 0
    assert (parked[raw], parked[b"body"]) == (raw, raw)


# ---- requests


def test_it_asks_for_few_messages_until_it_knows_how_large_they_are(
    server: RedisServer,
) -> None:
    put(server, 60)

    async def main() -> list[int]:
        async with opened(RedisStreamSource(server.url, "S")) as source:
            return [len(await fetched(source)) for _ in range(5)]

    assert on_loop(main()) == [4, 8, 16, 16, 16]


def test_no_more_bytes_are_held_than_allowed(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 100_000
    monkeypatch.setattr(_redis_stream, "LARGEST", largest)
    body = b'"%s"\n' % (b"x" * (largest - 1_000))
    put(server, 50, body)
    most = taken = 0

    async def function(records: Any, ids: list[str]) -> None:
        nonlocal most, taken
        with server.client() as client:
            most = max(most, client.xpending("S", "ringdispatch")["pending"])
        taken += len(records)

    async def main() -> None:
        source = RedisStreamSource(server.url, "S")
        await relaying(source, function, lambda _: taken == 50, max_bytes=5 * largest)

    on_loop(main())
    assert 1 <= most <= 5


def test_what_can_not_be_removed_is_not_acknowledged(server: RedisServer) -> None:
    """Nobody would come again to remove it."""
    put(server)
    with server.client() as client:
        client.acl_setuser(
            "weak", True, passwords=["+p"], keys=["*"], commands=["+@all", "-xdel"]
        )

    async def main() -> int:
        source = RedisStreamSource(server.url, "S", username="weak", password="p")
        async with opened(source):
            return await source.acknowledge(await fetched(source))

    assert on_loop(main()) == 1
    with server.client() as client:
        assert client.xpending("S", "ringdispatch")["pending"] == 1
        assert client.xlen("S") == 1


# ---- a server that is away


def test_a_stop_does_not_wait_for_a_server_that_does_not_answer(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_stream, "_ANSWER_SECONDS", 60.0)
    monkeypatch.setattr("ringdispatch.relay._relay._FETCH_SECONDS", 0.1)
    monkeypatch.setattr("ringdispatch.relay._relay._LOOK_SECONDS", 0.1)
    put(server)
    paused = threading.Event()

    async def function(records: Any, ids: list[str]) -> None:
        os.kill(server.pid, signal.SIGSTOP)
        paused.set()
        await asyncio.Event().wait()

    async def main() -> None:
        source = RedisStreamSource(server.url, "S")
        await relaying(source, function, lambda _: paused.is_set(), grace=0.3)

    try:
        on_loop(main())
    finally:
        os.kill(server.pid, signal.SIGCONT)
