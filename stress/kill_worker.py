"""One process of stress/kill.py: it accepts, dispatches, and is killed.

    python stress/kill_worker.py FOLDER NUMBER SINK MAX_IN_FLIGHT

Its producers count what was accepted in memory that it shares with the harness; its
sink notes each call in a file before anything else. With NUMBER 0 it produces nothing,
dispatches what the others have left, and closes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import mmap
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ringdispatch import BackgroundDispatcher, Bytes, current_batch

PRODUCERS = 2
BURST = 20
PAUSE = 0.001
LAST_SECONDS = 60.0
NAME = "audit"


class Noting:
    """Notes each batch, does what the sink's kind says, and notes that it is done."""

    def __init__(self, folder: Path, number: int, kind: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(folder / f"calls.{number}", flags, 0o600)
        self._kind = kind
        self._calls = itertools.count()

    async def __call__(self, batch: Any) -> None:
        info = current_batch()
        assert info is not None
        entries = b",".join(entry.split()[0] for entry in batch)
        about = f"call {info.id} {int(info.recovered)} {info.attempts} "
        self._note(about.encode() + entries)
        call = next(self._calls)
        if self._kind == "slow":
            await asyncio.sleep(0.02)
        elif self._kind == "hanging" and call == 3:
            await asyncio.sleep(3600)
        elif self._kind == "failing" and call % 3 == 0:
            self._note(b"done " + info.id.encode())
            raise ConnectionError("drawn")
        # Nothing else runs on this thread until the batch is settled.
        self._note(b"done " + info.id.encode())

    def _note(self, what: bytes) -> None:
        line = what + b" .\n"
        if os.write(self._file, line) < len(line):
            raise OSError("the note was cut short")


def produce(
    dispatcher: BackgroundDispatcher[bytes], accepted: memoryview, name: str, which: int
) -> None:
    """Enqueue in bursts for ever, and count what was accepted after it was."""
    padding = b"x" * 200
    number = 0
    while True:
        for _ in range(BURST):
            entry = f"{name}.{which}.{number} ".encode() + padding[: number % 200]
            if dispatcher.enqueue(entry):
                number += 1
                accepted[which] = number
        time.sleep(PAUSE)


def made(folder: Path, sink: Noting, max_in_flight: int) -> BackgroundDispatcher[bytes]:
    """The dispatcher of each process."""
    return BackgroundDispatcher(
        sink,
        layout=Bytes(spool=folder / "spool", max_bytes=200_000),
        name=NAME,
        home="thread",
        ms_delay=2,
        capacity=1000,
        max_batch=100,
        max_in_flight=max_in_flight,
        dispatch_timeout=None,
    )


def recover(folder: Path, dispatcher: BackgroundDispatcher[bytes]) -> None:
    """Dispatch what is left until there is no other file; then close."""
    deadline = time.monotonic() + LAST_SECONDS
    files = folder / "spool" / NAME
    number = 0
    while len(list(files.glob("*.spool"))) > 1:
        assert time.monotonic() < deadline, sorted(files.iterdir())
        assert dispatcher.enqueue(b"0.0.%d" % number)  # a window looks for files
        number += 1
        time.sleep(0.05)
    assert dispatcher.close()
    seen = dispatcher.statistics()
    assert seen.accepted == seen.dispatched == number, seen
    assert seen.recovered_failed == 0, seen
    print(number, seen.recovered, flush=True)


def main() -> None:
    """Run until it is killed; the last, until nothing is left."""
    folder, name, kind, max_in_flight = Path(sys.argv[1]), *sys.argv[2:]
    logging.basicConfig(filename=folder / f"log.{name}", level=logging.INFO)
    dispatcher = made(folder, Noting(folder, int(name), kind), int(max_in_flight))
    if name == "0":
        recover(folder, dispatcher)
        return
    with (folder / f"accepted.{name}").open("r+b") as opened:
        accepted = memoryview(mmap.mmap(opened.fileno(), 8 * PRODUCERS)).cast("Q")
    for which in range(PRODUCERS):
        threading.Thread(
            target=produce, args=(dispatcher, accepted, name, which), daemon=True
        ).start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
