"""Loops to test on in real time, and how to wait for what another thread does."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher
from support import Sink

# The name of the background thread.
BACKGROUND = "ringdispatch"

# Fewer looks than this are no wait: the machine stood still.
LEAST_LOOKS = 100

LOOPS = [
    "asyncio",
    pytest.param(
        "uvloop",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("uvloop") is None,
            reason="uvloop cannot be installed here",
        ),
    ),
]


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def run_on(name: str, main: Coroutine[Any, Any, Any], *, debug: bool = False) -> Any:
    """As asyncio.run, on the loop of that name."""
    with asyncio.Runner(loop_factory=lambda: new_loop(name), debug=debug) as runner:
        return runner.run(main)


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until the condition holds; another thread sees to it."""
    deadline = time.monotonic() + seconds
    looks = 0
    while not condition():
        looks += 1
        in_time = time.monotonic() < deadline or looks < LEAST_LOOKS
        assert in_time, "not within the deadline"
        time.sleep(0.001)


async def comes_true(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """As eventually, leaving the running loop free."""
    deadline = time.monotonic() + seconds
    looks = 0
    while not condition():
        looks += 1
        in_time = time.monotonic() < deadline or looks < LEAST_LOOKS
        assert in_time, "not within the deadline"
        await asyncio.sleep(0.001)


async def put(dispatcher: BackgroundDispatcher[Any], *entries: Any) -> None:
    for entry in entries:
        assert dispatcher.enqueue(entry)


async def in_steps_until(condition: Callable[[], object]) -> None:
    """Run the loop step by step, to the very step that makes the condition hold."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("not within 1 000 steps")


class Place(Sink):
    """A sink that also records on which loops and threads it was called."""

    def __init__(self) -> None:
        super().__init__(time.monotonic)
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.threads: list[str] = []

    async def __call__(self, batch: list[Any]) -> None:
        self.loops.append(asyncio.get_running_loop())
        self.threads.append(threading.current_thread().name)
        await super().__call__(batch)
