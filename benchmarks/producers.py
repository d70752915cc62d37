"""End to end, with several threads that produce for one dispatcher.

    python benchmarks/producers.py CASE DELAY PRODUCERS SECONDS

Each thread produces at full rate, as the one of whole_way.py does; the event loop
dispatches. Prints million entries a second, by the clock, as JSON.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time

import whole_way
from ways import BYTES, CASES, DICT, RECORD, ROW, TUPLE, Counter
from whole_way import CHUNK, DELAYS, WARM_UP_SECONDS

# Those that any thread may call.
CASES_FOR_THREADS = (
    DICT,
    TUPLE,
    RECORD,
    ROW,
    BYTES,
    "OpenTelemetry BatchProcessor, dict",
)


def cases(mode: str) -> list[tuple[str, int, int]]:
    """What a mode measures: case, delay and producers."""
    if mode == "quick":
        few = (DICT, ROW)
        return [(case, 10, producers) for case in few for producers in (1, 4)]
    return [
        (case, delay, producers)
        for delay in (DELAYS if mode == "full" else DELAYS[:1])
        for producers in (1, 2, 4)
        for case in (CASES if producers == 1 else CASES_FOR_THREADS)
    ]


def measure(case: str, delay: float, producers: int, seconds: float) -> float:
    """Have a process measure it: million entries a second."""
    if producers == 1:  # on the event loop itself
        return whole_way.measure("rate", case, delay, seconds)["million_per_second"]
    order = [case, str(delay), str(producers), str(seconds)]
    run = subprocess.run(
        [sys.executable, __file__, *order], check=True, capture_output=True, text=True
    )
    found: float = json.loads(run.stdout.splitlines()[-1])
    return found


async def at_full_rate(
    case: str, delay: float, producers: int, seconds: float
) -> float:
    """Million entries a second that the dispatch function got."""
    make, encodes = CASES[case]
    sink = Counter(encodes=encodes)
    produce = make(delay, sink)

    def produce_for_ever() -> None:
        while True:
            produce(CHUNK)

    for _ in range(producers):
        threading.Thread(target=produce_for_ever, daemon=True).start()
    await asyncio.sleep(WARM_UP_SECONDS)
    sink.entries, began = 0, time.perf_counter()
    await asyncio.sleep(seconds)
    return sink.entries / (time.perf_counter() - began) / 1e6


def main() -> None:
    """Measure, print, and leave without any teardown."""
    case, delay, producers, seconds = sys.argv[1:]
    found = asyncio.run(
        at_full_rate(case, float(delay), int(producers), float(seconds))
    )
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
