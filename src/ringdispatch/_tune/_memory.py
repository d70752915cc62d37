"""Memory under more load than the sink takes: does it grow, and to where?

    python -m ringdispatch._tune._memory '{"setting": {...}, "by_hand": true, ...}'

offers the load in a process of its own, with a limit of address space. What is bounded
lives within it; what is not bounded runs out of memory.
"""

import asyncio
import gc
import importlib
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ringdispatch import BackgroundDispatcher, Statistics

from ._apart import OnProgress, answer, run_apart, take_order
from ._cell import DRAIN_SECONDS
from ._entries import CellError, default_entries, entry_bytes, make_layout
from ._load import HELD, Load
from ._model import MIB, most_pending, predict
from ._probes import resident
from ._recording import Calls
from ._results import Memory, Setting

OURS = "ringdispatch"
BY_HAND = "asyncio.Queue and a task, by hand"
# Bytes that a process may take above its size when the load begins.
LIMIT = 256 * MIB
# What a verdict assumes where the system has no limit of address space.
_SUPPOSED_LIMIT = 512 * MIB
_SAMPLE_SECONDS = 0.02
_MOST_POINTS = 200
# Memory has levelled off if it does so for at least this share of the time, and then
# grows by less than this share of the slope before, or by next to nothing.
_LEVEL_SHARE = 0.25
_LEVEL_SLOPE = 0.05
_LEVEL_BYTES = 0.5 * MIB
# The allocator of free-threaded builds would reserve a GiB of addresses before the
# limit is set, and live on them.
_ENVIRONMENT = {"MIMALLOC_ARENA_RESERVE": "0"}
_STATM = Path("/proc/self/statm")


def grow_apart(
    setting: Setting,
    *,
    seed: int,
    by_hand: bool = False,
    limit: int = LIMIT,
    on_progress: OnProgress | None = None,
) -> Memory:
    """Offer a load in a fresh process with a limit, and measure its memory.

    Args:
        setting: The load, the sink (a stand-in), and the dispatcher's options. The load
            exceeds the sink if `rate > 1000 * max_batch / sink`.
        seed: Of the schedule.
        by_hand: Whether an unbounded queue written by hand takes the load, instead of
            the dispatcher.
        limit: Bytes that the process may take above its size at the start.
        on_progress: Called with the share of the time that has passed.

    Raises:
        CellError: the dispatcher did not survive, its books do not agree with the
            entries offered and received, or memory can't be measured here.
    """
    order = {
        "setting": asdict(setting),
        "seed": seed,
        "by_hand": by_hand,
        "limit": limit,
    }
    expected = setting.seconds + 1.5
    ended = run_apart(
        "ringdispatch._tune._memory", order, expected, on_progress, _ENVIRONMENT
    )
    points = [(line[0], line[1]) for line in ended.lines if isinstance(line, list)]
    points = points[:: len(points) // _MOST_POINTS + 1]
    said = next((line for line in ended.lines if isinstance(line, dict)), {})
    died = by_hand and ended.code != 0 and "MemoryError" in ended.errors
    if not points or not (died or said):
        raise CellError(f"the process that measures memory died: {ended.why()}")
    if not by_hand and said["wrong"]:
        raise CellError(f"the books do not agree: {said['wrong']}")
    slope, level = (_slope(points), None) if died else fit(points)
    box = limit if said.get("boxed", True) else None
    words = verdict(slope, level, box, points[-1][0] if died else None)
    if said and setting.rate and said["rate"] < HELD * setting.rate:
        words += f"; only {said['rate']:,.0f} of {setting.rate:,.0f} entries/s arrived"
    return Memory(
        name=BY_HAND if by_hand else OURS,
        points=points,
        slope=slope,
        bound=level and level[1],
        predicted_bound=None if by_hand else _predicted(setting, said["rate"]),
        bounded_after=level and level[0],
        limit=box,
        died=died,
        verdict=words,
    )


def _predicted(setting: Setting, rate: float) -> float:
    """Bytes at the peak, as the model predicts for the load that arrived."""
    given = replace(setting, rate=rate)
    size = entry_bytes(setting.layout)
    calls = Calls.constant(setting.sink or 0.0)
    return predict(given, calls=calls, entry_bytes=size).memory


def verdict(
    slope: float,
    level: tuple[float, float] | None,
    limit: int | None,
    died_after: float | None,
) -> str:
    """Describe the growth of memory in words.

    Args:
        slope: Bytes a second.
        level: (seconds, bytes) at which it levelled off; None: it did not.
        limit: Of address space, in bytes; None: there was none.
        died_after: Seconds; None: it survived.
    """
    box = "" if limit is None else f" in a box of {limit / MIB:.0f} MiB"
    if level is not None:
        after, bound = level
        lived = f"; lived{box}" if box else ""
        return f"bounded at {bound / MIB:.3g} MiB after {after:.1f} s{lived}"
    grows = f"grows {slope / MIB:.3g} MiB/s"
    if died_after is not None:
        return f"{grows}: out of memory after {died_after:.1f} s{box}"
    if slope <= 0:
        return f"{grows}: no bound was seen"
    room = limit or _SUPPOSED_LIMIT
    none = "" if limit else " (this system has no limit of address space to show it)"
    return (
        f"{grows}: out of memory in {room / slope:.0f} s at {room / MIB:.0f} MiB{none}"
    )


# ---- slope and level


def fit(
    points: list[tuple[float, float]],
) -> tuple[float, tuple[float, float] | None]:
    """Fit a line that turns into a level one.

    The turn is the one with the least squares; the slope is that of the part before.

    Returns:
        The slope, in bytes a second, and (seconds, bytes) where it levelled off; None:
        it did not.
    """
    sizes = [size for _, size in points]
    if points and max(sizes) - sizes[0] < _LEVEL_BYTES:
        return _slope(points), (points[0][0], statistics.fmean(sizes))
    if len(points) < 8:
        return _slope(points), None
    turn = min(range(2, len(points) - 1), key=lambda turn: _misfit(points, turn))
    before, after = points[: turn + 1], points[turn:]
    slope, (began, ended) = _slope(before), (after[0][0], after[-1][0])
    still = max(0.0, _slope(after))
    lasts = ended - began >= _LEVEL_SHARE * (ended - points[0][0])
    level = still < _LEVEL_SLOPE * slope or still * (ended - began) < _LEVEL_BYTES
    if lasts and level:
        return slope, (began, statistics.fmean(size for _, size in after))
    return _slope(points), None


def _misfit(points: list[tuple[float, float]], turn: int) -> float:
    """Squared errors of a line up to that point, and of a level one from it on."""
    before, after = points[: turn + 1], [size for _, size in points[turn:]]
    line = statistics.linear_regression(*zip(*before, strict=True))
    mean = statistics.fmean(after)
    return sum(
        (size - line.slope * at - line.intercept) ** 2 for at, size in before
    ) + sum((size - mean) ** 2 for size in after)


def _slope(points: list[tuple[float, float]]) -> float:
    """The slope by least squares; 0.0 of fewer than two points."""
    if len(points) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*points, strict=True)).slope


