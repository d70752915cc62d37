"""One process of stress/kill.py: it accepts, dispatches, and dies.

    python stress/kill_worker.py FOLDER PLAN

Its producers count what was accepted in memory that it shares with the harness; its
sink notes each call in a file before anything else. It has its own end sent by a timer
of the kernel's, which no thread of it can put off. The last process produces little,
dispatches what the others have left, and closes.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from kill_plan import (
    BURST,
    CLOSING,
    DIED,
    LONGEST,
    MAIN,
    MAKING,
    NAMES,
    POISON,
    PRODUCERS,
    READY,
    Plan,
    Shared,
    at_exit,
    loads,
    send_after,
)
from ringdispatch import BackgroundDispatcher, Bytes, _recovery, current_batch

PAUSE = 0.001
LAST_PAUSE = 0.02
FULL_PAUSE = 0.0002
QUIET_SECONDS = 0.01
LAST_SECONDS = 60.0
PADDING = b"x" * 20_000

# A process lives for less than a second here.
_recovery._PAUSES.update({2: 0.005, 3: 0.01, 4: 0.02})


class Notes:
    """Lines in a file, each by one write(2)."""

    def __init__(self, folder: Path, number: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(folder / f"calls.{number}", flags, 0o600)

    def add(self, *words: str | bytes) -> None:
        """Add a line; what is cut short by the end of the process lacks its dot."""
        encoded = [word.encode() if isinstance(word, str) else word for word in words]
        line = b" ".join([*encoded, b".\n"])
        if os.write(self._file, line) < len(line):
            raise OSError("the note was cut short")


class Process:
    """This process, or after a fork the child; all of its threads use it."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.become(plan)
        self.going = threading.Event()
        self.going.set()
        self.over = threading.Event()
        self.threads: list[threading.Thread] = []

    def become(self, plan: Plan) -> None:
        """Be that process from now on."""
        self.plan = plan
        self.notes = Notes(self.folder, plan.number)
        self.shared = Shared(self.folder, plan.number)
        self.recovered = itertools.count(1)
        self.failed = itertools.count(1)

    def moment_comes(self, moment: str, number: int) -> None:
        """Have this process killed where that is its moment."""
        if self.plan.moment == moment and self.plan.at == number:
            send_after(signal.SIGKILL, self.plan.after)

    def closes(self) -> None:
        """Note that from now on what is in flight may be left."""
        self.shared.stage = CLOSING
        self.notes.add("closes")

    # ---- accepting

    def produce(self, dispatcher: BackgroundDispatcher[bytes], which: int) -> None:
        """Enqueue in bursts, and count what was accepted after it was."""
        number = 0
        pause = LAST_PAUSE if self.plan.moment == "last" else PAUSE
        while not self.over.is_set():
            self.going.wait()
            for _ in range(BURST):
                if not self.enqueue(dispatcher, which, number):
                    time.sleep(FULL_PAUSE)
                    break
                number += 1
            if not self.plan.is_busy:
                time.sleep(pause)

    def enqueue(
        self, dispatcher: BackgroundDispatcher[bytes], which: int, number: int
    ) -> bool:
        """Enqueue that thread's next entry; whether it was accepted."""
        rest = PADDING[: number * 7 % self.plan.entry_bytes]
        if self.plan.moment == "poison" and (which, number) == (0, 30):
            rest = POISON
        entry = f"{self.plan.number}.{which}.{number} ".encode() + rest
        accepted = dispatcher.enqueue(entry)
        if accepted:
            self.shared.words[which] = number + 1
        return accepted


class Sink:
    """Notes each batch, does what the sink's kind says, and notes how it ended."""

    def __init__(self, process: Process, name: str) -> None:
        self._process = process
        self._name = name
        self._calls = itertools.count(1)

    async def __call__(self, batch: Any) -> None:
        process, info = self._process, current_batch()
        assert info is not None
        notes, kind = process.notes, process.plan.sink
        entries = list(batch)
        notes.add(
            "call",
            info.id,
            str(time.monotonic_ns()),
            self._name,
            str(int(info.recovered)),
            str(info.attempts),
            b",".join(entry[: entry.index(b" ")] for entry in entries),
        )
        if any(entry.endswith(POISON) for entry in entries):
            os.kill(os.getpid(), signal.SIGKILL)
        if info.recovered:
            process.moment_comes("recovery", next(process.recovered))
            if process.plan.moment == "recovery":
                await asyncio.sleep(0.001)
        call = next(self._calls)
        if kind == "slow":
            await asyncio.sleep(0.02)
        elif kind == "hanging" and call == 4:
            await asyncio.sleep(3600)
        elif kind == "failing" and call % 3 == 0:
            notes.add("fail", info.id)
            process.moment_comes("letter", next(process.failed))
            raise ConnectionError("drawn")
        # Nothing else runs on this thread until the batch is settled.
        notes.add("done", info.id)

    def on_error(self, error: BaseException, batch: Any) -> None:
        """Note a failure without a call: the batch's processes have died of it."""
        if DIED in str(error):
            self._process.notes.add("died", self._name, str(len(batch)))


