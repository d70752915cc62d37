"""Real redis-servers on free ports of the loopback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine_processes import EngineProcess
from serving import free_port

redis = pytest.importorskip("redis")

PROGRAM = shutil.which("redis-server")


class RedisServer(EngineProcess):
    """One server, which may be killed and started again with what it has stored."""

    def __init__(self, folder: Path, *more: str) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._more = more

    def _command(self) -> Sequence[str]:
        assert PROGRAM, "redis-server is not installed: .ci/system installs it"
        command = [PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1"]
        return [*command, "--dir", str(self._folder), "--save", "", *self._more]

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                client.ping()
        except redis.exceptions.AuthenticationError:
            return True
        except (redis.exceptions.ConnectionError, OSError):
            return False
        return True

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
