"""A relay whose stream, consumer or server is not as it should be; real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")

import nats
import nats.js.errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
)

from loops import comes_true
from nats_servers import NatsServer, on_loop, serving
from ringdispatch import BackgroundDispatcher
from ringdispatch.relay import JetStreamSource, Relay, SourceError, _jetstream
from ringdispatch.relay._pull import Pull
from ringdispatch.relay._source import AwayError, Held
from ringdispatch.sinks import JetStreamSink
from sources import Target, opened

MOST = 65_536  # bytes of a message


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    more = f"max_payload: {MOST}"
    with serving(tmp_path_factory.mktemp("nats"), more) as server:
        yield server


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringdispatch.relay._calls._LONGEST_PAUSE", 0.05)


@pytest.fixture
def short_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringdispatch.relay._relay._FETCH_SECONDS", 0.1)
    monkeypatch.setattr("ringdispatch.relay._pull._EXPIRY_SECONDS", 0.05)


@pytest.fixture
def server(module_server: NatsServer) -> Iterator[NatsServer]:
    with module_server.cleared():
        yield module_server


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[NatsServer]:
    """One that the test may end."""
    with serving(tmp_path / "nats") as server:
        server.add_stream()
        yield server


async def send(server: NatsServer, entries: list[Any], **options: Any) -> None:
    sink = JetStreamSink(server.url, "orders")
    options = {"ms_delay": 1, "dispatch_timeout": None, **options}
    async with BackgroundDispatcher(sink, **options) as dispatcher:
        for entry in entries:
            assert dispatcher.enqueue(entry)


async def publish(server: NatsServer, body: bytes, headers: dict[str, str]) -> None:
    """Send what is none of ours."""
    client = await nats.connect(server.url)
    await client.jetstream().publish("orders", body, headers=headers or None)
    await client.close()


async def relaying(
    server: NatsServer,
    target: Any,
    until: Callable[[Relay], object],
    meanwhile: Callable[[], Any] | None = None,
    **options: Any,
) -> Relay:
    """Relay until the condition holds, and stop in order."""
    relay = Relay(
        JetStreamSource(server.url, "S"), target, **{"ms_delay": 20, **options}
    )
    running = asyncio.create_task(relay.run())
    try:
        if meanwhile is not None:
            await meanwhile()
        await comes_true(lambda: running.done() or until(relay), 40)
    finally:
        relay.stop()
        await asyncio.wait([running])
    running.result()
    return relay


# ---- messages


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"not ours", {}),
        (b"not ours", {"Nats-Expected-Stream": "S", "Nats-Rollup": "sub"}),
        (b"not ours", {"Nats-Expected-Last-Subject-Sequence": "0", "Own": "kept"}),
        (b"x" * (MOST - 200), {"Own": "y" * 100}),
        (b"x" * MOST, {}),
        (b"1\n", {"Ringdispatch-Version": "99"}),
    ],
)
def test_what_is_none_of_ours_is_parked_whole(
    server: NatsServer, body: bytes, headers: dict[str, str]
) -> None:
    target = Target()
    server.ask(
        lambda js: js.update_stream(
            name="S", subjects=["orders"], allow_rollup_hdrs=True
        )
    )

    async def main() -> Relay:
        await publish(server, body, headers)
        await send(server, ["ours"])
        return await relaying(
            server, target, lambda relay: relay.counts.parked and target.records
        )

    relay = on_loop(main())
    assert target.records == ["ours"]
    assert relay.counts.parked == 1
    (parked,) = server.messages("S-dead")
    assert parked.data == body
    if "Own" in headers and len(body) < MOST // 2:
        assert parked.headers["Own"] == headers["Own"]
        assert parked.headers["Ringdispatch-Origin"] == "S/1"
    assert server.ask(lambda js: js.consumer_info("S", "ringdispatch")).num_pending == 0


# ---- what is removed, or goes away


async def remove_consumer(
    server: NatsServer, just_before: Callable[[], object] = bool
) -> None:
    """Remove it, once a relay waits for messages there."""
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    waiting = 0
    async with asyncio.timeout(20):
        while not waiting:
            with suppress(nats.js.errors.NotFoundError):
                info = await jetstream.consumer_info("S", "ringdispatch")
                waiting = info.num_waiting or 0
            await asyncio.sleep(0.01)
    just_before()
    await jetstream.delete_consumer("S", "ringdispatch")
    await client.close()


@pytest.mark.usefixtures("short_requests")
def test_a_consumer_that_is_removed_ends_the_relay(server: NatsServer) -> None:
    with pytest.raises(SourceError, match="'ringdispatch' is not there any more"):
        on_loop(
            relaying(
                server, Target(), lambda _: False, partial(remove_consumer, server)
            )
        )


@pytest.mark.usefixtures("short_requests")
def test_a_consumer_that_is_removed_between_two_requests_ends_the_relay(
    server: NatsServer,
) -> None:
    """Nobody is told of it then, and a server does not answer requests to it.

    It is believed once it was said often: for some seconds a server of a cluster that
    starts may say so of a consumer that is there.
    """
    told: list[str] = []

    async def main() -> None:
        delete = partial(server.ask, lambda js: js.delete_consumer("S", "ringdispatch"))
        async with opened(JetStreamSource(server.url, "S")) as source:
            await asyncio.to_thread(delete)
            async with asyncio.timeout(20):
                while True:
                    try:
                        assert not await source.fetch(1, MOST, 0.1)
                    except AwayError as error:
                        told.append(str(error))

    with pytest.raises(SourceError, match="'ringdispatch' is not there any more"):
        on_loop(main())
    assert len(told) > 2
    assert set(told) == {"consumer not found"}


@pytest.mark.usefixtures("short_requests")
def test_a_server_that_does_not_say_that_requests_are_over_is_asked_on(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now and then one does not say it."""
    take = Pull._take
    looked = 0

    def take_messages(self: Pull, message: Any, found: list[Held]) -> None:
        if "Status" not in (message.headers or {}):
            take(self, message, found)

    class Source(JetStreamSource):
        async def _look_for_consumer(self, *given: Any) -> None:
            nonlocal looked
            await super()._look_for_consumer(*given)
            looked += 1

    monkeypatch.setattr(Pull, "_take", take_messages)

    async def main() -> None:
        async with opened(Source(server.url, "S")) as source, asyncio.timeout(20):
            while looked < 2:
                assert not await source.fetch(1, MOST, 0.1)
            await send(server, ["one"])
            while not await source.fetch(1, MOST, 0.1):
                pass

    on_loop(main())


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words of requests whose next answer says no more than what kind it is of.

    So nats-server answers in the midst of a consumer's removal.
    """
    ask = nats.NATS.request
    words: list[str] = []

    async def request(self: Any, subject: str, *args: Any, **options: Any) -> Any:
        message = await ask(self, subject, *args, **options)
        if words and words[0] in subject:
            del words[0]
            kind = json.loads(message.data)["type"]
            message.data = json.dumps({"type": kind}).encode()
        return message

    monkeypatch.setattr(nats.NATS, "request", request)
    return words


@pytest.mark.usefixtures("short_requests")
def test_an_answer_from_the_midst_of_a_removal_is_asked_for_again(
    server: NatsServer, empty: list[str]
) -> None:
    async def remove() -> None:
        await remove_consumer(server, lambda: empty.append("CONSUMER.INFO"))

    with pytest.raises(SourceError, match="'ringdispatch' is not there any more"):
        on_loop(relaying(server, Target(), lambda _: False, remove))
    assert not empty


@pytest.mark.parametrize("question", ["CONSUMER.INFO", ".CREATE."])
def test_a_relay_that_starts_in_the_midst_of_a_removal_makes_the_consumer_anew(
    server: NatsServer, empty: list[str], question: str
) -> None:
    target = Target()
    empty.append(question)

    async def main() -> None:
        await send(server, ["one"])
        await relaying(server, target, lambda _: target.records)

    on_loop(main())
    assert target.records == ["one"]
    assert not empty


def test_a_server_that_crashes_under_a_relay_loses_nothing(
    fragile: NatsServer,
) -> None:
    target = Target()
    numbers = [*range(2_000)]

    def more_than(count: int) -> bool:
        return len(target.records) > count

    async def main() -> None:
        sending = asyncio.create_task(send(fragile, numbers, max_batch=10))

        async def meanwhile() -> None:
            for taken in (1, 300, 900):
                await comes_true(partial(more_than, taken), 30)
                await asyncio.to_thread(fragile.kill)
                await asyncio.to_thread(fragile.start)

        def until(_: Relay) -> bool:
            return len(set(target.ids)) == 2_000

        await relaying(fragile, target, until, meanwhile)
        await sending

    on_loop(main())
    assert set(target.records) == set(numbers)


def test_a_stop_under_traffic_leaves_nothing_held(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not given back would come again after an hour only."""
    monkeypatch.setattr(_jetstream, "_HOLD_SECONDS", 3600.0)
    monkeypatch.setitem(_jetstream._CONSUMER, "ack_wait", 3600.0)
    target = Target()

    def more_than(count: int, _: Relay) -> bool:
        return len(target.records) > count

    async def main() -> int:
        stopping = asyncio.Event()
        sent = 0

        async def traffic() -> None:
            nonlocal sent
            while not stopping.is_set():
                await send(server, [*range(sent, sent + 50)], max_batch=1)
                sent += 50

        sending = asyncio.create_task(traffic())
        for taken in (50, 200, 350):
            await relaying(server, target, partial(more_than, taken))
        stopping.set()
        await sending
        await relaying(server, target, lambda _: len(set(target.records)) == sent)
        return sent

    sent = on_loop(main())
    assert set(target.records) == {*range(sent)}


