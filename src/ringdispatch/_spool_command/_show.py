"""What the command prints: plain lines, or more where rich and a terminal are there."""

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import compress
from typing import Any, Self

from ._files import State

_PLAIN_SECONDS = 5.0  # between two lines of progress

_HEADS = (
    ("name", "left"),
    ("kind", "left"),
    ("owner", "left"),
    ("entries", "right"),
    ("letters", "right"),
    ("bytes", "right"),
    ("age", "right"),
    ("file", "left"),
    ("reason", "left"),
)
# Columns that a narrow terminal leaves out, the least needed first: a file's name shows
# the first two.
_SPARED = ("name", "kind", "bytes", "age")
_UNBOUNDED = 10_000
_COLOURS = {"alive": "green", "ended": "yellow", "?": "red"}


def counted(count: int, noun: str) -> str:
    """The number with its noun: 1 entry, 2,000 entries, 3 batches."""
    plural = {"entry": "entries", "batch": "batches"}.get(noun, f"{noun}s")
    return f"{count:,} {noun if count == 1 else plural}"


def printable(text: str) -> str:
    """The text on one line, without what a terminal would obey."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in text
    )


def say(line: str) -> None:
    """Print a line, with escapes for what the output's encoding has no bytes for."""
    encoding = sys.stdout.encoding or "utf-8"
    line = printable(line).encode(encoding, "backslashreplace").decode(encoding)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print a line to where errors go."""
    sys.stderr.write(f"ringdispatch spool: {printable(line)}\n")
    sys.stderr.flush()


def make_console() -> Any:
    """A console of rich's, if that is installed and prints to a terminal; else None."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console  # noqa: PLC0415, an extra
    except ImportError:
        return None
    return Console(highlight=False, markup=False)


# ---- the files


def as_json(state: State) -> str:
    """A file as one line of JSON."""
    return json.dumps(
        {
            "name": state.place.name,
            "file": state.place.shown,
            "kind": state.place.kind or None,
            "owner": None if state.holder in {"", "?"} else state.holder,
            "entries": state.entries,
            "damaged": state.damaged,
            "letters": state.letters,
            "bytes": state.bytes,
            "age": None if state.age is None else round(state.age, 3),
            "made": None if state.made_at is None else _iso(state.made_at),
            "reason": state.reason or None,
        }
    )


def _iso(seconds: float) -> str | None:
    """A time of the wall clock; None where a damaged header makes no sense."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def print_table(states: Sequence[State], console: Any) -> None:
    """Print the files, one a row."""
    rows = [_row(state) for state in states]
    if console is not None:
        console.print(_fitting_table(rows, console))
        return
    heads = tuple(head for head, _ in _HEADS)
    table = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            cell.rjust(width) if side == "right" else cell.ljust(width)
            for cell, width, (_, side) in zip(row, widths, _HEADS, strict=True)
        ]
        say("  ".join(cells).rstrip())


def _fitting_table(rows: Sequence[Sequence[str]], console: Any) -> Any:
    """A table of rich's with as many columns as there is room for."""
    column = [head for head, _ in _HEADS].index("letters")
    first = {"reason"} if any(row[column] for row in rows) else {"reason", "letters"}
    wide = console.options.update(width=_UNBOUNDED)
    for count in range(len(_SPARED) + 1):
        table = _table(rows, first.union(_SPARED[:count]))
        if console.measure(table, options=wide).maximum <= console.width:
            break
    return table


def _table(rows: Sequence[Sequence[str]], spared: set[str]) -> Any:
    """The rows as a table; the reason has a line of its own below the file."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415, an extra
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown = [head not in spared for head, _ in _HEADS]
    for head, side in compress(_HEADS, shown):
        right = side == "right"
        folds = head == "file"
        table.add_column(
            head,
            justify="right" if right else "left",
            no_wrap=not folds,
            overflow="fold",
        )
    for row in rows:
        cells = [Text(cell, style=_COLOURS.get(cell, "")) for cell in row]
        if row[-1]:
            cells[-2].append(f"\n{row[-1]}", style="red")
        table.add_row(*compress(cells, shown))
    return table


def _row(state: State) -> tuple[str, ...]:
    place = state.place
    return (
        printable(place.name),
        place.kind or "?",
        state.holder,
        _number(state.entries),
        _number(state.letters),
        "" if state.bytes is None else in_bytes(state.bytes),
        "" if state.age is None else in_time(state.age),
        printable(place.shown),
        printable(state.reason),
    )


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def in_bytes(size: int) -> str:
    """A size for people."""
    if size < 1024:
        return f"{size} B"
    value, unit = size / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if value >= 1024:
            value, unit = value / 1024, larger
    return f"{value:.1f} {unit}"


def in_time(seconds: float) -> str:
    """A time for people."""
    for unit, size, least in (("d", 86400, 2), ("h", 3600, 2), ("min", 60, 2)):
        if seconds >= least * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


# ---- progress


class Progress:
    """How far a replay is: a bar where there is a console, else a line now and then.

    Args:
        total: How many entries there are, as far as that is known.
        console: Of rich's; None: plain lines.
    """

    def __init__(self, total: int, console: Any) -> None:
        self._total = total
        self._done = 0
        self._next = time.monotonic() + _PLAIN_SECONDS
        self._bar = None if console is None else make_bar(console)
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line, above the bar."""
        say(line)

    def advance(self, count: int) -> None:
        """Show that so many more entries are done."""
        self._done += count
        if self._bar is not None:
            self._total = max(self._total, self._done)
            self._bar.update(self._task, completed=self._done, total=self._total)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _PLAIN_SECONDS
            say(f"{self._done:,} of {counted(self._total, 'entry')}")


def make_bar(console: Any) -> Any:
    """The bar of rich's; what is printed meanwhile goes above it."""
    from rich.progress import (  # noqa: PLC0415, an extra
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("replaying"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("entries"),
        TimeRemainingColumn(),
        console=console,
        redirect_stderr=sys.stderr.isatty(),
    )
