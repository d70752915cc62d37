"""What one `dispatcher.enqueue(entry)` costs, beside `collections.deque.append`.

    python benchmarks/enqueue_price.py [--check] [--json FILE]

Counts instructions with callgrind, collected around the loop alone, the empty loop's
own taken off; every case in a process of its own. Instruction counts hold still on a
noisy machine, where times do not. Without valgrind or a C compiler it says so and gives
ratios of nanoseconds. `--check` exits with 1 where a ratio is above its limit.

The entry stays referenced elsewhere, so that freeing it is not charged to anyone.
"""

import argparse
import asyncio
import collections
import ctypes
import json
import os
import platform
import queue
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

CALLS = 20_000
ENTRY = {"message": "new request", "id": 1}
CONTEXT = object()
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# Switches callgrind's collection from within the measured process.
TOGGLE_C = """
#include <valgrind/callgrind.h>
void toggle(void) { CALLGRIND_TOGGLE_COLLECT; }
"""

Loop = Callable[[], None]


def dispatcher(**options: object):
    """A dispatcher with its window open and an hour until it is due."""
    from ringdispatch import BackgroundDispatcher

    async def send(entries: list[object]) -> None:
        pass

    made = BackgroundDispatcher(
        send, ms_delay=3_600_000, **{"capacity": 4 * CALLS, **options}
    )
    made.enqueue(ENTRY)
    return made


def full(**options: object):
    """A dispatcher whose ring is full; a batch of its size is never reached again."""
    made = dispatcher(capacity=1024, **options)
    made.ring.reserve(1)  # the only place is taken, so nothing leaves the ring
    while made.pending < 1024:
        made.enqueue(ENTRY)
    for _ in range(64):  # the first drops announce themselves
        made.enqueue(ENTRY)
    time.sleep(0.1)
    return made


def bare_loop() -> Loop:
    def run() -> None:
        for _ in repeat(None, CALLS):
            pass

    return run


def appending(sink: object, method: str) -> Loop:
    """A loop of `sink.method(entry)`, the look-up included, as callers write it."""
    names: dict[str, object] = {"repeat": repeat, "CALLS": CALLS}
    exec(  # the method's name must stand in the code for the interpreter to specialise
        f"def run(sink, entry):\n"
        f"    for _ in repeat(None, CALLS):\n"
        f"        sink.{method}(entry)\n",
        names,
    )
    run = names["run"]
    return lambda: run(sink, ENTRY)


def with_context(by_keyword: bool) -> Loop:
    sink = dispatcher()
    entry, context = ENTRY, CONTEXT

    def positional() -> None:
        for _ in repeat(None, CALLS):
            sink.enqueue(entry, context)

    def keyword() -> None:
        for _ in repeat(None, CALLS):
            sink.enqueue(entry, context=context)

    return keyword if by_keyword else positional


def subclassed(*, slots: bool) -> Loop:
    from ringdispatch import BackgroundDispatcher

    class Slim(BackgroundDispatcher):
        __slots__ = ()

    class Usual(BackgroundDispatcher):
        pass

    Own = Slim if slots else Usual  # noqa: N806

    async def send(entries: list[object]) -> None:
        pass

    sink = Own(send, ms_delay=3_600_000, capacity=4 * CALLS)
    sink.enqueue(ENTRY)
    return appending(sink, "enqueue")


CASES: dict[str, Callable[[], Loop]] = {
    "empty loop": bare_loop,
    "deque.append": lambda: appending(collections.deque(), "append"),
    "SimpleQueue.put": lambda: appending(queue.SimpleQueue(), "put"),
    "asyncio.Queue.put_nowait": lambda: appending(asyncio.Queue(), "put_nowait"),
    "enqueue(entry)": lambda: appending(dispatcher(), "enqueue"),
    "enqueue(entry), own subclass": lambda: subclassed(slots=True),
    "enqueue(entry), subclass with dict": lambda: subclassed(slots=False),
    "enqueue(entry, context)": lambda: with_context(by_keyword=False),
    "enqueue(entry, context=context)": lambda: with_context(by_keyword=True),
    "full, drop_newest": lambda: appending(full(on_full="drop_newest"), "enqueue"),
    "full, drop_oldest": lambda: appending(full(on_full="drop_oldest"), "enqueue"),
}

