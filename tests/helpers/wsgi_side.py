"""The server's side of WSGI, for one request."""

from __future__ import annotations

import contextlib
import wsgiref.util
from typing import Any

from ringdispatch.testing import RecordingDispatcher
from ringdispatch.wsgi import AccessLogMiddleware


def environ_of(path: str = "/orders/1", **more: Any) -> dict[str, Any]:
    environ = {
        "PATH_INFO": path,
        "QUERY_STRING": "token=secret",
        "REMOTE_ADDR": "203.0.113.7",
        "HTTP_USER_AGENT": "test/1",
        "HTTP_X_REQUEST_ID": "id-1",
        **more,
    }
    wsgiref.util.setup_testing_defaults(environ)
    return environ


class Server:
    """Calls an application as a server does; `sent` is what came of it.

    Args:
        app: The application.
        parts: After so many parts of the body the client goes away.
    """

    def __init__(self, app: Any, parts: int | None = None) -> None:
        self.app = app
        self.parts = parts
        self.status = ""
        self.sent: list[bytes] = []

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info is not None and self.sent:
            raise exc_info[1]
        self.status = status
        return self.sent.append

    def call(self, environ: dict[str, Any] | None = None) -> Any:
        given = environ_of() if environ is None else environ
        result = self.app(given, self.start_response)
        try:
            for number, part in enumerate(result):
                if number == self.parts:
                    break
                self.sent.append(part)
        finally:
            if hasattr(result, "close"):
                result.close()
        return result


def answering(*body: bytes, status: str = "201 Created", headers: Any = ()) -> Any:
    """An application that answers with a list."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response(status, list(headers))
        return list(body)

    return app


HELLO = answering(b"Hello ", b"World!")


def entries_of(
    app: Any,
    environ: dict[str, Any] | None = None,
    parts: int | None = None,
    **options: Any,
) -> list[Any]:
    """Answer one request, and return its entries; what it raises is left aside."""
    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    wrapped = AccessLogMiddleware(app, dispatcher=dispatcher, **options)
    with contextlib.suppress(Exception):
        Server(wrapped, parts).call(environ)
    return dispatcher.entries


def entry_of(*arguments: Any, **options: Any) -> dict[str, Any]:
    (entry,) = entries_of(*arguments, **options)
    assert isinstance(entry, dict)
    return entry