def made(process: Process, name: str) -> BackgroundDispatcher[bytes]:
    """Make a dispatcher, as each process has."""
    sink = Sink(process, name)
    return BackgroundDispatcher(
        sink,
        on_error=sink.on_error,
        layout=Bytes(spool=process.folder / "spool", max_bytes=process.plan.max_bytes),
        name=name,
        home="thread",
        ms_delay=2,
        capacity=1000,
        max_batch=100,
        max_in_flight=process.plan.max_in_flight,
        dispatch_timeout=None,
    )


# ---- forks


def fork(process: Process, dispatchers: list[BackgroundDispatcher[bytes]]) -> None:
    """Fork while a window is open; the child accepts entries of its own, and dies."""
    plan, code = process.plan, ctypes.PyDLL(None)
    if plan.fork != "os.fork":
        # Python knows of no fork in C: no thread may want the GIL.
        process.going.clear()
        time.sleep(QUIET_SECONDS)
    process.enqueue(dispatchers[0], MAIN, 0)
    pid = os.fork() if plan.fork == "os.fork" else getattr(code, plan.fork)()
    if pid < 0:
        raise OSError(f"{plan.fork} failed")
    if pid == 0:
        live_as_child(process, dispatchers)
    process.going.set()


def live_as_child(
    process: Process, dispatchers: list[BackgroundDispatcher[bytes]]
) -> NoReturn:
    """What a forked child does until its end."""
    by, seconds = process.plan.fork, process.plan.child_after
    if not process.plan.child_exits:
        send_after(signal.SIGKILL, seconds)
        seconds = 3600.0
    process.become(process.plan.child)
    process.shared.stage = READY
    until = time.monotonic() + seconds
    numbers = [0] * len(dispatchers)
    used = dispatchers if by != "_Fork" else []  # of which no handler knows
    while True:
        for which, dispatcher in enumerate(used):
            accepted = process.enqueue(dispatcher, which * PRODUCERS, numbers[which])
            numbers[which] += accepted
        if time.monotonic() > until:
            os._exit(0)
        time.sleep(PAUSE)


# ---- ends


def note_books(
    process: Process, dispatchers: list[BackgroundDispatcher[bytes]]
) -> None:
    """Note the statistics, after everything else."""
    process.over.set()
    for thread in process.threads:
        if thread.is_alive():  # else SIGTERM came before it began
            thread.join()
    for name, dispatcher in zip(NAMES, dispatchers, strict=False):
        seen = json.dumps(asdict(dispatcher.statistics()), separators=(",", ":"))
        process.notes.add("books", name, seen)


def recover(folder: Path, dispatcher: BackgroundDispatcher[bytes], name: str) -> None:
    """Wait until there is no file but this process's own."""
    deadline = time.monotonic() + LAST_SECONDS
    files = folder / "spool" / name
    while len(list(files.glob("*.spool"))) > 1:
        assert time.monotonic() < deadline, sorted(files.iterdir())
        time.sleep(0.02)  # meanwhile windows look for files


def close(process: Process, dispatchers: list[BackgroundDispatcher[bytes]]) -> None:
    """Close as planned, to be killed amid that."""
    process.closes()
    if process.plan.moment == "close":
        send_after(signal.SIGKILL, process.plan.after)
    if process.plan.ending == "exit":
        return  # at exit they are closed
    for dispatcher in dispatchers:
        if process.plan.ending == "close":
            dispatcher.close(process.plan.close_seconds)
        else:
            with dispatcher:
                pass


def terminated(process: Process) -> NoReturn:
    """End as services do at SIGTERM; its handler."""
    process.closes()
    raise SystemExit(0)


def main() -> None:
    """Run as planned."""
    folder, plan = Path(sys.argv[1]), loads(sys.argv[2])
    logging.basicConfig(filename=folder / f"log.{plan.number}", level=logging.INFO)
    process = Process(folder, plan)
    dispatchers: list[BackgroundDispatcher[bytes]] = []
    at_exit.callback(note_books, process, dispatchers)
    process.shared.stage = MAKING
    if plan.moment == "start":
        send_after(signal.SIGKILL, plan.after)
    dispatchers += [made(process, name) for name in plan.names]
    process.shared.stage = READY
    if plan.moment != "last":
        longest = LONGEST if plan.moment in {"recovery", "letter"} else 5.0
        kill_after = plan.traffic if plan.moment == "traffic" else longest
        send_after(signal.SIGKILL, kill_after)
    if plan.moment == "term":
        signal.signal(signal.SIGTERM, lambda *_: terminated(process))
        send_after(signal.SIGTERM, plan.traffic)
        send_after(signal.SIGKILL, plan.traffic + plan.after)
    for number, dispatcher in enumerate(dispatchers):
        for which in range(number * PRODUCERS, (number + 1) * PRODUCERS):
            thread = threading.Thread(
                target=process.produce, args=(dispatcher, which), daemon=True
            )
            process.threads.append(thread)
            thread.start()
    if plan.moment == "last":
        for name, dispatcher in zip(plan.names, dispatchers, strict=True):
            recover(folder, dispatcher, name)
        process.over.set()
    elif plan.fork:
        time.sleep(plan.fork_after)
        fork(process, dispatchers)
    if plan.moment in {"close", "left"}:
        time.sleep(max(plan.traffic - plan.fork_after, 0))
    elif plan.moment != "last":
        threading.Event().wait()
    close(process, dispatchers)


if __name__ == "__main__":
    main()
