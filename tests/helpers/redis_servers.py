"""Real redis-servers on free ports of the loopback."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serving import free_port

redis = pytest.importorskip("redis")

PROGRAM = shutil.which("redis-server")
START_SECONDS = 20.0


class RedisServer:
    """One server, which may be killed and started again with what it has stored."""

    def __init__(self, folder: Path, *more: str) -> None:
        assert PROGRAM, "redis-server is not installed: .ci/system installs it"
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert PROGRAM
        command = [PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self._folder), "--save", "", *self._more]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._answers():
                return
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """Of the server, which runs."""
        assert self._process is not None
        return self._process.pid

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                client.ping()
        except redis.exceptions.AuthenticationError:
            return True
        except (redis.exceptions.ConnectionError, OSError):
            return False
        return True

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(20)

    def client(self, **options: Any) -> Any:
        """A client of the test's own; to be closed, as a context manager."""
        return redis.Redis(port=self.port, **options)

    def messages(self, stream: str = "S") -> list[dict[str, bytes]]:
        """The fields of all that the stream has, in order."""
        with self.client() as client:
            found = client.xrange(stream)
        return [{k.decode(): v for k, v in fields.items()} for _, fields in found]


@contextmanager
def serving_redis(folder: Path, *more: str) -> Iterator[RedisServer]:
    """A server."""
    server = RedisServer(folder, *more)
    server.start()
    try:
        yield server
    finally:
        server.stop()
