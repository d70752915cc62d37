"""examples/store.py behind a real relay: each entry is stored once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("redis")

from loops import comes_true
from redis_servers import RedisServer, serving_redis
from ringdispatch import BackgroundDispatcher
from ringdispatch.relay import RedisStreamSource, Relay
from ringdispatch.sinks import RedisStreamSink

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "store", raising=False)
    import store  # type: ignore[import-not-found]

    return store


def relay_twice(server: RedisServer, function: Callable[..., Any]) -> None:
    """Relay a hundred entries to a function whose answer is lost every other time."""
    calls = 0

    def lossy(records: Any, ids: list[str]) -> None:
        nonlocal calls
        calls += 1
        function(records, ids)
        if calls % 2:
            raise ConnectionError("the answer was lost")

    async def main() -> None:
        sink = RedisStreamSink(server.url, "S")
        async with BackgroundDispatcher(sink, ms_delay=1, max_batch=10) as dispatcher:
            for number in range(100):
                dispatcher.enqueue({"n": number})
        relay = Relay(
            RedisStreamSource(server.url, "S"), lossy, ms_delay=1, max_batch=2
        )
        running = asyncio.create_task(relay.run())
        await comes_true(lambda: running.done() or relay.counts.records == 100, 40)
        relay.stop()
        await running

    asyncio.run(main())
    assert calls >= 10


def test_in_sqlite(
    server: RedisServer,
    store: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "entries.sqlite"
    monkeypatch.setenv("DATABASE", str(path))
    relay_twice(server, store.in_sqlite)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT entry FROM entries").fetchall()
    assert sorted(json.loads(entry)["n"] for (entry,) in rows) == [*range(100)]


def test_in_postgresql(
    server: RedisServer, store: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    psycopg = pytest.importorskip("psycopg")
    from postgresql import serving_postgresql

    with serving_postgresql() as url:
        monkeypatch.setenv("DATABASE", url)
        relay_twice(server, store.in_postgresql)
        store.postgresql().close()
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT entry FROM entries").fetchall()
    assert sorted(entry["n"] for (entry,) in rows) == [*range(100)]
