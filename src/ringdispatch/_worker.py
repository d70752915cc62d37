"""What came of an ordinary function; the threads it runs in are in `_atomic.pyx`."""

import asyncio
import contextlib
from collections.abc import Callable
from inspect import isasyncgen, isawaitable, iscoroutine, isgenerator
from typing import Any

from ._atomic import Finalizer, WorkerThreads, resolve
from ._home import Home


class ThreadCall:
    """One call in a worker thread, and what came of it.

    The outcome stays here until `result()` fetches it. Where that never happens,
    because the call was cancelled or its loop closed, it is discarded: Python would
    complain of an error left in a future, or of a coroutine never awaited.
    """

    def __init__(self, home: Home, function: Callable[[], Any]) -> None:
        self._home = home
        self._function = function
        self._skipped = False
        self._outcome: list[tuple[Any, BaseException | None]] = []  # until it is seen
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def start(self, workers: WorkerThreads) -> None:
        """Call the function in a thread.

        Inline where no thread starts and the loop is ours, as when the process ends.
        """
        ended = Finalizer(self._loop.call_soon_threadsafe, resolve, self.ended)
        try:
            workers.run((self._work, ended))
        except RuntimeError:
            if not self._home.is_ours:
                raise
            self._work()
            ended.finish()

    async def result(self) -> None:
        """Wait for the function, and for the awaitable that it may have returned."""
        await asyncio.wait({self.ended})  # cancelled here, the function runs on
        if not self._outcome:
            raise RuntimeError("the worker thread died")
        outcome, error = self._outcome.pop()
        if error is not None:
            try:
                raise error
            finally:
                del error  # or its traceback would keep this frame, and this frame it
        if isawaitable(outcome):
            await outcome
        else:
            refuse_generator(outcome)

    def discard(self) -> None:
        """Discard an outcome that will never be awaited."""
        with contextlib.suppress(IndexError):  # there is none, or the thread was first
            outcome, _ = self._outcome.pop()
            if iscoroutine(outcome):
                outcome.close()

    def skip(self) -> None:
        """Call nothing if the thread has not come to it: the batch has failed."""
        self._skipped = True

    def _work(self) -> None:
        try:
            outcome = None if self._skipped else self._function(), None
        except BaseException as error:
            self._outcome.append((None, error))
        else:
            self._outcome.append(outcome)
        if self._loop.is_closed():
            self.discard()


def refuse_generator(outcome: object) -> None:
    """Refuse what a function returned if it is a generator, of which nothing has run.

    Raises:
        TypeError: it is one.
    """
    if isgenerator(outcome) or isasyncgen(outcome):
        raise TypeError(
            f"returned {outcome!r}, which nothing iterates: must be a plain or async "
            "function, not a generator"
        )
