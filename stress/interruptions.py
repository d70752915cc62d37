"""Interrupts the package at every line that it runs, in turn: nothing may be stranded.

    python stress/interruptions.py [--quick] [--visits N] [--exception NAME]
        [--scene NAME] [--patience SECONDS]

Raises KeyboardInterrupt, SystemExit, MemoryError and RecursionError, one at a time, at
the k-th line that the package's Python files run in each scene (interrupted_scenes.py),
on the main thread and on the others. `nomemory` has the first, second or third
allocation of each line fail, from Python 3.14 on where there is `_testcapi`.
After each, later entries must go out, every slot must be there, close must return, the
books must agree. What Cython compiled is not traced. The garbage collector is off, so
that what an exception's traceback keeps alive in a cycle counts as leaked.
Points that nothing can mend are in KNOWN, counted apart; one that held is reported.

Every point is played in a forked process of its own: one that crashes or hangs is
reported like the others, by scene and line. First each scene is played undisturbed,
which counts its lines.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import linecache
import logging
import os
import platform
import selectors
import signal
import sys
import textwrap
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import interruption
from interrupted_scenes import SCENES, Stranded, Trial
from interruption import ALLOCATIONS, MAIN, NO_MEMORY, OTHER, RAISED, Interruption

HANG_SECONDS = 20.0  # then the process prints where it is, and ends
PATIENCE = 3.0  # seconds for what must come
AT_ONCE = 4 * (os.cpu_count() or 1)  # they wait more than they run
VISITS = 3  # of a line in a scene, for --quick
# By what is raised, and the line; why it can't be mended.
KNOWN = {
    (NO_MEMORY, "_waiting.py", "resolve(future)"): (
        "asyncio's Future.set_result() has marked it done before it schedules what "
        "waits for it, and is not called a second time"
    ),
    (NO_MEMORY, "_call.py", "cancel(self)"): (
        "likewise Task.cancel(), of the future that the task waits for"
    ),
}
UNREACHED = "unreached"  # threads took turns otherwise, or the allocation was not made


REACHED = "reached "  # begins what a process says before it raises

Lines = dict[str, list[str]]  # that a scene ran, by thread


class Point(NamedTuple):
    """Where to raise what."""

    scene: str
    kind: str
    thread: str = MAIN
    at: int = 0  # 0: nowhere, count the lines
    allocation: int = 0
    patience: float = PATIENCE


class Outcome(NamedTuple):
    """What came of it."""

    point: Point
    where: str
    problem: str | None  # None: it held
    lines: Lines


def play(point: Point) -> tuple[str, str | None, Lines]:
    """Play the point's scene in this process."""
    faulthandler.enable()
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    gc.disable()  # or it runs finalizers at a line that differs from run to run
    # What was raised where nothing can catch it is printed; the scenes judge the rest.
    sys.unraisablehook = lambda _: None
    threading.excepthook = lambda _: None
    # Its lines run, their text goes nowhere.
    logging.getLogger().addHandler(logging.NullHandler())
    name, *where, patience = point
    raised = Interruption(*where, patience=patience, on_reached=say_reached)
    trial = Trial(SCENES[name], raised)
    raised.install()
    problem: str | None = None
    try:
        trial.play()
    except Stranded as stranded:
        problem = str(stranded)
    except BaseException as error:  # reported like the others
        problem = f"{type(error).__name__}: {error}"
    raised.end()
    if problem is None and point.at and not raised.raised:
        problem = UNREACHED
    return raised.where, problem, raised.lines


def say_reached(line: str) -> None:
    """Say where it is, for a process that crashes or hangs there."""
    os.write(2, f"{REACHED}{line}\n".encode())


