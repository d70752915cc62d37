"""What test_servers.py runs where a server is a call in the user's own program.

From the command line: which, and the descriptor of its listening socket.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

kind = sys.argv[1]
if kind == "eventlet-patched":
    import eventlet

    eventlet.monkey_patch()

from served import CLOSES, dispatcher, note, wsgi  # noqa: E402

if "FRAMEWORK" in os.environ:
    from served_frameworks import wsgi


def waitress(listener: socket.socket) -> None:
    import waitress

    note("ready")
    waitress.serve(wsgi, sockets=[listener], _quiet=True)


def eventlet_(listener: socket.socket) -> None:
    import eventlet
    import eventlet.wsgi

    note("ready")
    green = eventlet.greenio.GreenSocket(listener)
    eventlet.wsgi.server(green, wsgi, log_output=False)


def aiohttp(listener: socket.socket) -> None:
    from aiohttp import web

    async def handle(request: web.Request) -> web.Response:
        path = request.path
        flushes = path == "/flush"
        accepted = await dispatcher.aflush() if flushes else dispatcher.enqueue(path)
        return web.Response(text=str(os.getpid()), status=200 if accepted else 503)

    async def close(_: web.Application) -> None:
        assert await dispatcher.aclose()

    async def ready(_: web.Application) -> None:
        note("ready")

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    app.on_startup.append(ready)
    if CLOSES == "on_cleanup":
        app.on_cleanup.append(close)
    web.run_app(app, sock=listener, print=None)


if __name__ == "__main__":
    if CLOSES == "sys.exit":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    serve = {"waitress": waitress, "aiohttp": aiohttp}.get(kind, eventlet_)
    serve(socket.socket(fileno=int(sys.argv[2])))
