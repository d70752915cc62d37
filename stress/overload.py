"""Overload: producers at full rate against a dispatch function that never returns.

    python stress/overload.py [--seconds 60] [--policy drop_oldest] [--layout bytes]

For each overflow policy, two threads enqueue fresh entries as fast as they can
while the only call of the dispatch function hangs and ignores its cancellation;
then the sink recovers. Exits with 1 unless

- memory stays below what `capacity * (1 + max_in_flight)` entries take (C7), twice that
  without the GIL, whose allocator keeps more than is alive,
- the log has no more than one line per reason and period of 10 s, and these add up,
- everything flows again within two windows, and the books agree.

What an enqueue costs in each tenth of the time is printed, to be judged by eye: how
many instructions a full ring takes is the matter of benchmarks/enqueue_price.py.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ringdispatch import BackgroundDispatcher, Full
from ringdispatch._reports import REPORT_SECONDS
from soak import FREE_THREADED, LAYOUTS, MIB, POLICIES, laid_out, resident

PRODUCERS = 2
CAPACITY = 20_000
ENTRY_BYTES = 400  # small enough for the interpreter's own allocator
DELAY = 0.01
# What may come on top of the entries: stacks, the log, the allocator's rounding.
SLACK = 8 * MIB
DEADLINE = 30.0


class HangingSink:
    """Hangs in its first call, cancelled or not, until it is released."""

    def __init__(self) -> None:
        self.recovers = threading.Event()
        self.calls: list[tuple[float, int]] = []

    async def __call__(self, batch: Any) -> None:
        self.calls.append((time.monotonic(), len(batch)))
        while not self.recovers.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def numbers(self, reason: str) -> list[int]:
        line = re.compile(rf"ringdispatch\[overload\]: (\d+) entr(?:y|ies) {reason};")
        found = map(line.match, self.lines)
        return [int(match[1]) for match in found if match]


@dataclass
class Producer:
    """One thread at full rate; notes what an enqueue took in each tenth of the time."""

    dispatcher: BackgroundDispatcher[Any]
    make: Callable[[int], Any]
    seconds: float

    def __post_init__(self) -> None:
        self.tried = self.accepted = 0
        self.prices: list[float] = []

    def run(self) -> None:
        enqueue, make = self.dispatcher.enqueue, self.make
        for _ in range(10):
            before, began = self.tried, time.monotonic()
            while time.monotonic() < began + self.seconds / 10:
                for _ in range(1000):
                    with suppress(Full):
                        self.accepted += enqueue(make(self.tried))
                self.tried += 1000
            taken = time.monotonic() - began
            self.prices.append(1e9 * taken / (self.tried - before))


def overload(seconds: float, policy: str, layout: str) -> list[str]:
    """Overload one dispatcher; returns what is wrong."""
    sink, lines = HangingSink(), Lines()
    logging.getLogger("ringdispatch").addHandler(lines)
    chosen, make = laid_out(layout, ENTRY_BYTES, CAPACITY)
    before = resident()
    dispatcher: BackgroundDispatcher[Any] = BackgroundDispatcher(  # type: ignore[call-overload]
        sink,
        layout=chosen,
        ms_delay=DELAY * 1000,
        capacity=CAPACITY,
        dispatch_timeout=seconds / 2,
        on_full=policy,
        home="thread",
        name="overload",
    )
    producers = [Producer(dispatcher, make, seconds) for _ in range(PRODUCERS)]
    threads = [threading.Thread(target=producer.run) for producer in producers]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, resident() - before)
        threads[0].join(0.05)
    wrong = recovery(dispatcher, make, sink)
    if not dispatcher.close(DEADLINE):
        wrong.append("close: not all was settled")
    logging.getLogger("ringdispatch").removeHandler(lines)

    bound = 2 * CAPACITY * sys.getsizeof(bytes(ENTRY_BYTES)) + SLACK
    if FREE_THREADED:  # each thread has pages of its own, and frees the others' late
        bound *= 2
    if most > bound:
        wrong.append(f"{most / MIB:.1f} MiB, above the bound of {bound / MIB:.1f} MiB")
    wrong += reported(dispatcher, lines, seconds, producers)
    tried = sum(producer.tried for producer in producers)
    tenths = zip(*(p.prices for p in producers), strict=True)
    print(
        f"{policy:<12} {tried:>12,} handed in while the sink hung {seconds:g} s: "
        f"{most / MIB:.1f} of {bound / MIB:.1f} MiB, {len(lines.lines)} log lines, "
        f"ns per enqueue by tenths "
        f"{' '.join(f'{sum(tenth) / PRODUCERS:.0f}' for tenth in tenths)}",
        flush=True,
    )
    return wrong


def recovery(
    dispatcher: BackgroundDispatcher[Any], make: Callable[[int], Any], sink: HangingSink
) -> list[str]:
    """Let the sink go, and see that all flows again within two windows."""
    wrong = []
    if len(sink.calls) != 1 or dispatcher.pending != CAPACITY:
        wrong.append(f"{len(sink.calls)} calls while it hung, {dispatcher!r}")
    sink.recovers.set()
    wait_for(lambda: len(sink.calls) > 1)  # the sink lets go at its next step
    dispatcher.enqueue(make(0))
    wait_for(lambda: len(sink.calls) > 2)
    wait_for(lambda: not dispatcher.statistics().in_flight)
    sizes = [size for _, size in sink.calls]
    if sizes[1:] != [CAPACITY, 1]:
        wrong.append(f"batches after recovery: {sizes[1:]}")
    (first, _), (second, _) = sink.calls[1:3]
    print(f"{'':<12} flowing again, the next window {1e3 * (second - first):.1f} ms on")
    return wrong


def reported(
    dispatcher: BackgroundDispatcher[Any],
    lines: Lines,
    seconds: float,
    producers: list[Producer],
) -> list[str]:
    """Compare the books with what the producers saw and what was logged."""
    seen = dispatcher.statistics()
    tried = sum(producer.tried for producer in producers) + 1
    accepted = sum(producer.accepted for producer in producers) + 1
    wrong = []
    if (seen.accepted, seen.rejected_full) != (accepted, tried - accepted):
        wrong.append(f"{accepted:,} of {tried:,} were accepted: {seen}")
    if seen.accepted != seen.dispatched + seen.evicted + seen.failed:
        wrong.append(f"the books do not add up: {seen}")
    for reason in ("rejected_full", "evicted"):
        numbers = lines.numbers(reason)
        if sum(numbers) != getattr(seen, reason):
            wrong.append(f"{reason}: the log says {numbers}, the books {seen}")
        # One at once, one at the close, and one per period.
        if len(numbers) > 2 + seconds / REPORT_SECONDS:
            wrong.append(f"{reason}: {len(numbers)} lines in {seconds} s")
    return wrong


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {DEADLINE} s")
        time.sleep(0.0005)


def main() -> int:
    parser = argparse.ArgumentParser(description="An overload run.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--policy", choices=POLICIES, help="one only; else all")
    parser.add_argument("--layout", choices=LAYOUTS, default="objects")
    given = parser.parse_args()
    wrong = []
    for policy in [given.policy] if given.policy else POLICIES:
        found = overload(given.seconds, policy, given.layout)
        wrong += [f"{policy}: {what}" for what in found]
    print("\n".join(wrong) if wrong else "bounded, reported, and recovered")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
