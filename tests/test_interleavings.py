"""Two threads at the same place: one runs between any two opcodes of the other."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher, _waiting
from ringdispatch._call import current_call
from ringdispatch._waiting import FlushWaiter, RoomQueue


def interrupted_at(
    number: int, step: Callable[[], object], other: Callable[[], object]
) -> bool:
    """Run `step`, and `other` in a thread before its opcode `number` in `_waiting.py`.

    Returns whether it came to as many opcodes.
    """
    seen = 0
    before = sys.gettrace()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != _waiting.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == number:
                sys.settrace(None)
                thread = threading.Thread(target=other)
                thread.start()
                thread.join()
        return trace

    sys._getframe().f_trace_opcodes = True  # 3.12 asks for it before settrace()
    sys.settrace(trace)
    try:
        step()
    finally:
        sys.settrace(before)
    return seen >= number


def test_flushes_that_a_call_begins_at_once_are_counted_each() -> None:  # C18
    """One is over, the other knows nevertheless that no slot can serve it."""
    outcomes: list[bool | None] = []

    async def send(batch: list[Any]) -> None:
        if batch != ["a"]:
            return
        dispatcher.enqueue("b")
        queue, call = dispatcher._batcher.settlement, current_call()
        reached = True
        for number in itertools.count(1):
            first, second = FlushWaiter(2, call), FlushWaiter(2, call)
            begin, other = partial(queue.add, first), partial(queue.add, second)
            reached = interrupted_at(number, begin, other)
            queue.remove(first)
            queue.finish()
            outcomes.append(second.settled)
            queue.remove(second)
            if not reached:
                return

    async def main() -> None:
        async with BackgroundDispatcher(send, ms_delay=60_000) as made:
            nonlocal dispatcher
            dispatcher = made
            dispatcher.enqueue("a")

    dispatcher: BackgroundDispatcher[str]
    asyncio.run(main())
    assert len(outcomes) > 10
    assert outcomes.pop() is None, "the second did not begin"
    assert set(outcomes) == {False}


def test_flushes_that_two_threads_begin_at_once_are_both_urgent() -> None:  # C18
    async def send(batch: list[Any]) -> None:
        pass

    async def main(dispatcher: BackgroundDispatcher[str], number: int) -> bool:
        queue = dispatcher._batcher.settlement
        dispatcher.enqueue("a")
        dispatcher.enqueue("b")
        sooner, later = FlushWaiter(1, None), FlushWaiter(2, None)
        begin, other = partial(queue.add, sooner), partial(queue.add, later)
        reached = interrupted_at(number, begin, other)
        dispatcher._batcher.wake()
        assert await queue.wait(sooner, 20)
        assert not reached or await queue.wait(later, 20)
        return reached

    for number in itertools.count(1):
        dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
        if not asyncio.run(main(dispatcher, number)):
            break
    assert number > 10


class Room:
    """A task that waits for room on a loop that stands still, and may be woken."""

    def __init__(self) -> None:
        self.queue = RoomQueue()
        self.free = False
        self.loop = asyncio.new_event_loop()
        self.task = self.loop.create_task(self.queue.wait(self.attempt, None))
        self.turn()
        self.loop.call_soon(self.queue.wake, 1)
        self.turn()

    def attempt(self) -> bool | None:
        return True if self.free else None

    def turn(self) -> None:
        """Let the loop run once."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def end(self) -> None:
        self.free = True
        self.queue.wake(1)
        try:
            assert self.loop.run_until_complete(asyncio.wait_for(self.task, 20))
            assert len(self.queue) == 0
        finally:
            self.loop.close()


@pytest.mark.parametrize("free", [False, True])
def test_waiter_whose_loop_starts_while_it_is_woken(free: bool) -> None:  # C14
    for number in itertools.count(1):
        room = Room()
        room.free = free
        reached = interrupted_at(number, lambda: room.queue.wake(1), room.turn)  # noqa: B023
        room.end()
        if not reached:
            break
    assert number > 10


def test_waiter_that_looks_while_its_loop_was_not_seen_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C14
    for number in itertools.count(1):
        room = Room()

        def wake() -> None:  # it looked before the loop was started
            with monkeypatch.context() as patch:
                patch.setattr(room.loop, "is_running", lambda: False)  # noqa: B023
                room.queue.wake(1)  # noqa: B023

        reached = interrupted_at(number, room.turn, wake)
        room.end()
        if not reached:
            break
    assert number > 10
