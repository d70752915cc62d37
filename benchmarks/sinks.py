"""Five dispatch functions, as services have them, to predict, to tune and to judge."""

import asyncio
import gzip
import itertools
import json
import sqlite3
import threading
from typing import Any

GOLDEN = (5**0.5 - 1) / 2
_count = itertools.count(1)
_local = threading.local()


async def http(batch: list[Any]) -> None:
    """A request over HTTP: 2 to 20 ms, as often each."""
    del batch
    await asyncio.sleep(0.002 + 0.018 * (GOLDEN * next(_count) % 1))


async def tail(batch: list[Any]) -> None:
    """A request of 5 ms; each hundredth takes 300 ms.

    Not by chance: of a few calls at random, none or three may be slow, and a figure of
    the run would be a figure of that chance.
    """
    del batch
    await asyncio.sleep(0.300 if next(_count) % 100 == 50 else 0.005)


async def encoded(batch: list[Any]) -> None:
    """JSON and gzip on the event loop, then a request of 3 ms."""
    gzip.compress(json.dumps(batch).encode(), compresslevel=6)
    await asyncio.sleep(0.003)


def database(batch: list[Any]) -> None:
    """SQLite in a worker thread, a connection for each."""
    if not hasattr(_local, "connection"):
        connection = sqlite3.connect(":memory:")
        connection.execute("create table log (entry text, size integer)")
        _local.connection = connection
    rows = [(json.dumps(entry), entry["size"]) for entry in batch]
    with _local.connection:
        _local.connection.executemany("insert into log values (?, ?)", rows)
        _local.connection.execute("delete from log")


async def growing(batch: list[Any]) -> None:
    """A service that takes 5 ms, and 80 µs for each entry."""
    await asyncio.sleep(0.005 + 80e-6 * len(batch))


SINKS = {one.__name__: one for one in (http, tail, encoded, database, growing)}
