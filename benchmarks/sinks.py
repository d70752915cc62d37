"""Dispatch functions as services have them, to tune and to measure with.

Each is importable by name: `python -m ringdispatch tune sinks:http`, in this folder.
Nothing leaves the machine: what a network would take is slept.
"""

import asyncio
import gzip
import json
import random
import sqlite3
import threading
from typing import Any

_chance = random.Random(20_251_105)


async def http(batch: list[Any]) -> None:
    """A request to a service that answers within 2 to 20 ms."""
    del batch
    await asyncio.sleep(_chance.uniform(0.002, 0.020))


async def tail(batch: list[Any]) -> None:
    """One that answers in 5 ms, and one call in a hundred in 300 ms."""
    del batch
    await asyncio.sleep(0.300 if _chance.random() < 0.01 else 0.005)


async def encode(batch: list[Any]) -> None:
    """Encode and compress on the loop, then a request of 5 ms."""
    rows = [{"path": "/v1/items", "status": 200, "seconds": entry} for entry in batch]
    gzip.compress(json.dumps(rows).encode(), compresslevel=1)
    await asyncio.sleep(0.005)


_local = threading.local()


def sqlite(batch: list[Any]) -> None:
    """Insert into a database in memory, in a worker thread."""
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = sqlite3.connect(":memory:")
        connection.execute("create table entries (body text)")
    with connection:
        connection.executemany(
            "insert into entries values (?)", [(repr(entry),) for entry in batch]
        )
        connection.execute("delete from entries")


async def grow(batch: list[Any]) -> None:
    """A request that takes 5 ms, and 80 us more for each entry."""
    await asyncio.sleep(0.005 + 80e-6 * len(batch))


SINKS = {one.__name__: one for one in (http, tail, encode, sqlite, grow)}
