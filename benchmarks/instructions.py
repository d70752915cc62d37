"""Counts the instructions of a loop, by callgrind, collected around the loop alone.

Every case runs in a process of its own. Instruction counts hold still on a noisy
machine, where times do not. Without valgrind or a C compiler the price is in
nanoseconds, the best of fifteen loops.
"""

import argparse
import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

CALLS = 20_000

# Switches callgrind's collection, of this thread alone, from the measured process.
# Nothing is instrumented before: the imports would take most of the time.
TOGGLE_C = """
#include <valgrind/callgrind.h>
void toggle(void) {
    static int on;
    if ((on = !on)) CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_TOGGLE_COLLECT;
    if (!on) CALLGRIND_STOP_INSTRUMENTATION;
}
"""

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

Loop = Callable[[], None]
Cases = Mapping[str, Callable[[], Loop]]
# A case, what it is measured against, and the highest ratio: with the GIL, and without;
# None where that has no limit.
Limit = tuple[str, str, float, float | None]
# Measures what is not counted, and prints it: figures by name, for the file of --json,
# and how many limits they don't meet. Its argument says whether they are for a file.
More = Callable[[bool], tuple[dict[str, Any], int]]


def bare_loop(rounds: int = CALLS) -> Loop:
    """A loop that does nothing."""

    def run() -> None:
        for _ in repeat(None, rounds):
            pass

    return run


# In one process of four CPython 3.11 takes 80 instructions more for each call of a
# subclass's method, and in the others none; what is above its limit is counted again.
MORE_TRIES = 3
EMPTY = "empty loop"


def calling(call: str, rounds: int = CALLS, /, **names: object) -> Loop:
    """A loop of `call`, an expression over `names`, as callers write it."""
    code = f"def run({', '.join(names)}):\n    for _ in repeat(None, ROUNDS):\n"
    scope: dict[str, object] = {"repeat": repeat, "ROUNDS": rounds}
    # The names must stand in the code for the interpreter to specialise.
    exec(f"{code}        {call}\n", scope)
    run = scope["run"]
    return lambda: run(**names)


def serve(cases: Cases) -> None:
    """Run the one case that this process was started for, and leave; else return."""
    if sys.argv[1:2] == ["--case"]:
        _child({EMPTY: bare_loop, **cases}[sys.argv[2]], *sys.argv[3:])


def compare(
    about: str,
    cases: Cases,
    base: str,
    limits: Sequence[Limit],
    more: More | None = None,
    *,
    rounds: int = CALLS,
) -> int:
    """What a script does that measures prices; returns its exit status.

    Args:
        about: The script's docstring.
        cases: What to measure.
        base: The case that the table's ratios are to.
        limits: What must hold.
        more: What else is measured.
        rounds: Of a case's loop.
    """
    cases = {EMPTY: partial(bare_loop, rounds), **cases}
    serve(cases)
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="only what has a limit; fail above one"
    )
    parser.add_argument("--json", type=Path, help="write the figures here, all of them")
    options = parser.parse_args()

    if options.check and not options.json:
        limited = {EMPTY, base, *(each for limit in limits for each in limit[:2])}
        cases = {case: cases[case] for case in cases if case in limited}
    unit, measured = prices(cases, rounds)
    for _ in range(MORE_TRIES):
        above = {case for case, _ in unmet(measured, limits)}
        if not above:
            break
        own = {case: cases[case] for case in cases if case in above | {EMPTY}}
        again = prices(own, rounds)[1]
        measured |= {case: min(measured[case], again[case]) for case in above}
    build = "free-threaded" if FREE_THREADED else "GIL"
    version = platform.python_version()
    print(f"CPython {version} ({build}), {platform.machine()}: {unit} per call")
    for case, price in measured.items():
        print(f"  {case:<36}{price:8.0f}   {price / measured[base]:5.2f} of {base}")
    above_limit = unmet(measured, limits)
    print("limits")
    for case, against, gil, free in limits:
        ratio = measured[case] / measured[against]
        limit = free if FREE_THREADED else gil
        if limit is None:
            verdict = "limited with the GIL only"
        else:
            is_met = (case, against) not in above_limit
            verdict = f"limit {limit:.2f}: {'met' if is_met else 'NOT MET'}"
        print(f"  {case:<36}{ratio:8.2f}   of {against}, {verdict}")
    figures = {"python": version, "build": build, "unit": unit, "prices": measured}
    failed = len(above_limit)
    if more is not None:
        found, missed = more(options.json is not None)
        figures |= found
        failed += missed
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    return 1 if options.check and failed else 0


def unmet(measured: dict[str, float], limits: Sequence[Limit]) -> list[tuple[str, str]]:
    """The cases above a limit, each with what it is compared with."""
    return [
        (case, against)
        for case, against, gil, free in limits
        if (limit := free if FREE_THREADED else gil) is not None
        and measured[case] > limit * measured[against]
    ]


def prices(cases: Cases, rounds: int = CALLS) -> tuple[str, dict[str, float]]:
    """The unit that could be measured, and the price of one round of each case in it.

    Args:
        cases: What to measure; a case of the name EMPTY replaces the bare loop, whose
            price is taken off the others.
        rounds: How often a loop of the cases does what it does.
    """
    cases = {EMPTY: bare_loop, **cases}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toggle = build_toggle(folder)
        if toggle is None:
            totals = {case: _nanoseconds(case) for case in cases}
        else:
            totals = {case: _instructions(case, toggle, folder) for case in cases}
    loop = totals.pop(EMPTY)
    unit = "ns" if toggle is None else "instructions"
    return unit, {case: (total - loop) / rounds for case, total in totals.items()}


def _child(case: Callable[[], Loop], toggle: str | None = None) -> None:
    """Run one case and leave without any teardown."""
    loop = case()
    loop()  # warms up: the interpreter specialises its instructions
    if toggle is None:
        print(min(_timed(case()) for _ in range(15)))
    else:
        loop = case()
        switch = ctypes.CDLL(toggle).toggle
        switch()
        loop()
        switch()
    sys.stdout.flush()
    os._exit(0)


def _timed(loop: Loop) -> int:
    start = time.perf_counter_ns()
    loop()
    return time.perf_counter_ns() - start


def _instructions(case: str, toggle: str, folder: Path) -> int:
    return counted([sys.argv[0], "--case", case, toggle], folder)


def counted(arguments: Sequence[str], folder: Path) -> int:
    """Instructions of a Python process, while it has collection switched on.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    out, bytecode = folder / "callgrind.out", folder / "bytecode"
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "PYTHONPYCACHEPREFIX": str(bytecode),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if not bytecode.exists():
        # Compiled here, once: callgrind would take half a minute in each process.
        imports = "import argparse, asyncio, ctypes, ringdispatch, subprocess, tempfile"
        subprocess.run([sys.executable, "-c", imports], check=True, env=environment)
    subprocess.run(
        [
            "valgrind",
            "--tool=callgrind",
            "--instr-atstart=no",
            "--collect-atstart=no",
            f"--callgrind-out-file={out}",
            sys.executable,
            *arguments,
        ],
        check=True,
        capture_output=True,
        env=environment,
    )
    totals = next(
        line for line in out.read_text().splitlines() if line.startswith("totals:")
    )
    return int(totals.split()[1])


def _nanoseconds(case: str) -> int:
    run = subprocess.run(
        [sys.executable, sys.argv[0], "--case", case],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(run.stdout)


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
