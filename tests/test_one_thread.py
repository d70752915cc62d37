"""The one thread in which a command calls ordinary functions."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest

from loops import comes_true
from ringdispatch._one_thread import OneThread


class Crash(Exception):
    pass


def crash(argument: Any) -> None:
    raise Crash


def test_functions_run_one_after_the_other_in_one_thread() -> None:
    async def main() -> list[tuple[int, int]]:
        thread = OneThread()
        calls = (
            thread.run(lambda n: (n, threading.get_ident()), number)
            for number in range(3)
        )
        return list(await asyncio.gather(*calls))

    seen = asyncio.run(main())
    assert [number for number, _ in seen] == [0, 1, 2]
    (ident,) = {ident for _, ident in seen}
    assert ident != threading.get_ident()


def test_what_a_failed_call_was_given_is_freed_by_those_after_it() -> None:
    class Records:
        pass

    async def fail(thread: OneThread) -> weakref.ref[Records]:
        records = Records()
        try:
            await thread.run(crash, records)
        except Crash:
            return weakref.ref(records)
        raise AssertionError("it did not fail")

    async def main() -> None:
        thread = OneThread()
        given = await fail(thread)
        async with asyncio.timeout(20):
            while given() is not None:  # without a GIL a thread lets go as it goes on
                await thread.run(int)

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_that_was_cancelled_lets_the_thread_serve_the_next(fails: bool) -> None:
    began, ends = threading.Event(), threading.Event()
    told: list[str] = []

    def hang() -> str:
        began.set()
        assert ends.wait(30)
        if fails:
            raise Crash
        return "too late"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["message"]))
        thread = OneThread()
        running = asyncio.create_task(thread.run(hang))
        await comes_true(began.is_set)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        ends.set()
        assert await thread.run(lambda: "next") == "next"
        with pytest.raises(Crash):
            await thread.run(crash, 1)

    asyncio.run(main())
    assert told == []
