"""Raises once inside the package, at a given line, by a trace function."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import ringdispatch

try:
    import _testcapi
except ImportError:
    _testcapi = None

PACKAGE = str(Path(ringdispatch.__file__).parent) + os.sep
RAISED: dict[str, type[BaseException]] = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": SystemExit,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
}
# Not raised by us: an allocation made by the line fails, the first, second or third.
NO_MEMORY = "nomemory"
ALLOCATIONS = 3
MAIN, OTHER = "main", "other"  # the threads whose lines are counted


class Interruption:
    """One exception, at the k-th line that the package runs while this is armed.

    Lines of the main thread and of all others are counted apart. Without `at` none is
    raised: that counts them.
    """

    def __init__(
        self,
        kind: str,
        thread: str = MAIN,
        at: int = 0,
        allocation: int = 0,
        *,
        patience: float,
        on_reached: Callable[[str], object],
    ) -> None:
        self._on_reached = on_reached
        self.patience = patience  # seconds for what must come
        self._raises = RAISED.get(kind, MemoryError)
        # What may come of it: without memory tracing itself raises SystemError.
        self.errors = (self._raises, SystemError)
        self.armed = False
        self.where = ""  # the line, once it was reached
        self.fired_at: float | None = None  # when it was reached
        self.raised = False
        self.lines: dict[str, list[str]] = {MAIN: [], OTHER: []}
        self._at = at
        self._thread = thread
        self._allocation = allocation if kind == NO_MEMORY else None
        self._starved = False
        self._main = threading.get_ident()
        # Kept: CPython 3.11 calls a trace function that it holds no reference to. The
        # collector may run in between, and a finalizer interrupted there unsets it: the
        # interpreter crashes. Later versions collect elsewhere (python/cpython#97922).
        self._kept: tuple[Callable[..., Any], ...] = (self._call, self._line)

    @property
    def fired(self) -> bool:
        """Whether the line was reached."""
        return self.fired_at is not None

    def install(self) -> None:
        """Trace this thread, and those that start from now on."""
        threading.settrace(self._kept[0])
        sys.settrace(self._kept[0])

    def end(self) -> None:
        """Interrupt no more; this thread is not traced."""
        self.armed = False
        sys.settrace(None)

    def _call(self, frame: FrameType, _event: str, _: object) -> Any:
        if self._starved:
            self._feed()
        return self._kept[1] if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if self._starved:
            self._feed()
            self.raised |= event == "exception" and issubclass(arg[0], self.errors)
        if event == "line" and self.armed:
            thread = MAIN if threading.get_ident() == self._main else OTHER
            line = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            self.lines[thread].append(line)
            if thread == self._thread and len(self.lines[thread]) == self._at:
                self.armed = False
                self.where = line
                self.fired_at = time.monotonic()
                self._on_reached(line)
                if self._allocation is None:
                    self.raised = True
                    raise self._raises
                self._starved = True
                _testcapi.set_nomemory(self._allocation, self._allocation + 1)
        return self._kept[1]

    def _feed(self) -> None:
        """Let allocations succeed again: the line is over, or has called."""
        _testcapi.remove_mem_hooks()
        self._starved = False
