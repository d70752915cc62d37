"""Runs every program in cases/: each is a situation that was too much once.

    python stress/run_cases.py [NAME...]

A program that ends with status 0 has found all well, with 77 that it lacks a package,
which it names; any other status, and more time than its deadline, is a failure.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent / "cases"
SECONDS = 90.0
# Those that must end by themselves, soon, or take long.
DEADLINES = {
    "exception_at_any_line": 300.0,
    "hung_function_at_exit": 10.0,
    "hung_function_in_asyncio_run": 10.0,
    "slow_function_at_exit": 10.0,
    "threads_that_stay": 10.0,
}
# Once more for each list of arguments.
ARGUMENTS: dict[str, list[list[str]]] = {
    "exception_at_any_line": [["SystemExit"], ["MemoryError"], ["RecursionError"]],
    "hung_function_at_exit": [["close"]],
    "uwsgi_prefork": [
        ["fresh"],
        ["import", "--enable-threads", "--py-call-uwsgi-fork-hooks"],
        ["flushed", "--enable-threads", "--lazy-apps"],
    ],
}
NO_PROGRAMS = {"uwsgi_app"}  # served by another
LACKS_A_PACKAGE = 77


def run(name: str, arguments: list[str]) -> tuple[str, str]:
    """Run a program; returns a verdict, and what it wrote."""
    with subprocess.Popen(
        [sys.executable, str(FOLDER / f"{name}.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=DEADLINES.get(name, SECONDS))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "HUNG", process.communicate()[0]
    if process.returncode == LACKS_A_PACKAGE:
        return "not run", said.strip()
    return "passed" if process.returncode == 0 else "FAILED", said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    programs = {path.stem for path in FOLDER.glob("*.py")} - NO_PROGRAMS
    names = parser.parse_args().names or sorted(programs)
    if unknown := {*names} - programs:
        parser.error(f"{', '.join(sorted(unknown))}: not in {FOLDER}")
    rows = []
    for name in names:
        for arguments in ([], *ARGUMENTS.get(name, [])):
            began = time.monotonic()
            verdict, said = run(name, arguments)
            took = time.monotonic() - began
            what = " ".join([name, *arguments])
            if verdict == "not run":
                what += f": {said}"
            rows.append((verdict, took, what))
            if verdict in {"FAILED", "HUNG"}:
                print(f"{rows[-1][2]}: {verdict}\n{said[-2000:]}", flush=True)
    for verdict, took, what in rows:
        print(f"{verdict:>8}  {took:6.1f} s  {what}")
    failed = sum(verdict in {"FAILED", "HUNG"} for verdict, *_ in rows)
    print(f"{failed} of {len(rows)} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
