"""A real HTTP server in the place of the one that the documentation posts to."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

Server = TypeVar("Server", bound=ThreadingHTTPServer)


def zstd() -> Any:
    """What this Python has for it."""
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return zstd


@dataclass
class Post:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def unpacked(self) -> bytes:
        encoding = self.headers.get("content-encoding")
        if encoding == "zstd":
            return bytes(zstd().decompress(self.body))
        return gzip.decompress(self.body) if encoding == "gzip" else self.body

    @property
    def entries(self) -> list[Any]:
        if self.headers.get("content-type") == "application/x-ndjson":
            return [json.loads(line) for line in self.unpacked.splitlines()]
        entries: list[Any] = json.loads(self.unpacked)
        return entries


class Collector(ThreadingHTTPServer):
    """Keeps what is posted to it; the first `failures` posts are refused."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.connections: list[socket.socket] = []
        self.forget()

    def forget(
        self, failures: int = 0, status: int = 503, retry_after: str = ""
    ) -> None:
        """Begin anew, with the next posts refused."""
        self.failures = failures
        self.status = status
        self.retry_after = retry_after
        self.posts: list[Post] = []
        self.refused: list[Post] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def hang_up(self) -> None:
        """Close every connection from this side."""
        while self.connections:
            with contextlib.suppress(OSError):  # its client has closed it
                self.connections.pop().shutdown(socket.SHUT_RDWR)

    @property
    def entries(self) -> list[Any]:
        return [entry for post in self.posts for entry in post.entries]


class Handler(BaseHTTPRequestHandler):
    server: Collector
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers["content-length"]))
        post = Post(self.path, headers, body)
        refuse = self.server.failures > 0
        if refuse:
            self.server.failures -= 1
        (self.server.refused if refuse else self.server.posts).append(post)
        self.send_response(self.server.status if refuse else 204)
        if refuse and self.server.retry_after:
            self.send_header("Retry-After", self.server.retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Serve from a thread of its own, and end both."""
    with server:
        # Woken every 10 ms, it is not long in ending.
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def collecting() -> AbstractContextManager[Collector]:
    return running(Collector())
