"""What one window costs: from its opener to its settled batch, on a running loop.

    python benchmarks/window_price.py [--check] [--json FILE]

A window of 20 ms holds one entry. The dispatch function sets an `asyncio.Event` that
the task which enqueued waits for before it opens the next window, so that nothing else
runs on the loop. Beside ours the same is written by hand in two ways.

Instructions are callgrind's (instructions.py), of a process for each case: 20 windows
warm up, then collection is switched on from within, around 50 more on the same loop;
what an `asyncio.Runner.run` of nothing costs is taken off. With a shorter delay the
timer would be due before it is set, for callgrind is slow, and the count would wander.

Calls are those of the Python functions in the package's files, as `sys.setprofile` sees
them ("call" events; to resume a coroutine is one), over 50 windows after the warm-up;
depth is the highest number of frames of such functions on the stack at once.

`--check` exits with 1 above a limit.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from instructions import FREE_THREADED, Cases, Loop, prices, serve

DELAY_SECONDS = 0.02
WARM_UP = 20
WINDOWS = 50
ENTRY = {"message": "new request", "id": 1}
HAND, QUEUE, OURS = "list + call_later + create_task", "asyncio.Queue", "ringdispatch"
RATIO_LIMIT = 1.9  # of the window by hand
CALLS_LIMIT = 45
DEPTH_LIMIT = 8

Send = Callable[[list[Any]], Coroutine[Any, Any, None]]


class Sink(Protocol):
    """What the producer calls."""

    def enqueue(self, entry: object) -> object:
        """Have the entry dispatched when its window is due."""


class ByHand:
    """The ten lines that people write: no bound, no timeout, no end."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.loop = asyncio.get_running_loop()
        self.entries: list[object] = []
        self.tasks: set[asyncio.Task[None]] = set()  # the loop holds them weakly

    def enqueue(self, entry: object) -> None:
        if not self.entries:
            self.loop.call_later(DELAY_SECONDS, self.dispatch)
        self.entries.append(entry)

    def dispatch(self) -> None:
        batch, self.entries = self.entries, []
        task = self.loop.create_task(self.send(batch))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class ByQueue:
    """A task that takes from an `asyncio.Queue`, with a timeout for each batch."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.queue: asyncio.Queue[object] = asyncio.Queue()
        self.enqueue = self.queue.put_nowait
        self.task = asyncio.get_running_loop().create_task(self.run())

    async def run(self) -> None:
        while True:
            batch = [await self.queue.get()]
            await asyncio.sleep(DELAY_SECONDS)
            while not self.queue.empty():
                batch.append(self.queue.get_nowait())
            async with asyncio.timeout(30):
                await self.send(batch)


def dispatcher(send: Send) -> Sink:
    """Ours, with the options that it has by default."""
    from ringdispatch import BackgroundDispatcher

    made: Sink = BackgroundDispatcher(send, ms_delay=DELAY_SECONDS * 1000)
    return made


class Producer:
    """A loop, a sink on it, and a task that opens one window after the other."""

    def __init__(self, make: Callable[[Send], Sink] | None) -> None:
        self.runner = asyncio.Runner()
        self.runner.run(self.begin(make))
        gc.collect()
        gc.freeze()  # else a full collection may fall into the count, or not

    async def begin(self, make: Callable[[Send], Sink] | None) -> None:
        self.settled = asyncio.Event()
        self.sink = None if make is None else make(self.send)
        await self.windows(WARM_UP)

    async def send(self, batch: list[object]) -> None:
        assert len(batch) == 1, batch
        self.settled.set()

    async def windows(self, count: int) -> None:
        if self.sink is None:
            return
        for _ in range(count):
            self.sink.enqueue(ENTRY)
            await self.settled.wait()
            self.settled.clear()

    def run(self) -> None:
        self.runner.run(self.windows(WINDOWS))


def windows(make: Callable[[Send], Sink] | None) -> Callable[[], Loop]:
    """A case: `WINDOWS` windows, one after the other; with no sink, nothing."""
    return lambda: Producer(make).run


CASES: Cases = {
    "empty loop": windows(None),
    HAND: windows(ByHand),
    QUEUE: windows(ByQueue),
    OURS: windows(dispatcher),
}


def calls_and_depth() -> tuple[float, int, Counter[str]]:
    """Calls of our functions per window, how deep, and which functions they were."""
    import ringdispatch

    package = str(Path(ringdispatch.__file__).parent) + os.sep
    producer = Producer(dispatcher)
    functions: Counter[str] = Counter()
    depth = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal depth
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(package):
            return
        functions[f"{Path(code.co_filename).name}: {code.co_qualname}"] += 1
        below: FrameType | None = frame
        ours = 0
        while below is not None:
            ours += below.f_code.co_filename.startswith(package)
            below = below.f_back
        depth = max(depth, ours)

    sys.setprofile(profile)
    try:
        producer.run()
    finally:
        sys.setprofile(None)
    producer.runner.close()
    return functions.total() / WINDOWS, depth, functions


def main() -> int:
    """Measure, print, and check the limits where asked."""
    serve(CASES)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail above a limit")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--functions", action="store_true", help="also list our functions, by calls"
    )
    options = parser.parse_args()
    if shutil.which("valgrind") is None or shutil.which("cc") is None:
        # Nanoseconds would be those of the delay.
        raise SystemExit("valgrind or a C compiler is missing: install both")

    _, measured = prices(CASES, WINDOWS)
    calls, depth, functions = calls_and_depth()
    build = "free-threaded" if FREE_THREADED else "GIL"
    version = platform.python_version()
    print(f"CPython {version} ({build}), {platform.machine()}: a window of 20 ms")
    for case, price in measured.items():
        ratio = price / measured[HAND]
        print(f"  {case:<36}{price:10,.0f} instructions   {ratio:5.2f} of {HAND}")
    if options.functions:
        print("our functions, calls per window")
        for function, count in functions.most_common():
            print(f"  {count / WINDOWS:6.2f}  {function}")
    print("limits")
    failed = 0
    for what, found, limit in (
        (f"instructions, of {HAND}", measured[OURS] / measured[HAND], RATIO_LIMIT),
        ("calls of our Python functions", calls, CALLS_LIMIT),
        ("depth of our Python functions", depth, DEPTH_LIMIT),
    ):
        verdict = "met" if found <= limit else "NOT MET"
        print(f"  {what:<48}{found:6.2f}, limit {limit}: {verdict}")
        failed += found > limit
    if options.json:
        figures = {
            "python": version,
            "build": build,
            "instructions": measured,
            "calls": calls,
            "depth": depth,
        }
        options.json.write_text(json.dumps(figures, indent=2))
    return 1 if options.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())
