"""What a posted body holds: unpacked and split into entries, within bounds."""

import gzip
import importlib
import io
import json
import zlib
from collections import deque
from typing import Any, NoReturn

# Bytes of a body, and of what it unpacks to.
MOST_BYTES = 16 * 1024 * 1024
# Entries that are kept, of one body and in all.
MOST_ENTRIES = 100_000
LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
PACKED = ("gzip", "deflate", "zstd")


class Refusal(Exception):
    """A request is refused with a status, for a reason of one line."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        # It may quote the client, and goes into a header and to a terminal.
        self.reason = reason.encode("ascii", "backslashreplace").decode()


def too_large(what: str) -> Refusal:
    """Make the refusal of something above MOST_BYTES."""
    return Refusal(413, f"{what} more than 16 MiB; send smaller batches, by max_batch")


# ---- unpacking


def unpack(body: bytes, encoding: str) -> bytes:
    """Undo a Content-Encoding, without making more than is allowed.

    Raises:
        Refusal: The encoding is unknown, the body broken, or too large unpacked.
    """
    name = encoding.strip().lower().removeprefix("x-")
    if name in {"", "identity"}:
        return body
    if name not in PACKED:
        raise Refusal(
            415, f"Content-Encoding {encoding!a} is not one of {', '.join(PACKED)}"
        )
    try:
        if name == "gzip":
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
                found = file.read(MOST_BYTES + 1)
        elif name == "deflate":
            found = _inflate(body)
        else:
            found = _unpack_zstd(body)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise Refusal(400, f"the body is not whole {name}: {error}") from None
    if len(found) > MOST_BYTES:
        raise too_large("the body unpacks to")
    return found


def _inflate(body: bytes) -> bytes:
    """Undo deflate, in the wrapper of zlib or, as some clients send it, without."""
    head = int.from_bytes(body[:2], "big")
    wrapped = head >> 8 & 15 == zlib.DEFLATED and head % 31 == 0
    inflater = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
    found = inflater.decompress(body, MOST_BYTES + 1)
    if len(found) <= MOST_BYTES:
        if not inflater.eof:
            raise EOFError("it ends too early")
        if inflater.unused_data:
            raise ValueError("something follows its end")
    return found


def _unpack_zstd(body: bytes) -> bytes:
    try:
        zstd = importlib.import_module("compression.zstd")
    except ImportError:
        raise Refusal(
            415,
            "zstd needs compression.zstd in the collector's Python, from 3.14 on: "
            "send gzip",
        ) from None
    try:
        with zstd.ZstdFile(io.BytesIO(body)) as file:
            found: bytes = file.read(MOST_BYTES + 1)
    except zstd.ZstdError as error:
        raise ValueError(error) from None
    return found


# ---- splitting


def split(body: bytes, kind: str) -> tuple[int, deque[bytes]]:
    """Split a body into its entries: an array's elements, or lines of JSON.

    Any other JSON is one entry. Without a content type of lines, a body is lines where
    it is more than one value.

    Args:
        body: JSON or lines of JSON, in UTF-8.
        kind: The content type.

    Returns:
        How many entries there are, and the JSON of the last MOST_ENTRIES of them.

    Raises:
        Refusal: It is neither.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8: {error.reason}") from None
    if kind.partition(";")[0].strip().lower() in LINES:
        return _lines(text)
    if not text.strip():
        raise Refusal(400, "the body is empty; send JSON")
    try:
        found = _decode(text)
        entries = found if isinstance(found, list) else [found]
        return len(entries), deque(map(_encode, entries[-MOST_ENTRIES:]))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _lines(text)
        raise Refusal(400, f"the body is not JSON: {error}") from None
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None


def _lines(text: str) -> tuple[int, deque[bytes]]:
    count = 0
    kept: deque[bytes] = deque(maxlen=MOST_ENTRIES)
    # Lines end at "\n" alone: JSON strings may hold the other separators as they are.
    for number, line in enumerate(io.StringIO(text, newline="\n"), 1):
        if not line.strip():
            continue
        try:
            kept.append(_encode(_decode(line)))
        except ValueError as error:
            raise Refusal(400, f"line {number} is not JSON: {error}") from None
        count += 1
    return count, kept


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_encoder = json.JSONEncoder(ensure_ascii=False)


def _decode(text: str) -> Any:
    try:
        return _decoder.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _encode(entry: Any) -> bytes:
    try:
        text = _encoder.encode(entry)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # Half a surrogate pair has no UTF-8; its escape is JSON all the same.
    return text.encode("utf-8", "backslashreplace")
