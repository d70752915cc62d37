"""What an entry costs whose ring lies in a spool's file, beside one in memory.

    python benchmarks/spool_price.py [--check] [--json FILE]

`enqueue`, taking and settling batches, all that a dispatcher does with an entry, and
recovering what another process left: as enqueue_price.py. Then, of processes that
enqueue at full rate with `ms_delay=100`, the processor time of an entry and of the
loop's longest turn; and what a dispatcher recovers in a second of it, where a process
has left 100 MB, with the loop's longest turn. Other work on the machine makes them
longer: the best of ROUNDS processes counts, or, without `--json`, of those until the
limits are met. The files are on tmpfs where there is one.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from instructions import CALLS, Cases, Limit, Loop, bare_loop, calling, compare, serve

SIZES = {100: 1.3, 300: 1.4, 1000: 1.6}  # of an entry, and the highest ratio
SIZE = 100  # of the entries of what follows
BATCH = 1_000
# Of an `enqueue` into memory, some 500 instructions, which take less than 500 ns: that
# is two million entries a second.
RECOVERY_LIMIT = 1.0
END_TO_END_LIMIT = 1 / 0.7
STALL_LIMIT = 1.5
# Of processor times in a file to those in memory.
RATIOS = {"ns": END_TO_END_LIMIT, "stall": STALL_LIMIT}
RATE_LIMIT = 2.0  # million recovered entries in a second of processor time
ROUNDS = 12
ENTRIES = 300_000
CHUNK = 200
ORPHAN = 1_000_000
SHARED = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def folder() -> Path:
    """A directory in the one that the main process removes."""
    return Path(tempfile.mkdtemp())


# ---- instructions


def enqueuer(size: int, *, spooled: bool) -> Any:
    """What has an `enqueue` of entries of that size, with their separator."""
    from ringdispatch._bytes import ByteRing
    from ringdispatch._enqueue import EnqueueBase, install_enqueue
    from ringdispatch._spool import Spool
    from ringdispatch._spool_ring import SpoolRing

    @install_enqueue
    class Enqueuer(EnqueueBase):
        # As a dispatcher's: a call through a dict costs more, and not always the same.
        __slots__ = ("ring",)

    cells, max_bytes = 1 << 17, 2 * CALLS * size
    options = cells, BATCH, None, b"\n", max_bytes, max_bytes
    ring = ByteRing(*options)
    if spooled:
        file = Spool(folder(), 1, b"\n", print).make(2 * cells, 2 * max_bytes)
        ring = SpoolRing(*options, file, None)
    sink = Enqueuer()
    sink.ring = ring
    sink._attach(ring, "drop_newest")
    return sink


def enqueuing(size: int, *, spooled: bool) -> Loop:
    """A loop of `enqueue`."""
    sink, entry = enqueuer(size, spooled=spooled), b"x" * (size - 1)
    sink.enqueue(entry)
    return calling("sink.enqueue(entry)", sink=sink, entry=entry)


def batching(size: int, *, spooled: bool) -> Loop:
    """A loop that takes, settles and releases batches of so many entries."""
    sink = enqueuer(SIZE, spooled=spooled)
    for _ in range(CALLS):
        assert sink.enqueue(b"x" * (SIZE - 1))
    take, loop = sink.ring.take, bare_loop()

    def run() -> None:
        loop()  # prices() takes one off
        while (batch := take(size)) is not None:
            batch.settle(False, 0.0)
            batch.release()

    return run


def recovering() -> Loop:
    """A loop that takes and settles what is in a file of another process."""
    from ringdispatch._spool import Spool
    from ringdispatch._spool_recovered import take_recovered

    sink, loop = enqueuer(SIZE, spooled=True), bare_loop()
    spool = Spool(folder(), 1, b"\n", print)
    file = spool.make(1 << 18, 2 * CALLS * SIZE)
    for _ in range(CALLS):
        assert file.append(b"x" * (SIZE - 1) + b"\n")
    file.leave()
    left = spool.adopt()
    assert left is not None

    def run() -> None:
        loop()
        count = 0
        while (batch := take_recovered(sink.ring, left)) is not None:
            count += len(batch.value)
            batch.settle(False, 0.0)
        assert count == CALLS

    return run


async def take_all(_: Any) -> None:
    """Do nothing with a batch."""


def dispatching(*, spooled: bool) -> Loop:
    """A loop that enqueues entries to a dispatcher, and waits until all are settled."""
    runner = asyncio.Runner()
    dispatcher = dispatcher_of(take_all, CALLS, folder() if spooled else None)
    entry, loop = b"x" * (SIZE - 1), bare_loop()

    async def run() -> None:
        for _ in range(CALLS // CHUNK):
            for _ in range(CHUNK):
                dispatcher.enqueue(entry)
            await asyncio.sleep(0)
        assert await dispatcher.aflush()

    def run_all() -> None:
        loop()
        runner.run(run())

    run_all()
    return run_all


def dispatcher_of(function: Any, capacity: int, spool: Path | None, **more: Any) -> Any:
    from ringdispatch import BackgroundDispatcher, Bytes

    layout = Bytes(max_bytes=capacity * SIZE, spool=spool)
    options = {"ms_delay": 100, "capacity": capacity, "layout": layout}
    return BackgroundDispatcher(function, name="price", **options, **more)


def memory(what: object) -> str:
    return f"in memory, {what}"


def spool(what: object) -> str:
    return f"in a file, {what}"


def of(size: int) -> str:
    return f"{size} B"


MANY, ONE = f"{SIZE} B of a batch of {BATCH:,}", "a batch of one"
ALL, RECOVERY = f"{SIZE} B, dispatched", f"recovered, {SIZE} B"
CASES: Cases = {
    name(of(size)): partial(enqueuing, size, spooled=name is spool)
    for size in SIZES
    for name in (memory, spool)
}
for name in (memory, spool):
    CASES |= {
        name(ONE): partial(batching, 1, spooled=name is spool),
        name(MANY): partial(batching, BATCH, spooled=name is spool),
        name(ALL): partial(dispatching, spooled=name is spool),
    }
CASES |= {RECOVERY: recovering}
LIMITS: list[Limit] = [
    (spool(of(size)), memory(of(size)), most, most) for size, most in SIZES.items()
]
LIMITS += [
    (spool(ALL), memory(ALL), END_TO_END_LIMIT, END_TO_END_LIMIT),
    (RECOVERY, memory(of(SIZE)), RECOVERY_LIMIT, RECOVERY_LIMIT),
]


# ---- processor time, of processes of their own


async def at_full_rate(directory: Path, *, spooled: bool) -> dict[str, float]:
    """Nanoseconds of an entry, of all threads, and of the loop's longest turn."""
    dispatcher = dispatcher_of(take_all, ENTRIES, directory if spooled else None)
    entry = b"x" * (SIZE - 1)
    used = longest = 0
    for _ in range(2):  # the first touches the memory
        began, longest = time.process_time_ns(), 0
        before = time.thread_time_ns()
        made, flush = 0, None
        while flush is None or not flush.done():
            if made < ENTRIES:
                for _ in range(CHUNK):
                    assert dispatcher.enqueue(entry)
                made += CHUNK
            elif flush is None:
                flush = asyncio.create_task(dispatcher.aflush())
            await asyncio.sleep(0)
            after = time.thread_time_ns()
            longest, before = max(longest, after - before), after
        assert flush.result()
        used = time.process_time_ns() - began
    await dispatcher.aclose()
    return {"ns": used / ENTRIES, "stall": longest}


