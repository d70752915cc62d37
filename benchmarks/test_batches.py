"""Taking a batch of a given size: one call of ours, and by hand."""

import asyncio
import collections
import queue
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from batch_price import SIZES, filled
from peers import DTYPE, LINE, ROW
from ringdispatch import Bytes, Objects, Records
from suite import Suite

Take = Callable[[], Any]  # takes a batch that was prepared


def ring(layout: Callable[[int], Any], entry: Any) -> Callable[[int], Take]:
    """Ours."""

    def prepare(size: int) -> Take:
        filler = filled(layout(size), size, entry)
        return lambda: filler.ring.take(size).value

    return prepare


def deque(size: int) -> Take:
    """Copied, then emptied."""
    entries = collections.deque([ROW] * size)

    def take() -> list[Any]:
        batch = list(entries)
        entries.clear()
        return batch

    return take


def one_by_one(make: Callable[[], Any]) -> Callable[[int], Take]:
    """A queue that is asked for each entry."""

    def prepare(size: int) -> Take:
        waiting = make()
        for _ in range(size):
            waiting.put_nowait(ROW)
        get = waiting.get_nowait
        return lambda: [get() for _ in range(size)]

    return prepare


WAYS: dict[str, Callable[[int], Take]] = {
    "ringdispatch, Objects": ring(lambda _: Objects(), ROW),
    "ringdispatch, Records": ring(lambda _: Records(DTYPE), ROW),
    "ringdispatch, Bytes": ring(lambda size: Bytes(max_bytes=64 * size), LINE),
    "list(deque), deque.clear": deque,
    "SimpleQueue.get_nowait each": one_by_one(queue.SimpleQueue),
    "asyncio.Queue.get_nowait each": one_by_one(asyncio.Queue),
}


@pytest.mark.duration(0.15)
@pytest.mark.parametrize("size", SIZES, ids=[f"{size} entries" for size in SIZES])
@pytest.mark.parametrize("way", WAYS)
def test_take(way: str, size: int, benchmark: Any, suite: Suite) -> None:
    several = max(1, 1_000 // size)  # of small ones, or the clock is what is timed

    def prepare() -> tuple[tuple[list[Take]], dict[str, Any]]:
        return ([WAYS[way](size) for _ in range(several)],), {}

    def take_all(takes: list[Take]) -> None:
        taken[:] = [take() for take in takes]

    taken: list[Any] = []
    benchmark.group = "taking a batch"
    benchmark.pedantic(take_all, setup=prepare, rounds=20, warmup_rounds=2)
    assert len(taken[-1]) == size
    if benchmark.stats is None:  # --benchmark-disable
        return
    nanoseconds = 1e9 * median(benchmark.stats.stats.data) / several / size
    benchmark.extra_info["ns per entry"] = nanoseconds
    suite.batches.append(
        {"name": way, "entries": size, "ns_per_entry": round(nanoseconds, 4)}
    )
    suite.said = f"{nanoseconds:.2f} ns for each entry"
