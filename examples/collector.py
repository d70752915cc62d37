"""Receives batches of entries as JSON and stores every entry in SQLite.

From the environment: PORT, and DATABASE (a file, `entries.sqlite` by default).
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

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
    connection.execute("CREATE TABLE IF NOT EXISTS entries (request, number, url)")
    return connection


def store(connection: sqlite3.Connection, batch: list[dict[str, object]]) -> None:
    with connection:  # one transaction
        connection.executemany(
            "INSERT INTO entries VALUES (:request, :number, :url)", batch
        )


async def receive(request: Request) -> Response:
    batch = await request.json()
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(writer, store, request.app.state.connection, batch)
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
