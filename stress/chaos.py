"""Hours of chaos, from a seed: `python stress/chaos.py --seconds 3600 --seed 7`.

Plays rounds. Each has a dispatcher with drawn options and everybody at it at once:
threads, loops that end in the middle, waiters, signal handlers, finalizers, forks, and
a dispatch function that misbehaves. After each the books must agree with what was seen
from outside, to the entry, and nothing may be left behind.

A seed repeats the rounds and everybody's decisions; how threads take turns is the
machine's affair, so a violation may take several runs of the same seed to come back.
`--first ROUND` begins there.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import os
import random
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

# First, before anything imports asyncio.
from chaos_asyncio import GIL  # isort: skip
import helpers_path  # noqa: F401  # isort: skip
import chaos_round
from chaos_producers import KINDS
from chaos_record import Record, Violation
from chaos_round import DRAWN, Plan, Round, Watch, draw, held_by
from loops import eventually
from ringdispatch import _reports

ROUND_SECONDS = 120.0  # then every thread's stack is printed, and the run ends
WARM_UP = 30  # rounds until everything that stays has come
MORE_OBJECTS = 30_000  # than after the warm-up: something grows
MOST_THREADS = 12  # main, watchdog, background, and its worker threads
MORE_FILES = 12  # than at the start: the background loop's, uvloop's


class Chaos:
    """Rounds, one after the other, and what is counted over all of them."""

    def __init__(self, seed: int, watch: Watch) -> None:
        self.seed = seed
        self.watch = watch
        self.figures: Counter[str] = Counter()
        self.files = open_files()
        self.objects = 0

    def play(self, number: int) -> None:
        """Play one round.

        Raises:
            Violation: something was not as it must be.
        """
        faulthandler.dump_traceback_later(ROUND_SECONDS, exit=True)
        plan = draw(self.seed, number)
        record = self.watch.record = Record()
        this = Round(plan, record)
        try:
            wrong = this.play()
        except Exception:
            wrong = [*record.problems, traceback.format_exc()]
        if wrong:
            raise Violation(self.report(number, plan, this, wrong))
        self.count(plan, this)
        self.watch.record = None
        del this, record
        self.nothing_is_left(number)

    def report(self, number: int, plan: Plan, this: Round, wrong: list[str]) -> str:
        return "\n".join(
            [
                f"VIOLATION in round {number} of seed {self.seed}",
                f"plan: {plan}",
                f"books: {this.books()}",
                f"closes: {this.record.closes}, forks: {this.record.forks}",
                *(f"- {line}" for line in wrong[:20]),
                f"({len(wrong)} differences)",
            ]
        )

    def count(self, plan: Plan, this: Round) -> None:
        books, record = this.books(), this.record
        failing = ("raise", "raise late", "raise CancelledError", "hang")
        self.figures.update(
            rounds=1,
            entries=books.accepted,
            batches=books.batches,
            failed_batches=books.failed_batches,
            injected=sum(record.injected[name] for name in failing),
            evicted=books.evicted,
            abandoned=books.abandoned,
            left=books.left,
            recovered=books.recovered + books.recovered_failed,
            rejected=books.rejected_full + books.rejected_closed,
            receipts=len(record.receipts),
            forks=record.forks,
            loops=len(record.ended_loops),
            closes=len(record.closes),
        )

    def nothing_is_left(self, number: int) -> None:
        """No dispatcher, loop, thread, file or object more than before."""
        warming_up = self.figures["rounds"] <= WARM_UP

        def clean() -> bool:
            gc.collect()
            left = len(chaos_round.dispatchers) + len(chaos_round.loops)
            if left or threading.active_count() > MOST_THREADS:
                return False
            # Another thread's collection may be half-way: weak references are gone
            # first, what was referred to goes last.
            return warming_up or len(gc.get_objects()) <= self.objects + MORE_OBJECTS

        try:
            eventually(clean)
        except AssertionError:
            left = [*chaos_round.dispatchers, *chaos_round.loops]
            threads = [thread.name for thread in threading.enumerate()]
            raise Violation(
                f"left after round {number}: {left}, {threads}, "
                f"{len(gc.get_objects())} objects ({self.objects} before), held by\n"
                + "\n".join(line for thing in left for line in held_by(thing))
            ) from None
        if open_files() > self.files + MORE_FILES:
            raise Violation(f"{open_files()} files open, {self.files} at the start")
        if warming_up:
            self.objects = max(len(gc.get_objects()), self.objects)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def watch_everything() -> Watch:
    """See every log line, warning and stray error; a warning is an error."""
    faulthandler.enable()
    warnings.simplefilter("error")
    # From 3.12 on every fork of a process with threads warns.
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)
    warnings.filterwarnings("ignore", ".* it is in milliseconds", UserWarning)
    watch = Watch(logging.WARNING)
    logging.getLogger().addHandler(watch)
    sys.unraisablehook = lambda seen: watch.stray("unraisable", seen)
    threading.excepthook = lambda seen: watch.stray("in a thread", seen)
    # An unclosed dispatcher is freed when its report timer has fired: don't wait 10 s.
    _reports.REPORT_SECONDS = _reports.HOOK_SECONDS = 0.3
    return watch


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--first", type=int, default=0, help="round to begin with")
    parser.add_argument("--rounds", type=int, default=10**9, help="most to play")
    parser.add_argument("--loop", choices=KINDS, help="the only kind of loop")
    parser.add_argument("--layout", choices=DRAWN, help="the only layout")
    return parser.parse_args()


def main() -> int:
    wanted = arguments()
    print(
        f"seed {wanted.seed}, Python {sys.version.split()[0]}, "
        f"GIL {'on' if GIL else 'off'}, process {os.getpid()}",
        flush=True,
    )
    if wanted.loop:
        KINDS[:] = [wanted.loop]
    if wanted.layout:
        DRAWN[:] = [wanted.layout]
    chaos = Chaos(wanted.seed, watch_everything())
    began = time.monotonic()
    number = wanted.first
    code = 0
    try:
        while time.monotonic() - began < wanted.seconds:
            if number - wanted.first == wanted.rounds:
                break
            chaos.play(number)
            number += 1
    except Violation as violation:
        print(violation, flush=True)
        code = 1
    faulthandler.cancel_dump_traceback_later()
    figures = ", ".join(f"{name} {count:,}" for name, count in chaos.figures.items())
    print(f"{figures}, seconds {time.monotonic() - began:.0f}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
