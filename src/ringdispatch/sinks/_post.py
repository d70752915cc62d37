"""Posting batches over HTTP: answers, retries, halves, connections."""

import asyncio
import email.utils
import inspect
import io
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from functools import partial
from typing import Any
from urllib.parse import unquote

import aiohttp

from . import _checks
from ._attempts import Failure, Outage, key_of, repeat, send_in_parts
from ._client import Client, Exchange, Session
from ._compression import compressor

# Of an answer's body: what is read, and what a message shows of it.
_BODY_BYTES = 65_536
_SHOWN = 200

_LEAST_SECRET = 6  # characters: shorter words are in any text

_LARGE_BYTES = 1_000_000

# Bodies larger than this are compressed in a thread, and entries are encoded in chunks,
# so that the loop does not stand still meanwhile.
_THREAD_BYTES = 65_536
_CHUNK = 250

_Encode = Callable[[Sequence[Any]], bytes]

_RETRIED_STATUSES = {408, 425, 429}
_TOO_LARGE = 413


class PostingSink:
    """Posts each batch to one url; subclasses say how its body is made."""

    content_type: str

    def __init__(
        self,
        url: str,
        *,
        compression: str | None,
        headers: Mapping[str, str] | None,
        timeout: float,
        session: Session,
        retry: float | None,
    ) -> None:
        parts = _checks.check_url(url)
        self._origin = _checks.origin(parts)
        self._url = url
        self._compression = compression
        self._compress = compressor(compression)
        self._headers = _checks.check_headers(headers)
        self._timeout = _checks.check_seconds("timeout", timeout)
        self._retry: float = 0.0
        if retry is not None:
            self._retry = _checks.check_seconds("retry", retry, endless=True)
        makes_one = callable(session) and not inspect.iscoroutinefunction(session)
        if session is not None and not (
            isinstance(session, aiohttp.ClientSession) or makes_one
        ):
            raise TypeError(
                f"session={session!r}: must be an aiohttp.ClientSession, or an "
                "ordinary function that makes one"
            )
        self._session = session
        self._outage = Outage()
        self._secrets: list[str] = []  # the longest first
        words = re.split("[&=/]", parts.query + parts.path)
        self._hide(parts.query, parts.path, *map(unquote, words))
        self._hide(*self._headers.values())
        self._clients: dict[asyncio.AbstractEventLoop, Client] = {}
        self._inherited: list[Client] = []  # of the parent of a fork: never closed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._origin!r})"

    def prepare(self, layout: object, dispatch_timeout: float | None) -> None:
        """Refuse options of the dispatcher that contradict the sink's."""
        del layout
        if dispatch_timeout is None or self._retry < dispatch_timeout:
            return
        remedy = "None"
        if self._retry != math.inf:
            remedy = f"{self._retry + self._timeout:g}, retry plus timeout"
        raise ValueError(
            f"retry={self._retry:g}: dispatch_timeout={dispatch_timeout:g} would end "
            f"it: give the dispatcher dispatch_timeout={remedy}"
        )

    async def aclose(self) -> None:
        """Close the connections of the running loop; later calls open others."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    # ---- what subclasses say

    def _join(self, chunks: list[bytes]) -> bytes:
        """Make a body of encoded chunks of entries."""
        raise NotImplementedError

    def _rejected(self, answer: bytes, count: int) -> Failure | None:
        """What an answer of 2xx says of entries that were refused nevertheless."""
        del answer, count
        return None

    # ---- one batch

    async def _send(
        self, entries: Any, encode: _Encode, body: bytes | None = None
    ) -> None:
        """Post the entries, encoded by chunks; `body`: all of them, if it is made."""
        deadline = time.monotonic() + self._retry

        async def send(key: str, start: int, end: int) -> Failure | None:
            nonlocal body
            if body is None:
                body = await self._body_of(entries[start:end], encode)
            this, body = body, None
            return await self._send_part(key, this, end - start, deadline)

        await send_in_parts(send, key_of(entries), len(entries))

    async def _body_of(self, entries: Sequence[Any], encode: _Encode) -> bytes:
        chunks = []
        for start in range(0, len(entries), _CHUNK):
            if start:
                await asyncio.sleep(0)
            chunks.append(encode(entries[start : start + _CHUNK]))
        return self._join(chunks)

    async def _send_part(
        self, key: str, body: bytes, count: int, deadline: float
    ) -> Failure | None:
        """Post one body until it has arrived, or failed for good."""
        if self._compress is not None:
            if len(body) > _THREAD_BYTES:
                loop = asyncio.get_running_loop()
                body = await loop.run_in_executor(None, self._compress, body)
            else:
                body = self._compress(body)
        return await repeat(partial(self._attempt, key, body, count), deadline)

    # ---- one request

    async def _attempt(self, key: str, body: bytes, count: int) -> Failure | None:
        client = self._client()
        while True:
            exchange = Exchange()
            outcome = await self._post(client, key, body, count, exchange)
            # A server closes what was idle for long. The connection is gone from the
            # pool; the next one is new, if no other was idle for as long.
            if outcome is None or not (exchange.reused and outcome.unanswered):
                break
        if self._retry:
            self._outage.note(self, outcome)
        return outcome

    async def _post(
        self, client: Client, key: str, body: bytes, count: int, exchange: Exchange
    ) -> Failure | None:
        """Post once. Frames of aiohttp, whose locals hold the headers, end here."""
        try:
            await self._exchange(client, key, body, exchange)
        except asyncio.CancelledError as error:
            error.__traceback__ = error.__context__ = None
            raise
        except Exception as error:
            if not exchange.status:
                return self._no_answer(error)
        # Else the status says it all, whatever became of the rest of the answer.
        if 200 <= exchange.status < 300:
            return self._rejected(exchange.body, count)
        return self._refused(exchange)

    async def _exchange(
        self, client: Client, key: str, body: bytes, exchange: Exchange
    ) -> None:
        headers = _checks.Private(self._headers)
        if "content-type" not in map(str.lower, headers):
            headers["Content-Type"] = self.content_type
        if self._compression is not None:
            headers["Content-Encoding"] = self._compression
        headers["Idempotency-Key"] = key
        async with client.session.post(
            self._url,
            # Of large bytes aiohttp warns.
            data=io.BytesIO(body) if len(body) > _LARGE_BYTES else body,
            headers=headers,
            allow_redirects=False,
            raise_for_status=False,
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            trace_request_ctx=exchange,
        ) as response:
            exchange.status, exchange.reason = response.status, response.reason or ""
            exchange.after = response.headers.get("Retry-After", "")
            # To its end, so that the connection can be used again; or not too far.
            while len(exchange.body) < _BODY_BYTES:
                part = await response.content.read(_BODY_BYTES - len(exchange.body))
                if not part:
                    break
                exchange.body += part

    def _refused(self, exchange: Exchange) -> Failure:
        status = exchange.status
        reason = self._redacted(exchange.reason)[:_SHOWN]
        words = f"{status} {_printable(reason)}".strip()
        if 300 <= status < 400:
            words += " (a redirect, which is not followed: give the url it leads to)"
        text = self._redacted(exchange.body.decode("utf-8", "backslashreplace"))
        message = f"{self._origin} answered {words}: {text[:_SHOWN]!r}"
        retryable = status in _RETRIED_STATUSES or status >= 500
        seconds = None
        if retryable or status == _TOO_LARGE:
            seconds = retry_after(exchange.after)
        return Failure(
            message,
            too_large=status == _TOO_LARGE,
            retryable=retryable,
            retry_after=seconds,
        )

    def _no_answer(self, error: BaseException) -> Failure:
        unanswered = retryable = False
        if isinstance(error, TimeoutError):
            retryable = True
            words = f"no answer within timeout={self._timeout:g} s"
        elif isinstance(error, aiohttp.ClientConnectorCertificateError):
            words = f"its certificate is not trusted: {error.certificate_error}"
        elif isinstance(error, aiohttp.ClientSSLError):
            words = f"TLS failed: {error}"
        elif isinstance(error, aiohttp.ClientConnectorError):
            retryable = True
            words = f"could not connect: {error.os_error}"
        elif isinstance(error, aiohttp.ServerDisconnectedError):
            retryable = True
            unanswered = isinstance(error.message, str)  # else a part of the answer
            words = "the connection was closed without an answer"
        elif isinstance(error, aiohttp.ClientHttpProxyError):
            retryable = error.status >= 500
            words = f"its proxy answered {error.status} {error.message}"
        elif isinstance(error, aiohttp.ClientResponseError):
            retryable = True
            words = f"the answer is no HTTP: {error.message}"
        elif isinstance(error, OSError | aiohttp.ClientConnectionError):
            retryable = unanswered = True
            words = f"the connection broke: {error}"
        else:  # such as a session that the user closed
            words = f"the request can't be sent: {type(error).__name__}: {error}"
            if isinstance(self._session, aiohttp.ClientSession):
                words += (
                    " (a session of yours must be open, and works on its own loop only:"
                    " give a function that makes one)"
                )
        message = f"{self._origin}: {_printable(self._redacted(words))}"
        return Failure(message, retryable=retryable, unanswered=unanswered)

    def _hide(self, *values: str) -> None:
        """Have values, and the words that they are made of, replaced in messages."""
        found = {word for value in values for word in (value, *value.split())}
        found = {word for word in found if len(word) >= _LEAST_SECRET}
        self._secrets = sorted(found.union(self._secrets), key=len, reverse=True)

    def _redacted(self, text: str) -> str:
        """The text without what a service or a library may repeat of our secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    # ---- connections

    def _client(self) -> Client:
        """The client of the running loop."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is not None and client.usable:
            return client
        for other, old in list(self._clients.items()):
            if old.process != os.getpid():
                self._inherited.append(old)
                self._clients.pop(other, None)
            elif other.is_closed() or not old.usable:
                self._clients.pop(other, None)
                old.discard()
        client = self._clients[loop] = Client(self._session)
        if self._session is not None:
            self._hide(*client.session.headers.values())
        return client


def _printable(text: str) -> str:
    """A text of the service's on one line, without what a terminal would obey."""
    text = " ".join(text.split())
    return text if text.isprintable() else ascii(text)


def retry_after(value: str) -> float | None:
    """Seconds that a service asks to wait for: it names a number, or a date."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:  # as C's asctime writes it
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - time.time())
