"""A batch as messages for an engine such as NATS, and back.

A message is a body, headers that say how to read it, and an id. It has a whole batch,
or a range of its entries where the batch is larger than the engine takes. An entry's id
is `<batch>/<index>`, whatever message it comes in.

The body by `Ringdispatch-Layout`:

- `objects`: each entry as JSON, followed by a line break;
- `bytes`: each entry as it was encoded, followed by `Ringdispatch-Separator` (in
  percent-encoding). Without one, the lengths of the entries come first, each in four
  bytes, the lowest first: a separator may be in an entry;
- `records`: an array of numpy, in its format `.npy`.
"""

import asyncio
import io
import json
import struct
import sys
from array import array
from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ringdispatch import BytesBatch

from . import _json

VERSION = 1
_CHUNK = 250  # entries, between two of which other tasks have a turn

_VERSION = "Ringdispatch-Version"
_BATCH = "Ringdispatch-Batch"
_FIRST = "Ringdispatch-First"
_COUNT = "Ringdispatch-Count"
_LAYOUT = "Ringdispatch-Layout"
_SEPARATOR = "Ringdispatch-Separator"


class UnreadableError(Exception):
    """A message is none of ours, is damaged, or is of a newer version."""


class Message(NamedTuple):
    """A batch, or a range of its entries."""

    id: str
    headers: dict[str, str]
    body: bytes


class Encoded:
    """A batch whose entries are encoded; any range of them makes a message."""

    layout: str
    separator: bytes | None = None

    def __init__(self, batch: str, count: int) -> None:
        self._batch = batch  # its id
        self._count = count

    def __len__(self) -> int:
        return self._count

    def body(self, start: int, end: int) -> bytes:
        """Make the body of a range."""
        raise NotImplementedError

    def message(self, start: int, end: int) -> Message:
        """Make the message of entries `start` to `end`, exclusive."""
        headers = {
            _VERSION: str(VERSION),
            _BATCH: self._batch,
            _FIRST: str(start),
            _COUNT: str(end - start),
            _LAYOUT: self.layout,
        }
        if self.separator is not None:
            headers[_SEPARATOR] = quote_from_bytes(self.separator)
        whole = end - start == self._count
        # With the range in it: cut otherwise next time, no piece has another's id.
        name = self._batch if whole else f"{self._batch}.{start}-{end}"
        return Message(name, headers, self.body(start, end))


async def encode(batch: Any, key: str, separator: bytes | None) -> Encoded:
    """Encode a batch; `separator`: that of the layout Bytes, where it is known."""
    if isinstance(batch, list):
        return _Objects(key, await _lines_of(batch))
    if not isinstance(batch, BytesBatch):
        return _Records(key, batch)
    # One byte that is there as often as entries end is in none of them.
    if separator and batch.payload.count(separator) * len(separator) == len(batch):
        return _Separated(key, batch, separator)
    return _WithLengths(key, batch)


async def _lines_of(batch: list[Any]) -> list[bytes]:
    lines: list[bytes] = []
    for entry in batch:
        if lines and len(lines) % _CHUNK == 0:
            await asyncio.sleep(0)
        lines.append(_json.dumps(entry).encode() + b"\n")
    return lines


class _Objects(Encoded):
    layout = "objects"

    def __init__(self, key: str, lines: list[bytes]) -> None:
        super().__init__(key, len(lines))
        self._lines = lines

    def body(self, start: int, end: int) -> bytes:
        return b"".join(self._lines[start:end])


class _WithLengths(Encoded):
    layout = "bytes"

    def __init__(self, key: str, batch: BytesBatch) -> None:
        super().__init__(key, len(batch))
        self._entries = batch

    def body(self, start: int, end: int) -> bytes:
        entries = self._entries[start:end]
        lengths = struct.pack(f"<{len(entries)}I", *map(len, entries))
        return lengths + b"".join(entries)


class _Separated(_WithLengths):
    def __init__(self, key: str, batch: BytesBatch, separator: bytes) -> None:
        super().__init__(key, batch)
        self.separator = separator
        self._join = separator.join

    def body(self, start: int, end: int) -> bytes:
        if end - start == len(self):
            return self._entries.payload
        return self._join([*self._entries[start:end], b""])


