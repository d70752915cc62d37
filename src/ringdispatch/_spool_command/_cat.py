"""`spool cat`: prints what is not dispatched."""

import base64
import json
import sys
from collections.abc import Iterator
from typing import NamedTuple

from ._files import (
    Place,
    UnreadableError,
    header_of,
    holds_letters,
    opened,
    opened_letters,
)
from ._reading import Reader
from ._show import printable


class Entries(NamedTuple):
    """Entries of one batch, or one that was in none; `more` is what is known of it."""

    id: str | None
    entries: list[bytes]
    more: dict[str, object]


def read(place: Place) -> Iterator[Entries]:
    """Read a file: what is whole in it, and not dispatched.

    Raises:
        UnreadableError: it can't be read.
    """
    with opened(place) as (fd, found):
        if place.kind == "new":
            raise UnreadableError("it was never finished, and has no entries")
        if holds_letters(place, fd):
            yield from _read_letters(place)
            return
        header = header_of(place, fd, found.st_size)
        for lying in Reader(fd, found.st_size, header).read():
            yield Entries(lying.id, lying.entries, {})


def _read_letters(place: Place) -> Iterator[Entries]:
    with opened_letters(place) as file:
        end = len(file.header.separator)
        for letter in file.letters():
            entries = []
            at = 0
            for size in letter.sizes:
                entries.append(letter.payload[at : at + size])
                at += size + end
            failed = {"time": letter.time, "attempts": letter.attempts}
            yield Entries(letter.id, entries, failed | {"reason": letter.reason})


def print_entries(place: Place, *, exactly: bool) -> None:
    """Print the entries of a file, one a line.

    Raises:
        UnreadableError: it can't be read.
    """
    out = sys.stdout.buffer
    for batch in read(place):
        for entry in batch.entries:
            if exactly:
                known = {"file": place.shown, "id": batch.id, **batch.more}
                line = json.dumps(known | exact(entry)).encode()
            elif sys.stdout.isatty():
                line = printable(entry.decode(errors="backslashreplace")).encode()
            else:
                line = entry
            out.write(line + b"\n")
    out.flush()


def exact(entry: bytes) -> dict[str, str]:
    """The bytes in JSON: as a text if they are one in UTF-8, else in base64."""
    try:
        return {"entry": entry.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(entry).decode()}
