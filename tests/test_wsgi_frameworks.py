"""The WSGI middleware around real applications: Flask and Django."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

import frameworks
from ringdispatch.testing import RecordingDispatcher
from ringdispatch.wsgi import AccessLogMiddleware
from serving import needs
from wsgi_side import Server, environ_of

PATHS = ("/orders", "/stream", "/fail", "/a/b/c")
ROUTES = {"flask": "/<name>", "django": None}
each_framework = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=needs(kind)) for kind in frameworks.WSGI]
)


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@each_framework
@pytest.mark.usefixtures("quiet")
def test_around_a_framework(kind: str) -> None:
    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    app = AccessLogMiddleware(frameworks.WSGI[kind](), dispatcher=dispatcher)
    answers = []
    for path in PATHS:
        server = Server(app)
        server.call(environ_of(path, SCRIPT_NAME="/shop"))
        answers.append(b"".join(server.sent))
    assert answers[:2] == [str(os.getpid()).encode(), b"abc"]
    entries = dispatcher.entries
    assert [entry["path"] for entry in entries] == [*PATHS]
    assert [entry["status"] for entry in entries] == [200, 200, 500, 404]
    assert [entry["response_bytes"] for entry in entries] == [*map(len, answers)]
    route = ROUTES[kind] and "/shop" + ROUTES[kind]
    assert [entry["route"] for entry in entries] == [route, route, route, None]
    assert [entry.get("error") for entry in entries] == [None] * 4


@each_framework
def test_request_body_passes(kind: str) -> None:
    body = {"wsgi.input": io.BytesIO(b"Hello"), "CONTENT_LENGTH": "5"}
    environ = environ_of("/orders", REQUEST_METHOD="POST", **body)
    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    server = Server(AccessLogMiddleware(frameworks.WSGI[kind](), dispatcher=dispatcher))
    server.call(environ)
    assert b"".join(server.sent) == b"Hello"
    assert dispatcher.entries[0]["method"] == "POST"


@needs("flask")
def test_flask_that_keeps_its_name(tmp_path: Any) -> None:
    """It replaces `app.wsgi_app`; and a file of Flask's has its length."""
    from flask import send_file

    file = tmp_path / "file.txt"
    file.write_text("x" * 1000)
    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    app = frameworks.flask()
    app.add_url_rule("/files/<int:number>", "file", lambda number: send_file(file))
    app.wsgi_app = AccessLogMiddleware(app.wsgi_app, dispatcher=dispatcher)
    with app.test_client() as client:
        response = client.get("/files/1")
        assert response.data == b"x" * 1000
        response.close()
    (entry,) = dispatcher.entries
    assert (entry["route"], entry["response_bytes"]) == ("/files/<int:number>", 1000)
