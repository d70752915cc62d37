"""An ordinary dispatch function, called in a worker thread."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from inspect import isawaitable, iscoroutine
from typing import Any

from ._home import Home


class Worker:
    """One call in a worker thread, and what came of it.

    That stays here until `result()` fetches it. Perhaps nobody will, because the call
    was cancelled or its loop closed, and Python would complain of an error left in a
    future, or of a coroutine never awaited.

    Args:
        home: Whose running loop hears of the thread's end.
        function: What to call, without arguments.
        context: What to call it in.
    """

    def __init__(
        self, home: Home, function: Callable[[], Any], context: Context
    ) -> None:
        self._home = home
        self._skipped = False
        # What it returned or raised, until it is seen.
        self._outcome: list[tuple[Any, BaseException | None]] = []
        loop = asyncio.get_running_loop()
        work = partial(context.run, self._work, function)
        # From 3.14 on a pool's new thread may inherit the context it is started in, and
        # would keep this call, and the dispatcher with it, for ever.
        self.ended: asyncio.Future[None] = Context().run(
            lambda: loop.run_in_executor(None, work)
        )

    async def result(self) -> None:
        """Wait for the thread, and for the awaitable that it may have returned."""
        await asyncio.wait({self.ended})  # cancelled here, it runs on
        self.ended.result()
        outcome, error = self._outcome.pop()
        if error is not None:
            try:
                raise error
            finally:
                del error  # or its traceback would keep this frame, and this frame it
        if isawaitable(outcome):
            await outcome

    def drop(self) -> None:
        """Let go of what nobody will come for."""
        while self._outcome:
            with suppress(IndexError):  # the worker thread was quicker
                outcome, _ = self._outcome.pop()
                if iscoroutine(outcome):
                    outcome.close()

    def skip(self) -> None:
        """Call nothing if the thread has not come to it yet: its batch has failed."""
        self._skipped = True

    def _work(self, function: Callable[[], Any]) -> None:
        try:
            outcome = None if self._skipped else function(), None
        except BaseException as error:
            self._outcome.append((None, error))
        else:
            self._outcome.append(outcome)
        if self._home.closed:
            self.drop()
