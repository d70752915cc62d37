"""WSGI: an access log for Flask, Django and any other application."""

from collections.abc import Callable, Iterable, Iterator
from time import perf_counter_ns, time_ns
from typing import Any

from ringdispatch import BackgroundDispatcher

from ._access_log import (
    LONGEST,
    NO_BODY,
    AccessLog,
    AccessRecord,
    Entry,
    checked_app,
    name_of_error,
    request_id_of,
)

__all__ = ["AccessLogMiddleware", "AccessRecord"]

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class AccessLogMiddleware:
    """Enqueues one entry for each request of a WSGI application.

    The entry is made when the server has taken the last part of the response, or closes
    it before that; for a file that the server sends itself (`wsgi.file_wrapper`), when
    the application returns it. What the middleware sees passes through untouched.

    The default entry is a dict with the attributes of `AccessRecord` that stand for
    something: `error` is left out where it is None. Texts are cut at 1,024 characters.

    WSGI has no end of a service: the end of the process dispatches what is pending, as
    `docs/servers.md` says for each server.

    Args:
        app: The WSGI application.
        dispatcher: Takes the entries.
        entry: Makes the entry from an `AccessRecord`: a tuple for Records, for
            instance. None from it: no entry. What it raises is logged.
        exclude: Paths that make no entry, as they are in the request.

    Raises:
        TypeError: `app` is not callable, the dispatcher is not a
            `BackgroundDispatcher`, `entry` is not a plain function of one argument, or
            `exclude` has what is not a path.
    """

    def __init__(
        self,
        app: Application,
        *,
        dispatcher: BackgroundDispatcher[Any],
        entry: Entry | None = None,
        exclude: Iterable[str] | None = None,
    ) -> None:
        self.app: Application = checked_app(app, "environ", "start_response")
        self._log = AccessLog(dispatcher, entry, exclude)

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """As WSGI has it."""
        path = _path(environ)
        if path in self._log.exclude:
            return self.app(environ, start_response)
        request = _Request(self._log, environ, path, start_response)
        try:
            result = self.app(environ, request.start_response)
        except BaseException as error:
            request.end(error)
            raise
        if _is_file(result, environ):
            request.file_sent()
            return result
        return (_SizedBody if hasattr(result, "__len__") else _Body)(request, result)


def _path(environ: dict[str, Any]) -> str:
    path: str = environ.get("PATH_INFO", "")
    if path.isascii():
        return path
    return path.encode("latin-1").decode("utf-8", "replace")


def _is_file(result: object, environ: dict[str, Any]) -> bool:
    """Whether the server sends a file, which it knows by the type of `result`."""
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type):
        return isinstance(result, wrapper)
    return wrapper is not None and hasattr(result, "read")  # uWSGI returns the file


class _Request(AccessRecord):
    """A request under way: stands between the application and the server."""

    __slots__ = ("_begun", "_done", "_environ", "_headers", "_log", "_rule", "_start")

    def __init__(
        self, log: AccessLog, environ: dict[str, Any], path: str, start: Any
    ) -> None:
        self.time = time_ns() // 1_000_000
        self.path = path[:LONGEST]
        self.status = 0
        self.response_bytes = 0
        self.error = None
        self._log = log
        self._environ = environ
        self._start = start
        self._headers: Iterable[tuple[str, str]] = ()
        self._rule: Any = None
        self._done = False
        self._begun = perf_counter_ns()

    @property
    def method(self) -> str:
        method: str = self._environ["REQUEST_METHOD"]
        return method

    @property
    def route(self) -> str | None:
        if self._rule is None:
            return None
        route_path: str = self._environ.get("SCRIPT_NAME", "") + self._rule.rule
        return route_path[:LONGEST]

    @property
    def client(self) -> str | None:
        return self._environ.get("REMOTE_ADDR") or None

    @property
    def request_id(self) -> str | None:
        given: str = self._environ.get("HTTP_X_REQUEST_ID", "")
        return request_id_of(given.encode("latin-1", "replace"))

    @property
    def user_agent(self) -> str | None:
        given: str | None = self._environ.get("HTTP_USER_AGENT")
        return None if given is None else given[:LONGEST]

    def start_response(
        self, status: str, headers: list[tuple[str, str]], *exc_info: Any
    ) -> Callable[[bytes], object]:
        """As the server's."""
        write = self._start(status, headers, *exc_info)
        self.status = int(status[:3])
        self._headers = headers
        # Flask leaves the rule that matched on Werkzeug's request, while it answers.
        self._rule = getattr(self._environ.get("werkzeug.request"), "url_rule", None)
        given = exc_info[0][1] if exc_info and exc_info[0] else None
        if given is not None or self.status >= 500:
            self.error = name_of_error(given)

        def counting_write(data: bytes) -> object:
            written = write(data)
            self.response_bytes += len(data)
            return written

        return counting_write

    @property
    def is_whole(self) -> bool:
        """Whether the body may end here: it has the length that was announced."""
        length = _content_length(self._headers)
        return length is not None and self.response_bytes >= length

    def file_sent(self) -> None:
        """Make the entry of a file that the server sends itself."""
        self.response_bytes = _content_length(self._headers) or 0
        self.end()

    def end(self, error: BaseException | None = None, *, early: bool = False) -> None:
        """Make the entry, once; `early`: the server closed before the last part."""
        if self._done:
            return
        self._done = True
        self.duration_ms = (perf_counter_ns() - self._begun) // 1_000 / 1_000
        if not self.status or (error is not None and not self.response_bytes):
            self.status = 500  # nothing was sent: so the server answers
        no_body = self.status in NO_BODY or self._environ["REQUEST_METHOD"] == "HEAD"
        if early and not no_body and not self.is_whole:
            self.error = "ClientDisconnect"
        elif error is not None:
            self.error = type(error).__name__
        if no_body:
            self.response_bytes = 0
        self._log.write(self)


class _Body:
    """The body of a response, on its way to the server."""

    __slots__ = ("_iterator", "_request", "_result")

    def __init__(self, request: _Request, result: Iterable[bytes]) -> None:
        self._request = request
        self._result = result
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        request = self._request
        try:
            if self._iterator is None:
                self._iterator = iter(self._result)
            part = next(self._iterator)
        except StopIteration:
            request.end()
            raise
        except BaseException as error:
            request.end(error)
            raise
        request.response_bytes += len(part)
        return part

    def close(self) -> None:
        """As the server does it, at the end or before."""
        self._request.end(early=True)
        if hasattr(self._result, "close"):
            self._result.close()


class _SizedBody(_Body):
    """One whose number of parts is known: of one part a server knows the length."""

    __slots__ = ()

    _result: Any

    def __len__(self) -> int:
        return len(self._result)


def _content_length(headers: Iterable[tuple[str, str]]) -> int | None:
    for name, value in headers:
        if name.lower() == "content-length" and value.isdigit():
            return int(value)
    return None
