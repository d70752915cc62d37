"""Probes of a run: stalls of the loop, requests that it serves, and memory."""

import asyncio
import ctypes
import importlib
import os
import selectors
import sys
from array import array
from functools import cache
from time import perf_counter
from typing import Any

from ._load import schedule

# Requests a second served on the loop beside the load.
REQUESTS = 200.0


class StallSelector(selectors.DefaultSelector):
    """Notes how long the loop runs callbacks before it polls for events again.

    For that long everything else on the loop stands still. It costs 0.5 us an iteration
    and adds no wake-ups, as a probe that sleeps would.
    """

    def __init__(self) -> None:
        super().__init__()
        self.restart()

    def restart(self) -> None:
        """Measure from now on."""
        self.longest = 0.0
        self._woke = perf_counter()

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """As any selector."""
        self.longest = max(self.longest, perf_counter() - self._woke)
        events = super().select(timeout)
        self._woke = perf_counter()
        return events


class Requests:
    """Small requests on a schedule of their own, served as a gateway would.

    Each request's time counts from its scheduled arrival. On an idle loop that is 0.8
    to 1.1 ms, since the timers of the loop are no finer. A request takes 0.1 ms of
    processor time, most of it for waking up: 2 % of a core in all, which is measured
    and subtracted. Each also samples the resident memory.
    """

    def __init__(self, seconds: float, seed: int) -> None:
        self._due = schedule(REQUESTS, seconds, seed)
        self.took = array("d")
        self.peak_resident = resident()

    async def serve(self) -> None:
        """Serve all requests."""
        began = perf_counter()
        async with asyncio.TaskGroup() as group:
            for due in self._due:
                await asyncio.sleep(began + due - perf_counter())
                group.create_task(self._handle(began + due))

    async def _handle(self, arrived: float) -> None:
        await asyncio.sleep(0)
        self.took.append(perf_counter() - arrived)
        self.peak_resident = max(self.peak_resident, resident())


def resident() -> int:
    """Resident bytes of this process.

    Raises:
        ImportError: there is no /proc here, nor psutil.
    """
    statm = _statm()
    if statm is not None:
        return int(os.pread(statm, 100, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        psutil: Any = importlib.import_module("psutil")
    except ImportError as error:
        raise ImportError(
            "memory can't be measured here without psutil: "
            "pip install 'ringdispatch[tune]'"
        ) from error
    size: int = psutil.Process().memory_info().rss
    return size


def trim_memory() -> None:
    """Make the C allocator return freed memory, which would hide growth."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:  # pragma: no branch - glibc has it
            trim(0)


@cache
def _statm() -> int | None:
    """Keep the file open: reading it then takes 5 us instead of 20."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:  # pragma: no cover - macOS and Windows have no /proc
        return None
