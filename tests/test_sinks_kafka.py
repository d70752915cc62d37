"""KafkaSink against librdkafka's mock cluster, which speaks Kafka's protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiokafka")
pytest.importorskip("confluent_kafka")

import aiokafka  # type: ignore[import-untyped]
import confluent_kafka

from loops import comes_true
from ringdispatch import BackgroundDispatcher, Bytes, Records
from ringdispatch.sinks import KafkaSink, SinkError
from ringdispatch.sinks._attempts import Failure
from ringdispatch.sinks._messages import decode, encode
from serving import free_port
from sockets import sockets

SECRET = "s3cr3t-0123456789"


class Cluster:
    """Three brokers in this process."""

    def __init__(self, brokers: int = 3, **more: str) -> None:
        options = {"test.mock.num.brokers": str(brokers), "log_level": 3, **more}
        self._owner = confluent_kafka.Producer(options)  # they live as long as it does
        found = self._owner.list_topics(timeout=20).brokers.values()
        self.servers = [f"{each.host}:{each.port}" for each in found]

    async def records(self, topic: str, count: int) -> list[Any]:
        """So many of the topic, in the order of their partitions."""
        consumer = aiokafka.AIOKafkaConsumer(
            topic, bootstrap_servers=self.servers, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            return [await consumer.getone() for _ in range(count)]
        finally:
            await consumer.stop()

    async def entries(self, topic: str, count: int) -> list[Any]:
        """The entries of so many records."""
        entries: list[Any] = []
        for record in await self.records(topic, count):
            headers = {name: value.decode() for name, value in record.headers}
            entries += list(decode(headers, record.value).entries)
        return entries


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster()


def on_loop(main: Any) -> Any:
    """Run it, with a deadline."""

    async def limited() -> Any:
        async with asyncio.timeout(60):
            return await main

    return asyncio.run(limited())


async def send(sink: KafkaSink, entries: list[Any], **options: Any) -> Any:
    """Dispatch the entries; returns the dispatcher's statistics."""
    async with BackgroundDispatcher(sink, **{"ms_delay": 1, **options}) as dispatcher:
        for entry in entries:
            assert dispatcher.enqueue(entry)
    return dispatcher.statistics()


@pytest.mark.parametrize(
    ("topic", "layout", "entries"),
    [
        ("objects", None, [{"n": 1}, "two"]),
        ("bytes", Bytes(), [b"one", b"two\nlines", b""]),
        ("records", Records(np.dtype("i4,i4")), [(1, 2), (3, 4)]),
    ],
)
def test_a_batch_is_a_record(
    cluster: Cluster, topic: str, layout: Any, entries: list[Any]
) -> None:
    async def main() -> list[Any]:
        options = {} if layout is None else {"layout": layout}
        seen = await send(KafkaSink(cluster.servers, topic), entries, **options)
        assert (seen.dispatched, seen.batches) == (len(entries), 1)
        return await cluster.entries(topic, 1)

    found = on_loop(main())
    plain = [each.tolist() if hasattr(each, "tolist") else each for each in found]
    assert plain == entries


def test_a_batch_larger_than_a_record_may_be_goes_in_pieces(cluster: Cluster) -> None:
    entries = [b"%03d" % number + b"x" * 997 for number in range(16)]

    async def main() -> list[Any]:
        sink = KafkaSink(cluster.servers, "pieces", max_bytes=6_144)
        seen = await send(sink, entries, layout=Bytes())
        assert seen.dispatched == 16
        return await cluster.entries("pieces", 4)

    assert sorted(on_loop(main())) == entries


def test_an_entry_too_large_alone_fails_its_batch(cluster: Cluster) -> None:
    failures: list[BaseException] = []

    async def main() -> None:
        sink = KafkaSink(cluster.servers, "large", max_bytes=6_144)
        await send(
            sink,
            [b"x" * 9_000],
            layout=Bytes(),
            on_error=lambda error, _: failures.append(error),
        )

    on_loop(main())
    (error,) = failures
    assert isinstance(error, SinkError)
    assert not error.retryable
    assert "9,001 B of entry" in str(error)


def test_brokers_that_are_not_there_are_tried_again_until_the_time_is_over() -> None:
    failures: list[BaseException] = []

    async def main() -> Any:
        return await send(
            KafkaSink(f"127.0.0.1:{free_port()}", "t"),
            [1],
            dispatch_timeout=1.5,
            on_error=lambda error, _: failures.append(error),
        )

    assert on_loop(main()).failed == 1
    (error,) = failures
    assert isinstance(error, SinkError)
    assert error.retryable
    assert "KafkaSink('127.0.0.1:" in str(error)


def test_a_producer_whose_record_is_not_acknowledged_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ringdispatch.sinks._kafka._STOP_SECONDS", 0.1)
    slow = Cluster(brokers=1, **{"test.mock.broker.rtt": "150"})
    sink = KafkaSink(slow.servers, "slow")

    async def main() -> None:
        message = (await encode([1], "b1", None)).message(0, 1)
        await sink([1])
        held = sockets()
        for _ in range(2):
            producer = await sink._connections.get()
            await producer.send(message, 20)  # from now on it knows the topic
            with pytest.raises(Failure, match="no answer in time"):
                await producer.send(message, 0.01)
        await sink.aclose()
        await comes_true(lambda: len(asyncio.all_tasks()) == 1)
        await comes_true(lambda: sockets() <= held)

    on_loop(main())


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((1, "t"), {}, TypeError, "servers: must be host:port, not int"),
        (([1], "t"), {}, TypeError, "servers: must be strings, not int"),
        (([], "t"), {}, ValueError, "servers: must have one"),
        (("kafka", "t"), {}, ValueError, "servers: 'kafka': must be host:port"),
        (("kafka://a:1", "t"), {}, ValueError, "must be host:port"),
        ((f"u:{SECRET}@a:1", "t"), {}, ValueError, "'a:1': must be host:port"),
        (("a:1", ""), {}, ValueError, "topic='': must be"),
        (("a:1", "a b"), {}, ValueError, "topic='a b': must be"),
        (("a:1", "a" * 250), {}, ValueError, "topic='a+': must be.* 1 to 249 letters"),
        (("a:1", 1), {}, ValueError, "topic=1: must be"),
        (("a:1", "t"), {"timeout": 0}, ValueError, "timeout=0: must be"),
        (("a:1", "t"), {"max_bytes": 1}, ValueError, "max_bytes=1: must be"),
        (("a:1", "t"), {"tls": 1.5}, TypeError, "tls=1.5: must be"),
        (("a:1", "t"), {"mechanism": "x"}, ValueError, "mechanism='x': must be"),
        (("a:1", "t"), {"username": "u"}, ValueError, "password: must be given, too"),
        (("a:1", "t"), {"password": SECRET}, ValueError, "username: must be given"),
        (("a:1", "t"), {"username": 1, "password": "p"}, TypeError, "username: must"),
    ],
)
def test_bad_input_is_refused_by_its_name(
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message) as caught:
        KafkaSink(*arguments, **options)
    assert SECRET not in str(caught.value)