# (case, measured against, limit with the GIL, limit free-threaded)
LIMITS = [
    ("enqueue(entry)", "deque.append", 1.30, 1.55),
    ("enqueue(entry), own subclass", "deque.append", 1.30, 1.55),
    ("enqueue(entry, context)", "deque.append", 1.75, 2.0),
    ("full, drop_newest", "enqueue(entry)", 1.5, 1.5),
    ("full, drop_oldest", "enqueue(entry)", 2.0, 2.0),
]


def child(case: str, toggle: str | None) -> None:
    """Run one case and leave without any teardown."""
    loop = CASES[case]()
    loop()  # warms up: the interpreter specialises its instructions
    if toggle is None:
        best = min(timed(CASES[case]()) for _ in range(15))
        print(best / CALLS)
    else:
        loop = CASES[case]()
        switch = ctypes.CDLL(toggle).toggle
        switch()
        loop()
        switch()
    sys.stdout.flush()
    os._exit(0)


def timed(loop: Loop) -> int:
    start = time.perf_counter_ns()
    loop()
    return time.perf_counter_ns() - start


def instructions(case: str, toggle: str, folder: Path) -> float:
    """Instructions per call of `case`, from callgrind."""
    out = folder / "callgrind.out"
    subprocess.run(
        [
            "valgrind",
            "--tool=callgrind",
            "--collect-atstart=no",
            f"--callgrind-out-file={out}",
            *(sys.executable, __file__, "--case", case, "--toggle", toggle),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    totals = next(
        line for line in out.read_text().splitlines() if line.startswith("totals:")
    )
    return int(totals.split()[1]) / CALLS


def nanoseconds(case: str) -> float:
    """Nanoseconds per call of `case`, the best of fifteen loops."""
    run = subprocess.run(
        [sys.executable, __file__, "--case", case],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(run.stdout)


def measure() -> tuple[str, dict[str, float]]:
    """The unit that could be measured, and the price of each case in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toggle = build_toggle(folder)
        if toggle is None:
            prices = {case: nanoseconds(case) for case in CASES}
        else:
            prices = {case: instructions(case, toggle, folder) for case in CASES}
    loop = prices.pop("empty loop")
    unit = "ns" if toggle is None else "instructions"
    return unit, {case: price - loop for case, price in prices.items()}


def build_toggle(folder: Path) -> str | None:
    """The compiled switch, or None (and a line that says why) where it can't be had."""
    compiler = shutil.which("cc")
    if shutil.which("valgrind") is None or compiler is None:
        print(
            "valgrind or a C compiler is missing: nanoseconds instead of instructions"
        )
        return None
    source, library = folder / "toggle.c", folder / "toggle.so"
    source.write_text(TOGGLE_C)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True
    )
    return str(library)


def main() -> int:
    """Measure, print the table, and check the limits where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail above a limit")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--toggle", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        child(options.case, options.toggle)

    unit, prices = measure()
    build = "free-threaded" if FREE_THREADED else "GIL"
    version = platform.python_version()
    print(f"CPython {version} ({build}), {platform.machine()}: {unit} per call")
    for case, price in prices.items():
        ratio = price / prices["deque.append"]
        print(f"  {case:<36}{price:8.0f}   {ratio:5.2f} of deque.append")
    failed = 0
    print("limits")
    for case, base, gil, free in LIMITS:
        limit = free if FREE_THREADED else gil
        ratio = prices[case] / prices[base]
        verdict = "met" if ratio <= limit else "NOT MET"
        failed += ratio > limit
        print(f"  {case:<36}{ratio:8.2f}   of {base}, limit {limit:.2f}: {verdict}")
    if options.json:
        figures = {"python": version, "build": build, "unit": unit, "prices": prices}
        options.json.write_text(json.dumps(figures, indent=2))
    return 1 if options.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())
