"""What is drawn for each process of stress/kill.py, and the memory that it shares."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import mmap
import signal
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

NAMES = ["audit", "billing"]  # of the dispatchers of a process
PRODUCERS = 2  # for each of these
BURST = 20
MAIN = PRODUCERS * len(NAMES)  # what the main thread enqueues itself
STAGE = MAIN + 1
WORDS = STAGE + 1
# Values of the word at STAGE.
IMPORTING, MAKING, READY, CLOSING = range(4)

POISON = b"poison"  # whose process dies in its call
DIED = "process died five times"  # of a batch that nothing calls for any more
FORKS = ["os.fork", "fork", "_Fork"]
# Each process takes the next of these, shuffled anew each time; "left" is not killed,
# and its close can't wait for its sink.
MOMENTS = ["start", "traffic", "traffic", "recovery", "recovery", "letter", "letter"]
MOMENTS += ["close", "close", "term", "left"]
POISON_EVERY = 40  # processes, one is killed by an entry of its own
ENDINGS = ["close", "close", "with", "exit"]
LONGEST = 0.6  # seconds of traffic where the moment does not come
FASTEST = 2e-6

# What a process does after all else: this is imported before ringdispatch, whose own
# part of the exit comes first.
at_exit = contextlib.ExitStack()
atexit.register(at_exit.close)


@dataclass(frozen=True)
class Plan:
    """One process: what it does, and when it is killed."""

    number: str
    names: tuple[str, ...] = tuple(NAMES)
    sink: str = "good"
    max_in_flight: int = 1
    # Producers pause only where there is no room: most kills are amid an enqueue.
    is_busy: bool = False
    entry_bytes: int = 200  # at most
    moment: str = "last"  # or one of MOMENTS, or "poison"
    at: int = 0  # the how manieth recovered, or failing, call
    traffic: float = 0.0  # seconds, from when it is ready to what is next
    after: float = 0.0  # seconds, from the moment to SIGKILL
    ending: str = "close"  # or "with", or "exit"
    close_seconds: float = 5.0
    fork: str = ""  # or one of FORKS
    fork_after: float = 0.0
    child_after: float = 0.0  # seconds until the child is no more
    child_exits: bool = False  # by os._exit, or it is killed

    @property
    def max_bytes(self) -> int:
        """Of each ring: entries are refused for their bytes, or for their number."""
        return 100 * max(self.entry_bytes, 2000)

    @property
    def child(self) -> Plan:
        """The plan of its forked child."""
        return replace(self, number=f"{self.number}f", moment="child")

    def dumps(self) -> str:
        """The plan, for the command line of its process."""
        return json.dumps(asdict(self))


def loads(text: str) -> Plan:
    """Read what dumps() has written."""
    return Plan(**json.loads(text))


class Drawer:
    """Draws plans from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self._moments: list[str] = []
        self._forks: list[str] = []

    def plan(self, number: int) -> Plan:
        """The next process."""
        drawn = self.random
        if not self._moments:
            self._moments = drawn.sample(MOMENTS, len(MOMENTS))
        moment = self._moments.pop()
        if number % POISON_EVERY == 10:
            moment = "poison"
        is_busy = drawn.random() < 0.5
        sink = drawn.choice(["good", "good", "slow", "hanging", "failing"])
        if moment == "letter":
            sink = "failing"
        elif moment == "left":
            sink = "hanging"
        elif moment in {"close", "term"}:
            sink = drawn.choice(["good", "slow", "slow", "hanging", "failing"])
        fork = ""
        if moment in {"traffic", "close", "term"} and drawn.random() < 0.8:
            if not self._forks:
                self._forks = drawn.sample(FORKS, len(FORKS))
            fork = self._forks.pop()
        least = 0.1 if moment == "left" else 0.05 if fork else 0.0
        traffic = drawn.uniform(least, max(least, drawn.choice([0.01, 0.1, 0.4])))
        return Plan(
            str(number),
            names=tuple(drawn.choice([NAMES, NAMES[:1]])),
            sink=sink,
            max_in_flight=drawn.choice([1, 1, 4]),
            is_busy=is_busy,
            # Dead letters have their limit.
            entry_bytes=200 if sink == "failing" or not is_busy else 20_000,
            moment=moment,
            at=drawn.randint(1, 3),
            traffic=traffic,
            after=self._after(moment),
            ending=drawn.choice(ENDINGS) if moment == "close" else "close",
            close_seconds=drawn.choice([0.01, 0.1]),
            fork=fork,
            fork_after=drawn.uniform(0.1, 0.5) * traffic,
            child_after=drawn.uniform(drawn.choice([0.002, 0.03, 0.03]), 0.2),
            child_exits=drawn.random() < 0.5,
        )

    def _after(self, moment: str) -> float:
        longest = {
            "start": [0.001, 0.004],
            "recovery": [0.0005, 0.005],
            "letter": [0.00005, 0.0001, 0.0003],
            "close": [0.0005, 0.005, 3.0, 3.0],
            "term": [0.002, 0.05, 3.0],  # the grace
        }
        return self.random.uniform(
            0, self.random.choice(longest.get(moment, [FASTEST]))
        )


class Shared:
    """Words that the harness reads once the process is dead."""

    def __init__(self, folder: Path, number: str) -> None:
        path = folder / f"shared.{number}"
        with path.open("w+b" if not path.exists() else "r+b") as opened:
            opened.truncate(8 * WORDS)
            self._map = mmap.mmap(opened.fileno(), 8 * WORDS)
        self.words = memoryview(self._map).cast("Q")

    @property
    def stage(self) -> int:
        """How far it has come."""
        return self.words[STAGE]

    @stage.setter
    def stage(self, stage: int) -> None:
        self.words[STAGE] = stage


class _Event(ctypes.Structure):
    """A sigevent of timer_create(2)."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),  # 0: by the signal
        ("rest", ctypes.c_char * 48),
    )


_libc = ctypes.CDLL(None, use_errno=True)


def send_after(number: signal.Signals, seconds: float) -> None:
    """Have the kernel send this process a signal, whatever instruction it is at."""
    event, timer = _Event(None, number, 0), ctypes.c_void_p()
    created = _libc.timer_create(
        time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)
    )
    whole, part = divmod(max(seconds, FASTEST), 1)
    spec = (ctypes.c_long * 4)(0, 0, int(whole), int(part * 1e9))
    if created or _libc.timer_settime(timer, 0, ctypes.byref(spec), None):
        raise OSError(ctypes.get_errno(), "no timer")
