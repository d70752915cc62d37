"""ASGI: the life of dispatchers with that of a service, and an access log.

For Starlette, FastAPI, Litestar, Quart, Django and any other ASGI application; needs
none of them.
"""

import asyncio
import logging
import math
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from numbers import Real
from time import monotonic, perf_counter_ns, time_ns
from typing import Any

from ringdispatch import BackgroundDispatcher

from ._access_log import (
    LONGEST,
    NO_BODY,
    AccessLog,
    AccessRecord,
    Entry,
    checked_app,
    checked_dispatcher,
    name_of_error,
    request_id_of,
)
from ._ring import short_repr

__all__ = ["AccessLogMiddleware", "AccessRecord", "LifespanMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
# Servers and frameworks name the types of scope, receive and send in their own ways: at
# the public face they are Any.
Application = Callable[[Any, Any, Any], Awaitable[None]]

logger = logging.getLogger("ringdispatch")

_STARTUP = "lifespan.startup"
_SHUTDOWN = "lifespan.shutdown"
# After these an application runs no code of its own any more.
_ENDS = {f"{_STARTUP}.failed", f"{_SHUTDOWN}.complete", f"{_SHUTDOWN}.failed"}

# Looks whether an earlier lifespan has closed a dispatcher: seconds between them, and
# for all where there is no timeout.
_LOOK_SECONDS, _LONGEST_WAIT = 0.01, 5.0


class _Holders:
    """How many lifespans hold each dispatcher, in all threads."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start with none, as in a forked child."""
        self._lock = threading.Lock()
        self._counts: weakref.WeakKeyDictionary[BackgroundDispatcher[Any], int] = (
            weakref.WeakKeyDictionary()
        )

        self._closing: weakref.WeakSet[BackgroundDispatcher[Any]] = weakref.WeakSet()

    def add(self, dispatcher: BackgroundDispatcher[Any], *, anyway: bool) -> bool:
        """Count one lifespan; False, and not counted, while the last one closes."""
        with self._lock:
            counts = anyway or dispatcher not in self._closing
            if counts:
                self._counts[dispatcher] = self._counts.get(dispatcher, 0) + 1
        return counts

    def remove(self, dispatcher: BackgroundDispatcher[Any]) -> bool:
        """Forget one lifespan; returns whether it was the last, which is to close."""
        with self._lock:
            count = self._counts.pop(dispatcher, 0) - 1
            if count > 0:
                self._counts[dispatcher] = count
            else:
                self._closing.add(dispatcher)
        return count <= 0

    def closed(self, dispatcher: BackgroundDispatcher[Any]) -> None:
        """Nothing more comes of the last lifespan."""
        with self._lock:
            self._closing.discard(dispatcher)


_holders = _Holders()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_holders.reset)


class _Lifespan:
    """One lifespan: its dispatchers are entered, flushed and closed around it."""

    def __init__(
        self,
        dispatchers: tuple[BackgroundDispatcher[Any], ...],
        timeout: float | None,
        receive: Receive,
        send: Send,
    ) -> None:
        self._dispatchers = dispatchers
        self._held: list[BackgroundDispatcher[Any]] = []
        self._left = timeout  # seconds for all flushes and closes
        self._receive = receive
        self._send = send
        self._used = False  # the application has received or sent
        self._started = False
        self._stopping = False

    async def run(self, app: Application, scope: Scope) -> None:
        """Run the application's lifespan; answer for one that has none."""
        try:
            for dispatcher in self._dispatchers:
                await self._hold(dispatcher)
                await dispatcher.__aenter__()
            try:
                await app(scope, self.receive, self.send)
            except Exception:
                if self._used:
                    raise
                logger.debug("the application knows no lifespan", exc_info=True)
            if not self._used:
                await self.receive()
                await self.send({"type": f"{_STARTUP}.complete"})
            if self._started and not self._stopping:
                await self.receive()
                await self.send({"type": f"{_SHUTDOWN}.complete"})
        finally:
            if self._stopping:
                await self._close()
            for dispatcher in self._held:  # it ended early: the loop's end drains them
                if _holders.remove(dispatcher):
                    _holders.closed(dispatcher)

    async def _hold(self, dispatcher: BackgroundDispatcher[Any]) -> None:
        """Count this lifespan, when the last one before has closed the dispatcher.

        That may be on any loop, and never end; it has the time that a close has.
        """
        until = monotonic() + (_LONGEST_WAIT if self._left is None else self._left)
        while not _holders.add(dispatcher, anyway=monotonic() >= until):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        self._held.append(dispatcher)

    async def receive(self) -> Message:
        """Flush before the application's own shutdown: its clients still work."""
        self._used = True
        message = await self._receive()
        if message["type"] == _SHUTDOWN:
            self._stopping = True
            await self._spend([each.aflush(self._left) for each in self._held])
        return message

    async def send(self, message: Message) -> None:
        """Close after the application's own shutdown."""
        self._used = True
        if message["type"] in _ENDS:
            await self._close()
        await self._send(message)
        self._started |= message["type"] == f"{_STARTUP}.complete"

    async def _close(self) -> None:
        held, self._held = self._held, []
        last: list[BackgroundDispatcher[Any]] = []
        try:
            last += [each for each in held if _holders.remove(each)]
            await self._spend([each.aclose(self._left) for each in last])
        finally:
            for dispatcher in last:
                _holders.closed(dispatcher)

    async def _spend(self, calls: list[Coroutine[Any, Any, bool]]) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.gather(*calls)
        if self._left is not None:
            self._left = max(0.0, self._left - (loop.time() - begun))


