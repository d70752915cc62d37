"""A source of a relay that is in memory, and does what a test wants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from loops import comes_true
from ringdispatch.relay import Relay
from ringdispatch.relay._source import AwayError, Backlog, Held, Opened
from ringdispatch.sinks._messages import VERSION

LARGEST = 1_000


def message(name: str, body: bytes, count: int = 1) -> tuple[dict[str, str], bytes]:
    """What a sink sends for the entries of a batch."""
    headers = {
        "Ringdispatch-Version": str(VERSION),
        "Ringdispatch-Batch": name,
        "Ringdispatch-First": "0",
        "Ringdispatch-Count": str(count),
        "Ringdispatch-Layout": "objects",
    }
    return headers, body


async def relaying(
    source: Any, target: Any, until: Callable[[Relay], object], **options: Any
) -> Relay:
    """Relay until the condition holds, and stop in order."""
    relay = Relay(source, target, **{"ms_delay": 1, **options})
    running = asyncio.create_task(relay.run())
    try:
        await comes_true(lambda: running.done() or until(relay), 20)
    finally:
        relay.stop()
        await asyncio.wait([running], timeout=20)
    assert running.done(), "it has not ended"
    running.result()
    return relay


@asynccontextmanager
async def opened(source: Any) -> AsyncIterator[Any]:
    """The source itself, without a relay."""
    try:
        await source.open()
        yield source
    finally:
        await source.close()


class MemorySource:
    """Messages of one entry each, `0`, `1` and so on, unless others are put there."""

    hold_seconds = 10.0

    def __init__(self, count: int = 0) -> None:
        self.waiting: list[tuple[str, dict[str, str], bytes]] = []
        self.deliveries: dict[str, int] = {}
        self.times: dict[str, float] = {}  # when each was put there
        self.held: dict[str, Held] = {}
        self.acknowledged: list[str] = []
        self.parked: dict[str, str] = {}
        self.given_back: list[tuple[str, float]] = []
        self.extended = 0
        self.away = False
        self.opens = True
        self.unconfirmed = 0
        self.closed = False
        self.error: BaseException | None = None  # of the next fetch
        for number in range(count):
            self.put(f"m/{number}", *message(f"b{number}", b"%d\n" % number))

    def __str__(self) -> str:
        return "memory"

    def put(self, name: str, headers: dict[str, str], body: bytes) -> None:
        self.times.setdefault(name, time.time())
        self.waiting.append((name, headers, body))

    async def open(self) -> Opened:
        if not self.opens:
            raise AwayError("memory: not there")
        return Opened(LARGEST, ["look out"])

    async def fetch(self, count: int, nbytes: int, seconds: float) -> list[Held]:
        self._look()
        error, self.error = self.error, None
        if error is not None:
            raise error
        if not self.waiting:
            await asyncio.sleep(min(seconds, 0.01))
        found: list[Held] = []
        while self.waiting and len(found) < count:
            if nbytes < sum(len(each.body) for each in found) + LARGEST:
                break
            name, headers, body = self.waiting.pop(0)
            self.deliveries[name] = self.deliveries.get(name, 0) + 1
            held = Held(
                object(),
                name,
                headers,
                body,
                deliveries=self.deliveries[name],
                time=self.times[name],
            )
            self.held[name] = held
            found.append(held)
        return found

    async def arrived(self) -> list[Held]:
        return []

    async def stop_fetching(self) -> None:
        self._look()

    async def extend(self, held: Iterable[Held]) -> None:
        self._look()
        self.extended += len(list(held))

    async def acknowledge(self, held: Iterable[Held]) -> int:
        names = [each.name for each in held]
        for name in names:
            self.held.pop(name, None)
        self.acknowledged += names
        return self.unconfirmed

    async def give_back(self, held: Iterable[Held], seconds: float = 0.0) -> None:
        self._look()
        for each in held:
            self.held.pop(each.name, None)
            self.given_back.append((each.name, seconds))
            self.waiting.append((each.name, dict(each.headers), each.body))

    async def park(self, held: Held, reason: str) -> None:
        self._look()
        self.held.pop(held.name, None)
        self.parked[held.name] = reason

    async def backlog(self) -> Backlog:
        self._look()
        return Backlog(len(self.waiting), len(self.held))

    async def close(self) -> None:
        self.closed = True

    def _look(self) -> None:
        if self.away:
            raise AwayError("memory: away")


class Target:
    """Takes records, or fails as it is told."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.ids: list[str] = []
        self.calls: list[int] = []  # how many records each had
        self.away = False
        self.refuses: set[Any] = set()
        self.error: BaseException = ValueError("refused")

    async def __call__(self, records: Any, ids: list[str]) -> None:
        self.calls.append(len(records))
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionError("away")
        if not self.refuses.isdisjoint(records):
            raise self.error
        assert len(records) == len(ids)
        self.records += list(records)
        self.ids += ids
