"""What JetStreamSink, RedisStreamSink and KafkaSink have in common."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiokafka")
pytest.importorskip("nats")
pytest.importorskip("redis")

import nats

from loops import comes_true
from nats_servers import on_loop, serving
from ringdispatch.sinks import JetStreamSink, KafkaSink, RedisStreamSink, SinkError
from ringdispatch.sinks._attempts import Failure
from ringdispatch.sinks._connections import Connections
from ringdispatch.sinks._messages import encode
from sockets import silent_port, sockets

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "make",
    [
        lambda port: JetStreamSink(f"nats://127.0.0.1:{port}", "orders"),
        lambda port: RedisStreamSink(f"redis://127.0.0.1:{port}", "orders"),
        lambda port: KafkaSink(f"127.0.0.1:{port}", "orders"),
    ],
    ids=["nats", "redis", "kafka"],
)
def test_a_server_that_accepts_and_stays_silent_has_no_longer_than_the_dispatcher(
    make: Callable[[int], Any],
) -> None:
    async def main(sink: Any) -> None:
        sink.prepare(None, 0.5)
        before = sockets()
        with pytest.raises(SinkError, match=r"no connection within 0\.\d+ s") as caught:
            await sink([1])
        assert caught.value.retryable
        assert repr(sink) in str(caught.value)
        await sink.aclose()
        await comes_true(lambda: sockets() <= before)

    with silent_port() as port:
        asyncio.run(main(make(port)))


@pytest.mark.parametrize("answer", [b"thanks", b"[]", b"{}"])
def test_a_subscriber_that_answers_is_no_stream(tmp_path: Path, answer: bytes) -> None:
    async def main(url: str) -> None:
        client = await nats.connect(url)

        async def reply(message: Any) -> None:
            await message.respond(answer)

        await client.subscribe("orders", cb=reply)
        await client.flush()
        sink = JetStreamSink(url, "orders")
        publisher = await sink._connections.get()
        message = (await encode([1], "b1", None)).message(0, 1)
        why = "subject 'orders': what answers there is no stream"
        with pytest.raises(Failure, match=why) as caught:
            await publisher.send(message, 20)
        assert caught.value.retryable
        await sink.aclose()
        await client.close()

    with serving(tmp_path) as server:
        on_loop(main(server.url))


def test_a_remembered_refusal_holds_nothing_of_those_that_were_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ringdispatch.sinks._connections._FIRST_REFUSAL", 60.0)
    asked = 0

    class Batch:
        pass

    async def refuse() -> Any:
        nonlocal asked
        asked += 1
        raise Failure("refused", retryable=False)

    connections = Connections(refuse)

    async def told() -> weakref.ref[Batch]:
        batch = Batch()
        with pytest.raises(Failure, match="refused"):
            await connections.get()
        return weakref.ref(batch)

    async def main() -> None:
        batches = [await told() for _ in range(4)]
        gc.collect()
        assert [batch() for batch in batches] == [None] * 4
        assert asked == 1

    asyncio.run(main())


def test_servers_that_were_given_are_tried_before_those_that_were_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {f"nats://given:{port}" for port in (1, 2)}
    tried: list[str] = []

    async def refuse(url: str) -> Any:
        tried.append(url)
        raise Failure("not there", retryable=True)

    sink = JetStreamSink(given, "orders")
    servers = sink._servers
    servers._found = dict.fromkeys(["nats://found:1", "nats://found:2", *given])
    monkeypatch.setattr(servers, "_connect_to", refuse)
    firsts = set()
    for _ in range(40):
        tried.clear()
        with pytest.raises(Failure):
            asyncio.run(servers.connect())
        assert set(tried[:2]) == given
        assert len(tried) == 4
        firsts.add(tried[0])
    assert firsts == given, "not always the same one"


@pytest.mark.parametrize(
    ("sink", "url"),
    [
        (JetStreamSink, f"nats://user:/{SECRET}@h:4222"),
        (JetStreamSink, f"nats://user:12/{SECRET}@h:4222"),
        (JetStreamSink, f"nats://user:12?{SECRET}@h:4222"),
        (JetStreamSink, f"nats://user:{SECRET}#x@h:4222"),
        (JetStreamSink, f"nats://user:a@b/{SECRET}@h:4222"),
        (JetStreamSink, f"nats://tok#{SECRET}@h"),
        (JetStreamSink, f"nats://h:4222?token={SECRET}"),
        (JetStreamSink, f"nats://h:4222/{SECRET}"),
        (RedisStreamSink, f"redis://user:/{SECRET}@h:6379/0"),
        (RedisStreamSink, f"redis://user:12/{SECRET}@h:6379/0"),
        (RedisStreamSink, f"redis://user:12?{SECRET}@h:6379/0"),
        (RedisStreamSink, f"redis://user:12#{SECRET}@h:6379/0"),
        (RedisStreamSink, f"redis://user:{SECRET}#x@h:6379/0"),
        (RedisStreamSink, f"redis://user:a@b/{SECRET}@h:6379/0"),
        (RedisStreamSink, f"redis://h:6379/0?password={SECRET}"),
    ],
)
def test_a_url_with_credentials_is_refused_and_not_shown(sink: Any, url: str) -> None:
    with pytest.raises(ValueError, match=r"^(servers|url): ") as caught:
        sink(url, "orders")
    assert SECRET not in str(caught.value)
