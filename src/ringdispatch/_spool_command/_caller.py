"""Calls the user's dispatch function with a batch, as a dispatcher would."""

import asyncio
import weakref
from inspect import isawaitable
from typing import Any

from ringdispatch._batch_info import BatchInfo
from ringdispatch._call import _current
from ringdispatch._layouts import Bytes
from ringdispatch._load import NotLoadedError, load, one_line
from ringdispatch._one_thread import OneThread
from ringdispatch._options import dispatch_function, is_async
from ringdispatch._sink import is_sink
from ringdispatch._worker import refuse_generator

from ._files import UsageError
from ._show import complain

_CLOSE_SECONDS = 5.0  # that a sink's aclose may take


class _Batch:
    """What `current_batch()` finds: a call, and whose it is."""

    def __init__(self, value: object, info: BatchInfo) -> None:
        self._value = value
        self.batch_info = info

    def has(self, value: object) -> bool:
        """Whether this is what the dispatch function was called with."""
        return self._value is value


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
        self._thread = OneThread()
        self._was_called = False
        self._separator: bytes | None = None  # that the sink was prepared for

    async def call(self, batch: Any, separator: bytes, info: BatchInfo) -> None:
        """Call the function, and wait until it has ended.

        Raises:
            UsageError: the sink refuses the layout.
            BaseException: what the function raises.
        """
        if self._is_sink and separator != self._separator:
            await self._prepare(separator)
        call = _Batch(batch, info)
        token = _current.set((weakref.ref(call), weakref.ref(call)))  # type: ignore[arg-type]
        self._was_called = True
        try:
            if self._is_async:
                outcome = self._function(batch)
            else:
                outcome = await self._thread.run(self._function, batch)
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
