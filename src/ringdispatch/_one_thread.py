"""A thread for ordinary functions that a command calls from its event loop."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any


class OneThread:
    """Runs one function after the other, always in the same thread.

    A daemon: a function that hangs must not keep the process from its end.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._started = False

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Wait for what it returns or raises; cancelled, it runs on."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        outcomes: list[tuple[Any, BaseException | None]] = []
        context = copy_context()

        def job() -> None:
            try:
                outcomes.append((context.run(function, *arguments), None))
            except BaseException as error:
                outcomes.append((None, error))
            with contextlib.suppress(RuntimeError):  # the loop was closed: cut short
                loop.call_soon_threadsafe(_resolve, ended)

        if not self._started:
            threading.Thread(target=self._serve, daemon=True).start()
            self._started = True
        self._jobs.put(job)
        await ended
        returned, raised = outcomes.pop()
        try:
            if raised is not None:
                raise raised
            return returned
        finally:
            # It has this frame in its traceback: in a circle with it, arguments of any
            # size would stay until a garbage collection.
            del raised

    def _serve(self) -> None:
        while True:
            self._jobs.get()()


def _resolve(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_result(None)
