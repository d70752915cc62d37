"""Processes that are killed while they spool, and the command that looks after it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from serving import FOREGROUND

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 20.0
ENTRIES = 100
AUDIT = ("audit", b"\n")
METER = ("meter", b"|")
TAKEN = 10  # of these, by the call that goes on for ever

# A service: its function takes the first batch, and no more.
SERVICE = f"""
import threading, time
from ringdispatch import BackgroundDispatcher, Bytes

def hang(batch):
    called.release()
    time.sleep(1000)

called = threading.Semaphore(0)
kept = []
for name, separator in {{services}}:
    layout = Bytes(spool="spool", separator=separator, max_bytes=20_000)
    kept.append(BackgroundDispatcher(
        hang, ms_delay=60_000, capacity=500, max_batch={TAKEN}, name=name,
        layout=layout))
    for number in range({ENTRIES}):
        assert kept[-1].enqueue(b"%s-%d" % (name.encode(), number))
for _ in kept:
    called.acquire()
print("ready", flush=True)
time.sleep(1000)
"""

# What an operator names by --to; each call is noted, a line of JSON.
FUNCTIONS = """
import asyncio, json, os, time
from ringdispatch import current_batch
from ringdispatch.sinks import SqliteSink

sqlite = SqliteSink("arrived.db", "audit")
not_callable = 7

def note(batch, **more):
    info = current_batch()
    known = dict(id=info.id, attempts=info.attempts, start=info.start, count=info.count,
                 recovered=info.recovered, entries=[each.decode() for each in batch])
    with open("arrived", "a") as file:
        file.write(json.dumps(known | more) + "\\n")

def plain(batch):
    note(batch)

calls = 0

def third_waits(batch):
    global calls
    note(batch)
    calls += 1
    while calls == 3 and not os.path.exists("go"):
        time.sleep(0.005)

def hang(batch):
    note(batch)
    time.sleep(1000)

async def hang_async(batch):
    note(batch)
    await asyncio.sleep(1000)

async def send(batch):
    await asyncio.sleep(0)
    note(batch, payload=batch.payload.decode())

def returns_coroutine(batch):
    return send(batch)

def refuse_first(batch):
    if current_batch().start == 0:
        raise ConnectionError("no\\nroute")
    note(batch)

def leaves(batch):
    raise SystemExit("enough")

def generates(batch):
    yield

def returns_generator(batch):
    return (each for each in batch)

def returns_async_generator(batch):
    async def generate():
        yield
    return generate()

class Sink:
    def prepare(self, layout, timeout):
        self.say("prepare", layout.separator.decode(), timeout)
        if layout.separator == b"|" and os.environ.get("REFUSE"):
            raise ValueError("no lines of these")
    def say(self, *words):
        with open("sink", "a") as file:
            print(*words, file=file)
    async def __call__(self, batch):
        self.say("call", len(batch))
    async def aclose(self):
        self.say("aclose")
        raise RuntimeError("broken pipe")

sink = Sink()
"""


START = [sys.executable, "-I", "-S", "-c", FOREGROUND, "-m", "ringdispatch"]


class Ended(NamedTuple):
    """How the command ended."""

    status: int
    out: list[str]
    err: list[str]


@contextmanager
def serving(
    folder: Path, *services: tuple[str, bytes]
) -> Iterator[subprocess.Popen[str]]:
    """A process with such dispatchers, in folder/spool; killed at the end."""
    program = SERVICE.format(services=list(services))
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()
            yield process
        finally:
            process.kill()


def make_killed(folder: Path, *services: tuple[str, bytes]) -> None:
    """What a process with such dispatchers leaves when it is killed."""
    with serving(folder, *services):
        pass
    (folder / "functions.py").write_text(FUNCTIONS)


def start(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command."""
    return subprocess.Popen(
        [*START, "spool", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def end(process: subprocess.Popen[str]) -> Ended:
    """Wait for its end."""
    with process:
        try:
            out, err = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"hung\n{out}\n{err}") from None
    return Ended(process.returncode, out.splitlines(), err.splitlines())


def run(folder: Path, *arguments: str, **options: Any) -> Ended:
    """Run the command."""
    return end(start(folder, *arguments, **options))


def replay(folder: Path, function: str, *more: str) -> Ended:
    """Replay all that is in folder/spool."""
    return run(folder, "replay", "--to", f"functions:{function}", *more, "spool")


def arrived(folder: Path) -> list[dict[str, Any]]:
    """The calls so far."""
    path = folder / "arrived"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def entries(folder: Path) -> list[str]:
    """The entries of all calls."""
    return [entry for call in arrived(folder) for entry in call["entries"]]


def expected(*names: str) -> list[str]:
    """What was accepted under those names."""
    return [f"{name}-{number}" for name in names for number in range(ENTRIES)]


def files(folder: Path) -> list[Path]:
    """What is in the spool."""
    return sorted(path for path in (folder / "spool").rglob("*") if path.is_file())


def wait_for_calls(folder: Path, count: int) -> None:
    """Wait until the function was called so often."""
    deadline = time.monotonic() + SECONDS
    while len(arrived(folder)) < count:
        assert time.monotonic() < deadline, "it is not called"
        time.sleep(0.005)


def rows(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
