"""Entries, dispatch functions and layouts: stand-ins, or the user's own."""

import inspect
import itertools
import json
import tracemalloc
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from ringdispatch import Bytes, Objects, Records
from ringdispatch._load import NotLoadedError, load, one_line
from ringdispatch._options import dispatch_function, is_async

from ._model import LEAST_ARENA, MIB, REFERENCE_BYTES

JSON = "orjson" if find_spec("orjson") else "json"  # orjson does not install everywhere

Entries = Callable[[], Iterator[Any]]

LAYOUTS = ("objects", "records", "bytes")
_DTYPE = [("time", "f8"), ("size", "i4"), ("seconds", "f4"), ("status", "u2")]
# The types of numbers, from the narrowest on.
_KINDS = {bool: "?", int: "i8", float: "f8"}
_NOW = 1.75e9
_GRAIN = 16
# How many entries are made to learn their size.
_MOST_SAMPLES = 2_000
_MOST_SAMPLE_BYTES = 16 * MIB
# The separator, and the entry's end.
_BESIDE_A_LINE = 5
# What goes into an arena of bytes as it is.
_RAW = (bytes, bytearray, memoryview)


class CellError(Exception):
    """A cell could not be measured; one line says why, and what to do."""


def _choose_encode() -> Callable[[Any], bytes]:
    if JSON == "json":
        return lambda entry: json.dumps(entry, separators=(",", ":")).encode()
    import orjson  # noqa: PLC0415

    return orjson.dumps


encode = _choose_encode()


def _line(entry: Any) -> Any:
    """The entry as bytes, which it may be already."""
    return entry if isinstance(entry, _RAW) else encode(entry)


# ---- stand-ins


def dicts() -> Iterator[dict[str, float]]:
    """Dicts of four fields."""
    for size in itertools.count():
        yield {
            "time": _NOW + size,
            "size": size,
            "seconds": 1e-6 * size,
            "status": 200,
        }


def tuples() -> Iterator[tuple[float, ...]]:
    """Tuples of the same four fields."""
    for size in itertools.count():
        yield (_NOW + size, size, 1e-6 * size, 200)


def default_entries(layout: str) -> Entries:
    """The entries where the user gave none."""
    return tuples if layout == "records" else dicts


def make_layout(
    name: str, capacity: int, samples: list[Any], *, own: bool
) -> Objects | Records | Bytes:
    """The layout of that name, for entries like the samples.

    Args:
        name: Of LAYOUTS.
        capacity: The arena of bytes has room for as many.
        samples: Some entries, at least one.
        own: Whether the entries are the user's own.

    Raises:
        CellError: the entry can't be laid out so.
    """
    if name == "objects":
        return Objects()
    if name == "records":
        try:
            return Records(_dtype(samples) if own else _DTYPE)
        except ImportError as error:
            raise CellError(str(error)) from None
    if name == "bytes":
        room = arena_bytes(capacity, sum(map(len, map(_line, samples))) / len(samples))
        raw = {isinstance(each, _RAW) for each in samples}
        as_bytes = {True: None, False: encode}[raw.pop()] if len(raw) == 1 else _line
        return Bytes(encode=as_bytes, max_bytes=room)
    raise CellError(f"layout={name!r}: must be one of {', '.join(LAYOUTS)}")


def arena_bytes(capacity: int, line: float) -> int:
    """The size of an arena for `capacity` lines of about that length.

    It has room for twice as many: lines differ in length, and capacity is to be the
    bound. No smaller than the layout's default.
    """
    return min(max(LEAST_ARENA, round(2 * capacity * (line + 1))), 2**32 - 1)


def _dtype(rows: list[Any]) -> list[tuple[str, str]]:
    """Fields of the widest type of each column: a float may follow an integer."""
    for row in rows:
        if not isinstance(row, tuple) or any(
            type(value) not in _KINDS for value in row
        ):
            raise CellError(
                f"layout='records' can't hold the entry {row!r:.80}: it takes rows of "
                "numbers; use --layout objects or bytes, or samples that are such rows"
            )
    widest = (
        max(map(type, column), key=[*_KINDS].index)
        for column in zip(*rows, strict=False)
    )
    return [(f"field{i}", _KINDS[kind]) for i, kind in enumerate(widest)]


def entry_bytes(layout: str, entries: Entries | None = None) -> float:
    """The bytes of a pending entry, without its reference in the ring.

    Objects are made and kept: what they share counts once, as in a ring.

    Args:
        layout: Of LAYOUTS.
        entries: Makes an endless iterator of entries. None: of four fields.
    """
    stream = (entries or default_entries(layout))()
    if layout == "records":
        own = entries not in (None, tuples)
        rows = [*itertools.islice(stream, _MOST_SAMPLES)]
        made = make_layout(layout, 1, rows, own=own)
        return float(made.dtype.itemsize) if isinstance(made, Records) else 0.0
    if layout == "bytes":
        lengths: list[int] = []
        while len(lengths) < _MOST_SAMPLES and sum(lengths) < _MOST_SAMPLE_BYTES:
            entry = next(stream)
            lengths.append(len(_line(entry)))
        return sum(lengths) / len(lengths) + _BESIDE_A_LINE
    before = _kept(stream)  # what the interpreter had spare
    kept, taken = _kept(stream)
    del before
    return taken / len(kept) - REFERENCE_BYTES


