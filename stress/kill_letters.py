"""The dead letters that the processes of stress/kill.py have left."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringdispatch import Statistics

# Until failed batches are kept, each is expected in the books alone.
KEPT = "kept" in Statistics.__dataclass_fields__


@dataclass
class Letter:
    """One of the letters."""

    batch_id: str
    entries: list[str]
    reason: str
    recovered: bool
    attempts: int


def read_letters(folder: Path) -> dict[str, list[Letter]]:
    """Every letter, by the id of its batch."""
    found: dict[str, list[Letter]] = defaultdict(list)
    for path in folder.glob("spool/*/*.dead") if KEPT else ():
        for letter in _letters(path):
            found[letter.batch_id].append(letter)
    return found


def _letters(path: Path) -> Iterator[Letter]:
    module: Any = importlib.import_module("ringdispatch._dead_letters")
    for letter in module.letters(path):
        at, entries = 0, []
        separator = (len(letter.payload) - sum(letter.sizes)) // len(letter.sizes)
        for size in letter.sizes:
            entry = letter.payload[at : at + size]
            entries.append(entry.partition(b" ")[0].decode())
            at += size + separator
        yield Letter(
            letter.id, entries, letter.reason, letter.recovered, letter.attempts
        )
