"""Calls the user's dispatch function with a batch, as a dispatcher would."""

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable
from contextvars import copy_context
from inspect import isawaitable
from queue import SimpleQueue
from typing import Any

from ringdispatch._batch_info import BatchInfo
from ringdispatch._call import _current
from ringdispatch._layouts import Bytes
from ringdispatch._load import NotLoadedError, load, one_line
from ringdispatch._options import dispatch_function, is_async
from ringdispatch._sink import is_sink
from ringdispatch._worker import refuse_generator

from ._files import UsageError
from ._show import complain

_CLOSE_SECONDS = 5.0  # that a sink's aclose may take


class _Batch:
    """What `current_batch()` finds: a call, and whose it is."""

    def __init__(self, info: BatchInfo) -> None:
        self.batch_info = info


class Caller:
    """Calls a dispatch function with one batch after the other, on the running loop.

    An ordinary function runs in a thread, always the same. A sink is closed with it.

    Args:
        target: The function, as `package.module:name`.

    Raises:
        UsageError: it is none.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        try:
            self._function: Any = dispatch_function(load("--to", target))
            self._is_sink = is_sink(self._function)
        except NotLoadedError as error:
            raise UsageError(str(error)) from None
        except TypeError as error:
            raise UsageError(f"--to {target}: {error}") from None
        self._is_async = is_async(self._function)
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._has_thread = self._was_called = False
        self._separator: bytes | None = None  # that the sink was prepared for

    async def call(self, batch: Any, separator: bytes, info: BatchInfo) -> None:
        """Call the function, and wait until it has ended.

        Raises:
            UsageError: the sink refuses the layout.
            BaseException: what the function raises.
        """
        if self._is_sink and separator != self._separator:
            await self._prepare(separator)
        call = _Batch(info)
        token = _current.set((weakref.ref(call), weakref.ref(call)))  # type: ignore[arg-type]
        self._was_called = True
        try:
            if self._is_async:
                outcome = self._function(batch)
            else:
                outcome = await self._in_thread(batch)
            if isawaitable(outcome):
                await outcome
            else:
                refuse_generator(outcome)
        finally:
            _current.reset(token)

    async def _prepare(self, separator: bytes) -> None:
        await self.close()
        prepare = getattr(type(self._function), "prepare", None)
        if prepare is not None:
            try:
                prepare(self._function, Bytes(separator=separator), None)
            except Exception as error:
                raise UsageError(
                    f"--to {self._target}: the sink refuses entries that end with "
                    f"{separator!r}: {one_line(error)}"
                ) from None
        self._separator = separator

    async def _in_thread(self, batch: Any) -> Any:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        context = copy_context()

        def job() -> None:
            outcome: tuple[Any, BaseException | None]
            try:
                outcome = context.run(self._function, batch), None
            except BaseException as error:
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the loop was closed: cut short
                loop.call_soon_threadsafe(_resolve, ended, outcome)

        if not self._has_thread:
            # A daemon: a call that hangs must not keep the process from its end.
            threading.Thread(target=self._serve, daemon=True).start()
            self._has_thread = True
        self._jobs.put(job)
        outcome, error = await ended
        if error is not None:
            raise error
        return outcome

    def _serve(self) -> None:
        while True:
            self._jobs.get()()

    async def close(self) -> None:
        """Close a sink that was called; what goes wrong with that changes nothing."""
        if not (self._is_sink and self._was_called):
            return
        self._was_called = False
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._function.aclose()
        except BaseException as error:
            complain(f"--to {self._target}: its aclose raised {one_line(error)}")


def _resolve(ended: "asyncio.Future[Any]", outcome: Any) -> None:
    if not ended.done():
        ended.set_result(outcome)
