"""Runs `python -m ringdispatch collector` in a process, and speaks to it by sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import FOREGROUND

SECONDS = 20.0


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    reason: str


class Collecting:
    """A running collector."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.first_line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.first_line)
        assert found, (self.first_line, process.communicate(timeout=SECONDS))
        self.port = int(found[1])
        self.url = found[0]

    def ask(
        self,
        method: str,
        path: str = "/",
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request on a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            return ask(connection, method, path, body, headers)

    def post(self, body: Any, **headers: str) -> Answer:
        """Post a body; `content_type` becomes Content-Type."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", "/", body, named)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def exchange(self, text: bytes) -> bytes:
        """Send bytes as they are; returns all that comes until the end."""
        address = ("127.0.0.1", self.port)
        with socket.create_connection(address, timeout=SECONDS) as raw:
            raw.sendall(text)
            raw.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: raw.recv(65_536), b""))

    def view(self, query: str = "after=0") -> Any:
        """What the page is given."""
        answer = self.ask("GET", f"/entries?{query}")
        assert answer.status == 200, answer
        return json.loads(answer.body)

    def kept(self) -> list[Any]:
        lines = self.ask("GET", "/entries.ndjson").body.split(b"\n")
        return [json.loads(line) for line in lines if line]

    def peak(self) -> int:
        """The most memory that it ever had, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return 1024 * int(found[1])

    def end(self) -> tuple[int, str, str]:
        """Press Ctrl-C; returns status, standard output and error."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, self.first_line + out, err


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str = "/",
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    found = {name.lower(): value for name, value in answer.getheaders()}
    return Answer(answer.status, found, answer.read(), answer.reason)


def start(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FOREGROUND, "-X", "dev", "-W", "error"]
    return subprocess.Popen(
        [*command, "-m", "ringdispatch", "collector", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def collecting(*options: str) -> Iterator[Collecting]:
    with start("--port", "0", *options) as process:
        try:
            yield Collecting(process)
        finally:
            process.kill()
