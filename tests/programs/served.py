"""What the servers of test_servers.py run: an application with one dispatcher.

From the environment: RECORD, the file that records what happens, one `pid word` to a
line; MS_DELAY; HOME_OF_CALLS; CLOSES, what it does at its end; AT_IMPORT, whether
importing it enqueues.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from ringdispatch import BackgroundDispatcher

FIRST = ("/0", "/1", "/2")  # settled by a flush
LAST = ("/3", "/4", "/5")  # pending when the end comes

CLOSES = os.environ.get("CLOSES", "")


def note(*words: object) -> None:
    lines = "".join(f"{os.getpid()} {word}\n" for word in words)
    path = os.environ["RECORD"]
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, lines.encode())  # one write: processes don't interleave
    os.close(descriptor)


async def send(batch: list[str]) -> None:
    await asyncio.sleep(0.01)  # as an HTTP client would
    note(*batch)


dispatcher = BackgroundDispatcher(
    send,
    ms_delay=float(os.environ.get("MS_DELAY", "60_000")),
    home=os.environ.get("HOME_OF_CALLS", "auto"),
)
if "AT_IMPORT" in os.environ:
    dispatcher.enqueue("/import")


def enqueue_all() -> None:
    """Leave three entries settled and three pending, with no loop running."""
    for entry in FIRST:
        dispatcher.enqueue(entry)
    assert dispatcher.flush()
    for entry in LAST:
        dispatcher.enqueue(entry)
    note("ready")


async def aenqueue_all() -> None:
    for entry in FIRST:
        dispatcher.enqueue(entry)
    assert await dispatcher.aflush()
    for entry in LAST:
        dispatcher.enqueue(entry)
    note("ready")


# ---- web servers: each answer is the pid of the worker


def wsgi(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    # Under gevent the dispatcher's own loop is in this thread. Django looks for one.
    assert asyncio._get_running_loop() is None
    if path == "/flush":
        assert dispatcher.flush()
    else:
        dispatcher.enqueue(path)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("content-length", str(len(body)))])
    return [body]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        note("ready")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if CLOSES == "lifespan":
            assert await dispatcher.aclose()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/flush":
        assert await dispatcher.aflush()
    else:
        dispatcher.enqueue(scope["path"])
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# ---- scripts


def script(end: str) -> None:
    if CLOSES == "sys.exit":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    enqueue_all()
    while end == "signal":
        signal.pause()


async def main(end: str) -> None:
    stop = asyncio.Event()
    if CLOSES == "handler":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await aenqueue_all()
    if end == "signal":
        await stop.wait()


if __name__ == "__main__":
    # A shell starts its background jobs with this one ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind, end = sys.argv[1:]
    if kind == "script":
        script(end)
    else:
        asyncio.run(main(end))