# ---- as it has to be


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "keeps all without a bound: set its max_bytes, and discard=new"),
        ({"max_bytes": 10**6}, "removes messages that were not relayed"),
        (
            {"max_age": 3600.0, "max_bytes": 10**6, "discard": DiscardPolicy.NEW},
            "removes",
        ),
        (
            {
                "max_bytes": 10**6,
                "discard": DiscardPolicy.NEW,
                "retention": RetentionPolicy.WORK_QUEUE,
                "storage": StorageType.MEMORY,
            },
            "is in memory only: a server that ends takes it along",
        ),
        (
            {"max_bytes": 10**6, "discard": DiscardPolicy.NEW},
            "'S': retention=limits keeps what was relayed, so that it fills up and g",
        ),
        (
            {
                "max_bytes": 10**6,
                "discard": DiscardPolicy.NEW,
                "retention": RetentionPolicy.WORK_QUEUE,
            },
            "",
        ),
    ],
)
def test_settings_that_may_lose_messages_are_told_of(
    module_server: NatsServer, settings: dict[str, Any], why: str
) -> None:
    module_server.add_stream(**settings)
    try:

        async def main() -> list[str]:
            source = JetStreamSource(module_server.url, "S")
            try:
                return (await source.open()).warnings
            finally:
                await source.close()

        warnings = on_loop(main())
        assert len(warnings) == bool(why)
        assert why in "".join(warnings)
    finally:
        module_server.ask(lambda js: js.delete_stream("S"))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"ack_policy": AckPolicy.ALL}, "ack_policy=all, and must have explicit"),
        ({"ack_wait": 30.0}, "ack_wait=30.0, and must have 10.0"),
        ({"max_deliver": 5}, "max_deliver=5, and must have -1"),
        ({"headers_only": True}, "headers_only=True, and must have None"),
        ({"filter_subject": "orders"}, "filter_subject=orders, and must have None"),
    ],
)
def test_a_consumer_that_differs_is_refused(
    server: NatsServer, settings: dict[str, Any], why: str
) -> None:
    config = {"ack_policy": AckPolicy.EXPLICIT, "ack_wait": 10.0, **settings}
    durable = ConsumerConfig(durable_name="ringdispatch", **config)
    server.ask(lambda js: js.add_consumer("S", durable))
    with pytest.raises(SourceError, match=why):
        on_loop(relaying(server, Target(), lambda _: False))


