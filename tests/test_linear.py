"""C21: what waits, and what is in flight, costs in proportion to its number.

Counted in Python calls of the package's own functions, which no busy machine changes.
The same in instructions, and for more of them: benchmarks/linear.py.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pytest

import ringdispatch
from loops import eventually
from ringdispatch import BackgroundDispatcher
from support import SteppedLoop

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


class OwnCalls:
    """Counts the package's functions that this thread calls while it is entered."""

    count = 0

    def __enter__(self) -> Self:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        self.count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)


def own_calls(scene: Callable[[int], Awaitable[None]], count: int) -> int:
    async def main() -> int:
        gc.collect()  # what other tests left
        with OwnCalls() as calls:
            await scene(count)
        return calls.count

    return asyncio.run(main())


@pytest.mark.parametrize("scene", [flushes, waiters, calls])
def test_cost_grows_with_the_number(
    scene: Callable[[int], Awaitable[None]],
) -> None:  # C21
    few, many = own_calls(scene, FEW), own_calls(scene, MANY)
    assert few > FEW
    assert many <= few * (MANY / FEW) * 1.3, (few, many)


def looks(stepped: SteppedLoop, count: int) -> int:
    """Own calls in ten seconds in which tasks on two loops wait and nothing happens."""
    gate, waits = threading.Event(), threading.Event()
    dispatcher = BackgroundDispatcher(
        lambda _: gate.wait(20), ms_delay=1, capacity=1, home="thread"
    )
    assert dispatcher.enqueue("in flight")
    eventually(lambda: dispatcher.statistics().in_flight)
    assert dispatcher.enqueue("pending")

    async def elsewhere() -> None:
        task = asyncio.create_task(dispatcher.aenqueue("elsewhere"))
        await asyncio.sleep(0)
        waits.set()
        await task

    def wait_for_room() -> list[asyncio.Task[bool]]:
        return [stepped.create_task(dispatcher.aenqueue(n)) for n in range(count // 2)]

    async def main() -> int:
        tasks = wait_for_room()
        await asyncio.sleep(0)
        other = threading.Thread(target=asyncio.run, args=(elsewhere(),))
        other.start()
        assert waits.wait(10)
        tasks[0].cancel()  # which wakes the next
        tasks += wait_for_room()
        await stepped.settle()
        gc.collect()  # what other tests left
        with OwnCalls() as calls:
            await stepped.advance(10)
        assert not any(task.done() for task in tasks[1:])
        for task in tasks:
            task.cancel()
        gate.set()
        await asyncio.to_thread(dispatcher.close)
        await asyncio.to_thread(other.join)
        return calls.count

    return stepped.run_until_complete(main())


def test_waiters_on_two_loops_look_in_proportion_to_their_number(
    stepped: SteppedLoop,
) -> None:  # C21
    few, many = looks(stepped, FEW), looks(stepped, MANY)
    assert few > FEW
    assert many <= few * (MANY / FEW) * 1.3, (few, many)
