"""The ASGI middlewares around real applications: Starlette, FastAPI, Litestar, ..."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

import frameworks
from asgi_side import Lifespan, Server, scope_of
from loops import Place
from ringdispatch import BackgroundDispatcher
from ringdispatch.asgi import AccessLogMiddleware, LifespanMiddleware
from ringdispatch.testing import RecordingDispatcher
from serving import needs

ROUTES = {
    "starlette": "/{name}",
    "fastapi": "/{name}",
    "litestar": "/{name}",
    "quart": None,
    "django": None,
}
each_framework = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=needs(kind)) for kind in frameworks.ASGI]
)
# Starlette's TestClient asks for another client than its own tests had.
client_warning = pytest.mark.filterwarnings("ignore:Using `httpx` with")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Frameworks log exceptions, and make a handler of their own for it."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def answer(app: Any, path: str, **scope: Any) -> tuple[Server, dict[str, Any]]:
    """Answer one request within a lifespan; returns what was sent, and the entry."""
    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    wrapped = AccessLogMiddleware(app, dispatcher=dispatcher)
    server = Server([{"type": "http.request", "body": b"Hello"}])
    headers = [(b"host", b"example.com"), (b"content-length", b"5")]

    async def main() -> None:
        lifespan = Lifespan(wrapped)
        assert await lifespan.startup() == "lifespan.startup.complete"
        request = scope_of(path, raw_path=path.encode(), scheme="http", headers=headers)
        try:
            await server.call(wrapped, {**request, **scope})
        except LookupError:
            assert path == "/fail"
        assert await lifespan.shutdown() == "lifespan.shutdown.complete"
        await lifespan.task
        assert dispatcher.closed

    asyncio.run(main())
    (entry,) = dispatcher.entries
    return server, entry


def content(server: Server) -> bytes:
    return b"".join(message.get("body", b"") for message in server.sent)


@each_framework
def test_answer(kind: str) -> None:
    server, entry = answer(frameworks.ASGI[kind](), "/orders")
    assert content(server) == str(os.getpid()).encode()
    assert entry["status"] == 200
    assert entry["path"] == "/orders"
    assert entry["route"] == ROUTES[kind]
    assert entry["response_bytes"] == len(content(server))
    assert "error" not in entry


@each_framework
def test_request_body_passes(kind: str) -> None:
    server, entry = answer(frameworks.ASGI[kind](), "/orders", method="POST")
    assert content(server) == b"Hello"
    assert (entry["method"], entry["status"]) == ("POST", 200)


@each_framework
def test_stream(kind: str) -> None:
    server, entry = answer(frameworks.ASGI[kind](), "/stream")
    assert content(server) == b"abc"
    assert (entry["status"], entry["response_bytes"]) == (200, 3)
    assert "error" not in entry


@each_framework
def test_exception(kind: str) -> None:
    """Each framework answers it; its type is in the entry where it is known then."""
    server, entry = answer(frameworks.ASGI[kind](), "/fail")
    assert entry["status"] == server.sent[0]["status"] == 500
    assert entry["response_bytes"] == len(content(server)) > 0
    known = kind not in {"quart", "django"}
    assert entry.get("error") == ("LookupError" if known else None)


@each_framework
def test_path_without_a_route(kind: str) -> None:
    _, entry = answer(frameworks.ASGI[kind](), "/a/b/c")
    assert (entry["status"], entry["route"]) == (404, None)
    assert "error" not in entry


@each_framework
def test_head(kind: str) -> None:
    _, entry = answer(frameworks.ASGI[kind](), "/orders", method="HEAD")
    assert entry["response_bytes"] == 0


@each_framework
def test_lifespan_around_the_applications_own(kind: str) -> None:
    """Django has none: the middleware answers in its place."""
    sink = Place()
    dispatcher: BackgroundDispatcher[str] = BackgroundDispatcher(sink, ms_delay=60_000)
    app = LifespanMiddleware(frameworks.ASGI[kind](), dispatchers=[dispatcher])

    async def main() -> None:
        lifespan = Lifespan(app)
        assert await lifespan.startup() == "lifespan.startup.complete"
        assert dispatcher.enqueue("request")
        assert await lifespan.shutdown() == "lifespan.shutdown.complete"
        await lifespan.task

    for number in range(2):
        asyncio.run(main())
        assert sink.entries == ["request"] * (number + 1)


# ---- Starlette and FastAPI


@needs("starlette")
def test_startup_code_of_starlette_that_raises_fails_the_startup() -> None:
    sink = Place()
    dispatcher: BackgroundDispatcher[str] = BackgroundDispatcher(sink, ms_delay=60_000)

    class Broken:
        async def __aenter__(self) -> None:
            dispatcher.enqueue("startup")
            raise ConnectionError("no database")

        async def __aexit__(self, *_: object) -> None: ...

    app = frameworks.starlette(lifespan=lambda app: Broken())

    async def main() -> None:
        lifespan = Lifespan(LifespanMiddleware(app, dispatchers=[dispatcher]))
        assert await lifespan.startup() == "lifespan.startup.failed"
        with pytest.raises(ConnectionError):
            await lifespan.task
        assert dispatcher.closed

    asyncio.run(main())
    assert sink.entries == ["startup"]


@needs("starlette", "httpx")
@client_warning
@pytest.mark.parametrize("inside", [False, True])
def test_test_client_entered_twice(inside: bool) -> None:
    from starlette.testclient import TestClient

    sink = Place()
    dispatcher: BackgroundDispatcher[Any] = BackgroundDispatcher(sink, ms_delay=60_000)
    app = frameworks.starlette()
    if inside:
        app.add_middleware(AccessLogMiddleware, dispatcher=dispatcher)
    else:
        app = AccessLogMiddleware(app, dispatcher=dispatcher)
    for number in range(1, 3):
        with TestClient(app) as client:
            assert not dispatcher.closed
            assert client.get("/orders").status_code == 200
        assert dispatcher.closed
        assert [entry["path"] for entry in sink.entries] == ["/orders"] * number


@needs("starlette", "httpx")
@client_warning
def test_websocket_passes_and_has_no_entry() -> None:
    from starlette.routing import WebSocketRoute
    from starlette.testclient import TestClient

    async def echo(websocket: Any) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    app = frameworks.starlette(routes=[WebSocketRoute("/", echo)])
    client = TestClient(AccessLogMiddleware(app, dispatcher=dispatcher))
    with client.websocket_connect("/") as websocket:
        websocket.send_text("Hello")
        assert websocket.receive_text() == "Hello"
    assert dispatcher.entries == []


@needs("starlette")
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(
    ("path", "status", "error"),
    [("/orders", 200, None), ("/stream", 200, None), ("/fail", 500, "LookupError")],
)
def test_between_middlewares_of_starlette(
    position: int, path: str, status: int, error: str | None
) -> None:
    """BaseHTTPMiddleware runs the application in another task, and passes parts."""
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    async def change(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-changed"] = "yes"
        return response

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=change) for _ in range(2)]
    ours = Middleware(AccessLogMiddleware, dispatcher=dispatcher)
    middleware.insert(position, ours)
    app = frameworks.starlette(middleware=middleware)
    server = Server([{"type": "http.request", "body": b""}])

    async def main() -> None:
        try:
            await server.call(app, scope_of(path))
        except LookupError:
            assert path == "/fail"

    asyncio.run(main())
    assert server.sent[0]["status"] == status
    (entry,) = dispatcher.entries
    assert entry["status"] == status
    assert entry.get("error") == error
    assert entry["route"] == "/{name}"
    # The error's page is of a middleware outside.
    size = 0 if path == "/fail" else len(content(server))
    assert entry["response_bytes"] == size


@needs("starlette")
def test_client_that_goes_away_from_a_stream_of_starlette() -> None:
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def forever() -> Any:
        while True:
            yield b"data: \n\n"
            await asyncio.sleep(0)

    async def events(request: Any) -> Any:
        return StreamingResponse(forever(), media_type="text/event-stream")

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    app = frameworks.starlette(routes=[Route("/a/events", events)])
    wrapped = AccessLogMiddleware(app, dispatcher=dispatcher)

    async def main(version: str, server: Server) -> None:
        scope = scope_of("/a/events", asgi={"version": "3.0", "spec_version": version})
        try:
            await asyncio.wait_for(server.call(wrapped, scope), 20)
        except Exception as error:
            assert type(error).__name__ == "ClientDisconnect"  # noqa: PT017

    # As servers have said it since 2.4, and as they did before.
    asyncio.run(main("2.4", Server(refuses_from=4)))
    asyncio.run(main("2.0", Server(gone_after=4)))
    assert [entry["error"] for entry in dispatcher.entries] == ["ClientDisconnect"] * 2
    assert [entry["status"] for entry in dispatcher.entries] == [200, 200]


@needs("starlette")
def test_mounted_applications() -> None:
    from starlette.routing import Mount

    async def raw(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"raw"})

    routes = [Mount("/inner", frameworks.starlette()), Mount("/raw", raw)]
    app = frameworks.starlette(routes=routes)
    _, entry = answer(app, "/inner/orders")
    assert (entry["path"], entry["route"]) == ("/inner/orders", "/inner/{name}")
    _, entry = answer(app, "/raw/file")
    assert (entry["path"], entry["route"]) == ("/raw/file", "/raw")
    _, entry = answer(app, "/proxied/inner/orders", root_path="/proxied")
    assert entry["route"] == "/proxied/inner/{name}"


@needs("starlette", "fastapi")
def test_routers_of_fastapi_keep_their_prefixes() -> None:
    from starlette.routing import Mount

    app = frameworks.fastapi()
    _, entry = answer(app, "/api/7/orders/1")
    assert (entry["status"], entry["route"]) == (200, "/api/{tenant}/orders/{number}")
    _, entry = answer(
        frameworks.starlette(routes=[Mount("/v1", app)]), "/v1/api/7/orders/1"
    )
    assert entry["route"] == "/v1/api/{tenant}/orders/{number}"
    _, entry = answer(app, "/api/7/orders/none")
    assert (entry["status"], entry["route"]) == (422, "/api/{tenant}/orders/{number}")


@needs("litestar")
def test_in_litestars_own_list_of_middlewares() -> None:
    """It sees no lifespan there, but requests."""
    from litestar.middleware import DefineMiddleware

    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    ours = DefineMiddleware(AccessLogMiddleware, dispatcher=dispatcher)
    app = frameworks.litestar(middleware=[ours])
    asyncio.run(Server().call(app, scope_of("/orders")))
    (entry,) = dispatcher.entries
    assert (entry["status"], entry["route"]) == (200, "/{name}")
