"""What a relay asks of a nats-server, and parks there, whatever is in the way."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")

from loops import comes_true
from nats_servers import NatsServer, on_loop, serving
from ringdispatch.relay import JetStreamSource, SourceError
from ringdispatch.relay._source import AwayError, Held
from sources import Target, opened, relaying

MOST = 65_536  # bytes of a message
ROOM = 2**20


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    more = f"max_payload: {MOST}"
    with serving(tmp_path_factory.mktemp("nats"), more) as server:
        yield server


@pytest.fixture
def server(module_server: NatsServer) -> Iterator[NatsServer]:
    with module_server.cleared():
        yield module_server


def publish(server: NatsServer, *bodies: bytes, **options: Any) -> None:
    """Send what is none of ours."""
    for body in bodies:
        server.ask(lambda js, body=body: js.publish("orders", body), **options)


async def fetched(source: JetStreamSource, count: int = 1) -> list[Held]:
    """So many messages."""
    found: list[Held] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += await source.fetch(count - len(found), ROOM, 0.5)
    return found


# ---- dead letters


def test_a_reason_of_any_text_is_parked(server: NatsServer) -> None:
    publish(server, b"not ours")

    async def main() -> None:
        async with opened(JetStreamSource(server.url, "S")) as source:
            (held,) = await fetched(source)
            await source.park(held, "ValueError: \ud800\r\nmore")

    on_loop(main())
    (parked,) = server.messages("S-dead")
    assert parked.headers["Ringdispatch-Reason"] == "ValueError: \\ud800 more"


@pytest.mark.parametrize(
    "line", ["some/name: a", "some name: a", "é: a", "(x): a", "x: é", "x: ", "x"]
)
def test_a_header_that_can_not_be_sent_again_is_left_out(
    server: NatsServer, line: str
) -> None:
    async def main() -> None:
        await publish_raw(server, f"NATS/1.0\r\nOwn: kept\r\n{line}\r\n\r\n")
        async with opened(JetStreamSource(server.url, "S")) as source:
            (held,) = await fetched(source)
            await source.park(held, "why")

    on_loop(main())
    (parked,) = server.messages("S-dead")
    assert parked.data == b"not ours"
    assert parked.headers["Own"] == "kept"


async def publish_raw(server: NatsServer, headers: str) -> None:
    """As clients of other languages may."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head, body = headers.encode(), b"not ours"
    sizes = f"{len(head)} {len(head) + len(body)}"
    writer.write(b'CONNECT {"headers":true,"verbose":false}\r\n')
    writer.write(f"HPUB orders {sizes}\r\n".encode() + head + body)
    writer.write(b"\r\nPING\r\n")
    while not (await reader.readline()).startswith(b"PONG"):
        assert not reader.at_eof()
    writer.close()


def test_a_stream_of_dead_letters_that_is_removed_is_made_again(
    server: NatsServer,
) -> None:
    publish(server, b"one", b"two")

    async def main() -> None:
        async with opened(JetStreamSource(server.url, "S")) as source:
            one, two = await fetched(source, 2)
            await source.park(one, "why")
            await asyncio.to_thread(server.ask, lambda js: js.delete_stream("S-dead"))
            with suppress(AwayError):  # it comes again
                await source.park(two, "why")
            await source.park(two, "why")

    on_loop(main())
    assert [each.data for each in server.messages("S-dead")] == [b"two"]


# ---- a stream that is made again


def test_dead_letters_of_a_stream_that_is_made_again_are_no_doubles(
    server: NatsServer,
) -> None:
    async def park() -> None:
        async with opened(JetStreamSource(server.url, "S")) as source:
            (held,) = await fetched(source)
            await source.park(held, "why")
            assert held.name == "S/1"

    for body in (b"old", b"new"):
        publish(server, body)
        on_loop(park())
        server.ask(lambda js: js.delete_stream("S"))
        server.add_stream()
    assert [each.data for each in server.messages("S-dead")] == [b"old", b"new"]


