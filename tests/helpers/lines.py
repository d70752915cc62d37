"""A ring of any layout, and nobody who would be told of anything."""

from __future__ import annotations

import time
from typing import Any

from ringdispatch import Statistics
from ringdispatch._layouts import Bytes, Objects, Records
from ringdispatch._producer import Producer, give_enqueue


@give_enqueue
class Line(Producer[Any]):
    """Entries go in by the methods of a dispatcher, and come out by `take`."""

    def __init__(
        self,
        layout: Objects | Records | Bytes,
        capacity: int = 100,
        *,
        max_batch: int | None = None,
        max_in_flight: int = 1,
        on_full: str = "drop_newest",
    ) -> None:
        ring = layout.make_ring(capacity, max_batch or capacity, max_in_flight)
        self._attach(ring, on_full)

    enqueue: Any
    enqueue_row: Any

    _now = staticmethod(time.monotonic)

    def _opened(self, position: int, context: object) -> None: ...
    def _reached(self) -> None: ...
    def _dropped(self) -> None: ...

    def take(self, most: int = 2**32) -> Any:
        """The next batch; None if nothing is pending."""
        take = self.ring.take(most)
        return None if take is None else take.batch

    def books(self) -> Statistics:
        return Statistics(*self.ring.snapshot(0.0))