async def leave(directory: Path) -> None:
    """Leave ORPHAN entries as the death of a process does."""
    dispatcher = dispatcher_of(take_all, ORPHAN, directory)
    entry = b"x" * (SIZE - 1)
    for _ in range(ORPHAN):
        assert dispatcher.enqueue(entry)
    os._exit(0)


async def recover(directory: Path) -> dict[str, float]:
    """How long a dispatcher takes for what was left, and its loop's longest turn."""
    from ringdispatch._spool import Spool

    adopt, longest_adopt = Spool.adopt, 0

    def timed(self: Spool, *args: Any) -> Any:
        nonlocal longest_adopt
        began = time.thread_time_ns()
        file = adopt(self, *args)
        longest_adopt = max(longest_adopt, time.thread_time_ns() - began)
        return file

    Spool.adopt = timed
    dispatcher = dispatcher_of(take_all, ORPHAN, directory, max_batch=BATCH)
    began = before = time.thread_time_ns()
    longest = 0
    assert dispatcher.enqueue(b"")
    while dispatcher.statistics().recovered < ORPHAN:
        assert time.thread_time_ns() - began < 60e9, "nothing is recovered"
        await asyncio.sleep(0)
        after = time.thread_time_ns()
        longest, before = max(longest, after - before), after
    used = time.thread_time_ns() - began
    await dispatcher.aclose()
    return {"ns": used / ORPHAN, "stall": longest, "adopt": longest_adopt}


