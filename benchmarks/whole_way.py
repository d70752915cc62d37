"""Make the entry, enqueue, batch, dispatch, free: what each layout does in all.

    python benchmarks/whole_way.py [--check] [--json FILE] [--seconds S] [--repeat N]

One thread produces at full rate on the event loop, 200 entries at a time, for a
dispatch function that counts what it gets, or encodes it first. For each case and
delay: million entries in a second of processor time, and the longest time the loop
stood still. Then the longest stall when a million pending entries go out at once, and
the memory of a full ring. Every run is a process of its own, the cases take turns, and
the best of the repeats counts: what disturbs a run only ever makes it slower.

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
import sysconfig
import time
from pathlib import Path
from typing import Any

import orjson

from ringdispatch import BackgroundDispatcher, Bytes
from ringdispatch._ring import immortalize
from ringdispatch._tune._probes import resident
from ways import (
    AT_ONCE,
    BYTES,
    CASES,
    DICT,
    ENCODED,
    FLOOR,
    MILLION,
    RECORD,
    ROW,
    Counter,
    dicts,
    ringdispatch,
)

CHUNK = 200
WARM_UP_SECONDS = 0.3
DELAYS = (10, 100)
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# ---- measuring, in a process of its own


async def at_full_rate(case: str, delay: float, seconds: float) -> dict[str, float]:
    """Million entries a second, and the loop's longest stall in milliseconds."""
    make, encodes = CASES[case]
    sink = Counter(encodes=encodes)
    produce = make(delay, sink)
    now = time.perf_counter
    began = now()
    while now() < began + WARM_UP_SECONDS:
        produce(CHUNK)
        await asyncio.sleep(0)
    sink.entries, longest = 0, 0.0
    used = time.process_time()
    began = before = now()
    while before < began + seconds:
        produce(CHUNK)
        await asyncio.sleep(0)
        after = now()
        longest = max(longest, after - before)
        before = after
    used = time.process_time() - used
    return {
        "million_per_second": sink.entries / used / 1e6,
        "longest_stall_ms": 1e3 * longest,
    }


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


def child(what: str, case: str, delay: float, seconds: float) -> None:
    """Measure one thing, print it, and leave without any teardown."""
    if what == "rate":
        found = asyncio.run(at_full_rate(case, delay, seconds))
    elif what == "at once":
        found = asyncio.run(a_million_at_once(case))
    else:
        found = full_ring(case)
    print(json.dumps(found), flush=True)
    os._exit(0)


# ---- comparing


def measure(what: str, case: str, delay: float, seconds: float) -> dict[str, float]:
    """Have a process measure one thing."""
    run = subprocess.run(
        [sys.executable, __file__, "--child", what, case, str(delay), str(seconds)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    """The best of several runs: the highest rate, the shortest stall."""
    return {
        name: (max if name == "million_per_second" else min)(run[name] for run in runs)
        for name in runs[0]
    }


def measure_all(seconds: float, repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """Everything: by what was measured, and by case."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    plan = [(f"{delay} ms", "rate", case, delay) for delay in DELAYS for case in CASES]
    plan += [("at once", "at once", case, 0) for case in AT_ONCE]
    plan += [("memory", "memory", case, 0) for case in AT_ONCE]
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(repeats):
        for group, what, case, delay in plan:
            print(f"\r{group}: {case}\033[K", end="", file=sys.stderr, flush=True)
            one = measure(what, case, delay, seconds)
            runs.setdefault((group, case), []).append(one)
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
        rate = {case: one[case]["million_per_second"] for case in one}
        for case, base, least in ((ROW, DICT, 2.5), (RECORD, FLOOR, 0.75)):
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


def main() -> int:
    """Measure, print the tables, and check the limits where asked."""
    if sys.argv[1:2] == ["--child"]:
        what, case, delay, seconds = sys.argv[2:]
        child(what, case, float(delay), float(seconds))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail above a limit")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each run")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each case")
    options = parser.parse_args()

    found = measure_all(options.seconds, options.repeat)
    version = platform.python_version()
    print(f"CPython {version}, {platform.machine()}, best of {options.repeat}")
    heads = "".join(f"{delay:>9} ms{'stall':>10}" for delay in DELAYS)
    print(f"\n  {'million entries a second, end to end':<44}{heads}")
    for case in CASES:
        line = f"  {case:<44}"
        for delay in DELAYS:
            one = found[f"{delay} ms"][case]
            line += f"{one['million_per_second']:>10.2f} M"
            line += f"{one['longest_stall_ms']:>7.1f} ms"
        print(line)
    print(f"\n  {'a million pending entries':<44}{'stall':>9}{'memory':>13}")
    for case in AT_ONCE:
        stall = found["at once"][case]["longest_stall_ms"]
        size = found["memory"][case]["bytes_per_entry"]
        print(f"  {case:<44}{stall:>7.2f} ms{size:>9.0f} B each")
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
