"""An API gateway that ships an entry about every request, without slowing the request.

    python -m ringdispatch collector
    python examples/gateway.py
    curl http://127.0.0.1:8000/any/path

`AccessLogMiddleware` makes the entry, `HttpSink` posts the batches. From the
environment: PORT, COLLECTOR (where batches are posted), MS_DELAY, ENTRIES (how many
entries a request makes, 1 by default: the application enqueues those beyond the
middleware's), LAYOUT: objects or records, which are posted as a JSON array, or bytes,
which are posted as lines of JSON, SPOOL, for bytes: a directory, from which the next
gateway sends what this one leaves when it is killed, and VIA: a url of NATS or Redis,
where batches are sent instead, for a relay to take them from there.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import AsyncIterator

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse

from ringdispatch import BackgroundDispatcher, Bytes, Objects, Records, sinks
from ringdispatch.asgi import AccessLogMiddleware, AccessRecord, LifespanMiddleware

COLLECTOR = os.environ.get("COLLECTOR", "http://127.0.0.1:8780/")
ENTRIES = int(os.environ.get("ENTRIES", "1"))
SPOOL = os.environ.get("SPOOL") or None
VIA = os.environ.get("VIA", "")


def as_dict(request_id: str, number: int, path: str) -> dict[str, object]:
    return {"request_id": request_id, "number": number, "path": path}


ROW = np.dtype([("request_id", "S36"), ("number", "u4"), ("path", "S80")])


def as_row(request_id: str, number: int, path: str) -> tuple[bytes, int, bytes]:
    # A longer text would be refused: what may be cut is for the caller to say.
    return request_id.encode()[:36], number, path.encode()[:80]


def row_of_access(record: AccessRecord) -> tuple[bytes, int, bytes]:
    return as_row(record.request_id or "", 0, record.path)


# By name: the layout, the middleware's entry (None: its default, a dict), one of the
# application's own, and what is posted.
LAYOUTS = {
    "objects": (Objects(), None, as_dict, "json"),
    "records": (Records(ROW), row_of_access, as_row, "json"),
    "bytes": (Bytes(encode=orjson.dumps, spool=SPOOL), None, as_dict, "ndjson"),
}
layout, entry, own_entry, posted = LAYOUTS[os.environ.get("LAYOUT", "objects")]

if VIA.startswith("nats:"):
    sink = sinks.JetStreamSink(VIA, "entries")
elif VIA.startswith("redis:"):
    sink = sinks.RedisStreamSink(VIA, "ENTRIES")
else:
    sink = sinks.HttpSink(COLLECTOR, format=posted)

dispatcher = BackgroundDispatcher(
    sink,
    ms_delay=float(os.environ.get("MS_DELAY", "10")),
    capacity=200_000,  # a second of them, if the collector is held up
    layout=layout,
    name="gateway",
)


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    # Every request has been answered, and the middleware has flushed the dispatcher.
    print(json.dumps(dataclasses.asdict(dispatcher.statistics())), flush=True)


app = FastAPI(lifespan=lifespan)
if SPOOL is None:
    app.add_middleware(
        AccessLogMiddleware,
        dispatcher=dispatcher,
        entry=entry,
        exclude=["/statistics"],
    )
else:
    # The middleware makes its entry after the response, and a kill may come between
    # them: the application enqueues them all.
    app.add_middleware(LifespanMiddleware, dispatchers=[dispatcher])


@app.get("/statistics")
async def statistics() -> dict[str, object]:
    return dataclasses.asdict(dispatcher.statistics())


@app.api_route(
    "/{path:path}", methods=["GET", "POST"], response_class=PlainTextResponse
)
async def hello(request: Request) -> str:
    request_id = request.headers.get("x-request-id", "")
    accepted = [
        dispatcher.enqueue(own_entry(request_id, number, request.url.path))
        for number in range(1 if SPOOL is None else 0, ENTRIES)
    ]
    if SPOOL is not None and not all(accepted):
        raise HTTPException(503, "its entries can't be kept")
    return "Hello World!"


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(os.environ.get("PORT", "8000")),
        access_log=False,
        log_level="warning",
    )
