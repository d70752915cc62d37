"""AWS Lambda's Runtime API on loopback: what serves a function's process."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any

from collecting import running


class RuntimeApi(ThreadingHTTPServer):
    """Hands one event after the other to the process that asks, and keeps its answers.

    The process asks for the next event when it has posted its answer. That is when
    Lambda freezes it.
    """

    daemon_threads = True  # one waits for an event that never comes

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server_port}"
        self.answers: SimpleQueue[Any] = SimpleQueue()
        self.asked: SimpleQueue[None] = SimpleQueue()
        self.events: SimpleQueue[Any] = SimpleQueue()


class Handler(BaseHTTPRequestHandler):
    server: RuntimeApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert self.path == "/2018-06-01/runtime/invocation/next"
        self.server.asked.put(None)
        event = self.server.events.get()
        headers = {
            "Lambda-Runtime-Aws-Request-Id": f"request-{event['order']}",
            "Lambda-Runtime-Deadline-Ms": str(int(time.time() + 20) * 1000),
            "Content-Type": "application/json",
        }
        self.answer(200, json.dumps(event).encode(), headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.answers.put((self.path, json.loads(body)))
        self.answer(202, b"", {})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def runtime_api() -> AbstractContextManager[RuntimeApi]:
    return running(RuntimeApi())
