"""What the ASGI middlewares cost a request, over the bare application.

    python benchmarks/middleware_price.py [--check] [--json FILE]

The application sends a start and a body, and nothing waits: what is measured is the
middleware alone, in process. A request has ten headers; its entry goes into a window
that stays open. Beside ours, Starlette's BaseHTTPMiddleware with the same entry made by
hand, where Starlette is installed.

Counts instructions with callgrind (instructions.py), the bare application's own taken
off, and the best of some runs in microseconds. `--check` exits with 1 above a limit of
instructions: at about 11,000 a microsecond, they are below 4.5 µs with a dict and 3 µs
with a row.
"""

import argparse
import asyncio
import json
import platform
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from instructions import FREE_THREADED, Cases, Loop, prices, serve
from ringdispatch import BackgroundDispatcher, Records
from ringdispatch.asgi import AccessLogMiddleware, AccessRecord, LifespanMiddleware

REQUESTS = 2_000
BARE, PASSED = "the bare application", "LifespanMiddleware"
DICT, ROW = "AccessLogMiddleware, dict", "AccessLogMiddleware, row"
BASE = "BaseHTTPMiddleware, dict"
LIMITS = {PASSED: 3_000, DICT: 41_000, ROW: 23_000}

HEADERS = [
    (b"host", b"example.com"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"accept-language", b"en-US,en;q=0.9"),
    (b"connection", b"keep-alive"),
    (b"cookie", b"session=0123456789abcdef0123456789abcdef"),
    (b"x-forwarded-for", b"203.0.113.7"),
    (b"x-request-id", b"7b1e3c2a-1d2f-4c55-9d3b-0a6d3f0c9f10"),
    (b"cache-control", b"no-cache"),
]
SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.4"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/orders/1",
    "root_path": "",
    "query_string": b"",
    "headers": HEADERS,
    "client": ("203.0.113.7", 4711),
    "server": ("127.0.0.1", 80),
}
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"12")],
}
BODY = {"type": "http.response.body", "body": b"Hello World!"}

App = Callable[[Any, Any, Any], Any]


async def application(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer."""
    await send(START)
    await send(BODY)


async def receive() -> Any:
    """Receive the request's empty body."""
    return {"type": "http.request", "body": b""}


async def send(message: Any) -> None:
    """Send nowhere."""


async def dispatch(batch: Any) -> None:
    """Never called: no window ends."""


def dispatcher(**options: Any) -> BackgroundDispatcher[Any]:
    """A dispatcher whose window stays open."""
    return BackgroundDispatcher(dispatch, ms_delay=3_600_000, **options)


def passed() -> App:
    """The application with a lifespan around it."""
    return LifespanMiddleware(application, dispatchers=[dispatcher()])


def with_dict() -> App:
    """The application with the default entry."""
    return AccessLogMiddleware(application, dispatcher=dispatcher())


def with_row() -> App:
    """The application with a row of numbers."""

    def row(record: AccessRecord) -> tuple[Any, ...]:
        return (
            record.time,
            record.status,
            record.duration_ms,
            record.response_bytes,
        )

    fields = [("time", "i8"), ("status", "u2"), ("ms", "f4"), ("bytes", "i8")]
    rows = dispatcher(layout=Records(fields))
    return AccessLogMiddleware(application, dispatcher=rows, entry=row)


def with_base() -> App:
    """The application with Starlette's middleware, as its users write one."""
    from starlette.middleware.base import BaseHTTPMiddleware

    entries = dispatcher()

    async def log(request: Any, call_next: Any) -> Any:
        begun = time.perf_counter()
        response = await call_next(request)
        entries.enqueue(
            {
                "time": int(time.time() * 1000),
                "method": request.method,
                "path": request.url.path,
                "status": response.status_code,
                "duration_ms": (time.perf_counter() - begun) * 1000,
                "client": request.client.host,
                "request_id": request.headers.get("x-request-id"),
                "user_agent": request.headers.get("user-agent"),
            }
        )
        return response

    return BaseHTTPMiddleware(application, dispatch=log)


def requests(make: Callable[[], App]) -> Callable[[], Loop]:
    """A case: `REQUESTS` requests, one after the other, on a running loop."""

    def case() -> Loop:
        app = make()
        runner = asyncio.Runner()

        async def answer() -> None:
            for _ in range(REQUESTS):
                await app({**SCOPE}, receive, send)

        return lambda: runner.run(answer())

    return case


CASES: Cases = {
    BARE: requests(lambda: application),
    PASSED: requests(passed),
    DICT: requests(with_dict),
    **({ROW: requests(with_row)} if find_spec("numpy") else {}),
    **({BASE: requests(with_base)} if find_spec("starlette") else {}),
}


def microseconds(cases: Cases) -> dict[str, float]:
    """The best of ten runs of each case, per request, in turn."""
    best = dict.fromkeys(cases, float("inf"))
    loops = {name: case() for name, case in cases.items()}
    for _ in range(10):
        for name, loop in loops.items():
            begun = time.perf_counter()
            loop()
            taken = (time.perf_counter() - begun) / REQUESTS * 1e6
            best[name] = min(best[name], taken)
    return best


def main() -> int:
    """Measure, print, and check the limits where asked."""
    serve(CASES)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="only what has a limit; fail above one"
    )
    parser.add_argument("--json", type=Path, help="write the figures here, all of them")
    options = parser.parse_args()

    cases = CASES
    if options.check and not options.json:
        cases = {name: CASES[name] for name in CASES if name in {BARE, *LIMITS}}
    unit, measured = prices(cases, REQUESTS)
    timed = microseconds(cases)
    build = "free-threaded" if FREE_THREADED else "GIL"
    version = platform.python_version()
    print(f"CPython {version} ({build}), {platform.machine()}: a request, in process")
    failed = 0
    over = {}
    for name, price in measured.items():
        own = {unit: price, "us": timed[name]}
        if name != BARE:
            own = {unit: price - measured[BARE], "us": timed[name] - timed[BARE]}
        over[name] = own
        line = f"  {name:<28}{own[unit]:10,.0f} {unit}{own['us']:8.2f} us"
        limit = LIMITS.get(name)
        if limit is not None and unit == "instructions":
            met = own[unit] <= limit
            line += f"   limit {limit:,}: {'met' if met else 'NOT MET'}"
            failed += not met
        print(line)
    if options.json:
        figures = {"python": version, "build": build, "over": over}
        options.json.write_text(json.dumps(figures, indent=2))
    return 1 if options.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())
