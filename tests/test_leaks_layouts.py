"""The same of the layouts: refused entries, kept batches, forks."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from leaks import Scenarios, leaves_nothing
from ringdispatch import BackgroundDispatcher, Bytes, BytesBatch, Records

ROW = [("count", "i4"), ("seconds", "f8"), ("tenant", "S8")]
LARGE = [*ROW, ("url", "S300")]  # of more bytes than are packed on the stack
CAPACITY = 16
scenario = Scenarios()


class Crash(Exception):
    pass


class Crashing:
    """A number whose own code fails."""

    def __index__(self) -> int:
        raise Crash(self)

    __float__ = __index__  # type: ignore[assignment]


async def send(batch: Any) -> None:
    pass


def encode(entry: Any) -> Any:
    if isinstance(entry, int):
        raise Crash(entry)
    return entry


def make(
    layout: Any, dispatch_function: Callable[[Any], object], **options: Any
) -> BackgroundDispatcher[Any]:
    options = {"ms_delay": 1, "capacity": CAPACITY, **options}
    return BackgroundDispatcher(dispatch_function, layout=layout, **options)


def refuse(*attempts: Callable[[], object]) -> None:
    for attempt in attempts:
        with contextlib.suppress(TypeError, ValueError, MemoryError):
            attempt()
            raise AssertionError(attempt)


async def refused(dispatcher: BackgroundDispatcher[Any], *entries: Any) -> None:
    """Each is refused by an error, or counted."""
    for entry in entries:
        with contextlib.suppress(TypeError, ValueError, OverflowError, Crash):
            assert not dispatcher.enqueue(entry, object())
        with contextlib.suppress(TypeError, ValueError, OverflowError, Crash):
            assert not await dispatcher.aenqueue(entry)
    assert dispatcher.statistics().accepted == 0
    await dispatcher.aclose()


# ---- records


@scenario
def record_types_that_are_refused() -> None:
    refuse(
        lambda: Records("O"),
        lambda: Records([("text", "U4")]),
        lambda: Records([("big", ">f8")]),
        lambda: Records([("many", "f8", 3)]),
        lambda: make(Records(ROW), send, capacity=2**50),
        lambda: make(Records(ROW), send, max_in_flight=2**50),
    )


@scenario
async def rows_that_are_refused() -> None:
    bad = (
        (),
        (1, 2.0),
        [1, 2.0, b""],
        (2**31, 2.0, b""),
        (1, object(), b""),
        (1, Crashing(), b""),
        (Crashing(), 2.0, b""),
        (1, 2.0, "text"),
        (1, 2.0, b"of too many bytes"),
    )
    await refused(make(Records(ROW), send), *bad)
    large = [(*row, b"url") for row in bad[3:]]
    await refused(make(Records(LARGE), send), *large)


@partial(scenario, times=200)
async def records_kept_and_let_go() -> None:
    kept: list[Any] = []

    async def keep(rows: Any) -> None:
        kept.append(rows[-1:])
        if len(kept) % 2:
            raise Crash(rows)

    for on_full in ("drop_newest", "drop_oldest"):
        dispatcher = make(Records(ROW), keep, max_batch=5, on_full=on_full)
        for number in range(2 * CAPACITY):
            dispatcher.enqueue((number, 0.5, b"blue"))
        for number in range(5):
            dispatcher.enqueue_row(number, 0.5, b"green")
        await dispatcher.aclose()
        assert sum(map(len, kept)) == len(kept) > 0
        kept.clear()


@scenario
def records_and_a_dispatcher_dropped_unclosed() -> None:
    dispatcher = make(Records(ROW), send, home="thread", ms_delay=60_000)
    take = partial(dispatcher._batcher.ring.take, 1)
    for number in range(3):
        dispatcher.enqueue((number, 0.5, b""))
    kept = take()
    assert kept is not None
    assert kept.settle(False, 0.0)
    dispatcher.close(0)


# ---- bytes


@scenario
def options_of_bytes_that_are_refused() -> None:
    refuse(
        lambda: Bytes(encode=1),  # type: ignore[arg-type]
        lambda: Bytes(separator="\n"),  # type: ignore[arg-type]
        lambda: Bytes(max_bytes=0),
        lambda: Bytes(max_bytes=10, max_batch_bytes=11),
    )


@scenario
async def bytes_that_are_refused() -> None:
    slanted = memoryview(b"slanted")[::2]
    sizes = {"max_bytes": 100, "max_batch_bytes": 50}
    bad = ("text", 7, slanted, None, b"x" * 50, bytearray(60))
    await refused(make(Bytes(**sizes), send), *bad)
    await refused(make(Bytes(encode=encode, **sizes), send), *bad)


@partial(scenario, times=200)
async def bytes_kept_and_let_go() -> None:
    kept: list[bytes] = []

    async def keep(batch: BytesBatch) -> None:
        kept.extend(batch)
        batch.json_array()
        if len(kept) % 2:
            raise Crash(batch)

    for on_full in ("drop_newest", "drop_oldest", "raise"):
        layout = Bytes(encode=encode, max_bytes=99, max_batch_bytes=33)
        dispatcher = make(layout, keep, on_full=on_full)
        for size in range(25):
            entry = bytes(size) if size % 2 else bytearray(size)
            with contextlib.suppress(Exception):
                dispatcher.enqueue(entry)
        await dispatcher.aclose()
        assert kept
        kept.clear()


# ---- forks


if hasattr(os, "fork"):

    @partial(scenario, times=40)
    def fork() -> None:
        made = [make(Records(ROW), send), make(Bytes(), send)]
        entries = ((1, 0.5, b"blue"), b"entry")
        for dispatcher, entry in zip(made, entries, strict=True):
            dispatcher.enqueue(entry)
        child = os.fork()
        code = 1
        if child == 0:
            try:
                for dispatcher, entry in zip(made, entries, strict=True):
                    code = not dispatcher.enqueue(entry)
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert all(dispatcher.close() for dispatcher in made)


def can_run(name: str) -> bool:
    with_numpy = importlib.util.find_spec("numpy") is not None
    return with_numpy or not ("record" in name or "row" in name or name == "fork")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", [*filter(can_run, scenario)])
def test_nothing_is_left_behind_by(name: str) -> None:
    leaves_nothing(__file__, name)
