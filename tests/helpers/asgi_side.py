"""The server's side of ASGI, for one request or one lifespan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from ringdispatch.asgi import AccessLogMiddleware
from ringdispatch.testing import RecordingDispatcher

HEADERS = [(b"user-agent", b"test/1"), (b"x-request-id", b"id-1")]


def scope_of(path: str = "/orders/1", **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "root_path": "",
        "query_string": b"token=secret",
        "headers": HEADERS,
        "client": ("203.0.113.7", 4711),
        "server": ("127.0.0.1", 80),
        **more,
    }


def start(status: int = 200, headers: Any = (), **more: Any) -> dict[str, Any]:
    return {
        "type": "http.response.start",
        "status": status,
        "headers": list(headers),
        **more,
    }


def body(content: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


class Server:
    """Calls an application with one scope; `sent` is what came of it.

    Args:
        received: What the application receives; and once it has sent all, or there are
            `gone_after` messages, that the client has gone away.
        refuses_from: From this message on the client has gone away: `send` raises.
    """

    def __init__(
        self,
        received: Iterable[dict[str, Any]] = ({"type": "http.request", "body": b""},),
        refuses_from: int | None = None,
        gone_after: int | None = None,
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        self._received = list(received)
        self._refuses_from = refuses_from
        self._gone_after = gone_after
        self._gone = asyncio.Event()

    async def receive(self) -> Any:
        if self._received:
            return self._received.pop(0)
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await asyncio.sleep(0)  # as a server that waits for its socket
        if self._refuses_from is not None and len(self.sent) >= self._refuses_from:
            raise ConnectionResetError("the client has gone away")
        self.sent.append(dict(message))
        ends = message["type"] == "http.response.body" and not message.get("more_body")
        if ends or len(self.sent) == self._gone_after:
            self._gone.set()

    async def call(self, app: Any, scope: dict[str, Any] | None = None) -> None:
        await app(scope_of() if scope is None else scope, self.receive, self.send)


def sending(*messages: dict[str, Any]) -> Any:
    """An application that answers with these messages."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def entries_of(
    app: Any,
    server: Server | None = None,
    scope: dict[str, Any] | None = None,
    **options: Any,
) -> list[Any]:
    """Answer one request, and return its entries; what it raises is left aside."""
    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    wrapped = AccessLogMiddleware(app, dispatcher=dispatcher, **options)

    async def main() -> None:
        with contextlib.suppress(Exception):
            await (server or Server()).call(wrapped, scope)

    asyncio.run(main())
    return dispatcher.entries


def entry_of(*arguments: Any, **options: Any) -> dict[str, Any]:
    (entry,) = entries_of(*arguments, **options)
    assert isinstance(entry, dict)
    return entry


HELLO = sending(start(201), body(b"Hello ", more=True), body(b"World!"))


class Lifespan:
    """A server's lifespan of an application, step by step."""

    def __init__(self, app: Any) -> None:
        self.sent: list[str] = []
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._answered = asyncio.Event()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.task = asyncio.ensure_future(app(scope, self._messages.get, self._send))
        self.task.add_done_callback(lambda _: self._answered.set())

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message["type"])
        self._answered.set()

    async def _ask(self, kind: str) -> str | None:
        self._answered.clear()
        before = len(self.sent)
        self._messages.put_nowait({"type": kind})
        await self._answered.wait()
        return self.sent[-1] if len(self.sent) > before else None

    async def startup(self) -> str | None:
        """What was answered; None where the application ended instead."""
        return await self._ask("lifespan.startup")

    async def shutdown(self) -> str | None:
        return await self._ask("lifespan.shutdown")
