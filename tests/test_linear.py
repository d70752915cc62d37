"""C21: what waits, and what is in flight, costs in proportion to its number.

Counted in Python calls of the package's own functions, which no busy machine changes.
The same in instructions, and for more of them: benchmarks/linear.py.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import ringdispatch
from ringdispatch import BackgroundDispatcher

PACKAGE = str(Path(ringdispatch.__file__).parent)
FEW, MANY = 200, 800


class Context:
    def __init__(self) -> None:
        self.receipts: list[Awaitable[None]] = []

    def wait_until(self, receipt: Awaitable[None]) -> None:
        self.receipts.append(receipt)


async def flushes(count: int) -> None:
    """Tasks that each enqueue and flush."""

    async def send(batch: list[int]) -> None:
        await asyncio.sleep(0)

    dispatcher = BackgroundDispatcher(send, ms_delay=10_000)

    async def request(number: int) -> bool:
        assert dispatcher.enqueue(number)
        return await dispatcher.aflush(60)

    assert all(await asyncio.gather(*map(request, range(count))))
    assert await dispatcher.aclose()


async def waiters(count: int) -> None:
    """Tasks that wait for room."""

    async def send(batch: list[int]) -> None:
        await asyncio.sleep(0)

    dispatcher = BackgroundDispatcher(send, ms_delay=1, capacity=10)
    tasks = [dispatcher.aenqueue(number, timeout=60) for number in range(count)]
    assert all(await asyncio.gather(*tasks))
    assert await dispatcher.aclose()
    assert dispatcher.statistics().dispatched == count


async def calls(count: int) -> None:
    """Calls in flight at once, each with the context of its opener."""
    gate = asyncio.Event()

    async def send(batch: list[int]) -> None:
        await gate.wait()

    dispatcher = BackgroundDispatcher(
        send, ms_delay=10_000, max_batch=1, max_in_flight=count
    )
    context = Context()
    for number in range(count):
        assert dispatcher.enqueue(number, context)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert dispatcher.statistics().in_flight >= count - 2
    gate.set()
    assert await dispatcher.aclose()
    assert len(context.receipts) == count
    for receipt in context.receipts:
        await receipt


def own_calls(scene: Callable[[int], Awaitable[None]], count: int) -> int:
    """How many functions of the package a scene calls."""
    counted = 0

    def profile(frame: FrameType, event: str, _: Any) -> None:
        nonlocal counted
        counted += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    async def main() -> None:
        sys.setprofile(profile)
        try:
            await scene(count)
        finally:
            sys.setprofile(None)

    asyncio.run(main())
    return counted


@pytest.mark.parametrize("scene", [flushes, waiters, calls])
def test_cost_grows_with_the_number(
    scene: Callable[[int], Awaitable[None]],
) -> None:  # C21
    few, many = own_calls(scene, FEW), own_calls(scene, MANY)
    assert few > FEW
    assert many <= few * (MANY / FEW) * 1.3, (few, many)
