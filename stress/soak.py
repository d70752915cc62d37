"""A soak: entries by the million through each overflow policy, and nothing that grows.

    python stress/soak.py [--entries 200000000] [--policy drop_oldest] [--layout bytes]

Fresh objects go in faster than they come out, from two threads, so that the ring is
often full; the dispatch function now and then fails. After a warm-up the resident
memory must stay flat to within 1 MiB, and objects, memory blocks, handles, tasks,
threads and file descriptors must not grow. Where one does, as many entries go through
again, twice: what an allocator takes for good it takes once, a leak grows each time.
Exits with 1 where one grew each time, or where the books do not agree with what was
handed in and what was dispatched.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from ringdispatch import (
    BackgroundDispatcher,
    Bytes,
    Full,
    Objects,
    Records,
    Statistics,
)
from ringdispatch._tune._probes import resident

POLICIES = ("drop_newest", "drop_oldest", "raise")
LAYOUTS = ("objects", "records", "bytes")
MIB = 1 << 20
PRODUCERS = 2
LOOKS = 10
ROUNDS = 3
# Its allocator gives pages back when it likes: the memory of a moment says little.
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
WARM_UP = 2_000_000
ENTRY_BYTES = 8
CAPACITY = 20_000


def laid_out(
    name: str, size: int, capacity: int
) -> tuple[Objects | Records | Bytes, Callable[[int], Any]]:
    """A layout with room for `capacity` entries of `size` bytes; what makes them."""
    if name == "records":
        row = [("number", "u8"), ("text", f"S{size}")]
        return Records(row), lambda number: (number, bytes(size))
    separator = b"\n"
    most = (capacity + 1) * (size + len(separator))  # the entries' number is the bound
    layout = Bytes(max_bytes=most) if name == "bytes" else Objects()
    return layout, lambda number: b"%0*d" % (size, number)


@dataclass(frozen=True)
class Size:
    """How much of everything the process holds; taken while the producers pause."""

    memory: int
    objects: int
    blocks: int
    threads: int
    descriptors: int
    tasks: int
    handles: int

    @staticmethod
    def now(loop: asyncio.AbstractEventLoop) -> Size:
        gc.collect()
        scheduled = loop._scheduled  # type: ignore[attr-defined]
        return Size(
            memory=resident(),
            objects=len(gc.get_objects()),
            blocks=sys.getallocatedblocks(),
            threads=threading.active_count(),
            descriptors=len(list(Path("/proc/self/fd").iterdir())),
            tasks=len(asyncio.all_tasks(loop)),
            handles=sum(not handle.cancelled() for handle in list(scheduled)),
        )


# asyncio keeps up to a hundred or so cancelled timers, and what hangs on them.
SLACK = Size(
    memory=MIB, objects=1000, blocks=2000, threads=0, descriptors=0, tasks=0, handles=1
)


class Producers:
    """Threads that enqueue at full rate, and pause together."""

    def __init__(
        self, dispatcher: BackgroundDispatcher[Any], make: Callable[[int], Any]
    ) -> None:
        self.dispatcher = dispatcher
        self.make = make
        self.tried = self.accepted = 0

    def produce(self, entries: int) -> None:
        """Hand in so many more, from all threads."""
        results: list[tuple[int, int]] = []
        threads = [
            threading.Thread(target=self._run, args=(share, results))
            for share in shares(entries)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.tried += sum(tried for tried, _ in results)
        self.accepted += sum(accepted for _, accepted in results)

    def _run(self, entries: int, results: list[tuple[int, int]]) -> None:
        enqueue, make = self.dispatcher.enqueue, self.make
        accepted = 0
        for number in range(entries):
            with suppress(Full):
                accepted += enqueue(make(number))
        results.append((entries, accepted))


def shares(entries: int) -> Iterator[int]:
    for number in range(PRODUCERS):
        yield entries // PRODUCERS + (number < entries % PRODUCERS)


class Sink:
    """A dispatch function that is slow now and then, and fails now and then."""

    def __init__(self) -> None:
        self.calls = self.received = self.failed = 0

    async def __call__(self, batch: Any) -> None:
        self.calls += 1
        self.received += len(batch)
        await asyncio.sleep(0.002 if self.calls % 20 == 0 else 0)
        if self.calls % 50 == 0:
            self.failed += len(batch)
            raise ConnectionError("the sink is down for this batch")


def soak(entries: int, policy: str, layout: str) -> list[str]:
    """Put the entries through; returns what is wrong."""
    sink = Sink()
    chosen, make = laid_out(layout, ENTRY_BYTES, CAPACITY)
    dispatcher: BackgroundDispatcher[Any] = BackgroundDispatcher(  # type: ignore[call-overload]
        sink,
        layout=chosen,
        ms_delay=1,
        capacity=CAPACITY,
        max_batch=5_000,
        max_in_flight=2,
        on_full=policy,
        home="thread",
    )
    producers = Producers(dispatcher, make)
    began = time.monotonic()
    producers.produce(max(WARM_UP, entries // 10))
    dispatcher.flush(60)
    home = dispatcher._batcher.home
    assert home is not None
    loop = home.loop
    assert loop is not None
    sizes = [Size.now(loop)]
    for _ in range(ROUNDS):
        for _ in range(LOOKS):
            producers.produce(entries // LOOKS)
            dispatcher.flush(60)
            sizes.append(Size.now(loop))
            tell(policy, producers, sizes, time.monotonic() - began)
        grown = growth(sizes)
        if not grown:
            break
        print(f"again, to see whether it goes on: {', '.join(grown)}", flush=True)
        sizes = sizes[-1:]
    wrong = [] if dispatcher.close(60) else ["close: not all was settled"]
    return wrong + grown + disagreements(dispatcher.statistics(), producers, sink)


def growth(sizes: list[Size]) -> list[str]:
    """What did not stay as it was after the warm-up."""
    wrong = []
    for field, slack in zip(fields(Size), astuple(SLACK), strict=True):
        seen = [getattr(size, field.name) for size in sizes]
        half = len(seen) // 2
        # Of a count the least of each half: a moment's own comes and goes.
        before, after = min(seen[:half]), min(seen[half:])
        if field.name == "memory" and not FREE_THREADED:
            # Not from the least: systems take back what is idle, and give it again.
            before, after = seen[0], max(seen)
        if after - before > slack:
            wrong.append(f"{field.name}: {before:,} grew to {after:,}")
    return wrong


def disagreements(seen: Statistics, producers: Producers, sink: Sink) -> list[str]:
    found = {
        "accepted": (seen.accepted, producers.accepted),
        "rejected_full": (seen.rejected_full, producers.tried - producers.accepted),
        "taken": (seen.dispatched + seen.failed, sink.received),
        "failed": (seen.failed, sink.failed),
        "left": (seen.accepted - seen.evicted, sink.received),
        "abandoned": (seen.abandoned, 0),
    }
    return [
        f"{what}: the books say {books:,}, it was {real:,}"
        for what, (books, real) in found.items()
        if books != real
    ]


def tell(policy: str, producers: Producers, sizes: list[Size], seconds: float) -> None:
    seen = producers.dispatcher.statistics()
    size = sizes[-1]
    print(
        f"{policy:<12} {seconds:>5.0f} s {producers.tried:>12,} handed in, "
        f"{seen.dispatched:>11,} dispatched, {seen.failed:>10,} failed, "
        f"{seen.rejected_full + seen.evicted:>12,} dropped, "
        f"{size.memory / MIB:.2f} MiB ({(size.memory - sizes[0].memory) / MIB:+.2f}), "
        f"{size.objects:,} objects, {size.blocks:,} blocks",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="A soak run.")
    parser.add_argument("--entries", type=int, default=200_000_000)
    parser.add_argument("--policy", choices=POLICIES, help="one only; else all")
    parser.add_argument("--layout", choices=LAYOUTS, default="objects")
    given = parser.parse_args()
    logging.getLogger("ringdispatch").setLevel(logging.ERROR)
    wrong = []
    for policy in [given.policy] if given.policy else POLICIES:
        found = soak(given.entries, policy, given.layout)
        wrong += [f"{policy}: {what}" for what in found]
    print("\n".join(wrong) if wrong else "nothing grew, and the books agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
