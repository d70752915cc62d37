"""What a batch costs: taking it from the ring, and what it asks of the event loop.

    python benchmarks/batch_price.py [--check]

Prints nanoseconds per entry for one `take` by batch size, beside copying as many
entries out of a `deque` and slicing them out of a list in the same run; and, for a
stream of windows, how many wake-ups, timers and tasks a batch needed. `--check` exits
with 1 where a figure is above its limit.
"""

import argparse
import asyncio
import collections
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from ringdispatch import BackgroundDispatcher, Objects
from ringdispatch._enqueue import EnqueueBase, install_enqueue

ENTRY = object()
SIZES = (10, 100, 1_000, 10_000, 65_536)
WINDOWS = 200
NS_PER_ENTRY_LIMIT = 3.0  # at 10 000 entries
# For each batch; the two above a whole number allow for the first.
WAKE_UPS_LIMIT = 1.05
TIMERS_LIMIT = 2.1
TASKS_LIMIT = 1.0


def take_ring(size: int) -> int:
    """Nanoseconds of one take of `size` entries."""
    ring = filled(Objects(), size).ring
    start = time.perf_counter_ns()
    take = ring.take(size)
    elapsed = time.perf_counter_ns() - start
    assert take is not None
    assert len(take.value) == size
    return elapsed


def take_deque(size: int) -> int:
    """Nanoseconds of copying and clearing a deque of `size` entries."""
    entries = collections.deque([ENTRY] * size)
    start = time.perf_counter_ns()
    batch = list(entries)
    entries.clear()
    elapsed = time.perf_counter_ns() - start
    assert len(batch) == size
    return elapsed


def take_list(size: int) -> int:
    """Nanoseconds of slicing `size` entries off a list."""
    entries = [ENTRY] * size
    start = time.perf_counter_ns()
    batch = entries[:]
    del entries[:]
    elapsed = time.perf_counter_ns() - start
    assert len(batch) == size
    return elapsed


@install_enqueue
class _Filler(EnqueueBase[Any]):
    """Puts entries into a ring of ours, which has no listener."""

    enqueue: Any

    def __init__(self, ring: Any) -> None:
        self.ring = ring
        self._attach(ring, "drop_newest")

    def fill(self, size: int, entry: Any) -> None:
        for _ in range(size):
            assert self.enqueue(entry)


def filled(layout: Any, size: int, entry: Any = ENTRY) -> Any:
    """A ring in which `size` entries are pending, and who put them there."""
    filler = _Filler(layout.make_ring(size, size, 1))
    filler.fill(size, entry)
    return filler


def median(measure: Callable[[int], int], size: int) -> float:
    """Median nanoseconds per entry."""
    runs = [measure(size) for _ in range(max(5, 200_000 // size))]
    return statistics.median(runs) / size


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.wake_ups = self.timers = 0

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
        self.wake_ups += 1
        return super().call_soon_threadsafe(*args, **kwargs)

    def call_later(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_later(*args, **kwargs)


async def per_batch(timeout: float | None) -> tuple[float, float, float]:
    """Wake-ups, timers and tasks per batch, over a stream of windows."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountingLoop)
    tasks: set[object] = set()
    done = asyncio.Event()

    async def send(_: list[object]) -> None:
        tasks.add(asyncio.current_task())
        done.set()

    dispatcher = BackgroundDispatcher(send, ms_delay=1, dispatch_timeout=timeout)
    before = loop.wake_ups, loop.timers
    for _ in range(WINDOWS):
        for _ in range(20):
            dispatcher.enqueue(ENTRY)
        await done.wait()
        done.clear()
    wake_ups, timers = loop.wake_ups - before[0], loop.timers - before[1]
    batches = dispatcher.statistics().batches
    await dispatcher.aclose()
    return wake_ups / batches, timers / batches, len(tasks) / batches


def main() -> int:
    """Measure, print, and check the limits where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail above a limit")
    options = parser.parse_args()
    failed = 0
    print(f"CPython {platform.python_version()}, {platform.machine()}")
    print("taking a batch, ns per entry (median)")
    print(f"  {'entries':>8}{'ring':>8}{'deque':>8}{'list':>8}")
    for size in SIZES:
        ring = median(take_ring, size)
        others = median(take_deque, size), median(take_list, size)
        print(f"  {size:>8}{ring:>8.2f}{others[0]:>8.2f}{others[1]:>8.2f}")
        failed += size == 10_000 and ring > NS_PER_ENTRY_LIMIT
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        wake_ups, timers, tasks = runner.run(per_batch(30.0))
    print("per batch, 20 entries in each")
    print(f"  wake-ups {wake_ups:.2f}, timers {timers:.2f}, tasks {tasks:.2f}")
    failed += wake_ups > WAKE_UPS_LIMIT or timers > TIMERS_LIMIT or tasks > TASKS_LIMIT
    print(
        f"limits: {NS_PER_ENTRY_LIMIT:g} ns per entry at 10 000; {WAKE_UPS_LIMIT:g} "
        f"wake-ups, {TIMERS_LIMIT:g} timers, {TASKS_LIMIT:g} task a batch"
    )
    return 1 if options.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())
