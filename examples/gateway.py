"""An API gateway that ships an entry about every request, without slowing the request.

    python examples/collector.py
    python examples/gateway.py
    curl http://127.0.0.1:8000/any/path

From the environment: PORT, COLLECTOR (where batches are posted), MS_DELAY, ENTRIES (how
many entries a request makes, 1 by default), and LAYOUT: objects, which posts a JSON
array; records, a numpy file; bytes, a line of JSON for each entry.
"""

import contextlib
import dataclasses
import functools
import io
import json
import os
import uuid
from collections.abc import AsyncIterator

import httpx
import numpy as np
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from ringdispatch import BackgroundDispatcher, Bytes, BytesBatch, Objects, Records

COLLECTOR = os.environ.get("COLLECTOR", "http://127.0.0.1:8001/entries")
ENTRIES = int(os.environ.get("ENTRIES", "1"))

Client = httpx.AsyncClient


async def post(client: Client, content: bytes, kind: str) -> None:
    response = await client.post(
        COLLECTOR, content=content, headers={"content-type": kind}
    )
    response.raise_for_status()


async def send_objects(client: Client, entries: list[dict[str, object]]) -> None:
    await post(client, orjson.dumps(entries), "application/json")


async def send_records(client: Client, rows: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, rows)
    await post(client, file.getvalue(), "application/x-npy")


async def send_bytes(client: Client, batch: BytesBatch) -> None:
    await post(client, batch.payload, "application/x-ndjson")


def as_dict(request: str, number: int, url: str) -> dict[str, object]:
    return {"request": request, "number": number, "url": url}


ROW = np.dtype([("request", "S36"), ("number", "u4"), ("url", "S80")])


def as_row(request: str, number: int, url: str) -> tuple[bytes, int, bytes]:
    # A longer text would be refused: what may be cut is for the caller to say.
    return request.encode()[:36], number, url.encode()[:80]


LAYOUTS = {
    "objects": (Objects(), as_dict, send_objects),
    "records": (Records(ROW), as_row, send_records),
    "bytes": (Bytes(encode=orjson.dumps), as_dict, send_bytes),
}
layout, entry, send = LAYOUTS[os.environ.get("LAYOUT", "objects")]


async def hello(request: Request) -> PlainTextResponse:
    dispatcher = request.state.dispatcher
    request_id = request.headers.get("x-request-id") or uuid.uuid4().hex
    url = str(request.url)
    for number in range(ENTRIES):
        dispatcher.enqueue(entry(request_id, number, url))
    return PlainTextResponse("Hello World!")


async def statistics(request: Request) -> JSONResponse:
    return JSONResponse(dataclasses.asdict(request.state.dispatcher.statistics()))


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, object]]:
    async with Client(timeout=10) as client:  # without one, httpx waits 5 s
        dispatcher = BackgroundDispatcher(
            functools.partial(send, client),
            ms_delay=float(os.environ.get("MS_DELAY", "10")),
            capacity=200_000,  # a second of them, if the collector is held up
            dispatch_timeout=30,
            layout=layout,
            name="gateway",
        )
        # On leaving, every request has been answered, and the client still works.
        async with dispatcher:
            yield {"dispatcher": dispatcher}
    print(json.dumps(dataclasses.asdict(dispatcher.statistics())), flush=True)


app = Starlette(
    lifespan=lifespan,
    routes=[Route("/statistics", statistics), Route("/{path:path}", hello)],
)

if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(os.environ.get("PORT", "8000")),
        access_log=False,
        log_level="warning",
    )