def fork(point: Point) -> tuple[int, int]:
    """Play the point in a forked process; its pid, and where it writes."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writes)
        return pid, reads
    os.dup2(writes, 2)  # for what a crash or a hang has to say
    os.write(writes, json.dumps(play(point)).encode() + b"\n")
    os._exit(0)


def outcomes(points: Iterable[Point]) -> Iterator[Outcome]:
    """Play the points, several at once, and yield what came of each."""
    todo = iter(points)
    with selectors.DefaultSelector() as running:
        while True:
            while len(running.get_map()) < AT_ONCE and (point := next(todo, None)):
                pid, reads = fork(point)
                running.register(reads, selectors.EVENT_READ, (point, pid, []))
            if not running.get_map():
                return
            for key, _ in running.select():
                point, pid, said = key.data
                if chunk := os.read(key.fd, 65_536):
                    said.append(chunk)
                    continue
                running.unregister(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(pid, 0)
                yield outcome(point, b"".join(said).decode(errors="replace"), status)


def outcome(point: Point, said: str, status: int) -> Outcome:
    """Read what a process said."""
    lines = said.splitlines()
    if status == 0 and lines:
        where, problem, counted = json.loads(lines[-1])
        return Outcome(point, where, problem, counted)
    if os.WIFSIGNALED(status):
        problem = f"crashed, {signal.Signals(os.WTERMSIG(status)).name}"
    else:
        problem = f"hung, exit status {os.waitstatus_to_exitcode(status)}"
    # The innermost of our functions, of the first thread that is in one.
    ours = next((line.strip() for line in lines if interruption.PACKAGE in line), "")
    reached = (line.removeprefix(REACHED) for line in lines if line.startswith(REACHED))
    return Outcome(point, next(reached, "unknown"), f"{problem} {ours}".strip(), {})


def points_of(undisturbed: Outcome, visits: int) -> Iterator[Point]:
    """The points of a scene that was played undisturbed.

    Args:
        undisturbed: The lines that it ran.
        visits: How many times each of them is interrupted, at most.
    """
    point, lines = undisturbed.point, undisturbed.lines
    allocations = ALLOCATIONS if point.kind == NO_MEMORY else 1
    for thread in (MAIN, OTHER):
        seen: Counter[str] = Counter()
        for at, line in enumerate(lines[thread], start=1):
            seen[line] += 1
            if seen[line] > visits:
                continue
            for allocation in range(allocations):
                yield point._replace(thread=thread, at=at, allocation=allocation)


def _file_and_line(counted: tuple[str, int]) -> tuple[str, int]:
    file, _, line = counted[0].partition(":")
    return file, int(line) if line.isdigit() else 0


def known(point: Point, where: str) -> tuple[str, str, str] | None:
    """The key in KNOWN of the line that was interrupted."""
    file, line = _file_and_line((where, 0))
    source = linecache.getline(interruption.PACKAGE + file, line).strip()
    key = point.kind, file, source
    return key if key in KNOWN else None


def run(
    scene: str, kind: str, patience: float, visits: int, at_known: Counter[object]
) -> int:
    """Interrupt a scene everywhere; print what came of it, return what is stranded."""
    start = time.monotonic()
    (undisturbed,) = outcomes([Point(scene, kind, patience=patience)])
    if undisturbed.problem is not None:
        print(f"{kind}, {scene}: with nothing raised: {undisturbed.problem}")
        return 1
    held = 0
    stranded: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for found in outcomes(points_of(undisturbed, visits)):
        if found.problem is None:
            held += 1
        elif found.problem == UNREACHED:
            pass
        elif (key := known(found.point, found.where)) is not None:
            at_known[key] += 1
        else:
            stranded[found.problem][found.where] += 1
    lost = sum(lines.total() for lines in stranded.values())
    total = held + lost
    seconds = time.monotonic() - start
    print(f"{kind}, {scene}: {held} of {total} points held ({seconds:.0f} s)")
    for problem, lines in stranded.items():
        print(f"  {problem}:")
        by_line = sorted(lines.items(), key=_file_and_line)
        counted = (f"{line} x{n}" if n > 1 else line for line, n in by_line)
        print(textwrap.indent(textwrap.fill(", ".join(counted), 84), "    "))
    if not total:
        print("  no point was reached")
    return lost or not total


def main() -> int:
    """Interrupt what was asked for."""
    kinds = [*RAISED]
    # CPython 3.11 crashes where contextvars.Context() has no memory; 3.12 and 3.13 drop
    # the code of a `def`, lambda or generator expression twice that has none, and crash
    # later.
    if interruption._testcapi is not None and sys.version_info >= (3, 14):
        kinds.append(NO_MEMORY)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exception", action="append", choices=kinds)
    parser.add_argument("--scene", action="append", choices=[*SCENES])
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"KeyboardInterrupt, or what is named, {VISITS} times a line and scene",
    )
    parser.add_argument("--visits", type=int, help="times a line and scene, at most")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, help="seconds for what must come"
    )
    options = parser.parse_args()
    visits = options.visits or (VISITS if options.quick else sys.maxsize)
    wanted = options.exception or (kinds[:1] if options.quick else kinds)

    build = "GIL" if getattr(sys, "_is_gil_enabled", lambda: True)() else "no GIL"
    print(f"CPython {platform.python_version()} ({build}): {', '.join(wanted)}")
    sys.stdout.flush()
    stranded = 0
    at_known: Counter[object] = Counter()
    for kind in wanted:
        for scene in options.scene or SCENES:
            stranded += run(scene, kind, options.patience, visits, at_known)
            sys.stdout.flush()  # or forked processes would print it again
    for key, reason in KNOWN.items():
        if count := at_known[key]:
            print(f"known, {count} points: {', '.join(key)}: {reason}")
        elif key[0] in wanted and not options.scene:
            print(f"known, but every point held: {', '.join(key)}")
    print(f"{stranded} points are stranded" if stranded else "every point held")
    return 1 if stranded else 0


if __name__ == "__main__":
    sys.exit(main())
