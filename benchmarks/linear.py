"""What grows with the number of tasks, calls and dispatchers: it doubles when they do.

    python benchmarks/linear.py [--check] [--seconds SECONDS]

Processor time of each case at each size, in a process of its own, the best of up to
five repeats after a small one to warm up. The time of a doubled size is at most 2.6
times that of the size. A case that takes more than `--seconds` at one size has missed
that, and its larger sizes are left out.

The last case compares stalls: the most processor time that the loop spends in one turn
while 10 000 tasks enqueue and await `aflush`, and while as many await one future.

`--check` exits with 1 above a limit.
"""

import argparse
import asyncio
import gc
import math
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from instructions import FREE_THREADED

DOUBLED_LIMIT = 2.6
STALL_LIMIT = 5.0
SECONDS = 30.0  # of the processor, for one size of a case, repeats included
REPEATS = 5
WARM_UP = 100
TASKS = (1_000, 2_000, 4_000, 8_000, 16_000)
CALLS = (1_000, 2_000, 4_000)
DISPATCHERS = (1_250, 2_500, 5_000, 10_000)
STALLED = 10_000
FUTURE, FLUSHED = "stall: await one future", "stall: enqueue, await aflush"

Case = Callable[[int], Awaitable[float]]


def dispatcher(send: Callable[[list[Any]], Any], **options: Any) -> Any:
    from ringdispatch import BackgroundDispatcher

    return BackgroundDispatcher(send, **{"ms_delay": 10, **options})


async def send(_: list[Any]) -> None:
    """A dispatch function that is awaited: settlement comes after all have asked."""
    await asyncio.sleep(0.005)


async def flushing(size: int) -> float:
    """Tasks that each enqueue and await `aflush`."""
    sink = dispatcher(send)

    async def request(entry: int) -> bool:
        assert sink.enqueue(entry)
        return await sink.aflush(600)

    start = time.process_time()
    settled = await asyncio.gather(*map(request, range(size)))
    elapsed = time.process_time() - start
    assert all(settled)
    await sink.aclose()
    return elapsed


async def waiting_for_room(size: int) -> float:
    """Tasks that all wait in `aenqueue`, where 16 entries have room."""
    got: list[int] = []

    async def send(batch: list[int]) -> None:
        got.extend(batch)

    sink = dispatcher(send, ms_delay=1, capacity=16)
    start = time.process_time()
    accepted = await asyncio.gather(*map(sink.aenqueue, range(size)))
    await sink.aflush(600)
    elapsed = time.process_time() - start
    assert all(accepted)
    assert got == list(range(size)), "first come, first served"
    await sink.aclose()
    return elapsed


async def in_flight(size: int, *, contexts: bool) -> float:
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
    start = time.process_time()
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
    elapsed = time.process_time() - start
    await sink.aclose()
    return elapsed


async def dispatchers(size: int) -> float:
    """Dispatchers on one loop, each with its window open, all closed at the end."""
    start = time.process_time()
    sinks = [
        dispatcher(send, ms_delay=60_000, capacity=16, max_batch=16)
        for _ in range(size)
    ]
    for sink in sinks:
        assert sink.enqueue(1)
    await asyncio.sleep(0)
    assert all(await asyncio.gather(*(sink.aclose(600) for sink in sinks)))
    return time.process_time() - start


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
    FUTURE: (future_stall, (STALLED,)),
    FLUSHED: (flush_stall, (STALLED,)),
}


def measure(case: Case, size: int, seconds: float) -> float:
    """The best of as many repeats as there is time for."""
    resource.setrlimit(
        resource.RLIMIT_CPU, (math.ceil(seconds), resource.RLIM_INFINITY)
    )
    asyncio.run(case(min(size, WARM_UP)))
    best = math.inf
    for _ in range(REPEATS):
        gc.collect()
        best = min(best, asyncio.run(case(size)))
        if time.process_time() > seconds / 3:
            break
    return best


def apart(case: str, size: int, seconds: float) -> float | None:
    """Measure in a process of its own; None where it takes too long."""
    command = [sys.executable, sys.argv[0], "--case", case, str(size), str(seconds)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    run = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        timeout=20 * seconds,  # it hangs
        env=environment,
        check=False,
    )
    if run.returncode == -signal.SIGXCPU:
        return None
    run.check_returncode()
    return float(run.stdout)


def doubles(case: str, sizes: tuple[int, ...], seconds: float) -> bool:
    """Print what each size takes; whether each is within the limit."""
    met, before = True, None
    for size in sizes:
        took = apart(case, size, seconds)
        if took is None:
            print(f"  {case:<32}{size:>8,}   more than {seconds:g} s: NOT MET")
            return False
        line = f"  {case:<32}{size:>8,}{took * 1e3:>12,.1f} ms"
        if before is not None:
            ratio = took / before
            line += f"{ratio:>8.2f}"
            if ratio > DOUBLED_LIMIT:
                line += f"   above {DOUBLED_LIMIT}: NOT MET"
                met = False
        print(line)
        sys.stdout.flush()
        before = took
    return met


def stalls(seconds: float) -> bool:
    """Print the longest turns; whether ours is within the limit."""
    base, ours = (apart(case, STALLED, seconds) for case in (FUTURE, FLUSHED))
    for case, took in ((FUTURE, base), (FLUSHED, ours)):
        shown = f"more than {seconds:g} s" if took is None else f"{took * 1e3:,.1f} ms"
        print(f"  {case:<32}{STALLED:>8,}   {shown:>12}")
    met = base is not None and ours is not None and ours <= STALL_LIMIT * base
    ratio = "" if base is None or ours is None else f"{ours / base:.2f} times, "
    verdict = "met" if met else "NOT MET"
    print(f"  {'longest turn':<32}{ratio}limit {STALL_LIMIT:g} times: {verdict}")
    return met


def main() -> int:
    """Measure, print, and check the limits where asked."""
    if sys.argv[1:2] == ["--case"]:
        name, size, seconds = sys.argv[2:]
        print(measure(CASES[name][0], int(size), float(seconds)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail above a limit")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()

    build = "free-threaded" if FREE_THREADED else "GIL"
    print(f"CPython {platform.python_version()} ({build}): processor time")
    print(f"a doubled size at most {DOUBLED_LIMIT} times")
    met = [
        doubles(case, sizes, options.seconds)
        for case, (_, sizes) in CASES.items()
        if case not in (FUTURE, FLUSHED)
    ]
    met.append(stalls(options.seconds))
    return 1 if options.check and not all(met) else 0


if __name__ == "__main__":
    sys.exit(main())
