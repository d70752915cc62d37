"""Receives batches of entries and stores every entry in SQLite.

A batch is a JSON array, or lines of JSON, as its content type says. Its
`Idempotency-Key` is stored with each of its entries, or an entry's own `id`: doubles
can be known by it.

From the environment: PORT, and DATABASE (a file, `entries.sqlite` by default).
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

DATABASE = os.environ.get("DATABASE", "entries.sqlite")

# A commit waits for the disk, so it happens off the event loop, which receives the next
# batch meanwhile. One thread, because SQLite takes one writer at a time anyway.
writer = ThreadPoolExecutor(max_workers=1)


def connect() -> sqlite3.Connection:
    connection = sqlite3.connect(DATABASE)
    connection.execute("PRAGMA journal_mode = WAL")
    # No key makes an entry unique: one that arrived twice is to be seen.
    connection.execute(
        "CREATE TABLE IF NOT EXISTS entries (request_id, number, path, batch)"
    )
    return connection


def from_json(body: bytes) -> list[dict[str, object]]:
    return orjson.loads(body)


def from_lines(body: bytes) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in body.splitlines()]


READERS = {
    "application/json": from_json,
    "application/x-ndjson": from_lines,
}


def store(connection: sqlite3.Connection, kind: str, batch: str, body: bytes) -> None:
    rows = [
        # The entry of an access log has no number: it is the first of its request.
        (
            entry["request_id"],
            entry.get("number", 0),
            entry["path"],
            entry.get("id", batch),  # a relay gives each its own
        )
        for entry in READERS[kind](body)
    ]
    with connection:  # one transaction
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)


async def receive(request: Request) -> Response:
    kind, batch = (
        request.headers[name] for name in ("content-type", "idempotency-key")
    )
    given = request.app.state.connection, kind, batch, await request.body()
    await asyncio.get_running_loop().run_in_executor(writer, store, *given)
    # Only now, so that what the sender counts as dispatched is stored.
    return Response(status_code=204)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    app.state.connection = await loop.run_in_executor(writer, connect)
    yield
    await loop.run_in_executor(writer, app.state.connection.close)
    writer.shutdown()


app = Starlette(
    lifespan=lifespan, routes=[Route("/entries", receive, methods=["POST"])]
)

if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(os.environ.get("PORT", "8001")),
        access_log=False,
        log_level="warning",
    )