class LifespanMiddleware:
    """Opens dispatchers when a service starts, and closes them when it ends.

    Wrap the finished application, `app = LifespanMiddleware(app, dispatchers=[...])`:
    a list of middlewares inside a framework, or a mounted application, may never see
    the lifespan.

    At startup each dispatcher is bound to the server's event loop (unless it has
    `home="thread"`), and opened again where an earlier lifespan closed it. At shutdown
    they are flushed before the application's own shutdown code runs, and closed after
    it; a dispatcher that several lifespans share is closed by the last, for which one
    that starts meanwhile waits. Where an
    application has no lifespan, as Django's, the middleware answers the server itself.
    Everything else passes through untouched.

    Args:
        app: The ASGI application.
        dispatchers: What to open and to close.
        timeout: Seconds for all flushes and closes together, >= 0. None: for ever.

    Raises:
        TypeError: `app` is not callable, a dispatcher is not a
            `BackgroundDispatcher`, or the timeout is not a number.
        ValueError: a timeout that is negative or NaN.
    """

    def __init__(
        self,
        app: Application,
        *,
        dispatchers: Iterable[BackgroundDispatcher[Any]],
        timeout: float | None = 5.0,
    ) -> None:
        self.app: Application = checked_app(app, "scope", "receive", "send")
        self._dispatchers = _checked_dispatchers(dispatchers)
        self._timeout = _checked_timeout(timeout)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI has it."""
        if scope["type"] == "lifespan":
            lifespan = _Lifespan(self._dispatchers, self._timeout, receive, send)
            await lifespan.run(self.app, scope)
        else:
            await self.app(scope, receive, send)


def _checked_dispatchers(value: Any) -> tuple[BackgroundDispatcher[Any], ...]:
    try:
        given = tuple(value)
    except TypeError:
        raise TypeError(
            f"dispatchers={short_repr(value)}: must be a list, such as [dispatcher]"
        ) from None
    return tuple(checked_dispatcher("dispatchers", each) for each in given)


def _checked_timeout(value: Any) -> float | None:
    if value is None:
        return None
    wanted = "must be a number of seconds >= 0, or None (wait for ever)"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"timeout={short_repr(value)}: {wanted}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not seconds >= 0:
        raise ValueError(f"timeout={short_repr(value)}: {wanted}")
    return None if seconds == math.inf else seconds


class AccessLogMiddleware(LifespanMiddleware):
    """A LifespanMiddleware that enqueues one entry for each HTTP request.

    The entry is made when the last part of the response was handed to the server, so
    background tasks do not count; else when the application returned or raised. What
    the middleware sees passes through untouched: requests, responses, exceptions.
    Websockets have no entry.

    The default entry is a dict with the attributes of `AccessRecord` that stand for
    something: `error` is left out where it is None. Texts are cut at 1,024 characters.

    Args:
        app: The ASGI application.
        dispatcher: Takes the entries; opened and closed with the service.
        entry: Makes the entry from an `AccessRecord`: a tuple for Records, for
            instance. None from it: no entry. What it raises is logged.
        exclude: Paths that make no entry, as they are in the request.
        timeout: Seconds for the flush and the close at the end, >= 0. None: for ever.

    Raises:
        TypeError: `app` is not callable, the dispatcher is not a
            `BackgroundDispatcher`, `entry` is not a plain function of one argument,
            `exclude` has what is not a path, or the timeout is not a number.
        ValueError: a timeout that is negative or NaN.
    """

    def __init__(
        self,
        app: Application,
        *,
        dispatcher: BackgroundDispatcher[Any],
        entry: Entry | None = None,
        exclude: Iterable[str] | None = None,
        timeout: float | None = 5.0,
    ) -> None:
        self._log = AccessLog(dispatcher, entry, exclude)
        super().__init__(app, dispatchers=[dispatcher], timeout=timeout)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI has it."""
        if scope["type"] != "http" or scope["path"] in self._log.exclude:
            await super().__call__(scope, receive, send)
            return
        request = _Request(self._log, scope, receive, send)
        try:
            await self.app(scope, request.receive_message, request.send_message)
        except BaseException as error:
            request.end(error)
            raise
        request.end()


