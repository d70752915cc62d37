"""Memory under too much load: what is said of it, and who dies of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ringdispatch import BackgroundDispatcher
from ringdispatch._tune import _memory
from ringdispatch._tune._apart import Ended
from ringdispatch._tune._entries import CellError, entry_bytes
from ringdispatch._tune._load import Load
from ringdispatch._tune._memory import BY_HAND, OURS, fit, grow_apart, verdict
from ringdispatch._tune._model import MIB
from ringdispatch._tune._results import Setting
from subprocesses import run_snippet

TIMES = [each / 50 for each in range(150)]
FLAT_OUT = Setting(None, 10.0, 50.0, capacity=10_000, max_batch=2_000, seconds=0.3)
LIMIT = 32 * MIB
UNBOXED = "(this system has no limit of address space to show it)"

boxes = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(),
    reason="no address-space limit on this system",
)


def noisy(size: float) -> float:
    return size + random.uniform(-0.2, 0.2) * MIB


def test_what_levels_off_is_bounded() -> None:
    points = [(at, noisy(min(40 * at, 20) * MIB)) for at in TIMES]
    slope, level = fit(points)
    assert level is not None
    after, bound = level
    assert slope == pytest.approx(40 * MIB, rel=0.15)
    assert after == pytest.approx(0.5, abs=0.1)
    assert bound == pytest.approx(20 * MIB, rel=0.02)


def test_what_goes_on_growing_is_not() -> None:
    slope, level = fit([(at, noisy(48 * at * MIB)) for at in TIMES])
    assert level is None
    assert slope == pytest.approx(48 * MIB, rel=0.02)


def test_what_grows_more_slowly_after_a_while_is_not() -> None:
    points = [(at, (min(40 * at, 20) + 5 * at) * MIB) for at in TIMES]
    assert fit(points)[1] is None


def test_what_was_there_from_the_start_is_bounded_at_once() -> None:
    slope, level = fit([(at, 16 * MIB + 1000 * at) for at in TIMES])
    assert level is not None
    assert level[0] == 0.0
    assert level[1] == pytest.approx(16 * MIB, rel=0.001)
    assert slope == pytest.approx(1000)


def test_few_points_are_fitted_too() -> None:
    assert fit([]) == (0.0, None)
    assert fit([(0.0, 0.0), (1.0, 5 * MIB)]) == (5 * MIB, None)


@pytest.mark.parametrize(
    ("slope", "level", "limit", "died_after", "words"),
    [
        (30 * MIB, (0.7, 21 * MIB), None, None, "bounded at 21 MiB after 0.7 s"),
        (
            30 * MIB,
            (0.7, 21 * MIB),
            256 * MIB,
            None,
            "bounded at 21 MiB after 0.7 s; lived in a box of 256 MiB",
        ),
        (
            48 * MIB,
            None,
            256 * MIB,
            5.31,
            "grows 48 MiB/s: out of memory after 5.3 s in a box of 256 MiB",
        ),
        (
            48 * MIB,
            None,
            512 * MIB,
            None,
            "grows 48 MiB/s: out of memory in 11 s at 512 MiB",
        ),
        (
            48 * MIB,
            None,
            None,
            None,
            f"grows 48 MiB/s: out of memory in 11 s at 512 MiB {UNBOXED}",
        ),
        (-3 * MIB, None, LIMIT, None, "grows -3 MiB/s: no bound was seen"),
    ],
)
def test_the_verdict_is_in_words(
    slope: float,
    level: tuple[float, float] | None,
    limit: int | None,
    died_after: float | None,
    words: str,
) -> None:
    assert verdict(slope, level, limit, died_after) == words


@boxes
@pytest.mark.counts_memory
def test_ours_lives_in_the_box_and_its_books_agree() -> None:
    seen = grow_apart(FLAT_OUT, seed=7, limit=LIMIT)  # raises where they do not
    assert (seen.name, seen.died, seen.limit) == (OURS, False, LIMIT)
    assert max(size for _, size in seen.points) < LIMIT
    assert seen.predicted_bound is not None
    assert seen.predicted_bound < LIMIT


@boxes
@pytest.mark.counts_memory
def test_a_queue_by_hand_dies_in_the_same_box() -> None:
    for_long = replace(FLAT_OUT, seconds=20.0)
    seen = grow_apart(for_long, seed=7, by_hand=True, limit=LIMIT)
    assert (seen.name, seen.died, seen.bound) == (BY_HAND, True, None)
    assert seen.slope > 0
    assert "out of memory after" in seen.verdict


def test_without_a_box_a_queue_by_hand_is_stopped_at_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_memory, "_box", lambda limit: False)
    sizes = iter([0, *range(0, 100 * MIB, MIB)])
    monkeypatch.setattr(_memory, "resident", lambda: next(sizes))
    order = {
        "setting": asdict(replace(FLAT_OUT, rate=100.0, seconds=50.0)),
        "seed": 7,
        "by_hand": True,
        "limit": 2 * MIB,
    }
    points, answers = os.pipe()
    found = asyncio.run(_memory._grow(order, answers))
    os.close(answers)
    assert found["boxed"] is False
    with open(points) as file:  # noqa: PTH123 - a pipe has no path
        grown = [json.loads(line)[1] for line in file]
    assert grown == [0, MIB, 2 * MIB, 3 * MIB]


@boxes
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_load_that_did_not_arrive_is_reported(by_hand: bool) -> None:
    too_much = replace(FLAT_OUT, rate=1e9, seconds=0.02)
    seen = grow_apart(too_much, seed=7, by_hand=by_hand)
    assert not seen.died
    assert re.search(r"; only [\d,]+ of 1,000,000,000 entries/s arrived", seen.verdict)


@boxes
def test_a_box_too_small_to_begin_in_is_an_error() -> None:
    with pytest.raises(CellError, match="the process that measures memory died: "):
        grow_apart(FLAT_OUT, seed=7, limit=0)


def test_books_that_do_not_agree_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"boxed": True, "rate": 1e6, "wrong": "3 offered, 2 accepted, 1 sent"}
    ended = Ended([[0.0, 0.0], [0.1, 0.0], said], 0, "")
    monkeypatch.setattr(_memory, "run_apart", lambda *order: ended)
    with pytest.raises(CellError, match="books do not agree: 3 offered, 2 accepted"):
        grow_apart(FLAT_OUT, seed=7)


@pytest.mark.parametrize(
    ("received", "found"),
    [(2, ""), (1, r"3 offered, 2 accepted, 1 sent: Statistics\(")],
)
def test_books_are_held_against_what_came_and_went(received: int, found: str) -> None:
    async def sink(batch: object) -> None: ...

    async def main() -> str:
        load = Load(None, 0.0, 7)
        dispatcher = BackgroundDispatcher(sink, ms_delay=1, capacity=2)
        load._put(dispatcher.enqueue, iter(range(3)), 3)
        assert await dispatcher.aclose()
        return _memory._disagreement(dispatcher.statistics(), load, received)

    assert re.match(found, asyncio.run(main()))
    assert bool(found) == bool(asyncio.run(main()))


def test_a_callback_without_memory_ends_the_process_and_another_error_does_not() -> (
    None
):
    outcome = run_snippet(
        """
        from ringdispatch._tune._memory import _die_of_memory
        def fail(error): raise error
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(_die_of_memory)
            loop.call_soon(fail, ValueError("no"))
            await asyncio.sleep(0)
            say("goes on")
            loop.call_soon(fail, MemoryError())
            await asyncio.sleep(0)
            say("must not be said")
        run(main())
        """,
        code=1,
        stderr=r".*ValueError: no\nMemoryError in a callback of the loop",
    )
    assert outcome.lines == ["goes on"]


def test_what_an_entry_takes() -> None:
    assert 150 < entry_bytes("objects") < 500
    assert 50 < entry_bytes("bytes") < 100


@pytest.mark.parametrize("kind", ["objects", "bytes"])
def test_few_entries_are_made_where_each_is_large(kind: str) -> None:
    made = []

    def entries() -> Iterator[bytes]:
        while True:
            made.append(len(made))
            yield bytes(1_000_000)

    assert entry_bytes(kind, entries) == pytest.approx(1_000_000, rel=0.01)
    assert len(made) < 50


def test_what_a_row_takes() -> None:
    pytest.importorskip("numpy")
    assert entry_bytes("records") == 18
    rows = [(True, 1), (404, 0.5)]
    assert entry_bytes("records", lambda: itertools.cycle(rows)) == 16
