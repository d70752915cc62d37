"""`spool cat`: prints what is not dispatched."""

import base64
import json
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ._files import (
    Place,
    UnreadableError,
    damage_in,
    damage_of,
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


def read(place: Place, report: Callable[[str], object]) -> Iterator[Entries]:
    """Read a file: what is whole in it, and not dispatched; report what is damaged.

    Raises:
        UnreadableError: it can't be read.
    """
    with opened(place) as (fd, found):
        if place.kind == "new":
            raise UnreadableError("it was never finished, and has no entries")
        if holds_letters(place, fd):
            yield from _read_letters(place, report)
            return
        header = header_of(place, fd, found.st_size)
        reader = Reader(fd, found.st_size, header)
        for lying in reader.read():
            yield Entries(lying.id, lying.entries, {"attempts": lying.attempts})
        if damage := damage_of(reader, found.st_size):
            report(f"{damage}, and left out" if reader.damaged else damage)


def _read_letters(place: Place, report: Callable[[str], object]) -> Iterator[Entries]:
    with opened_letters(place) as file:
        separator = len(file.header.separator)
        for letter in file.letters():
            entries = []
            at = 0
            for size in letter.sizes:
                entries.append(letter.payload[at : at + size])
                at += size + separator
            failed = {"attempts": letter.attempts, "time": letter.time}
            yield Entries(letter.id, entries, failed | {"reason": letter.reason})
        if damage := damage_in(file):
            report(f"{damage}, and left out")


def print_entries(
    place: Place, report: Callable[[str], object], *, exactly: bool
) -> None:
    """Print the entries of a file, one a line; report what is damaged, and left out.

    Raises:
        UnreadableError: it can't be read.
    """
    out = sys.stdout.buffer
    for batch in read(place, report):
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
