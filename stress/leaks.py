"""Repeat a scenario for some hundred times: nothing may be left behind.

Each runs in an interpreter of its own, which looks at what it holds after a warm-up and
again at the end. References are counted where the interpreter can (a debug build);
under AddressSanitizer LeakSanitizer has a look as well.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

from extent import extent
from ringdispatch import _background, _reports
from subprocesses import HERE, run_snippet

FOLDERS = [Path(__file__).parent, HERE]
WARM_UP = 100
# What threads that are late and the allocator may account for in half the repetitions.
# In a whole run a leak of one thing in ten of them exceeds it, or one ring in three.
SLACK = {
    "blocks": 40,
    "objects": 40,
    "references": 40,
    "threads": 0,
    "files": 0,
    "memory": 3 * 2**19,
}

OFTEN = extent(0.4, 1.0)  # how many of the repetitions that a scenario asks for
FEW = 20  # where LeakSanitizer looks: it finds what was lost once

Run = Callable[[], Any]


class Scenarios(dict[str, tuple[Run, int]]):
    """What to repeat, by name, and how often."""

    def __call__(self, run: Run, times: int = 1000) -> Run:
        """Decorate a function; all runs of a coroutine function are on one loop."""
        self[run.__name__] = run, times
        return run


def leaves_nothing(file: str, name: str) -> None:
    """Repeat a scenario of the test module `file` in a process of its own."""
    path = Path(file)
    folders = [str(path.parent), *map(str, FOLDERS)]
    run_snippet(
        f"""
        import sys
        sys.path[:0] = {folders!r}
        import leaks, {path.stem}
        leaks.watch(*{path.stem}.scenario[{name!r}])
        """,
        seconds=200.0,  # under AddressSanitizer, on a busy machine; else pytest ends it
        prelude=False,
        debug=False,
    )


# LeakSanitizer's; then freed memory is kept for a while, to see who still uses it.
look_for_leaks = getattr(ctypes.CDLL(None), "__lsan_do_recoverable_leak_check", None)


def held() -> dict[str, int]:
    for _ in range(3):
        gc.collect()
    found = {
        "blocks": sys.getallocatedblocks(),
        "objects": len(gc.get_objects()),
        "threads": threading.active_count(),
        "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
    }
    if hasattr(sys, "gettotalrefcount"):
        found["references"] = sys.gettotalrefcount()
    if look_for_leaks is None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found["memory"] = pages * os.sysconf("SC_PAGE_SIZE")
    return found


def watch(run: Run, times: int) -> None:
    """Repeat a scenario until no more is held than at some look before.

    A leak grows for as long as one looks; the interpreter's caches are full one day,
    and a loop's cancelled timers, up to a hundred, are dropped again.
    """
    logging.getLogger("ringdispatch").addHandler(logging.StreamHandler(Nowhere()))
    _reports.REPORT_SECONDS = 0.0
    _reports.HOOK_SECONDS = 0.0  # whose timer keeps the ring for so long
    repetitions = round(OFTEN * times / 2) if look_for_leaks is None else FEW
    with asyncio.Runner() as runner:
        for _ in range(WARM_UP):
            repeat(runner, run)
        most = held()
        for look in range(2, 11):
            for _ in range(repetitions):
                repeat(runner, run)
            after = held()
            growth = {what: after[what] - most[what] for what in after}
            if look > 2 and all(growth[what] <= SLACK[what] for what in growth):
                break
            most = {what: max(after[what], most[what]) for what in after}
        else:
            raise AssertionError(
                f"{run.__name__}: in {repetitions} repetitions {growth} more"
            )
    if look_for_leaks is not None:
        # It does not see what only the frames of a running thread refer to.
        _background.stop_background(10.0)
        look_for_leaks()  # the interpreter loses some itself: .ci/sanitizers judges


def repeat(runner: asyncio.Runner, run: Run) -> None:
    if iscoroutinefunction(run):
        runner.run(run())
    else:
        run()


class Nowhere:
    def write(self, text: str) -> None: ...
