"""A chaos round whose entries lie in a file: what was left there, and by whom."""

from __future__ import annotations

import shutil
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from chaos_record import Entry, Record
from layouts import SEPARATOR, OfSpool, in_file
from ringdispatch import BackgroundDispatcher, Bytes, Statistics
from ringdispatch._spool_place import is_locked
from spools import adopted, cells_for, filled, left, made, take_all

NAME = "chaos"  # of each dispatcher
PACKED = struct.Struct("<56sQ")  # whose an entry is, and its number
ENTRY_BYTES = PACKED.size + len(SEPARATOR)


def packed(entry: Entry) -> bytes:
    who, number = entry
    assert len(who) <= 56
    return PACKED.pack(who.encode(), number)


def unpacked(data: bytes) -> Entry:
    who, number = PACKED.unpack(data)
    return who.rstrip(b"\0").decode(), number


class Filed(OfSpool):
    """Entries lie in the file themselves: another process can tell whose they are."""

    def _layout(self, capacity: int, max_batch: int) -> Any:
        plain = super()._layout(capacity, max_batch)
        most = capacity * ENTRY_BYTES + 5, max_batch * ENTRY_BYTES
        return Bytes(None, SEPARATOR, *most, spool=plain.spool)

    def enqueue(self, entry: Any, context: Any = None) -> bool:
        return BackgroundDispatcher.enqueue(self, packed(entry), context)

    async def aenqueue(
        self, entry: Any, context: Any = None, timeout: float | None = None
    ) -> bool:
        return await BackgroundDispatcher.aenqueue(
            self, packed(entry), context, timeout
        )

    def _entries(self, batch: Any) -> list[Entry]:
        return [unpacked(entry) for entry in batch]


class Files:
    """The folder of a round's dispatcher, and what a former process has left there."""

    def __init__(self, dispatcher: BackgroundDispatcher[Entry], rng: Random) -> None:
        self.folder = Path(dispatcher._batcher.options.layout.spool)
        self.orphans = [("orphan", number) for number in range(rng.randint(0, 60))]
        if self.orphans:
            cells, size = cells_for(len(self.orphans)), 2 * 60 * ENTRY_BYTES
            file = made(self.folder / NAME, cells, size, SEPARATOR)
            filled(file, [packed(entry) for entry in self.orphans], SEPARATOR)
            left(file)

    @classmethod
    def of(cls, dispatcher: BackgroundDispatcher[Entry], rng: Random) -> Files | None:
        """The folder, if the dispatcher has one."""
        return cls(dispatcher, rng) if in_file(dispatcher) else None

    def are_free(self) -> bool:
        """Whether the dispatcher has left all of them."""
        return not any(map(is_locked, self.folder.rglob("*.spool")))

    def remains(self) -> list[Entry]:
        """What the next process would find; then there is nothing more."""
        entries = []
        while file := adopted(self.folder / NAME, SEPARATOR):
            entries += take_all(file, separator=len(SEPARATOR))
            assert not file.is_damaged
            Path(file.path).unlink()
            file.leave()
        shutil.rmtree(self.folder)
        return [unpacked(entry) for entry in entries]

    def verdict(self, record: Record, books: Statistics) -> Iterator[str]:
        """What differs between the books, what was left, and what came of it."""  # C23
        remain = Counter(self.remains())
        theirs = [call.batch for call in record.recovered]
        failures = [failure.batch for failure in record.recovered_failures]
        # What failed before a worker thread came to it was never begun.
        begun = Counter(map(tuple, theirs))
        unbegun = Counter(map(tuple, failures)) - begun
        theirs += [list(batch) for batch in unbegun.elements()]
        failed = sum(map(len, failures))
        # What failed unbegun and was given back may have been called for since.
        called = sum(map(len, theirs))
        least, most = called - failed, called - books.recovered_failed
        if not least <= books.recovered <= most:
            seen = f"{least} to {most}"
            yield f"recovered is {books.recovered}, seen from outside {seen}"
        if not 0 <= books.recovered_failed <= failed:
            yield f"recovered_failed is {books.recovered_failed}, of {failed}"
        may_be_given_back = record.gave_up or record.ended_loops
        if books.recovered_failed < failed and not may_be_given_back:
            yield f"{failed - books.recovered_failed} were given back"
        in_flight = {entry for each in record.failures for entry in each.batch}
        taken = {*record.received(), *in_flight}
        pending = [entry for entry in record.accepted if entry not in taken]
        came = {entry for batch in theirs for entry in batch}
        if strange := came - {*self.orphans, *pending, *in_flight}:
            yield f"{len(strange)} recovered that nobody left: {sorted(strange)[:3]}"
        if twice := [entry for entry, count in remain.items() if count > 1]:
            yield f"{len(twice)} remain twice, such as {twice[:3]}"
        if strange := remain.keys() - {*self.orphans, *pending, *in_flight}:
            yield f"{len(strange)} remain that nobody left: {sorted(strange)[:3]}"
        settled = came - {entry for batch in failures for entry in batch}
        if again := settled & remain.keys():
            yield f"{len(again)} remain that were dispatched: {sorted(again)[:3]}"
        if record.forks:  # a child may have recovered them
            return
        if lost := {*self.orphans, *pending} - came - remain.keys():
            yield f"{len(lost)} left, and never seen again: {sorted(lost)[:3]}"
        own = sum(count for entry, count in remain.items() if entry[0] != "orphan")
        if own > books.left:
            yield f"{own} remain in files, {books.left} were left"
