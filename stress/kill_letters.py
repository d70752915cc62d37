"""The dead letters that the processes of stress/kill.py have left."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ringdispatch._dead_letters import DeadLetter, letters
from ringdispatch._spool_header import DamagedError


@dataclass
class Letter:
    """One of the letters."""

    batch_id: str
    entries: list[str]
    reason: str


def read_letters(folder: Path) -> dict[str, list[Letter]]:
    """Every letter, by the id of its batch."""
    found: dict[str, list[Letter]] = defaultdict(list)
    for path in folder.glob("spool/*/*.dead"):
        # Its process may have been killed before it had a header.
        with contextlib.suppress(DamagedError):
            for letter in letters(path):
                entries = _entries(letter)
                found[letter.id].append(Letter(letter.id, entries, letter.reason))
    return found


def _entries(letter: DeadLetter) -> list[str]:
    at, entries = 0, []
    for size in letter.sizes:
        entry = letter.payload[at : at + size]
        entries.append(entry.partition(b" ")[0].decode())
        at += size + 1
    return entries