MEASURES = {
    "memory": partial(at_full_rate, spooled=False),
    "file": partial(at_full_rate, spooled=True),
    "leave": leave,
    "recover": recover,
}


def measured(measure: str, directory: Path) -> dict[str, float]:
    """What a process of its own prints."""
    run = subprocess.run(
        [sys.executable, sys.argv[0], "--measure", measure, str(directory)],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(run.stdout or "{}")


def compare_times(whole: bool) -> tuple[dict[str, Any], int]:
    """Print processor times; returns them, and how many limits are not met.

    Args:
        whole: Whether rounds go on when the limits are met.
    """
    rate, slow = compare_rates(whole)
    recovered, slow_too = compare_recovery(whole)
    return {"full rate": rate, "recovery": recovered}, slow + slow_too


def compare_rates(whole: bool) -> tuple[dict[str, Any], int]:
    """Those at full rate."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for place in ("memory", "file"):
            found = measured(place, folder())
            before = best.setdefault(place, found)
            best[place] = {name: min(before[name], found[name]) for name in found}
        ratios = {name: best["file"][name] / best["memory"][name] for name in RATIOS}
        if not whole and all(ratios[name] <= RATIOS[name] for name in RATIOS):
            break
    print(f"processor time at full rate, {SIZE} B, dispatched every 100 ms")
    failed = 0
    for name, words, unit in (("ns", "an entry", 1), ("stall", "longest turn", 1e3)):
        failed += ratios[name] > RATIOS[name]
        print(
            f"  {words:<16}{best['memory'][name] / unit:8.1f} in memory, "
            f"{best['file'][name] / unit:.1f} in a file{', us' * (unit > 1)}: "
            f"{ratios[name]:.2f}, limit {RATIOS[name]:.2f}: "
            f"{'NOT MET' if ratios[name] > RATIOS[name] else 'met'}"
        )
    return best, failed


def compare_recovery(whole: bool) -> tuple[dict[str, float], int]:
    """Those of recovering."""
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        directory = folder()
        measured("leave", directory)
        found = measured("recover", directory)
        best = {name: min(best.get(name, found[name]), found[name]) for name in found}
        rate = 1e3 / best["ns"]
        if not whole and rate >= RATE_LIMIT:
            break
    print(f"recovering {ORPHAN:,} entries, {ORPHAN * SIZE / 1e6:.0f} MB, by {BATCH:,}")
    print(
        f"  {rate:.1f} million a second of processor time, limit {RATE_LIMIT:g}: "
        f"{'met' if rate >= RATE_LIMIT else 'NOT MET'}\n"
        f"  the loop's longest turn {best['stall'] / 1e6:.2f} ms, adopting the file "
        f"{best['adopt'] / 1e6:.2f} ms"
    )
    return best, int(rate < RATE_LIMIT)


def main() -> int:
    from ringdispatch._spool_file import SUPPORTED

    if not SUPPORTED:
        print("only Linux has spools")
        return 0
    if sys.argv[1:2] == ["--measure"]:
        found = asyncio.run(MEASURES[sys.argv[2]](Path(sys.argv[3])))
        print(json.dumps(found))
        return 0
    serve(CASES)
    with tempfile.TemporaryDirectory(dir=SHARED) as made:
        # Of the cases' processes, too, which end without removing anything.
        os.environ["TMPDIR"] = tempfile.tempdir = made
        return compare("enqueue", CASES, memory(of(SIZE)), LIMITS, compare_times)


if __name__ == "__main__":
    sys.exit(main())
