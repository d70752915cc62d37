"""A ring of any layout, without a listener."""

from __future__ import annotations

from typing import Any

from ringdispatch import Statistics
from ringdispatch._enqueue import EnqueueBase, install_enqueue
from ringdispatch._layouts import Bytes, Objects, Records


@install_enqueue
class Line(EnqueueBase[Any]):
    """Entries go in by the methods of a dispatcher, and come out by `take`."""

    def __init__(
        self,
        layout: Objects | Records | Bytes,
        capacity: int = 100,
        *,
        max_batch: int | None = None,
        max_in_flight: int = 1,
        on_full: str = "drop_newest",
        listener: Any = None,
    ) -> None:
        self.ring = layout.make_ring(capacity, max_batch or capacity, max_in_flight)
        self._attach(self.ring, on_full, listener)

    enqueue: Any
    enqueue_row: Any

    def take(self, most: int = 2**32) -> Any:
        """The next batch; None if nothing is pending."""
        take = self.ring.take(most)
        return None if take is None else take.value

    def books(self) -> Statistics:
        return Statistics(*self.ring.snapshot(0.0))
