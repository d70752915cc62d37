"""CPython's `SimpleQueue` on a dispatcher, which hands over what getters get.

`queue.Queue` has no adapter: it is full while entries wait for a getter, and a
dispatcher hands entries over unasked, so its `maxsize` would be the adapter's work.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from types import ModuleType
from typing import Any

import test.test_queue

from ringdispatch import BackgroundDispatcher


class SimpleQueue:
    """Puts go into a dispatcher; its dispatch function puts batches where getters look.

    A getter that finds nothing flushes, so that what was put before is there.
    """

    empty_error: type[Exception]

    def __init__(self) -> None:
        self._arrived: deque[Any] = deque()
        self._news = threading.Condition()
        self._got = 0
        self._dispatcher = BackgroundDispatcher[Any](
            self._deliver, ms_delay=1, on_full="raise", home="thread"
        )

    async def _deliver(self, batch: list[Any]) -> None:
        with self._news:
            self._arrived.extend(batch)
            batch.clear()  # a getter has the only reference
            self._news.notify_all()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._dispatcher.enqueue(item)

    put_nowait = put

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if timeout is not None and timeout < 0:
            raise ValueError("'timeout' must be a non-negative number")
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._arrived and self._dispatcher.pending:
            self._dispatcher.flush()
        with self._news:
            while not self._arrived:
                left = None if deadline is None else deadline - time.monotonic()
                if not block or (left is not None and left <= 0):
                    raise self.empty_error
                self._news.wait(left)
            self._got += 1
            return self._arrived.popleft()

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def qsize(self) -> int:
        return self._dispatcher.statistics().accepted - self._got

    def empty(self) -> bool:
        return self.qsize() == 0


def adapted(module: ModuleType) -> type[SimpleQueue]:
    """The adapter that raises the Empty of a module like `queue`."""
    return type("SimpleQueue", (SimpleQueue,), {"empty_error": module.Empty})


def install() -> None:
    """Have CPython's tests of the compiled SimpleQueue test the adapter."""
    module = test.test_queue.c_queue
    module.SimpleQueue = adapted(module)
