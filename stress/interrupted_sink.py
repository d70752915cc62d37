"""What the dispatchers of the scenes dispatch to."""

from __future__ import annotations

import asyncio
import threading


class Sink:
    """Dispatch functions that record what they get, and wait while the gate is shut."""

    def __init__(self) -> None:
        self.got: list[object] = []
        self.ended = self.running = 0
        self.gate = threading.Event()
        self.gate.set()
        self.fails = False
        self._lock = threading.Lock()
        self._lives = 0

    def renew(self) -> None:
        """Expect nothing more of calls that went down with their loop."""
        with self._lock:
            self.running = 0
            self._lives += 1

    async def instant(self, batch: list[object]) -> None:
        """Not suspended, while the gate is open."""
        life = self._begin(batch)
        try:
            while not self.gate.is_set():  # noqa: ASYNC110, set from any thread
                await asyncio.sleep(0.001)
            if self.fails:
                raise ValueError("the sink fails")
        finally:
            self._end(life)

    async def suspending(self, batch: list[object]) -> None:
        await asyncio.sleep(0)
        await self.instant(batch)

    def ordinary(self, batch: list[object]) -> None:
        life = self._begin(batch)
        self.gate.wait()
        self._end(life)

    @property
    def closable(self) -> Closable:
        """Another object each time: a sink has one dispatcher."""
        return Closable(self)

    def _begin(self, batch: list[object]) -> int:
        with self._lock:
            self.got += batch
            self.running += 1
            return self._lives

    def _end(self, life: int) -> None:
        with self._lock:
            self.running -= life == self._lives
            self.ended += 1


class Closable:
    """A sink that its dispatcher closes."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    async def __call__(self, batch: list[object]) -> None:
        await self._sink.instant(batch)

    async def aclose(self) -> None:
        await asyncio.sleep(0)
