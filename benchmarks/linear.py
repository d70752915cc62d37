"""What grows with the number of tasks, calls and dispatchers: it doubles when they do.

    python benchmarks/linear.py [--check] [--quick] [--seconds SECONDS]

Instructions of each case at each size, by callgrind (instructions.py), in a process of
its own after a small one to warm up: processor time would grow faster, as memory leaves
the caches. Without valgrind or a C compiler it is processor time, the best of three.
The garbage collector is off: whether one of its rounds falls into a small size is
chance. A doubled size takes at most 2.6 times as much. A case that needs the processor
for more than `--seconds` has missed that, and its larger sizes are left out. `--quick`
leaves them out in any case but the three smallest.

The last case compares stalls: the most processor time that the loop spends in one turn
while 10 000 tasks enqueue and await `aflush`, and while as many await one future.

`--check` exits with 1 above a limit.
"""

import argparse
import asyncio
import ctypes
import gc
import math
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from instructions import FREE_THREADED, build_toggle, counted

DOUBLED_LIMIT = 2.6
STALL_LIMIT = 5.0
SECONDS = 120.0  # of the processor, for one size of a case; callgrind is slow
REPEATS = 3
QUICK_SIZES = 2
WARM_UP = 100
TASKS = (1_000, 2_000, 4_000, 8_000, 16_000)
CALLS = (1_000, 2_000, 4_000)
DISPATCHERS = (1_250, 2_500, 5_000, 10_000)
STALLED = 10_000

Case = Callable[[int], Coroutine[Any, Any, object]]


def dispatcher(send: Callable[[list[Any]], Any], **options: Any) -> Any:
    from ringdispatch import BackgroundDispatcher

    return BackgroundDispatcher(
        send, **{"ms_delay": 10, "dispatch_timeout": None, **options}
    )


async def send(_: list[Any]) -> None:
    """A dispatch function that is awaited: settlement comes after all have asked."""
    await asyncio.sleep(0.005)


async def flushing(size: int) -> None:
    """Tasks that each enqueue and await `aflush`."""
    sink = dispatcher(send)

    async def request(entry: int) -> bool:
        assert sink.enqueue(entry)
        return await sink.aflush(600)

    settled = await asyncio.gather(*map(request, range(size)))
    assert all(settled)
    await sink.aclose()


async def waiting_for_room(size: int) -> None:
    """Tasks that all wait in `aenqueue`, where 16 entries have room."""
    got: list[int] = []

    async def send(batch: list[int]) -> None:
        got.extend(batch)

    sink = dispatcher(send, ms_delay=1, capacity=16)
    accepted = await asyncio.gather(*map(sink.aenqueue, range(size)))
    await sink.aflush(600)
    assert all(accepted)
    assert got == list(range(size)), "first come, first served"
    await sink.aclose()


async def in_flight(size: int, *, contexts: bool) -> None:
    """As many calls at once, each of one entry, that all wait for one event."""
    running = 0
    all_running, release = asyncio.Event(), asyncio.Event()

    async def send(_: list[int]) -> None:
        nonlocal running
        running += 1
        if running == size:
            all_running.set()
        await release.wait()

    class Context:
        def __init__(self) -> None:
            self.ends: list[Awaitable[None]] = []

        def wait_until(self, awaitable: Awaitable[None]) -> None:
            self.ends.append(awaitable)

    context = Context() if contexts else None
    sink = dispatcher(send, ms_delay=1, capacity=size, max_batch=1, max_in_flight=size)
    for entry in range(size):
        assert sink.enqueue(entry, context)
        while contexts and sink.pending:  # noqa: ASYNC110, its own turns
            await asyncio.sleep(0)  # the next opens a window too
    await all_running.wait()
    release.set()
    assert await sink.aflush(600)
    if context is not None:
        assert len(context.ends) == size
        await asyncio.gather(*context.ends)
    await sink.aclose()


async def dispatchers(size: int) -> None:
    """Dispatchers on one loop, each with its window open, all closed at the end."""
    sinks = [
        dispatcher(send, ms_delay=60_000, capacity=16, max_batch=16)
        for _ in range(size)
    ]
    for sink in sinks:
        assert sink.enqueue(1)
    await asyncio.sleep(0)
    assert all(await asyncio.gather(*(sink.aclose(600) for sink in sinks)))


async def longest_turn(tasks: Callable[[], Awaitable[object]]) -> float:
    """The most processor time of one turn of the loop while the tasks run."""
    longest, last = 0.0, time.thread_time()

    def turn() -> None:
        nonlocal longest, last, handle
        now = time.thread_time()
        longest, last = max(longest, now - last), now
        handle = loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    handle = loop.call_soon(turn)
    await tasks()
    await asyncio.sleep(0)  # the last turn counts
    handle.cancel()
    return longest