class _Records(Encoded):
    layout = "records"

    def __init__(self, key: str, rows: Any) -> None:
        super().__init__(key, len(rows))
        self._rows = rows

    def body(self, start: int, end: int) -> bytes:
        import numpy as np  # noqa: PLC0415, it is there where batches are arrays

        file = io.BytesIO()
        np.save(file, self._rows[start:end], allow_pickle=False)
        return file.getvalue()


# ---- back


class Entries(NamedTuple):
    """What a message has."""

    batch: str
    first: int
    layout: str
    entries: Any  # a list of objects or of bytes, or an array

    @property
    def ids(self) -> list[str]:
        """One for each entry."""
        ids = range(self.first, self.first + len(self.entries))
        return [f"{self.batch}/{index}" for index in ids]


def decode(headers: Mapping[str, str], body: bytes) -> Entries:
    """Read a message.

    Raises:
        UnreadableError: it is none of ours, is damaged, or is of a newer version.
    """
    if _VERSION not in headers:
        raise UnreadableError(f"it has no header {_VERSION}")
    version = _number(headers, _VERSION)
    if version > VERSION:
        raise UnreadableError(
            f"it is of version {version}, this is a ringdispatch that reads up to "
            f"{VERSION}: install a newer one"
        )
    batch, layout = _text(headers, _BATCH), _text(headers, _LAYOUT)
    first, count = _number(headers, _FIRST), _number(headers, _COUNT)
    if layout not in _DECODERS:
        raise UnreadableError(f"{_LAYOUT}={layout!r}: is none that is known")
    try:
        entries = _DECODERS[layout](body, count, headers.get(_SEPARATOR))
    except UnreadableError:
        raise
    except Exception as error:  # numpy and json raise whatever suits them
        why = f"{type(error).__name__}: {error}"
        raise UnreadableError(f"it is damaged: {why}") from None
    if len(entries) != count:
        why = f"it has {len(entries)} entries, and should have {count}"
        raise UnreadableError(f"it is damaged: {why}")
    return Entries(batch, first, layout, entries)


def _text(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    if not value:
        raise UnreadableError(f"it has no header {name}")
    return value


def _number(headers: Mapping[str, str], name: str) -> int:
    value = _text(headers, name)
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise UnreadableError(f"{name}={value!r}: is no number")
    return int(value)


def _decode_objects(body: bytes, count: int, separator: str | None) -> list[Any]:
    del count, separator
    lines = body.split(b"\n")
    if lines.pop():
        raise UnreadableError("it is damaged: its last entry is cut off")
    return [json.loads(line) for line in lines]


def _decode_bytes(body: bytes, count: int, separator: str | None) -> list[bytes]:
    if separator is not None:
        entries = body.split(unquote_to_bytes(separator) or b"\n")
        if entries.pop():
            raise UnreadableError("it is damaged: its last entry is cut off")
        return entries
    if len(body) < 4 * count:
        raise UnreadableError(f"it is damaged: {len(body)} B have no {count} lengths")
    lengths = array("I", body[: 4 * count])
    if sys.byteorder == "big":
        lengths.byteswap()
    ends = list(accumulate(lengths, initial=4 * count))
    if ends[-1] != len(body):
        why = f"its entries should end at {ends[-1]:,} B, and do at {len(body):,}"
        raise UnreadableError(f"it is damaged: {why}")
    return [body[start:end] for start, end in pairwise(ends)]


def _decode_records(body: bytes, count: int, separator: str | None) -> Any:
    del separator
    import numpy as np  # noqa: PLC0415

    rows = np.lib.format.read_array(io.BytesIO(body), allow_pickle=False)
    if rows.shape != (count,) or rows.dtype.names is None:
        raise UnreadableError(f"it is damaged: {rows.shape} of {rows.dtype}")
    return rows


_DECODERS: dict[str, Callable[[bytes, int, str | None], Any]] = {
    "objects": _decode_objects,
    "bytes": _decode_bytes,
    "records": _decode_records,
}