def test_what_an_earlier_stream_handed_out_is_not_answered_in_a_new_one(
    server: NatsServer,
) -> None:
    publish(server, b"old")

    async def main() -> None:
        async with opened(JetStreamSource(server.url, "S")) as source:
            held = await fetched(source)
            await source.extend(held)
            opened_at = time.time()
            await comes_true(lambda: time.time() > opened_at + 1.1)
            await asyncio.to_thread(server.ask, lambda js: js.delete_stream("S"))
            with pytest.raises(AwayError, match="stream not found"):
                await source.extend(held)
            await asyncio.to_thread(server.add_stream)
            with pytest.raises(SourceError, match="'S' was removed, and made again: "):
                await source.extend(held)
            await asyncio.to_thread(publish, server, b"new")
            async with opened(JetStreamSource(server.url, "S")) as other:
                await fetched(other)
                assert await source.acknowledge(held) == 1
                await source.give_back(held)
                assert (await other.backlog()).held == 1

    on_loop(main())


# ---- requests


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"max_batch": 1}, "Exceeded MaxRequestBatch of 1"),
        ({"max_bytes": 100}, "Exceeded MaxRequestMaxBytes of 100"),
        ({"max_expires": 10**7}, "Exceeded MaxRequestExpires of 10ms"),
    ],
)
def test_a_limit_of_the_consumer_that_refuses_us_is_told(
    server: NatsServer, limits: dict[str, int], why: str
) -> None:
    config = {"durable_name": "ringdispatch", "ack_policy": "explicit"} | {
        "ack_wait": 10 * 10**9,
        **limits,
    }
    request = json.dumps({"stream_name": "S", "config": config}).encode()
    subject = "$JS.API.CONSUMER.DURABLE.CREATE.S.ringdispatch"

    async def main() -> None:
        async with opened(JetStreamSource(server.url, "S")) as source:
            await fetched(source, 2)

    # That of nats-py has no such settings.
    server.ask(lambda js: js._nc.request(subject, request))
    publish(server, b"one")
    with pytest.raises(AwayError, match=why):
        on_loop(main())


def test_the_least_max_bytes_has_room_for_the_largest_message(
    server: NatsServer,
) -> None:
    target = Target()
    publish(server, b"x" * MOST)

    async def main() -> None:
        source = JetStreamSource(server.url, "S")
        with pytest.raises(SourceError, match="max_bytes=65,536: must be at least 66"):
            await relaying(source, target, lambda _: False, max_bytes=MOST)
        async with opened(source):
            least = (await source.open()).largest
        await relaying(
            source, target, lambda relay: relay.counts.parked, max_bytes=least
        )

    on_loop(main())
    (parked,) = server.messages("S-dead")
    assert len(parked.data) == MOST


WEAK = """authorization {{ users: [{{ user: us, password: p }},
    {{ user: weak, password: p, permissions: {{
    publish: {{ deny: ["{}"] }}, subscribe: [">"] }} }}] }}"""


def weakly(folder: Path, denied: str, main: Any) -> Any:
    """Run it with a source of one message, whose user may not publish something."""
    with serving(folder, WEAK.format(denied)) as server:
        own = {"user": "us", "password": "p"}
        server.ask(lambda js: js.add_stream(name="S", subjects=["orders"]), **own)
        publish(server, b"one", **own)

        async def with_source() -> None:
            source = JetStreamSource(server.url, "S", user="weak", password="p")
            async with opened(source):
                await main(source)

        on_loop(with_source())


def test_what_was_refused_before_a_request_does_not_end_it(tmp_path: Path) -> None:
    async def main(source: JetStreamSource) -> None:
        held = await fetched(source)
        await source.extend(held)
        await source.backlog()  # the refusal is here by now
        assert await source.fetch(1, ROOM, 0.1) == []

    weakly(tmp_path, "$JS.ACK.>", main)


def test_a_question_that_is_refused_is_told_with_its_way_out(tmp_path: Path) -> None:
    async def main(source: JetStreamSource) -> None:
        (held,) = await fetched(source)
        why = r"violation for publish to .\$JS.API.STREAM.CREATE.S-dead.: give the user"
        with pytest.raises(AwayError, match=why):
            await source.park(held, "why")

    weakly(tmp_path, "$JS.API.STREAM.CREATE.>", main)


def test_a_request_that_is_refused_is_told_each_time(tmp_path: Path) -> None:
    async def main(source: JetStreamSource) -> None:
        why = 'MSG.NEXT.S.ringdispatch": give the user the right to it'
        for _ in range(3):
            with pytest.raises(AwayError, match=why):
                await fetched(source)

    weakly(tmp_path, "$JS.API.CONSUMER.MSG.NEXT.>", main)
