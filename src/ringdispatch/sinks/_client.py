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


class Trace:
    """What is known of the connection that a request goes over."""

    __slots__ = ("reused",)

    def __init__(self) -> None:
        self.reused = False


async def _on_reuse(_: object, context: Any, __: object) -> None:
    trace = getattr(context, "trace_request_ctx", None)
    if isinstance(trace, Trace):
        trace.reused = True


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
        if isinstance(given, aiohttp.ClientSession):
            self.session = given
        elif given is not None:
            self.session = given()
        else:
            self.session = aiohttp.ClientSession(
                # How many there are is the dispatcher's max_in_flight.
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity", "User-Agent": "ringdispatch"},
                auto_decompress=False,
            )
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