def _kept(stream: Iterator[Any]) -> tuple[list[Any], int]:
    """Make and keep some entries; returns them, and the bytes that they take."""
    kept = []
    tracemalloc.start()
    try:
        for entry in itertools.islice(stream, _MOST_SAMPLES):
            kept.append(entry)
            if tracemalloc.get_traced_memory()[0] > _MOST_SAMPLE_BYTES:
                break
        blocks = [trace.size for trace in tracemalloc.take_snapshot().traces]
    finally:
        tracemalloc.stop()
    # The allocator rounds each block up.
    return kept, sum(-(-size // _GRAIN) * _GRAIN for size in blocks)


# ---- the user's own


def load_function(target: str) -> Callable[[Any], object]:
    """The user's dispatch function, by "package.module:name".

    Raises:
        CellError: it can't be imported, is not there, or is no dispatch function.
    """
    found = _load("dispatch function", target)
    try:
        dispatch_function(found)
    except TypeError as error:
        raise CellError(f"{target}: {error}") from None
    return cast("Callable[[Any], object]", found)


def load_entries(source: str, layout: str) -> Entries:
    """Entries like the user's, by "package.module:factory" or a file of JSON samples.

    A factory returns one entry for each call. The samples of a file, a JSON array or
    one sample a line, come in turn, each time made afresh.

    Raises:
        CellError: there are none, or they can't be read.
    """
    module, colon, name = source.partition(":")
    if colon and name.isidentifier() and not Path(source).exists():
        return _made_by(_load("entry factory", f"{module}:{name}"), source)
    as_row = layout == "records"
    samples = _samples(source)
    if as_row:
        samples = _as_rows(samples)
    lines = [json.dumps(sample) for sample in samples]

    def entries() -> Iterator[Any]:
        for line in itertools.cycle(lines):
            entry = json.loads(line)
            yield tuple(entry) if as_row and isinstance(entry, list) else entry

    return entries


def _made_by(factory: Callable[[], Any], source: str) -> Entries:
    if inspect.isgeneratorfunction(factory) or is_async(factory):
        raise CellError(
            f"--entry {source}: must be a plain function that returns an entry; for "
            "a generator function gen, give functools.partial(next, gen()) a name"
        )

    def entries() -> Iterator[Any]:
        while True:
            try:
                entry = factory()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise not_made(error) from None
            yield entry

    return entries


def not_made(error: BaseException) -> CellError:
    """The report of an entry that can't be made."""
    return CellError(f"making an entry raised {one_line(error)}")


def _samples(source: str) -> list[Any]:
    path = Path(source)
    try:
        raw = path.read_bytes()
        # With a byte order mark, or in UTF-16, as PowerShell writes them.
        text = raw.decode(json.detect_encoding(raw))
    except (OSError, UnicodeError) as error:
        raise CellError(f"--entry {source}: can't be read: {error}") from None
    readers = [_whole, _line_by_line]
    if path.suffix in {".jsonl", ".ndjson"}:  # an array in its one line is a sample
        readers.reverse()
    try:
        found = readers[0](text)
    except (ValueError, RecursionError):
        try:
            found = readers[1](text)
        except (ValueError, RecursionError) as error:
            raise CellError(
                f"--entry {source}: is neither JSON nor a JSON sample a line: {error}"
            ) from None
    if not found:
        raise CellError(f"--entry {source}: has no samples: give at least one")
    return found


def _whole(text: str) -> list[Any]:
    found = json.loads(text)
    return found if isinstance(found, list) else [found]


def _line_by_line(text: str) -> list[Any]:
    # Not splitlines(), which splits inside of text, at U+2028 and others.
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _as_rows(samples: list[Any]) -> list[Any]:
    """One row alone is no array of samples; a column with a float is one of floats.

    JavaScript and Go write 1.0 as 1.
    """
    if all(type(value) in _KINDS for value in samples):
        samples = [samples]
    rows = [enumerate(row) for row in samples if isinstance(row, list)]
    floats = {i for row in rows for i, value in row if type(value) is float}
    return [
        [_float(value) if i in floats else value for i, value in enumerate(row)]
        if isinstance(row, list)
        else row
        for row in samples
    ]


def _float(value: Any) -> Any:
    try:
        return float(value) if type(value) is int else value
    except OverflowError:
        return value  # it is refused as what it is


def _load(what: str, target: str) -> Any:
    try:
        return load(what, target)
    except NotLoadedError as error:
        raise CellError(str(error)) from None
