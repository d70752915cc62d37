"""What the servers of test_servers.py run: an application with one dispatcher.

From the environment: RECORD, the file that records what happens, one `pid word` to a
line; MS_DELAY; MAX_BATCH; HOME_OF_CALLS; CALL_SECONDS; WAITS_IN_TASK, whether a call
waits in a task of its own; CLOSES, what it does at its end; AT_IMPORT, whether
importing it enqueues; SPOOL, the directory of its spool, if it has one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ringdispatch import BackgroundDispatcher, Bytes, Objects

FIRST = ("/0", "/1", "/2")  # settled by a flush
LAST = ("/3", "/4", "/5")  # pending when the end comes
PAUSE = 0.005  # seconds between two entries of traffic

CLOSES = os.environ.get("CLOSES", "")
SPOOL = os.environ.get("SPOOL")
CALL_SECONDS = float(os.environ.get("CALL_SECONDS", "0.01"))


def note(*words: object) -> None:
    lines = "".join(f"{os.getpid()} {word}\n" for word in words)
    path = os.environ["RECORD"]
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, lines.encode())  # one write: processes don't interleave
    os.close(descriptor)


async def send(batch: Iterable[Any]) -> None:
    answer = asyncio.sleep(CALL_SECONDS)  # as of an HTTP client
    await (asyncio.gather(answer) if "WAITS_IN_TASK" in os.environ else answer)
    note(*batch if SPOOL is None else map(bytes.decode, batch))


dispatcher = BackgroundDispatcher[str](
    send,
    name="send",
    layout=Objects() if SPOOL is None else Bytes(str.encode, spool=SPOOL),
    ms_delay=float(os.environ.get("MS_DELAY", "60_000")),
    max_batch=int(os.environ.get("MAX_BATCH", "65_536")),
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


def traffic() -> Iterator[None]:
    """Enqueue an entry a step, without end, and note each that was accepted."""
    for number in itertools.count():
        if dispatcher.enqueue(f"/{number}"):
            note(f"+/{number}")
        yield


async def produce(stop: asyncio.Event) -> None:
    for _ in traffic():
        if stop.is_set():
            break
        await asyncio.sleep(PAUSE)


# ---- web servers: each answer is the pid of the worker, 503 where it refuses the entry


def wsgi(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    # Under gevent the dispatcher's own loop is in this thread. Django looks for one.
    assert asyncio._get_running_loop() is None
    accepted = dispatcher.flush() if path == "/flush" else dispatcher.enqueue(path)
    body = str(os.getpid()).encode()
    status = "200 OK" if accepted else "503 Service Unavailable"
    start_response(status, [("content-length", str(len(body)))])
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
    path = scope["path"]
    accepted = (
        await dispatcher.aflush() if path == "/flush" else dispatcher.enqueue(path)
    )
    status = 200 if accepted else 503
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# ---- scripts


def script(end: str) -> None:
    if CLOSES == "sys.exit":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if end == "traffic":
        for _ in traffic():
            time.sleep(PAUSE)
    enqueue_all()
    while end == "signal":
        signal.pause()


async def main(end: str) -> None:
    stop = asyncio.Event()
    if CLOSES == "handler":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with dispatcher:
            await fill(end, stop)
    else:
        await fill(end, stop)


async def recover(folder: Path) -> None:
    """Dispatch what the processes before have left, until no file but ours is there."""
    async with dispatcher:
        while has_several(folder):  # noqa: ASYNC110, nothing notifies
            await asyncio.sleep(0.01)


def has_several(folder: Path) -> bool:
    return len(list(folder.iterdir())) > 1


async def fill(end: str, stop: asyncio.Event) -> None:
    if end == "traffic":
        await produce(stop)
        return
    await aenqueue_all()
    if end == "signal":
        await stop.wait()


if __name__ == "__main__":
    kind, end = sys.argv[1:]
    if kind == "script":
        script(end)
    elif kind == "recover":
        asyncio.run(recover(Path(end, "send")))
    else:
        asyncio.run(main(end))
