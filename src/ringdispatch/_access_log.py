"""One entry a request: what `ringdispatch.asgi` and `ringdispatch.wsgi` share."""

import inspect
import logging
import string
import sys
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from ringdispatch import BackgroundDispatcher, Full

from . import _options
from ._ring import short_repr

logger = logging.getLogger("ringdispatch")

# Texts of a client's own choice are cut at so many characters.
LONGEST = 1_024
# Statuses of which the body goes nowhere, whatever an application sends.
NO_BODY = frozenset({204, 304})
_ID_BYTES = (string.ascii_letters + string.digits + "_.:+/=-").encode()

# Seconds between two log lines about requests without an entry.
_REPORT_SECONDS = 10.0


class AccessRecord:
    """One request and its response, as `entry` of an AccessLogMiddleware gets it.

    Read it while `entry` runs: a record that is kept keeps its request alive.

    Attributes:
        time: When the request came, in milliseconds since 1970.
        method: The HTTP method.
        path: The path, without the query.
        route: The template that the path matched, such as `/orders/{id}`, below the
            path that the application is mounted at; None where the framework leaves
            none.
        status: What the response began with; 500 where it never began, 499 where the
            client had gone away before.
        duration_ms: Milliseconds until the last byte was handed to the server.
        response_bytes: How many bytes the body has; 0 for HEAD, 204 and 304.
        client: The client's address, as the server gives it.
        request_id: The header `x-request-id`, where it has 1 to 128 letters, digits and
            `_.:+/=-`.
        user_agent: The header `user-agent`.
        error: The type of the exception that ended the request, or that a framework
            answered with 500 or more; "ClientDisconnect" where the client went away;
            else None.
    """

    __slots__ = ("duration_ms", "error", "path", "response_bytes", "status", "time")

    time: int
    path: str
    status: int
    duration_ms: float
    response_bytes: int
    error: str | None

    # Of the server's protocol, and read only where an entry has it.

    @property
    def method(self) -> str:
        raise NotImplementedError

    @property
    def route(self) -> str | None:
        raise NotImplementedError

    @property
    def client(self) -> str | None:
        raise NotImplementedError

    @property
    def request_id(self) -> str | None:
        raise NotImplementedError

    @property
    def user_agent(self) -> str | None:
        raise NotImplementedError

    def _as_dict(self) -> dict[str, Any]:
        """The default entry."""
        entry = {
            "time": self.time,
            "method": self.method,
            "path": self.path,
            "route": self.route,
            "status": self.status,
            "duration_ms": self.duration_ms,
            "response_bytes": self.response_bytes,
            "client": self.client,
            "request_id": self.request_id,
            "user_agent": self.user_agent,
        }
        if self.error is not None:
            entry["error"] = self.error
        return entry


Entry = Callable[[AccessRecord], object]


class AccessLog:
    """Makes the entries of a middleware, and enqueues them."""

    def __init__(
        self,
        dispatcher: BackgroundDispatcher[Any],
        entry: Entry | None,
        exclude: Iterable[str] | None,
    ) -> None:
        self._enqueue = checked_dispatcher("dispatcher", dispatcher).enqueue
        self._entry: Entry = _checked_entry(entry)
        self.exclude = _checked_paths(exclude)
        self._name = dispatcher.name
        self._unlogged = 0
        self._logged_at = -_REPORT_SECONDS - 1.0

    def write(self, record: AccessRecord) -> None:
        """Enqueue the entry of a request; an error in it is logged."""
        try:
            entry = self._entry(record)
            if entry is not None:
                self._enqueue(entry)
        except Full:
            pass  # the dispatcher counts it, and reports
        except Exception as error:
            # The request is answered: its client is not to see the log's fault.
            self._report(error)

    def _report(self, error: Exception) -> None:
        self._unlogged += 1
        now = monotonic()
        if self._logged_at <= now < self._logged_at + _REPORT_SECONDS:
            return
        requests = "1 request" if self._unlogged == 1 else f"{self._unlogged} requests"
        self._logged_at, self._unlogged = now, 0
        message = "ringdispatch[%s]: %s without an entry in the access log: %r"
        logger.error(message, self._name, requests, error, exc_info=error)


def request_id_of(header: bytes) -> str | None:
    """What is given as a request's id, where it is one."""
    # A pattern takes 1,700 instructions more.
    if not 1 <= len(header) <= 128 or header.translate(None, _ID_BYTES):
        return None
    return header.decode("ascii")


def name_of_error(error: BaseException | None) -> str | None:
    """The name of the exception that a failed response is about, if there is one.

    A framework that answers an exception itself does so while it handles it.
    """
    if error is None:
        error = sys.exception()
    return None if error is None else type(error).__name__


def checked_dispatcher(name: str, value: Any) -> BackgroundDispatcher[Any]:
    """Check that a value is a dispatcher.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, BackgroundDispatcher):
        raise TypeError(
            f"{name}={short_repr(value)}: must be a BackgroundDispatcher, such as "
            "BackgroundDispatcher(send, ms_delay=100)"
        )
    return value


def checked_app(value: Any, *arguments: str) -> Any:
    """Check that a value can be called with what a server gives its application.

    Raises:
        TypeError: it can't be.
    """
    if not callable(value):
        raise TypeError(f"app={short_repr(value)}: must be the application to wrap")
    return _options.function("app", value, *arguments)


def _checked_entry(value: Any) -> Entry:
    if value is None:
        return AccessRecord._as_dict
    if not callable(value):
        raise TypeError(
            f"entry={short_repr(value)}: must be a function that takes a record and "
            "returns an entry, or None for no entry"
        )
    if _options.is_async(value) or inspect.isgeneratorfunction(value):
        raise TypeError(
            f"entry={short_repr(value)}: must be a plain function, neither async nor a "
            "generator: what it returns is the entry"
        )
    entry: Entry = _options.function("entry", value, "record")
    return entry


def _checked_paths(value: Any) -> frozenset[str]:
    if value is None:
        return frozenset()
    wanted = "must be paths, such as ['/health']"
    if isinstance(value, str):
        raise TypeError(f"exclude={short_repr(value)}: {wanted}")
    try:
        paths = frozenset(value)
    except TypeError:
        raise TypeError(f"exclude={short_repr(value)}: {wanted}") from None
    if not all(isinstance(path, str) for path in paths):
        raise TypeError(f"exclude={short_repr(value)}: {wanted}")
    return paths
