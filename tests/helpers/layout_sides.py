"""The sides (ring_sides.py) whose rings keep records or bytes.

They keep nothing of an entry, so there is none to be freed; what is compared instead is
every byte of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ring_sides import Listener, Modelled, Side
from ringdispatch import Bytes, Records, Statistics
from ringdispatch._enqueue import EnqueueBase, install_enqueue
from spools import Files, adopted, cells_for, take_all

ROW = [("number", "u4"), ("price", "f8"), ("odd", "?"), ("name", "S5")]
DTYPES = {
    "packed": np.dtype(ROW),
    "padded": np.dtype(ROW, align=True),
    "large": np.dtype([*ROW, ("more", "S300")]),  # not packed on the stack
}


class Laid(Side):
    """A side whose batches are compared by what is in them."""

    def read(self, batch: Any) -> list[Any]:
        """Everything in a batch, as Python objects."""
        raise NotImplementedError

    def let_go(self, which: int) -> None:
        self.dropped(self.takes.pop(which % len(self.takes)))


class ModelledLaid(Laid, Modelled):
    """The model's side.

    Args:
        content: What a batch shows of a number.
        encodes: Whether entries are heard of when they are encoded.
        bounds: The ring's, in bytes.
    """

    def __init__(
        self,
        capacity: int,
        max_batch: int,
        on_full: str,
        content: Callable[[int], Any],
        *,
        encodes: bool = False,
        **bounds: Any,
    ) -> None:
        Modelled.__init__(self, capacity, max_batch, on_full, **bounds)
        self.numbers = self.read = lambda batch: [content(number) for number in batch]
        self.encodes = encodes

    def hand_in(self, how: str, number: int, *context: Any) -> bool | None:
        self.came[number] = self.clock
        if how == "offer":
            self.encode(number)
        return self.ring.enqueue(number, *context, waits=how == "offer")

    def encode(self, entry: int) -> None:
        if self.encodes:
            self.heard("encode", entry)

    def freed(self, entry: int) -> None:
        """Nothing is kept of it."""


class CompiledLaid(Laid, EnqueueBase[Any]):
    @property
    def numbers(self) -> Callable[[Any], list[Any]]:  # type: ignore[override]
        return self.read

    def reject(self) -> None:
        self._reject_full()

    def snapshot(self) -> dict[str, Any]:
        return asdict(Statistics(*self.ring.snapshot(self.clock)))


# ---- records


def row(dtype: np.dtype[Any], number: int) -> tuple[Any, ...]:
    values = number, number / 3, number % 2 == 1, b"%d" % number, b"x" * (number % 301)
    return values[: len(dtype.names or ())]


@install_enqueue
class CompiledRecords(CompiledLaid):
    def __init__(
        self, dtype: np.dtype[Any], capacity: int, max_batch: int, on_full: str
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.ring = Records(dtype).make_ring(capacity, max_batch, 1)
        self._attach(self.ring, on_full, Listener(self))

    def hand_in(self, how: str, number: int, *context: Any) -> bool | None:
        entry = row(self.dtype, number)
        if how == "offer":
            return self._offer(self.ring.encoded(entry), *context)
        if number % 3 == 0:
            named = {"context": context[0]} if context else {}
            return self.enqueue_row(*entry, **named)
        return self.enqueue(entry, *context)

    def read(self, batch: Any) -> list[Any]:
        assert batch.dtype == self.dtype
        rows: list[Any] = batch.tolist()
        return rows


class ModelledRecords(ModelledLaid):
    def __init__(
        self, dtype: np.dtype[Any], capacity: int, max_batch: int, on_full: str
    ) -> None:
        super().__init__(
            capacity, max_batch, on_full, lambda number: row(dtype, number)
        )
        self.itemsize = dtype.itemsize

    def snapshot(self) -> dict[str, Any]:
        # The bounds in bytes follow from those in entries.
        return super().snapshot() | {
            "pending_bytes": len(self.ring.pending) * self.itemsize,
            "max_bytes": self.ring.capacity * self.itemsize,
            "max_batch_bytes": self.ring.max_batch * self.itemsize,
        }


# ---- bytes


def text(number: int, size: int) -> bytes:
    """So many bytes that show the number, if there is room for it."""
    return (b"%d." % number * size)[:size]


@install_enqueue
class CompiledBytes(CompiledLaid):
    def __init__(
        self, layout: Bytes, capacity: int, max_batch: int, on_full: str
    ) -> None:
        super().__init__()
        self.layout = layout
        self.ring = self.make_ring(capacity, max_batch)
        self._attach(self.ring, on_full, Listener(self))

    def make_ring(self, capacity: int, max_batch: int) -> Any:
        return self.layout.make_ring(capacity, max_batch, 1)

    def content(self, number: int) -> Any:
        return text(number, self.sizes[number])

    def encode(self, entry: int) -> Any:
        self.heard("encode", entry)
        return self.in_some_type(entry)

    def in_some_type(self, number: int) -> Any:
        return (bytes, bytes, bytearray, memoryview)[number % 4](self.content(number))

    def hand_in(self, how: str, number: int, *context: Any) -> bool | None:
        entry = number if self.layout.encode else self.in_some_type(number)
        if how == "offer":
            return self._offer(self.ring.encoded(entry), *context)
        return self.enqueue(entry, *context)

    def read(self, batch: Any) -> list[Any]:
        entries = list(batch)
        assert len(batch) == len(entries)
        assert entries == [batch[which] for which in range(len(batch))] == batch[:]
        assert batch.payload == b"".join(e + self.layout.separator for e in entries)
        assert batch.nbytes == len(batch.payload)
        assert batch.json_array() == b"[" + b",".join(entries) + b"]"
        return entries


class ModelledBytes(ModelledLaid):
    def __init__(
        self,
        layout: Bytes,
        capacity: int,
        max_batch: int,
        on_full: str,
        *,
        encodes: bool,
        **file: int,
    ) -> None:
        super().__init__(
            capacity,
            max_batch,
            on_full,
            lambda number: text(number, self.sizes[number]),
            encodes=encodes,
            size=lambda number: self.sizes[number] + len(layout.separator),
            max_bytes=layout.max_bytes,
            max_batch_bytes=layout.max_batch_bytes or layout.max_bytes,
            **file,
        )


@install_enqueue
class SpooledBytes(CompiledBytes):
    """Bytes in a file of the folder."""

    def __init__(self, folder: Path, layout: Bytes, *options: Any) -> None:
        self.folder = folder
        super().__init__(layout, *options)

    def make_ring(self, capacity: int, max_batch: int) -> Any:
        from ringdispatch._spool_ring import SpoolRing  # on Linux only

        layout = self.layout
        self.bounds = cells_for(capacity), 2 * layout.max_bytes
        self.files = Files(self.folder, *self.bounds, separator=layout.separator)
        file = self.files.another(0)
        most = layout.max_batch_bytes or layout.max_bytes
        values = layout.encode, layout.separator, layout.max_bytes, most
        return SpoolRing(capacity, max_batch, *values, file, self.files)

    def fork(self) -> None:
        """Begin as a child does, which has no mapping."""
        self.files.last.leave()
        Path(self.files.last.path).unlink(missing_ok=True)  # it is the parent's
        self.ring.reset()

    def left(self) -> list[bytes]:
        """What the next process finds, were this one to end now."""
        separator = self.layout.separator
        self.files.last.leave()
        following = adopted(self.folder, separator)
        return [] if following is None else take_all(following, 1000, len(separator))


def byte_sides(
    layout: Bytes,
    capacity: int,
    max_batch: int,
    on_full: str,
    *,
    encodes: bool,
    folder: Path | None = None,
) -> tuple[ModelledBytes, CompiledBytes]:
    """Both sides of one layout, whose `encode` is the side's own."""
    compiled: list[CompiledBytes] = []
    if encodes:
        layout = Bytes(
            lambda number: compiled[0].encode(number),
            layout.separator,
            layout.max_bytes,
            layout.max_batch_bytes,
        )
    options = layout, capacity, max_batch, on_full
    file: dict[str, int] = {}
    if folder is None:
        compiled.append(CompiledBytes(*options))
    else:
        spooled = SpooledBytes(folder, *options)
        file = dict(zip(("cells", "arena_bytes"), spooled.bounds, strict=True))
        compiled.append(spooled)
    modelled = ModelledBytes(*options, encodes=encodes, **file)
    return modelled, compiled[0]
