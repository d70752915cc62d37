"""Make the entry, enqueue, batch, dispatch, free: what each layout does in all.

    python benchmarks/end_to_end.py [--check] [--json FILE] [--repeat N]

For each case and delay, CAPACITY entries, which is also the room of each queue and
ring: nothing is dropped, and nothing has to wait. One thread makes them at full rate on
the event loop, 200 at a time, for a dispatch function that counts what it gets, or
encodes it first. The clock, and the processor time of all threads, run from the first
entry until the last one has been dispatched. Also the longest time the loop was blocked
while entries were made. Then the longest stall when a million pending entries go out at
once, and the memory of a full ring. Every run is a process of its own, the cases take
turns, and the best of the repeats counts: what disturbs a run only makes it slower.

`--check` exits with 1 where a ratio misses its limit. Needs numpy, orjson and
opentelemetry-sdk.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import orjson

from ringdispatch import BackgroundDispatcher, Bytes
from ringdispatch._pthread import immortalize
from ringdispatch._tune._probes import resident
from ways import (
    AT_ONCE,
    BYTES,
    CAPACITY,
    CASES,
    DICT,
    ENCODED,
    FLOOR,
    MILLION,
    OPENTELEMETRY,
    RECORD,
    ROW,
    TUPLE,
    Counter,
    Produce,
    dicts,
    ringdispatch,
)

CHUNK = 200
DELAYS = (10, 100)
DEADLINE = 120.0  # seconds, for what takes one or two
# The cases whose call any thread may make.
CASES_FOR_THREADS = (DICT, TUPLE, RECORD, ROW, BYTES, OPENTELEMETRY)
SMALLER_IS_BETTER = ("longest_stall_ms", "bytes_per_entry", "bytes_of_an_entry")
# numpy's threads spin for a moment after its import, which would count as ours.
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}

# ---- measuring, in a process of its own


async def at_full_rate(case: str, delay: float, producers: int) -> dict[str, float]:
    """Million entries in a second, by the clock and of processor time."""
    make, encodes = CASES[case]
    sink = Counter(encodes=encodes)
    produce = make(delay, sink)
    await until_all_came(sink, produce, producers)  # touches the memory of all sizes
    began, used = time.perf_counter(), time.process_time()
    longest, meanwhile = await until_all_came(sink, produce, producers)
    used, took = time.process_time() - used, time.perf_counter() - began
    if sink.entries != CAPACITY:
        raise SystemExit(f"{case}: {sink.entries:,} of {CAPACITY:,} entries came")
    return {
        "million_per_second": CAPACITY / took / 1e6,
        "million_per_cpu_second": CAPACITY / used / 1e6,
        "longest_stall_ms": 1e3 * longest,
        "dispatched_meanwhile": meanwhile / CAPACITY,
    }


async def until_all_came(
    sink: Counter, produce: Produce, producers: int
) -> tuple[float, int]:
    """Make CAPACITY entries and wait for the last.

    One producer is the event loop's own thread, several are threads beside it.

    Returns:
        While one producer made them: the loop's longest stall in seconds, and how many
        were dispatched.
    """
    came = sink.expect(CAPACITY)
    longest, meanwhile = 0.0, 0
    if producers == 1:
        before = time.perf_counter()
        for _ in range(CAPACITY // CHUNK):
            produce(CHUNK)
            await asyncio.sleep(0)
            after = time.perf_counter()
            longest = max(longest, after - before)
            before = after
        meanwhile = sink.entries
    else:

        def produce_its_share() -> None:
            for _ in range(CAPACITY // producers // CHUNK):
                produce(CHUNK)

        for _ in range(producers):
            threading.Thread(target=produce_its_share, daemon=True).start()
    # No polling: on the loop it would keep a thread that exports from the GIL.
    await asyncio.wait_for(came.wait(), DEADLINE)
    return longest, meanwhile


async def a_million_at_once(case: str) -> dict[str, float]:
    """The loop's longest stall while a million pending entries go out, in ms."""
    layout, entries, encodes = AT_ONCE[case]
    sink = Counter(encodes=encodes)
    made = ringdispatch(50, sink, layout())
    longest = 0.0
    now = time.perf_counter
    for _ in range(2):  # the first touches the memory
        sink.entries = 0
        entries(made.enqueue)(MILLION)
        longest, before = 0.0, now()
        while sink.entries < MILLION or made.statistics().in_flight:
            await asyncio.sleep(0)
            after = now()
            longest = max(longest, after - before)
            before = after
    seen = made.statistics()
    if seen.dispatched != 2 * MILLION:
        raise SystemExit(f"{case}: {seen}")
    return {"longest_stall_ms": 1e3 * longest}


def full_ring(case: str) -> dict[str, float]:
    """Resident bytes that a full ring of a million entries takes, for each of them."""
    layout, entries, _ = AT_ONCE[case]
    made_of = layout()
    if isinstance(made_of, Bytes):  # an arena of just the right size
        made_of = Bytes(encode=orjson.dumps, max_bytes=line_bytes())
    sink = Counter()
    before = resident()
    made: BackgroundDispatcher[Any] = BackgroundDispatcher(
        sink, ms_delay=3_600_000, capacity=MILLION, layout=made_of, home="thread"
    )
    # The only slot is taken for good, so nothing leaves the ring.
    immortalize(made._batcher.ring.acquire_slot(1))
    entries(made.enqueue)(MILLION)
    grown = resident() - before
    if made.pending != MILLION:
        raise SystemExit(f"{case}: {made.statistics()}")
    return {
        "bytes_per_entry": grown / MILLION,
        "bytes_of_an_entry": (made.statistics().pending_bytes or 0) / MILLION,
    }