async def future_stall(size: int) -> float:
    """The longest turn of tasks that await one future."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    async def request() -> None:
        await future

    async def tasks() -> None:
        loop.call_later(0.01, future.set_result, None)
        await asyncio.gather(*(request() for _ in range(size)))

    return await longest_turn(tasks)


async def flush_stall(size: int) -> float:
    """The longest turn of tasks that each enqueue and await `aflush`."""
    sink = dispatcher(send)

    async def request() -> None:
        assert sink.enqueue(1)
        assert await sink.aflush(600)

    async def tasks() -> None:
        await asyncio.gather(*(request() for _ in range(size)))

    longest = await longest_turn(tasks)
    await sink.aclose()
    return longest


CASES: dict[str, tuple[Case, tuple[int, ...]]] = {
    "enqueue, await aflush": (flushing, TASKS),
    "await aenqueue, capacity 16": (waiting_for_room, TASKS),
    "calls in flight": (lambda size: in_flight(size, contexts=False), CALLS),
    "calls in flight, a context each": (
        lambda size: in_flight(size, contexts=True),
        CALLS,
    ),
    "dispatchers": (dispatchers, DISPATCHERS),
}
STALLS: dict[str, Callable[[int], Coroutine[Any, Any, float]]] = {
    "stall: await one future": future_stall,
    "stall: enqueue, await aflush": flush_stall,
}


def serve(case: str, size: int, seconds: float, toggle: str | None) -> None:
    """Run one case in this process; print what was measured here."""
    cpu = resource.RLIMIT_CPU
    resource.setrlimit(cpu, (math.ceil(seconds), resource.RLIM_INFINITY))
    gc.disable()
    if case in STALLS:
        asyncio.run(STALLS[case](WARM_UP))
        print(min(asyncio.run(STALLS[case](size)) for _ in range(REPEATS)))
        return
    run = CASES[case][0]
    asyncio.run(run(WARM_UP))
    if toggle is not None:
        switch = ctypes.CDLL(toggle).toggle
        switch()
        asyncio.run(run(size))
        switch()
        return
    took = []
    for _ in range(REPEATS):
        gc.collect()
        start = time.process_time()
        asyncio.run(run(size))
        took.append(time.process_time() - start)
    print(min(took))


class Measurement:
    """Measures in processes of their own."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self.toggle = build_toggle(folder)
        self.unit = "s" if self.toggle is None else "instructions"

    def __call__(self, case: str, size: int) -> float | None:
        """What a case takes; None where that is too much."""
        arguments = [sys.argv[0], "--case", case, str(size), str(self.seconds)]
        try:
            if self.toggle is not None and case in CASES:
                return counted([*arguments, self.toggle], self.folder)
            run = subprocess.run(
                [sys.executable, *arguments], check=True, capture_output=True
            )
        except subprocess.CalledProcessError as error:
            if error.returncode == -signal.SIGXCPU:
                return None
            sys.stderr.write(error.stderr.decode())
            raise
        return float(run.stdout)

    def too_much(self) -> str:
        return f"more than {self.seconds:g} s of the processor"


def doubles(case: str, sizes: tuple[int, ...], measure: Measurement) -> bool:
    """Print what each size takes; whether each is within the limit."""
    met, before = True, None
    for size in sizes:
        took = measure(case, size)
        if took is None:
            print(f"  {case:<32}{size:>8,}   {measure.too_much()}: NOT MET")
            return False
        digits = 4 if measure.toggle is None else 0
        line = f"  {case:<32}{size:>8,}{took:>16,.{digits}f}"
        if before is not None:
            ratio = took / before
            line += f"{ratio:>8.2f}"
            if ratio > DOUBLED_LIMIT:
                line += f"   above {DOUBLED_LIMIT}: NOT MET"
                met = False
        print(line, flush=True)
        before = took
    return met


def stalls(measure: Measurement) -> bool:
    """Print the longest turns; whether ours is within the limit."""
    turns = [measure(case, STALLED) for case in STALLS]
    for case, took in zip(STALLS, turns, strict=True):
        shown = measure.too_much() if took is None else f"{took * 1e3:13,.1f} ms"
        print(f"  {case:<32}{STALLED:>8,}{shown}")
    base, ours = turns
    if base is None or ours is None:
        return False
    verdict = "met" if ours <= STALL_LIMIT * base else "NOT MET"
    print(f"  {'':<32}{ours / base:8.2f} times, limit {STALL_LIMIT:g}: {verdict}")
    return ours <= STALL_LIMIT * base


def main() -> int:
    """Measure, print, and check the limits where asked."""
    if sys.argv[1:2] == ["--case"]:
        case, size, seconds, *toggle = sys.argv[2:]
        serve(case, int(size), float(seconds), toggle[0] if toggle else None)
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail above a limit")
    parser.add_argument("--quick", action="store_true", help="the small sizes only")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()

    build = "free-threaded" if FREE_THREADED else "GIL"
    with tempfile.TemporaryDirectory() as folder:
        measure = Measurement(Path(folder), options.seconds)
        print(f"CPython {platform.python_version()} ({build}): {measure.unit}")
        most = QUICK_SIZES if options.quick else None
        met = [
            doubles(case, sizes[:most], measure) for case, (_, sizes) in CASES.items()
        ]
        met.append(stalls(measure))
    print(f"a doubled size at most {DOUBLED_LIMIT} times: ", end="")
    print("met" if all(met[:-1]) else "NOT MET")
    return 1 if options.check and not all(met) else 0


if __name__ == "__main__":
    sys.exit(main())
