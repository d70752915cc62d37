"""Batches as JSON, posted over HTTP."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, Literal

from ringdispatch import BytesBatch

from . import _json
from ._client import Session
from ._error import RecordArray
from ._post import PostingSink
from ._types import Batch

_TYPES = {"json": "application/json", "ndjson": "application/x-ndjson"}


class HttpSink(PostingSink, Generic[Batch]):
    """Posts each batch to a url, as a JSON array or as lines of JSON.

    Any answer but 2xx is a SinkError; no redirect is followed. Each batch has a header
    `Idempotency-Key`, the same for all attempts at it; of a batch as it was handed out
    it is the id that `current_batch()` has, in whichever process. Where the service
    answers 413, the batch goes in two halves, one after the other, with the keys
    `<key>.0` and `<key>.1`, and so on; a batch of which a part failed has failed, and
    the message says how many entries arrived.

    Of `Objects`, entries that JSON doesn't know are encoded by `str`, NaN and infinity
    as null. Of `Records`, a row is an object with the fields' names as keys. Of
    `Bytes`, entries are encoded already: each is one line, or one element.

    Certificates are checked. Proxies, and certificates of your own, need a session of
    your own.

    Args:
        url: Where to post, https or http, without credentials in it.
        format: `"json"`, an array, or `"ndjson"`, a line for each entry.
        compression: `"gzip"`, `"zstd"`, or None.
        headers: Of each request. Credentials belong here: messages never show them.
        timeout: Seconds that one attempt may take, > 0.
        session: An `aiohttp.ClientSession`, which stays yours to close, or a function
            that makes one on the running loop. None: one is made on each loop.
        retry: Seconds to go on for with a batch that a later attempt may deliver: no
            answer, 408, 425, 429, 5xx. `math.inf`: until it is delivered; it wants
            `dispatch_timeout=None`. None: one attempt.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
        ImportError: aiohttp is not installed; or `compression="zstd"`, and nothing
            installed can do it.
    """

    def __init__(
        self: "HttpSink[list[Any] | BytesBatch | RecordArray]",
        url: str,
        *,
        format: Literal["json", "ndjson"] = "json",  # noqa: A002
        compression: Literal["gzip", "zstd"] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 20.0,
        session: Session = None,
        retry: float | None = None,
    ) -> None:
        if format not in [*_TYPES]:
            raise ValueError(f"format={format!r}: must be 'json' or 'ndjson'")
        super().__init__(
            url,
            compression=compression,
            headers=headers,
            timeout=timeout,
            session=session,
            retry=retry,
        )
        self.content_type = _TYPES[format]
        self._is_lines = format == "ndjson"
        self._separator: bytes | None = None  # of a batch of Bytes

    async def __call__(self, batch: Batch) -> None:
        """Post a batch.

        Raises:
            SinkError: it did not arrive, or not all of it.
        """
        if isinstance(batch, BytesBatch):
            await self._send(batch, self._joined, self._body_of_bytes(batch))
        elif isinstance(batch, list):
            await self._send(batch, self._encode)
        else:
            await self._send(rows_of(batch), self._encode)

    def prepare(self, layout: object, dispatch_timeout: float | None) -> None:
        """Look at the dispatcher's options, and refuse what contradicts the sink's."""
        super().prepare(layout, dispatch_timeout)
        self._separator = getattr(layout, "separator", None)

    def _body_of_bytes(self, batch: BytesBatch) -> bytes | None:
        if not self._is_lines:
            return batch.json_array()
        return batch.payload if self._separator == b"\n" else None

    def _encode(self, entries: Sequence[Any]) -> bytes:
        return self._joined([_json.dumps(entry).encode() for entry in entries])

    def _joined(self, lines: Sequence[bytes]) -> bytes:
        return (b"\n" if self._is_lines else b",").join(lines)

    def _join(self, chunks: list[bytes]) -> bytes:
        if self._is_lines:
            return b"\n".join([*chunks, b""])
        return b"[" + b",".join(chunks) + b"]"


def rows_of(batch: Any) -> list[dict[str, Any]]:
    """The rows of a batch of Records, by the fields' names."""
    names, rows = batch.dtype.names, batch.tolist()
    if any(batch.dtype[name].kind in "SM" for name in names):
        rows = [map(_plain, row) for row in rows]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _plain(value: Any) -> Any:
    """A value of a field as services expect it: a text, or a moment with its zone."""
    if isinstance(value, bytes):
        return _json.as_text(value)
    # Numpy's moments are in UTC, and do not say so.
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
