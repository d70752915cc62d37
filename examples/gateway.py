"""An API gateway that ships an entry about every request, without slowing the request.

    python examples/collector.py
    python examples/gateway.py
    curl http://127.0.0.1:8000/any/path

From the environment: PORT, COLLECTOR (where batches are posted), MS_DELAY, and ENTRIES
(how many entries a request makes, 1 by default).
"""

import contextlib
import dataclasses
import json
import os
import uuid
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from ringdispatch import BackgroundDispatcher

COLLECTOR = os.environ.get("COLLECTOR", "http://127.0.0.1:8001/entries")
ENTRIES = int(os.environ.get("ENTRIES", "1"))

client = httpx.AsyncClient()


async def send(entries: list[dict[str, object]]) -> None:
    response = await client.post(COLLECTOR, json=entries)
    response.raise_for_status()


dispatcher = BackgroundDispatcher(
    send, ms_delay=float(os.environ.get("MS_DELAY", "10")), name="gateway"
)


async def hello(request: Request) -> PlainTextResponse:
    request_id = request.headers.get("x-request-id") or uuid.uuid4().hex
    url = str(request.url)
    for number in range(ENTRIES):
        dispatcher.enqueue({"request": request_id, "number": number, "url": url})
    return PlainTextResponse("Hello World!")


async def statistics(_: Request) -> JSONResponse:
    return JSONResponse(dataclasses.asdict(dispatcher.statistics()))


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with client:
        yield
        # By now every request has been answered, and the client still works.
        await dispatcher.aclose()
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