class _Request(AccessRecord):
    """A request under way: stands between the application and the server."""

    __slots__ = (
        "_begun",
        "_done",
        "_gone",
        "_headers",
        "_log",
        "_receive",
        "_scope",
        "_send",
        "_trailers",
    )

    def __init__(
        self, log: AccessLog, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.time = time_ns() // 1_000_000
        self.path = scope["path"][:LONGEST]  # now: routers may change it
        self.status = 0
        self.response_bytes = 0
        self.error = None
        self._log = log
        self._scope = scope
        self._receive = receive
        self._send = send
        self._trailers = False  # they end the response, not the body
        self._gone = False  # the client
        self._done = False
        self._begun = perf_counter_ns()

    @property
    def method(self) -> str:
        method: str = self._scope["method"]
        return method

    @property
    def route(self) -> str | None:
        scope = self._scope
        template = scope.get("path_template")  # Litestar
        if template is None and (route := scope.get("route")) is not None:
            template = _template(route, scope.get("fastapi"))
        if template is None:
            return None
        route_path: str = scope.get("root_path", "") + template
        return route_path[:LONGEST]

    @property
    def client(self) -> str | None:
        client = self._scope.get("client")
        return client[0] if client else None

    @property
    def request_id(self) -> str | None:
        given = self._header(b"x-request-id")
        return None if given is None else request_id_of(given)

    @property
    def user_agent(self) -> str | None:
        given = self._header(b"user-agent")
        return None if given is None else given[:LONGEST].decode("latin-1")

    def _header(self, wanted: bytes) -> bytes | None:
        name: bytes
        value: bytes
        for name, value in self._scope["headers"]:
            if name == wanted:
                return value
        return None

    async def receive_message(self) -> Message:
        """As the server's `receive`."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone = True
        return message

    async def send_message(self, message: Message) -> None:
        """As the server's `send`."""
        kind = message["type"]
        size = len(message.get("body", b""))  # before a middleware outside changes it
        try:
            await self._send(message)
        except OSError:  # of a server whose client has gone away
            self._gone = True
            raise
        if kind == "http.response.start":
            self.status = message["status"]
            self._headers = message.get("headers", ())
            self._trailers = message.get("trailers", False)
        elif kind == "http.response.body":
            self.response_bytes += size
            if not (message.get("more_body", False) or self._trailers):
                self.end()
        elif kind == "http.response.trailers":
            if not message.get("more_trailers", False):
                self.end()
        elif kind in _SENT_BY_SERVER:
            self.response_bytes = _content_length(self._headers)
            if not (message.get("more_body", False) or self._trailers):
                self.end()

    def end(self, error: BaseException | None = None) -> None:
        """Make the entry, once."""
        if self._done:
            return
        self._done = True
        self.duration_ms = (perf_counter_ns() - self._begun) // 1_000 / 1_000
        if not self.status:
            self.status = 499 if self._gone else 500
        if self._gone:
            self.error = "ClientDisconnect"
        elif error is not None or self.status >= 500:
            self.error = name_of_error(error)
        if self.status in NO_BODY or self._scope["method"] == "HEAD":
            self.response_bytes = 0
        self._log.write(self)


# Messages for which the server reads a file: the application sees no bytes.
_SENT_BY_SERVER = {"http.response.pathsend", "http.response.zerocopysend"}


def _content_length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    for name, value in headers:
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _template(route: Any, of_fastapi: Any) -> str | None:
    """The template of a route of Starlette's or FastAPI's."""
    if hasattr(route, "routes"):
        return ""  # a mount: the root path has its path already
    # FastAPI keeps the prefixes of included routers beside the route.
    included = of_fastapi and of_fastapi.get("effective_route_context")
    if getattr(included, "original_route", None) is route:
        route = included
    path: str | None = getattr(route, "path", None)
    return path
