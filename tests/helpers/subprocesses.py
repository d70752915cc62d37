"""Runs a snippet in a fresh interpreter: for deaths, forks, signals and ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

HERE = Path(__file__).parent

# What every snippet may use. A machine so busy that a callback takes long is no fault.
PRELUDE = '''\
import asyncio, gc, logging, os, signal, sys, threading, time
from ringdispatch import BackgroundDispatcher

logging.getLogger("asyncio").addFilter(lambda record: "took" not in record.msg)
# A shell starts its background jobs with this one ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def run(main):
    """As asyncio.run, on the kind of loop that the test chose."""
    if os.environ["TEST_LOOP"] == "uvloop":
        import uvloop
        return uvloop.run(main)
    return asyncio.run(main)

def new_loop():
    if os.environ["TEST_LOOP"] == "uvloop":
        import uvloop
        return uvloop.new_event_loop()
    return asyncio.new_event_loop()

def eventually(condition, seconds=10.0):
    """Wait until the condition holds; another thread sees to it."""
    deadline = time.monotonic() + seconds
    looks = 0
    while not condition():
        looks += 1  # few of them: the machine stood still
        if time.monotonic() > deadline and looks >= 100:
            raise AssertionError("not within the deadline")
        time.sleep(0.001)

def say(*values):
    os.write(1, (" ".join(map(str, values)) + "\\n").encode())

def books(dispatcher):
    """Tell every counter that is not zero."""
    seen = dispatcher.statistics()
    names = ("accepted", "dispatched", "failed", "evicted", "abandoned", "pending",
             "in_flight", "rejected_full", "rejected_closed")
    say(*(f"{name}={getattr(seen, name)}" for name in names if getattr(seen, name)))
'''

# A layout's stand-in, which takes any entry and hands out lists.
OF_LAYOUT = """\
sys.path.insert(0, {folder!r})
from layouts import LAYOUTS
BackgroundDispatcher = LAYOUTS[{layout!r}]
"""


@dataclass(frozen=True)
class Outcome:
    """What a snippet left behind."""

    stdout: str
    stderr: str
    code: int

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()


def run_snippet(
    snippet: str,
    *,
    loop: str = "asyncio",
    stderr: str = "",
    code: int = 0,
    seconds: float = 30.0,
    prelude: bool = True,
    layout: str = "objects",
    warnings: tuple[str, ...] = (),
    debug: bool = True,
) -> Outcome:
    """Run a snippet under `-W error -X dev` and asyncio's debug mode.

    Args:
        snippet: The program.
        loop: What its `run` and `new_loop` make: "asyncio" or "uvloop".
        stderr: Regular expression of all that it may write there.
        code: Its exit code.
        seconds: Its deadline; a snippet that hangs is killed and fails the test.
        prelude: Whether to put PRELUDE before it.
        layout: Which layout its `BackgroundDispatcher` has.
        warnings: Filters for warnings that are not the project's.
        debug: Whether to switch the debug modes on.
    """
    program = textwrap.dedent(snippet)
    if layout != "objects":
        program = OF_LAYOUT.format(folder=str(HERE), layout=layout) + program
    if prelude:
        program = PRELUDE + program
    options = ["-X", "dev"] if debug else []
    for warning in ("error", *warnings):
        options += ["-W", warning]
    environment = dict(os.environ, TEST_LOOP=loop, PYTHONUNBUFFERED="1")
    environment.pop("PYTHONASYNCIODEBUG", None)
    if debug:
        environment["PYTHONASYNCIODEBUG"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snippet.py"
        path.write_text(program)
        with subprocess.Popen(
            [sys.executable, *options, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGABRT)  # -X dev dumps the stacks
                out, err = process.communicate(timeout=10)
                raise AssertionError(f"hung\n{out}\n{err}") from None
    # asyncio's debug mode speaks of slow steps, and every step is slow when the
    # machine is busy.
    err = re.sub(r"^Executing .* took [\d.]+ seconds\n", "", err, flags=re.MULTILINE)
    outcome = Outcome(out, err, process.returncode)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    assert re.fullmatch(stderr, err.strip(), re.DOTALL), f"on stderr:\n{err}\n{out}"
    return outcome