def line_bytes() -> int:
    """Bytes of a million entries as lines."""
    sizes: list[int] = []
    dicts(lambda entry: sizes.append(len(orjson.dumps(entry))))(MILLION)
    return sum(sizes) + MILLION


def child(what: str, case: str, delay: float, producers: int) -> None:
    """Measure one thing, print it, and leave without any teardown."""
    if what == "rate":
        found = asyncio.run(at_full_rate(case, delay, producers))
    elif what == "at once":
        found = asyncio.run(a_million_at_once(case))
    else:
        found = full_ring(case)
    print(json.dumps(found), flush=True)
    os._exit(0)


# ---- comparing


def cases(mode: str) -> list[tuple[str, int, int]]:
    """What a mode of the suite measures: case, delay and producers."""
    if mode == "quick":
        few = (DICT, ROW, OPENTELEMETRY)
        return [(case, 10, producers) for case in few for producers in (1, 4)]
    return [
        (case, delay, producers)
        for delay in (DELAYS if mode == "full" else DELAYS[:1])
        for producers in (1, 2, 4)
        for case in (CASES if producers == 1 else CASES_FOR_THREADS)
    ]


def measure(
    what: str, case: str, delay: float = 0, producers: int = 1
) -> dict[str, float]:
    """Have a process measure one thing."""
    run = subprocess.run(
        [sys.executable, __file__, "--child", what, case, str(delay), str(producers)],
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    """The best of several runs: the highest rates, the shortest stall."""
    return {
        name: (min if name in SMALLER_IS_BETTER else max)(run[name] for run in runs)
        for name in runs[0]
    }


def measure_all(repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """Everything: by what was measured, and by case."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    plan = [(f"{delay} ms", "rate", case, delay) for delay in DELAYS for case in CASES]
    plan += [("at once", "at once", case, 0) for case in AT_ONCE]
    plan += [("memory", "memory", case, 0) for case in AT_ONCE]
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(repeats):
        for group, what, case, delay in plan:
            print(f"\r{group}: {case}\033[K", end="", file=sys.stderr, flush=True)
            runs.setdefault((group, case), []).append(measure(what, case, delay))
    print("\r\033[K", end="", file=sys.stderr)
    for (group, case), several in runs.items():
        found.setdefault(group, {})[case] = best(several)
    return found


def limits(found: dict[str, dict[str, dict[str, float]]]) -> list[tuple[str, bool]]:
    """What must hold, in words with the figures, and whether it does."""
    verdicts = []

    def need(what: str, figure: float, limit: float, *, least: bool = False) -> None:
        met = figure >= limit if least else figure <= limit
        word = "at least" if least else "at most"
        verdicts.append((f"{what}: {figure:.3g}, {word} {limit:.3g}", met))

    for delay in DELAYS:
        one = found[f"{delay} ms"]
        rate = {case: one[case]["million_per_cpu_second"] for case in one}
        for case, base, least in ((ROW, DICT, 2.5), (RECORD, FLOOR, 0.7)):
            what = f"{case} over {base}, {delay} ms"
            need(what, rate[case] / rate[base], least, least=True)
    at_once = found["at once"]
    need(f"{RECORD}, a million at once, ms", at_once[RECORD]["longest_stall_ms"], 1.0)
    stall = {case: one["longest_stall_ms"] for case, one in found["100 ms"].items()}
    need(f"{BYTES} over {ENCODED}, stall", stall[BYTES] / stall[ENCODED], 0.2)
    for case, buffers, most in ((RECORD, 2, 0.5), (BYTES, 1, 8)):
        one = found["memory"][case]
        own = one["bytes_of_an_entry"]
        more = one["bytes_per_entry"] / buffers - own
        need(f"{case}, memory beyond its {own:.0f} bytes", more, most)
    return verdicts


def show(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the tables."""
    columns = "  clock      CPU      stall  meanwhile"
    print(
        "\n  million entries a second, end to end, by the clock and of processor time;"
    )
    print("  and how many of the entries were dispatched before the last one was made")
    print(f"  {'':<44}" + "".join(f"{f'{delay} ms:':>8}{columns}" for delay in DELAYS))
    for case in CASES:
        line = f"  {case:<44}"
        for delay in DELAYS:
            one = found[f"{delay} ms"][case]
            line += f"{one['million_per_second']:>13.2f} M"
            line += f"{one['million_per_cpu_second']:>7.2f} M"
            line += f"{one['longest_stall_ms']:>8.1f} ms"
            line += f"{one['dispatched_meanwhile']:>11.0%}"
        print(line)
    print(f"\n  {'a million pending entries':<44}{'stall':>9}{'memory':>13}")
    for case in AT_ONCE:
        stall = found["at once"][case]["longest_stall_ms"]
        size = found["memory"][case]["bytes_per_entry"]
        print(f"  {case:<44}{stall:>7.2f} ms{size:>9.0f} B each")


def main() -> int:
    """Measure, print the tables, and check the limits where asked."""
    if sys.argv[1:2] == ["--child"]:
        what, case, delay, producers = sys.argv[2:]
        child(what, case, float(delay), int(producers))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail above a limit")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each case")
    options = parser.parse_args()

    found = measure_all(options.repeat)
    version = platform.python_version()
    print(f"CPython {version}, {platform.machine()}, best of {options.repeat}")
    show(found)
    failed = 0
    print("\nlimits")
    for words, met in limits(found):
        failed += not met
        print(f"  {words}: {'met' if met else 'NOT MET'}")
    if options.json:
        options.json.write_text(json.dumps({"python": version, **found}, indent=2))
    return 1 if options.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())
