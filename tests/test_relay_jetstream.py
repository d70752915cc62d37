"""A relay from a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nats")

from loops import comes_true
from nats_servers import NatsServer, on_loop, serving
from ringdispatch import BackgroundDispatcher, Bytes, Records
from ringdispatch.relay import JetStreamSource, Relay, SourceError
from ringdispatch.sinks import JetStreamSink, SinkError


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with serving(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringdispatch.relay._calls._LONGEST_PAUSE", 0.05)


@pytest.fixture
def server(module_server: NatsServer) -> Iterator[NatsServer]:
    with module_server.cleared():
        yield module_server


class Target:
    """Takes records, or fails as it is told."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.ids: list[str] = []
        self.calls = 0
        self.away = False
        self.refuses: list[Any] = []
        self.final = False

    async def __call__(self, records: Any, ids: list[str]) -> None:
        self.calls += 1
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionError("away")
        if any(each == bad for bad in self.refuses for each in records):
            if self.final:
                raise SinkError("400")
            raise ValueError("refused")
        assert len(records) == len(ids)
        self.records += list(records)
        self.ids += ids


async def send(server: NatsServer, entries: list[Any], **options: Any) -> None:
    sink = JetStreamSink(server.url, "orders")
    async with BackgroundDispatcher(sink, ms_delay=1, **options) as dispatcher:
        for entry in entries:
            assert dispatcher.enqueue(entry)


async def relaying(
    server: NatsServer, target: Any, until: Any, **options: Any
) -> Relay:
    source = JetStreamSource(server.url, "S")
    relay = Relay(source, target, **{"ms_delay": 20, **options})
    running = asyncio.create_task(relay.run())
    try:
        await comes_true(lambda: until() or running.done(), 30)
    finally:
        relay.stop()
        await running
    return relay


async def unacknowledged(server: NatsServer) -> int:
    import nats

    client = await nats.connect(server.url)
    info = await client.jetstream().consumer_info("S", "ringdispatch")
    await client.close()
    assert info.num_ack_pending is not None
    assert info.num_pending is not None
    return info.num_ack_pending + info.num_pending


def test_all_arrives_with_ids(server: NatsServer) -> None:
    target = Target()

    async def main() -> None:
        await send(server, [{"n": n} for n in range(1_000)], max_batch=10)
        await relaying(server, target, lambda: len(target.records) == 1_000)
        assert await unacknowledged(server) == 0

    on_loop(main())
    assert target.records == [{"n": n} for n in range(1_000)]
    assert len(set(target.ids)) == 1_000
    assert target.calls < 100


def test_each_layout_has_calls_of_its_own(server: NatsServer) -> None:
    target = Target()

    async def main() -> None:
        await send(server, ["object"])
        await send(server, [b"bytes"], layout=Bytes())
        await send(server, [(1, 2)], layout=Records(np.dtype("i4,i4")))
        await relaying(server, target, lambda: len(target.records) == 3, ms_delay=200)

    on_loop(main())
    assert target.records[:2] == ["object", b"bytes"]
    assert target.records[2].tolist() == (1, 2)


def test_an_outage_of_the_target_parks_nothing(server: NatsServer) -> None:
    target = Target()
    target.away = True

    async def main() -> Relay:
        await send(server, [*range(20)], max_batch=2)

        def until() -> bool:
            if target.calls > 12:
                target.away = False
            return len(target.records) == 20

        return await relaying(server, target, until)

    relay = on_loop(main())
    assert sorted(target.records) == [*range(20)]
    assert relay.counts.parked == 0


@pytest.mark.parametrize("final", [False, True])
def test_poison_is_parked_and_the_rest_goes_on(server: NatsServer, final: bool) -> None:
    target = Target()
    target.refuses, target.final = [7], final

    async def more() -> None:
        for number in range(100, 10_000):
            await send(server, [number])

    async def main() -> None:
        await send(server, [*range(20)], max_batch=1)
        sending = asyncio.create_task(more())
        relay = Relay(JetStreamSource(server.url, "S"), target, ms_delay=20)
        running = asyncio.create_task(relay.run())
        await comes_true(lambda: relay.counts.parked and len(target.records) > 19, 30)
        sending.cancel()
        relay.stop()
        await running
        assert relay.counts.parked == 1

    on_loop(main())
    assert set(range(20)) - {7} <= set(target.records)
    (message,) = server.messages("S-dead")
    assert message.headers["Ringdispatch-Origin"].startswith("S/")
    assert "400" if final else "refused" in message.headers["Ringdispatch-Reason"]


def test_a_stream_that_is_not_there(module_server: NatsServer) -> None:
    source = JetStreamSource(module_server.url, "nowhere")
    relay = Relay(source, Target())
    with pytest.raises(SourceError, match="stream 'nowhere': is not there: make it"):
        on_loop(relay.run())