def test_a_server_without_jetstream_is_refused(tmp_path: Path) -> None:
    with (
        serving(tmp_path, jetstream=False) as server,
        pytest.raises(SourceError, match="JetStream"),
    ):
        on_loop(relaying(server, Target(), lambda _: False))


def test_a_work_queue_of_another_consumer_is_refused(module_server: NatsServer) -> None:
    module_server.add_stream(retention="workqueue")
    try:
        other = ConsumerConfig(durable_name="other", ack_policy=AckPolicy.EXPLICIT)
        module_server.ask(lambda js: js.add_consumer("S", other))
        with pytest.raises(SourceError, match="'ringdispatch': can't be made: "):
            on_loop(relaying(module_server, Target(), lambda _: False))
    finally:
        module_server.ask(lambda js: js.delete_stream("S"))


def test_a_consumer_that_we_may_not_ask_is_told_of(tmp_path: Path) -> None:
    more = """authorization { users: [{ user: us, password: p },
        { user: weak, password: p, permissions: { publish:
        { deny: ["$JS.API.CONSUMER.>"] }, subscribe: [">"] } }] }"""
    with serving(tmp_path, more) as server:
        own = {"user": "us", "password": "p"}
        server.ask(lambda js: js.add_stream(name="S", subjects=["orders"]), **own)

        async def main() -> None:
            source = JetStreamSource(server.url, "S", user="weak", password="p")
            try:
                await source.open()
            finally:
                await source.close()

        why = r'for publish to "\$JS.API.CONSUMER.INFO.S.ringdispatch": give the user '
        with pytest.raises(SourceError, match=why):
            on_loop(main())
