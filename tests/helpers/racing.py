"""Threads that race, entries that name their producer, and rings to race for."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from extent import extent
from lines import Line
from ringdispatch import Bytes, Full, Objects, Records
from ringdispatch._batch import Batch

PRODUCERS = 4
ENTRIES = extent(8_000, 20_000)  # of each

Mark = tuple[int, int]  # an entry: whose it is, and its number


@contextlib.contextmanager
def impatience() -> Iterator[None]:
    """Let threads that share a GIL take turns a thousand times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 1000)
    yield
    sys.setswitchinterval(interval)


def race(*workers: Callable[[], object]) -> None:
    """Run all of them at once, each in a thread of its own; raise what one raises."""
    barrier = threading.Barrier(len(workers))
    errors: list[BaseException] = []

    def run(worker: Callable[[], object]) -> None:
        try:
            barrier.wait(30)
            worker()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(worker,), daemon=True) for worker in workers
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 40
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "hung"


def in_order_of_each(entries: list[Mark], marks: list[list[int]]) -> None:
    """C5: what came out is, producer by producer, what went in, in the same order."""
    for whose, expected in enumerate(marks):
        assert [number for who, number in entries if who == whose] == expected


def fails(take: Batch) -> bool:
    return take.start % 3 == 0


@dataclass(frozen=True)
class Kind:
    """A layout, what goes into it for a mark, and the marks that came out."""

    layout: Objects | Records | Bytes
    pack: Callable[[int, int], Any]
    unpack: Callable[[Any], list[Mark]]


def checked_row(whose: int, number: int) -> tuple[int, int, int]:
    return whose, number, (number * 2**33) ^ ~whose & 0xFF


def marks_of_rows(batch: Any) -> list[Mark]:
    rows = batch.tolist()
    assert all(row == checked_row(*row[:2]) for row in rows)
    return [row[:2] for row in rows]


def line_of(whose: int, number: int) -> bytes:
    return b"%d %d " % (whose, number) + b"." * (number % 31)


def marks_of_lines(batch: Any) -> list[Mark]:
    marks = []
    for entry in batch:
        whose, number, _ = entry.split(b" ")
        marks.append((int(whose), int(number)))
        assert entry == line_of(*marks[-1])
    return marks


FIELDS = [("whose", "u1"), ("number", "u4"), ("check", "u8")]
KINDS = {
    "objects": Kind(Objects(), lambda *mark: mark, list),
    "records": Kind(Records(FIELDS), checked_row, marks_of_rows),
    "padded": Kind(Records(np.dtype(FIELDS, align=True)), checked_row, marks_of_rows),
    # Now the number of entries is what is full, now that of their bytes.
    "bytes": Kind(Bytes(max_bytes=2500, max_batch_bytes=1700), line_of, marks_of_lines),
    "encoded": Kind(
        Bytes(lambda mark: line_of(*mark), b"\r\n", max_bytes=2500),
        lambda *mark: mark,
        marks_of_lines,
    ),
}


class RaceLine(Line):
    """Producers enqueue their marks, and note whether each was accepted."""

    def __init__(
        self, capacity: int, on_full: str = "drop_newest", kind: str = "objects"
    ) -> None:
        self.kind = KINDS[kind]
        super().__init__(self.kind.layout, capacity, on_full=on_full)
        # What enqueue has reported to each producer as accepted, or refused.
        self.accepted: list[list[int]] = [[] for _ in range(PRODUCERS)]
        self.refused = [0] * PRODUCERS
        self.finished = [False] * PRODUCERS

    def produce(self, whose: int) -> None:
        pack = self.kind.pack
        for number in range(ENTRIES):
            try:
                accepted = self.enqueue(pack(whose, number))
            except Full:
                accepted = False
            if accepted:
                self.accepted[whose].append(number)
            else:
                self.refused[whose] += 1
        self.finished[whose] = True

    def producers(self) -> list[Callable[[], None]]:
        return [lambda whose=whose: self.produce(whose) for whose in range(PRODUCERS)]

    def take_until_finished(self, takes: list[Batch]) -> None:
        for most in itertools.cycle((1, 7, 64)):
            last = all(self.finished)
            take = self.ring.take(most)
            if take is not None:
                takes.append(take)
                assert take.settle(fails(take), 0.5)
            elif last and not self.ring.pending:
                return
