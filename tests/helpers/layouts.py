"""Dispatchers of every layout that take any entry and hand out lists, for the tests.

An entry is put aside, and its ticket goes into the ring: a number in a record, or eight
bytes. Before the dispatch function and `on_error` are called, tickets become entries
again. So what a test says of lists of objects must hold of every layout.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import struct
import tempfile
import weakref
from collections.abc import Callable
from typing import Any

from ringdispatch import BackgroundDispatcher, Bytes, BytesBatch, Records, _options
from ringdispatch._spool_file import SUPPORTED

TICKET = struct.Struct("<Q")
SEPARATOR = b"\r\n\0"  # of no size that divides anything
ENTRY_BYTES = TICKET.size + len(SEPARATOR)


class Aside:
    """Entries by ticket."""

    def __init__(self) -> None:
        self.start_anew()
        _asides.add(self)

    def start_anew(self) -> None:
        self.boxes: dict[int, list[Any]] = {}

    def put(self, entry: Any) -> int:
        # The address of what is kept is a unique number; finding it needs
        # no lock, so that this may be entered again from anywhere.
        box = [entry]
        self.boxes[id(box)] = box
        return id(box)

    def get(self, ticket: int) -> Any:
        return self.boxes[ticket][0]

    def forget(self, ticket: int) -> None:
        del self.boxes[ticket]


_asides: weakref.WeakSet[Aside] = weakref.WeakSet()
_of_the_parent: list[object] = []  # never freed in a child


def _start_anew() -> None:
    # Without a GIL a dict has a lock, and a thread that is not here may have held it.
    for aside in list(_asides):
        _of_the_parent.append(aside.boxes)
        aside.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


class Tickets(BackgroundDispatcher[Any]):
    """What the layouts have in common: entries are put aside under a ticket."""

    def __init__(
        self,
        dispatch_function: Callable[[Any], Any],
        *,
        capacity: Any = 65_536,
        max_batch: Any = None,
        on_error: Any = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        self._aside = Aside()
        if callable(on_error) and not _options.is_async(on_error):
            on_error = self._wrapped_hook(on_error)
        super().__init__(
            self._wrapped(dispatch_function),
            capacity=capacity,
            max_batch=max_batch,
            layout=self._layout(capacity, max_batch or capacity),
            on_error=on_error,
            name=_options.name(name, dispatch_function),
            **options,
        )

    def _layout(self, capacity: int, max_batch: int) -> Any:
        raise NotImplementedError

    def _tickets(self, batch: Any) -> list[int]:
        """The tickets of a batch, which must be sound in every way."""
        raise NotImplementedError

    def _packed(self, ticket: int) -> Any:
        """What goes into the ring for a ticket."""
        raise NotImplementedError

    # ---- in

    def enqueue(self, entry: Any, context: Any = None) -> bool:
        ticket = self._aside.put(entry)
        accepted = super().enqueue(self._packed(ticket), context)
        if not accepted:
            self._aside.forget(ticket)
        return accepted

    async def aenqueue(
        self, entry: Any, context: Any = None, timeout: float | None = None
    ) -> bool:
        packed = self._packed(self._aside.put(entry))
        return await super().aenqueue(packed, context, timeout)

    # ---- out

    def _entries(self, batch: Any) -> Any:
        return [self._aside.get(ticket) for ticket in self._tickets(batch)]

    def _wrapped_hook(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        return lambda error, batch: hook(error, self._entries(batch))

    def _wrapped(self, function: Any) -> Any:
        async def dispatch(batch: Any) -> Any:
            return await function(self._entries(batch))

        if not callable(function):
            return function  # to be refused
        if _options.is_async(function):
            return dispatch
        return lambda batch: function(self._entries(batch))


class OfRecords(Tickets):
    def _layout(self, capacity: int, max_batch: int) -> Any:
        return Records([("ticket", "u8"), ("check", "u4")])

    def _packed(self, ticket: int) -> Any:
        return ticket, ticket >> 4 & 0xFFFF

    def _tickets(self, batch: Any) -> list[int]:
        assert batch.dtype.itemsize == 12
        rows = batch.tolist()
        assert all(self._packed(ticket) == (ticket, check) for ticket, check in rows)
        return [ticket for ticket, _ in rows]


class OfBytes(Tickets):
    """Entries come in as bytes."""

    def _layout(self, capacity: int, max_batch: int) -> Any:
        # Room for `capacity` entries, and a part of another: entries lie across the
        # arena's end. Batches are as full by their bytes as by their number.
        return Bytes(
            separator=SEPARATOR,
            max_bytes=capacity * ENTRY_BYTES + 5,
            max_batch_bytes=max_batch * ENTRY_BYTES,
        )

    def _packed(self, ticket: int) -> Any:
        return TICKET.pack(ticket)

    def _tickets(self, batch: BytesBatch) -> list[int]:
        entries = list(batch)
        assert len(batch) == len(entries) > 0
        assert batch.payload == b"".join(entry + SEPARATOR for entry in entries)
        return [ticket for entry in entries for ticket in TICKET.unpack(entry)]


class OfEncoded(OfBytes):
    """Entries are made bytes by `encode`; `enqueue` is the dispatcher's own."""

    def _layout(self, capacity: int, max_batch: int) -> Any:
        plain = super()._layout(capacity, max_batch)
        aside = self._aside  # a ring may outlive its dispatcher: it keeps no `self`
        return Bytes(
            encode=lambda entry: TICKET.pack(aside.put(entry)),
            separator=SEPARATOR,
            max_bytes=plain.max_bytes,
            max_batch_bytes=plain.max_batch_bytes,
        )

    enqueue = BackgroundDispatcher.enqueue
    aenqueue = BackgroundDispatcher.aenqueue


