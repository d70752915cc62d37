"""Reads recorded arrivals: one time a line, or a column of a CSV or JSON-lines log."""

import csv
import io
import json
import math
import random
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from ._entries import CellError
from ._load import FEWEST_ENTRIES, MOST_PER_SECOND

# Of numbers: the name, and its size in seconds.
UNITS = {
    "s": ("seconds", 1.0),
    "ms": ("milliseconds", 1e-3),
    "us": ("microseconds", 1e-6),
    "ns": ("nanoseconds", 1e-9),
}
# Seconds from 1970 to 2001, and to 2100: a time between them shows its unit by its
# size, in a recording that lasts no longer than a month.
_SINCE_1970 = (1e9, 4.1e9)
_MONTH = 31 * 86_400.0
# Other times are of the largest unit in which they span no more seconds than that.
_LONGEST = 3_600.0
# The seconds in which a burst is counted.
BURST = 0.1
_SEPARATORS = ",;\t|"

# A line's number, and its time as it stands there.
Values = Iterator[tuple[int, Any]]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When entries arrived.

    Attributes:
        times: Seconds from the start, ascending.
        seconds: How long it lasted.
        read: How the file was read.
        played: Which part of it is played.
    """

    times: "array[float]"
    seconds: float
    read: str
    played: str

    @property
    def rate(self) -> float:
        """Entries a second, on average."""
        return len(self.times) / self.seconds


def load_arrivals(
    path: Path,
    *,
    seconds: float,
    column: str | None = None,
    unit: str | None = None,
    speed: float = 1.0,
    sort: bool = False,
    seed: int = 1,
) -> Arrivals:
    """Read a file, and choose its busiest stretch.

    Args:
        path: Of numbers or ISO 8601 times, one a line; of a CSV with a header; or of
            JSON objects, one a line.
        seconds: How long a stretch.
        column: The column with the times; None: the file has nothing else.
        unit: Of numbers, a key of UNITS; None: guessed.
        speed: How many times as fast as recorded.
        sort: Whether times may be out of order.
        seed: Of what spreads times that were recorded in whole seconds.

    Raises:
        CellError: it has no arrivals that can be played.
    """
    name = f"--arrivals {path}"
    try:
        raw, read = _read(path, name, column, sort=sort)
    except (UnicodeError, csv.Error):
        raise CellError(
            f"{name}: is not text; unpack it, or export its times, one a line"
        ) from None
    except OSError as error:
        raise CellError(f"{name}: can't be read: {error.strerror}") from None
    if not raw:
        raise CellError(f"{name}: has no times: give one a line")
    span = raw[-1] - raw[0]
    if not span:
        raise CellError(
            f"{name}: has no two times, only {raw[0]:.12g}: give one for each arrival"
        )
    if read is _date:
        unit, how = "s", "dates"
    elif unit is not None:
        how = f"{UNITS[unit][0]} by --unit"
    else:
        unit, why = guess_unit(raw[0], span)
        how = f"taken for {UNITS[unit][0]} by their {why} (--unit sets another)"
    size = UNITS[unit][1]
    times = array("d", ((one - raw[0]) * size for one in raw))
    words = f"{path}{f', column {column}' if column else ''}: {len(times):,} times in "
    words += f"{times[-1]:,.6g} s, {how}"
    if _in_whole_seconds(times, raw[0] * size):
        times = _spread(times, seed)
        words += "; in whole seconds, so each second's are spread over it"
    return _stretch(times, speed, seconds, name, words)


def guess_unit(first: float, span: float) -> tuple[str, str]:
    """The unit of times, and whether their size or their span shows it."""
    for unit, (_, size) in UNITS.items():
        low, high = _SINCE_1970
        if low <= first * size < high and span * size <= _MONTH:
            return unit, "size"
    for unit, (_, size) in UNITS.items():
        if span * size <= _LONGEST:
            return unit, "span"
    return "ns", "span"


# ---- reading


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _date(value: Any) -> float:
    """Seconds since 1970; a time without a zone is taken for UTC."""
    found = datetime.fromisoformat(value)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _as_time(value: Any, read: Callable[[Any], float]) -> float | None:
    """The time, or None if it is none."""
    try:
        found = read(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if 0 <= found < math.inf else None


def _read(
    path: Path, name: str, column: str | None, *, sort: bool
) -> tuple["array[float]", Callable[[Any], float]]:
    """All times as they stand there, ascending, and what reads them."""
    found = array("d")
    read = _number
    with path.open("rb") as file:
        # With a byte order mark, or in UTF-16, as PowerShell writes them.
        encoding = json.detect_encoding(file.peek(4)[:4])
        text = io.TextIOWrapper(file, encoding, newline="")
        for line, value in _values(text, name, column):
            if isinstance(value, str) and "\0" in value:
                raise UnicodeError
            if not found and _as_time(value, _number) is None:
                read = _date
            at = _as_time(value, read)
            if at is None:
                raise CellError(_no_time(f"{name}: line {line}", value, read, column))
            if found and at < found[-1] and not sort:
                raise CellError(
                    f"{name}: line {line}: {value!r:.60} is earlier than the time "
                    "before: sort the file, or give it --sort"
                )
            found.append(at)
    return array("d", sorted(found)) if sort else found, read


def _no_time(
    where: str, value: Any, read: Callable[[Any], float], column: str | None
) -> str:
    if str(value).startswith("["):
        return f"{where}: is a JSON array: give one time or object a line"
    if column is None and (names := _fields(value)):
        return f"{where}: has several columns: name one with --column: {names}"
    if read is _number:
        return f"{where}: {value!r:.60} must be a number >= 0, as the first time is"
    return f"{where}: {value!r:.60} must be a number >= 0, or an ISO 8601 time"


def _fields(line: Any) -> str:
    """The columns of a line that has several."""
    cells = next(csv.reader([line], delimiter=_separator(line)))
    return _listed(cells) if len(cells) > 1 else ""


def _listed(names: Iterable[Any]) -> str:
    return f"{', '.join(map(str, names)):.200}"


def _separator(header: str) -> str:
    return max(_SEPARATORS, key=header.count)


def _values(text: Iterable[str], name: str, column: str | None) -> Values:
    """Number and time of each line."""
    lines = ((count, line) for count, line in enumerate(text, 1) if line.strip())
    first = next(lines, None)
    if first is None:
        return iter(())
    every = chain([first], lines)
    if first[1].lstrip().startswith("{"):
        return _of_json(every, name, column)
    if column is not None:
        return _of_csv(every, name, column)
    return ((count, line.strip()) for count, line in every)


def _of_json(lines: Iterator[tuple[int, str]], name: str, column: str | None) -> Values:
    for count, line in lines:
        where = f"{name}: line {count}"
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CellError(f"{where}: is no JSON object: {error}") from None
        if not isinstance(found, dict):
            raise CellError(f"{where}: is {found!r:.60}: must be a JSON object")
        if column is None or column not in found:
            wrong = "has several columns" if column is None else f"has no {column!r}"
            raise CellError(
                f"{where}: {wrong}: name one with --column: {_listed(found)}"
            )
        yield count, found[column]


def _of_csv(lines: Iterator[tuple[int, str]], name: str, column: str) -> Values:
    number, header = next(lines)

    def counted() -> Iterator[str]:
        nonlocal number
        for count, line in lines:
            number = count
            yield line

    rows = csv.reader(chain([header], counted()), delimiter=_separator(header))
    names = [one.strip() for one in next(rows)]
    if column not in names:
        way_out = "name one of its columns"
        if any(_as_time(one, _number) is not None for one in names):
            way_out = "its first line must name the columns; it has"
        raise CellError(
            f"{name}: has no column {column!r}: {way_out}: {_listed(names)}"
        )
    place = names.index(column)
    for row in rows:
        if len(row) <= place:
            raise CellError(
                f"{name}: line {number}: has {len(row)} columns, and {column!r} "
                f"is number {place + 1}: give each line all columns"
            )
        yield number, row[place].strip()


# ---- choosing


def _in_whole_seconds(times: "array[float]", first: float) -> bool:
    """Whether the recording is too coarse to show bursts, and would make some."""
    grain = 1e-6
    off = max(abs((first + one + 0.5) % 1 - 0.5) for one in times)
    return off < grain and any(one == other for one, other in pairwise(times))


def _spread(times: "array[float]", seed: int) -> "array[float]":
    draw = random.Random(seed).random
    spread = sorted(one + draw() for one in times)
    return array("d", (one - spread[0] for one in spread))


def _stretch(
    times: "array[float]", speed: float, seconds: float, name: str, words: str
) -> Arrivals:
    """The stretch with the most arrivals, or the whole if it is no longer."""
    times = array("d", (one / speed for one in times))
    way_out = "record more"
    if times[-1] <= seconds:
        which, seconds = "all are played", times[-1]
    else:
        way_out = "give it more --seconds or more --speed"
        begin, count = most_within(times, seconds)
        which = f"the busiest {seconds:g} s are played, from {times[begin]:,.3f} s on"
        start = times[begin]
        times = array("d", (one - start for one in times[begin : begin + count]))
    if len(times) < FEWEST_ENTRIES:
        raise CellError(
            f"{name}: {len(times)} arrivals in {seconds:.3g} s are too few to measure, "
            f"which takes {FEWEST_ENTRIES}: {way_out}"
        )
    rate = len(times) / seconds
    if rate > MOST_PER_SECOND:
        raise CellError(
            f"{name}: {len(times):,} arrivals in {seconds:.3g} s are too fast for any "
            f"machine: check the unit ({words.partition(' s, ')[2]}), or try --speed "
            f"{speed * MOST_PER_SECOND / rate / 100:.1g}"
        )
    burst = most_within(times, BURST)[1]
    played = (
        f"{which}{'' if speed == 1 else f', {speed:g} times as fast'}: {len(times):,} "
        f"entries, {rate:,.1f}/s, at most {burst:,} within {1e3 * BURST:g} ms"
    )
    return Arrivals(times, seconds, words, played)


def most_within(times: "array[float]", seconds: float) -> tuple[int, int]:
    """Where the stretch with the most times begins, and how many it has."""
    counts = (
        (bisect_left(times, one + seconds, begin) - begin, -begin)
        for begin, one in enumerate(times)
    )
    count, begin = max(counts)
    return -begin, count
