"""How much a nats-server hands out to a relay whose function fails; a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")

import nats
import nats.js.errors

from nats_servers import NatsServer, on_loop, serving
from ringdispatch.relay import JetStreamSource
from sources import Target, message, relaying

BATCH = 5
MOST = 2 * BATCH  # messages that are held


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with serving(tmp_path) as server:
        server.add_stream()
        yield server


@pytest.fixture(autouse=True)
def short_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringdispatch.relay._relay._FETCH_SECONDS", 0.3)
    # A server may stand still for so long; and now and then it does not say that one
    # is over.
    monkeypatch.setattr("ringdispatch.relay._pull._EXPIRY_SECONDS", 3.0)


class Side:
    """Sends messages, and sees how many are handed out."""

    def __init__(self, client: Any) -> None:
        self._jetstream = client.jetstream(timeout=10)
        self.sent = 0
        self.over = False  # nats-py may not heed that a task is cancelled
        self.looks: list[int] = []  # what was handed out and not acknowledged

    async def send(self, count: int = 1) -> None:
        for number in range(self.sent, self.sent + count):
            headers, body = message(f"b{number}", b"%d\n" % number)
            await self._jetstream.publish("orders", body, headers=headers)
        self.sent += count

    async def trickle(self) -> None:
        while not self.over:
            await self.send()
            await asyncio.sleep(0.01)

    async def look(self) -> None:
        while not self.over:
            with suppress(nats.js.errors.NotFoundError):
                info = await self._jetstream.consumer_info("S", "ringdispatch")
                self.looks.append(info.num_ack_pending or 0)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def other_side(server: NatsServer) -> AsyncIterator[Side]:
    client = await nats.connect(server.url)
    side = Side(client)
    looking = asyncio.create_task(side.look())
    try:
        yield side
    finally:
        side.over = True
        await looking
        await client.close()


def test_what_came_while_a_call_failed_is_within_the_room(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a stop wait for more."""
    # After the first failure the request ends, with what is sent then in the queue.
    monkeypatch.setattr("ringdispatch.relay._calls._FIRST_PAUSE", 1.2)
    calls = hung_at = 0

    async def main() -> list[int]:
        async with other_side(server) as side:

            async def function(records: Any, ids: list[str]) -> None:
                nonlocal calls, hung_at
                calls += 1
                if calls == 1:
                    sending.append(asyncio.create_task(side.send(4 * MOST)))
                    raise ConnectionError
                if calls == 2:
                    return
                hung_at = len(side.looks)
                await asyncio.Event().wait()

            def until(_: object) -> bool:
                return (
                    calls > 2
                    and sum(each >= MOST for each in side.looks[hung_at:]) > 20
                )

            sending: list[asyncio.Task[None]] = []
            await side.send(2)
            source = JetStreamSource(server.url, "S")
            await relaying(source, function, until, max_batch=BATCH, grace=0.1)
            await asyncio.wait(sending)
            return side.looks

    assert max(on_loop(main())) == MOST


def test_no_more_is_held_than_two_batches_while_messages_trickle_in(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringdispatch.relay._calls._FIRST_PAUSE", 0.05)
    monkeypatch.setattr("ringdispatch.relay._calls._LONGEST_PAUSE", 0.4)
    target = Target()

    async def function(records: Any, ids: list[str]) -> None:
        target.away = len(target.calls) % 12 < 5
        await target(records, ids)

    async def main() -> list[int]:
        async with other_side(server) as side:
            trickling = asyncio.create_task(side.trickle())
            source = JetStreamSource(server.url, "S")
            await relaying(
                source,
                function,
                lambda _: len(target.calls) > 20 and target.away,
                max_batch=BATCH,
                grace=0.1,
            )
            side.over = True
            await trickling
            return side.looks

    assert 1 < max(on_loop(main())) <= MOST