class OfSpool(OfBytes):
    """Entries lie in a file; bytes in memory where that is refused."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self._in_file = options.get("on_full") != "drop_oldest"
        super().__init__(*given, **options)

    def _layout(self, capacity: int, max_batch: int) -> Any:
        plain = super()._layout(capacity, max_batch)
        if not self._in_file:
            return plain
        # Tests make several of one name, which may not share a folder.
        folder = tempfile.mkdtemp(dir=spools())
        most = plain.max_bytes, plain.max_batch_bytes
        return Bytes(None, SEPARATOR, *most, spool=folder)


def in_file(dispatcher: Any) -> bool:
    """Whether what a close cuts short is left in a file."""
    return getattr(dispatcher._batcher.options.layout, "spool", None) is not None


def is_cut_short(dispatcher: Any, *, in_flight: int, pending: int) -> bool:
    """Whether a close has counted so many as lost, or as left in a file."""
    seen = dispatcher.statistics()
    lost, left = (in_flight, pending), 0
    if in_file(dispatcher):
        lost, left = (0, 0), in_flight + pending
    return (seen.failed, seen.abandoned, seen.left) == (*lost, left)


def spools() -> str:
    """The folder of all spools, on tmpfs where there is one."""
    if "TEST_SPOOLS" not in os.environ:
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        os.environ["TEST_SPOOLS"] = folder = tempfile.mkdtemp(
            prefix="ringdispatch-", dir=shared
        )
        atexit.register(_remove, folder, os.getpid())
    return os.environ["TEST_SPOOLS"]


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder)


LAYOUTS: dict[str, type[BackgroundDispatcher[Any]]] = {
    "objects": BackgroundDispatcher,
    "records": OfRecords,
    "bytes": OfBytes,
    "encoded": OfEncoded,
    "spooled": OfSpool,
}


def can_be(layout: str) -> bool:
    """Whether what a layout needs is installed."""
    if layout == "spooled":
        return SUPPORTED
    return layout != "records" or importlib.util.find_spec("numpy") is not None


def of_layout(
    cls: type[BackgroundDispatcher[Any]], base: type[BackgroundDispatcher[Any]]
) -> type[Any]:
    """A class of a test as one of the layout that another has."""
    # Each class has an `enqueue` of its own, which would come first.
    return type(cls.__name__, (cls, base), {"enqueue": base.enqueue})