# ---- in a process of its own


async def queue_by_hand(
    queue: "asyncio.Queue[Any]", sink: Callable[[Any], Awaitable[None]], most: int
) -> None:
    """Run what many services have: an unbounded queue, emptied by a task."""
    while True:
        batch = [await queue.get()]
        while len(batch) < most and not queue.empty():
            batch.append(queue.get_nowait())
        await sink(batch)


class _Sink:
    """Takes its time, and counts the entries it receives."""

    def __init__(self, milliseconds: float) -> None:
        self.received = 0
        self._seconds = milliseconds / 1000

    async def __call__(self, batch: Any) -> None:
        self.received += len(batch)
        await asyncio.sleep(self._seconds)


async def _grow(order: dict[str, Any], answers: int) -> dict[str, Any]:
    """Offer the load, and write points; returns what is wrong with the books."""
    setting, limit = Setting(**order["setting"]), order["limit"]
    asyncio.get_running_loop().set_exception_handler(_die_of_memory)
    load = Load(setting.rate, setting.seconds, order["seed"])
    sink = _Sink(setting.sink or 0.0)
    stream = default_entries(setting.layout)()
    room = most_pending(setting)
    layout = make_layout(setting.layout, room, [next(stream)], own=False)
    gc.collect()
    boxed = _box(limit)
    start = resident()
    if order["by_hand"]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        most = setting.max_batch or setting.capacity
        consuming = asyncio.create_task(queue_by_hand(queue, sink, most))
        offering = asyncio.create_task(load.offer(queue.put_nowait, stream))
    else:
        dispatcher: BackgroundDispatcher[Any] = BackgroundDispatcher(
            sink,
            ms_delay=setting.delay,
            capacity=setting.capacity,
            max_batch=setting.max_batch,
            max_in_flight=setting.max_in_flight,
            layout=layout,
            name="memory",
        )
        dispatcher.bind()
        offering = asyncio.create_task(load.offer(dispatcher.enqueue, stream))
    began = time.perf_counter()
    while not offering.done():
        grown = resident() - start
        answer(answers, [time.perf_counter() - began, grown])
        if not boxed and grown > limit:
            offering.cancel()
        await asyncio.wait([offering], timeout=_SAMPLE_SECONDS)
    found = {"boxed": boxed, "rate": load.reached, "wrong": ""}
    if offering.cancelled():
        return found
    offering.result()  # raises MemoryError
    if order["by_hand"]:
        consuming.cancel()
    else:
        await dispatcher.aclose(DRAIN_SECONDS)
        found["wrong"] = _disagreement(dispatcher.statistics(), load, sink.received)
    return found


def _disagreement(seen: Statistics, load: Load, received: int) -> str:
    """Where the books differ from the entries offered and received; empty: nowhere."""
    came = (load.accepted, load.offered - load.accepted)
    went = (load.accepted - seen.abandoned, 0, 0)
    if (seen.accepted, seen.rejected_full) == came and (
        (received, seen.pending, seen.in_flight) == went
        and seen.dispatched + seen.failed == received
    ):
        return ""
    return f"{load.offered} offered, {load.accepted} accepted, {received} sent: {seen}"


def _box(limit: int) -> bool:
    """Allow this process `limit` bytes more; returns whether the system can."""
    if not _STATM.exists():  # pragma: no cover - another system
        return False  # macOS accepts the limit and does nothing, Windows has none
    resource: Any = importlib.import_module("resource")
    size = int(_STATM.read_bytes().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + limit, size + limit))
    return True


def _die_of_memory(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exit where the loop would only log it, and the producer would never wake."""
    if isinstance(context.get("exception"), MemoryError):
        os.write(2, b"MemoryError in a callback of the loop\n")
        os._exit(1)
    loop.default_exception_handler(context)


def _main() -> None:
    order, answers = take_order()
    answer(answers, asyncio.run(_grow(order, answers)))


if __name__ == "__main__":
    _main()
