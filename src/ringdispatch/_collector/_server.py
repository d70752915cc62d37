"""The collector's HTTP server, for this machine's own programs and its own page."""

import json
import re
import socket
import socketserver
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ._bodies import MOST_BYTES, Refusal, split, too_large, unpack
from ._store import Store

ADDRESS = "127.0.0.1"
METHODS = "GET, HEAD, POST"
IDLE_SECONDS = 60.0  # until a silent connection is closed
DISCARD_SECONDS = 5.0
MOST_REFUSALS = 1_000  # that wait to be printed
TEXT = "text/plain; charset=utf-8"
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
# Nothing from elsewhere, nothing inline, and no string becomes markup.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens on the loopback address; a daemon thread for each connection.

    Raises:
        OSError: The port can't be had.
    """

    daemon_threads = True
    request_queue_size = 128
    # On Windows it would let two servers share a port.
    allow_reuse_address = sys.platform != "win32"

    def __init__(self, port: int) -> None:
        super().__init__((ADDRESS, port), _Handler)
        self.store = Store()
        self.refusals: deque[str] = deque(maxlen=MOST_REFUSALS)
        self.port: int = self.server_address[1]
        # Bodies are unpacked and split one at a time: together they could take more
        # memory than there is.
        self.splitting = threading.Lock()
        self.hosts = {f"{ADDRESS}:{self.port}", f"localhost:{self.port}"}
        if self.port == 80:
            self.hosts |= {ADDRESS, "localhost"}
        self.files = {
            path: (Path(__file__).with_name(name).read_bytes(), kind)
            for path, (name, kind) in FILES.items()
        }
        self.on_tick: Callable[[], None] | None = None

    def service_actions(self) -> None:
        """Run between requests, and twice a second, in the thread that serves."""
        if self.on_tick is not None:
            self.on_tick()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of a fault of ours; a client that has gone is none."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # so that a bad request gets a status, too
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer leaves in one piece
    unread = False  # a body may still be coming

    def do_GET(self) -> None:
        self._answer(self._show)

    def do_HEAD(self) -> None:
        self._answer(self._show)

    def do_POST(self) -> None:
        self._answer(self._receive)

    def _answer(self, respond: Callable[[], None]) -> None:
        self.unread = (
            "Transfer-Encoding" in self.headers
            or self.headers.get("Content-Length", "0") != "0"
        )
        try:
            self._check_sender()
            respond()
        except Refusal as refusal:
            self._refuse(refusal)

    def _check_sender(self) -> None:
        """Refuse what a page of another site may have its reader's browser send.

        A name of its own that leads here is a name that is not ours; so no page reads
        what is collected, and none adds to it.
        """
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].strip().lower() not in self.server.hosts:
            shown, ours = ", ".join(hosts)[:100], f"{ADDRESS}:{self.server.port}"
            raise Refusal(403, f"Host {shown!a} is not this collector, {ours}")
        origins = {f"http://{host}" for host in self.server.hosts}
        for origin in self.headers.get_all("Origin", []):
            if origin.strip().lower() not in origins:
                raise Refusal(
                    403, f"Origin {origin[:100]!a} is another: pages elsewhere may not"
                )
        if not self.path.startswith("/"):
            raise Refusal(400, f"{self.path[:100]!a} is no path: this is no proxy")

    # ---- what is posted

    def _receive(self) -> None:
        body = self._read_body()
        encodings = self.headers.get_all("Content-Encoding", [])
        with self.server.splitting:
            body = unpack(body, ", ".join(encodings))
            count, texts = split(body, self.headers.get("Content-Type", ""))
            self.server.store.add(self.path.partition("?")[0], count, texts)
        self._send(204)

    def _read_body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        codings = self.headers.get_all("Transfer-Encoding", [])
        try:
            if codings:
                if lengths or [one.strip().lower() for one in codings] != ["chunked"]:
                    raise Refusal(400, "Transfer-Encoding must be chunked, alone")
                body = self._read_chunks()
            elif not lengths:
                raise Refusal(411, "a Content-Length is missing")
            elif len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,19}", lengths[0]):
                raise Refusal(400, "Content-Length must be one number")
            else:
                body = self._read_exactly(int(lengths[0]))
        except TimeoutError:
            raise Refusal(408, f"no more came for {IDLE_SECONDS:g} s") from None
        self.unread = False
        return body

    def _read_exactly(self, length: int) -> bytes:
        if length > MOST_BYTES:
            raise too_large("the body has")
        self._send_continue()
        body = self.rfile.read(length)
        if len(body) < length:
            raise Refusal(400, f"the body ended after {len(body)} of {length} bytes")
        return body

    def _read_chunks(self) -> bytes:
        self._send_continue()
        body = bytearray()
        while True:
            size = self.rfile.readline(100).partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", size):
                raise Refusal(400, "a chunk has no size")
            length = int(size, 16)
            if len(body) + length > MOST_BYTES:
                raise too_large("the body has")
            if not length:
                break
            chunk = self.rfile.read(length)
            if len(chunk) < length or self.rfile.readline(3).strip():
                raise Refusal(400, "a chunk is not of the size that it has")
            body += chunk
        while len(line := self.rfile.readline(1_000)) > 2:  # of trailers
            if not line.endswith(b"\n"):
                raise Refusal(400, "a trailer is too long")
        return bytes(body)

    def handle_expect_100(self) -> bool:
        """Answer when the body is wanted: it may be refused unseen."""
        return True

    def _send_continue(self) -> None:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
            self.wfile.flush()

    # ---- what is shown

    def _show(self) -> None:
        if self.unread:  # nothing reads it, and it is no next request
            self.close_connection = True
        url = urlsplit(self.path)
        if url.path in self.server.files:
            self._send(200, *self.server.files[url.path])
        elif url.path == "/entries":
            self._send(200, self._entries(url.query), "application/json")
        elif url.path == "/entries.ndjson":
            lines = b"".join(one.text + b"\n" for one in self.server.store.kept())
            self._send(200, lines, "application/x-ndjson")
        else:
            raise Refusal(404, "nothing is here: GET / shows the page, POST anywhere")

    def _entries(self, query: str) -> bytes:
        asked = parse_qs(query)
        after = asked.get("after", ["0"])[-1]
        if not re.fullmatch("[0-9]{1,19}", after):
            raise Refusal(400, f"after={after[:100]!a} is no number")
        view = self.server.store.view(int(after), asked.get("contains", [""])[-1])
        # So that it is no markup, whatever takes it for a page.
        return json.dumps(view).replace("<", r"\u003c").encode()

    # ---- answers

    def _send(
        self, status: int, body: bytes = b"", kind: str = "", reason: str | None = None
    ) -> None:
        self.send_response(status, reason)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if kind:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        if status == 405:
            self.send_header("Allow", METHODS)
        if self.unread or self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()  # the base class does not after an error

    def _refuse(self, refusal: Refusal) -> None:
        """Say why; in the status line too, which clients show in their exceptions."""
        reason = refusal.reason
        asked = f"{self.command or '?'} {getattr(self, 'path', '?')[:100]}"
        self.server.refusals.append(f"refused {asked!a}: {refusal.status}, {reason}")
        self._send(refusal.status, f"{reason}\n".encode(), TEXT, reason)
        if self.unread:
            self._discard()

    def _discard(self) -> None:
        """Read what is still coming: closed before, the client sees no answer."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1.0)
        deadline = time.monotonic() + DISCARD_SECONDS
        for _ in iter(partial(self.connection.recv, 65_536), b""):
            if time.monotonic() > deadline:
                break

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Refuse what the base class finds wrong, in our own form."""
        del explain
        if code == 501:
            self._answer(self._refuse_method)
            return
        self.unread = True
        self._refuse(Refusal(code, message or self.responses[code][0]))

    def _refuse_method(self) -> None:
        raise Refusal(405, f"{self.command[:100]!a} is not one of {METHODS}")

    def version_string(self) -> str:
        """Return what the header Server has."""
        return "ringdispatch"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing: what is refused is printed by the thread that serves."""
