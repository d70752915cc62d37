"""What the blocks of docs/web.md should have done, asked by a real client."""

from __future__ import annotations

import contextlib
import io
import threading
import wsgiref.simple_server
from collections.abc import Callable
from typing import Any

from serving import DIRECT

PAGE = "docs/web.md"
Check = Callable[[Any], None]


# One process has one Django, with the settings of its first application.
DJANGO = """
import frameworks
frameworks.set_up_django()
"""
SERVED = "import uvicorn\n"  # by serve_and_ask()
PRELUDES = {
    **dict.fromkeys(
        [
            (PAGE, heading)
            for heading in (
                "FastAPI",
                "Starlette",
                "Litestar",
                "Quart",
                "An entry of your own",
                "Entries from your own code",
            )
        ],
        SERVED,
    ),
    (PAGE, "Django, ASGI"): DJANGO + SERVED,
    (PAGE, "Django, WSGI"): DJANGO,
}


def serve_and_ask(app: object, path: str) -> tuple[str, bytes]:
    import uvicorn

    config = uvicorn.Config(
        app, port=0, log_level="critical", ws="none", loop="asyncio"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        started = threading.Event()
        while not (server.started and server.servers) and thread.is_alive():
            started.wait(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/{path}"
        with DIRECT.open(url, timeout=20) as response:
            answer: bytes = response.read()
    finally:
        server.should_exit = True
        thread.join()
    return url, answer


def accessed_by_asgi(name: str, path: str, route: str | None) -> Check:
    def check(run: Any) -> None:
        for _ in range(2):
            _, answer = serve_and_ask(run.names[name], path)
        assert run.names["dispatcher"].closed
        accessed(run, path, route, answer, count=2)

    return check


def accessed_by_wsgi(name: str, path: str, route: str | None) -> Check:
    def check(run: Any) -> None:
        with wsgiref.simple_server.make_server(
            "127.0.0.1", 0, run.names[name], handler_class=QuietHandler
        ) as server:
            asking = threading.Thread(target=server.handle_request)
            asking.start()
            url = f"http://127.0.0.1:{server.server_port}/{path}"
            with DIRECT.open(url, timeout=20) as response:
                answer = response.read()
            asking.join()
        assert run.names["dispatcher"].close()
        accessed(run, path, route, answer, count=1)

    return check


class QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_: Any) -> None: ...


def accessed(run: Any, path: str, route: str | None, answer: bytes, count: int) -> None:
    assert len(run.collector.entries) == count
    for entry in run.collector.entries:
        assert (entry["path"], entry["route"]) == (f"/{path}", route)
        assert (entry["status"], entry["client"]) == (200, "127.0.0.1")
        assert entry["response_bytes"] == len(answer)
        assert entry["user_agent"].startswith("Python-urllib")


def own_entry(run: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert serve_and_ask(run.names["app"], "a")[1] == b"Hello World!"
    assert out.getvalue() == "[200] [12]\n"


def own_code(run: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        serve_and_ask(run.names["app"], "a")
    audit, metering = [{"path": "/a"}], [{"tenant": 7, "requests": 1}]
    assert sorted(out.getvalue().splitlines()) == [str(audit), str(metering)]


ORDER, NUMBER = "orders/1", "/orders/{number}"
CHECKS: dict[tuple[str, str], Check] = {
    (PAGE, "FastAPI"): accessed_by_asgi("app", ORDER, NUMBER),
    (PAGE, "Starlette"): accessed_by_asgi("app", ORDER, NUMBER),
    (PAGE, "Litestar"): accessed_by_asgi("app", ORDER, NUMBER),
    (PAGE, "Quart"): accessed_by_asgi("app", ORDER, None),
    (PAGE, "Django, ASGI"): accessed_by_asgi("application", "orders", None),
    (PAGE, "Django, WSGI"): accessed_by_wsgi("application", "orders", None),
    (PAGE, "Flask"): accessed_by_wsgi("app", ORDER, "/orders/<int:number>"),
    (PAGE, "An entry of your own"): own_entry,
    (PAGE, "Entries from your own code"): own_code,
}
