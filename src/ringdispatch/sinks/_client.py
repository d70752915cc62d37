"""The client of one event loop."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import aiohttp

# What a user may give: a session, or a function that makes one.
Session: TypeAlias = aiohttp.ClientSession | Callable[[], aiohttp.ClientSession] | None

_closing: set["asyncio.Task[None]"] = set()  # a loop holds its tasks weakly


class Exchange:
    """What is known of one request, of its connection and of the answer."""

    __slots__ = ("after", "body", "reason", "reused", "status")

    def __init__(self) -> None:
        self.reused = False  # the connection
        self.status = 0  # no answer yet
        self.reason = ""
        self.after = ""  # Retry-After
        self.body = b""  # its beginning


async def _on_reuse(_: object, context: Any, __: object) -> None:
    exchange = getattr(context, "trace_request_ctx", None)
    if isinstance(exchange, Exchange):
        exchange.reused = True


def _tracing() -> aiohttp.TraceConfig:
    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(_on_reuse)
    return config


class Client:
    """A session, made on the running loop and closed there; or the user's own."""

    def __init__(self, given: Session) -> None:
        self.process = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._is_ours = not isinstance(given, aiohttp.ClientSession)
        session: object = given
        if given is None:
            session = aiohttp.ClientSession(
                # How many there are is the dispatcher's max_in_flight.
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity", "User-Agent": "ringdispatch"},
                auto_decompress=False,
            )
        elif not isinstance(given, aiohttp.ClientSession):
            session = given()
        if not isinstance(session, aiohttp.ClientSession):
            raise TypeError(
                f"session={given!r}: made an object of type {type(session).__name__}: "
                "must make an aiohttp.ClientSession"
            )
        self.session = session
        configs = self.session.trace_configs
        if not any(_on_reuse in each.on_connection_reuseconn for each in configs):
            config = _tracing()
            config.freeze()
            configs.append(config)

    @property
    def usable(self) -> bool:
        """Whether it belongs to this process, and was not closed."""
        return self.process == os.getpid() and not (
            self._is_ours and self.session.closed
        )

    async def close(self) -> None:
        """Close the session, if it was made here."""
        if self._is_ours:
            await self.session.close()

    def discard(self) -> None:
        """Close it without a loop: its loop was closed."""
        if self._is_ours and not self.session.closed:
            closing = self.session.close()
            try:
                closing.send(None)  # nothing of it waits then
            except StopIteration:
                return
            closing.close()

    def __del__(self) -> None:
        """Close what no dispatcher closed; on its loop, from any thread."""
        session = getattr(self, "session", None)
        if session is None or not self._is_ours or session.closed:
            return
        if self._loop.is_closed():
            self.discard()
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_close_soon, self._loop, session)


def _close_soon(
    loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession
) -> None:
    task = loop.create_task(session.close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)
