"""Real nats-servers on free ports of the loopback, one or a cluster."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine_processes import EngineProcess
from serving import free_port

nats = pytest.importorskip("nats")

PROGRAM = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")

CONFIG = """\
server_name: {name}
listen: 127.0.0.1:{port}
{more}
"""
JETSTREAM = """\
jetstream {{ store_dir: "{folder}", max_mem: 64M, max_file: 8G }}
"""
ROUTES = """\
cluster {{ name: c, listen: 127.0.0.1:{port}, routes: [{routes}] }}
"""


class NatsServer(EngineProcess):
    """One server, which may be killed and started again with what it has stored."""

    def __init__(
        self,
        folder: Path,
        name: str = "one",
        more: str = "",
        *,
        jetstream: bool = True,
    ) -> None:
        super().__init__(folder / name)
        self.name = name
        self._jetstream = jetstream
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._config = self._folder / "config"
        self.configure(name, more)

    def configure(self, name: str = "one", more: str = "") -> None:
        """Write what the next start reads."""
        config = CONFIG.format(name=name, port=self.port, more=more)
        if self._jetstream:
            config += JETSTREAM.format(folder=self._folder / "store")
        self._config.write_text(config)

    def _command(self) -> Sequence[str]:
        assert PROGRAM, "nats-server is not installed: .ci/system installs it"
        return [PROGRAM, "--config", str(self._config)]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as client:
                return client.recv(4) == b"INFO"
        except OSError:
            return False

    # ---- asked by a client of the test's own

    def ask(self, question: Any, **options: Any) -> Any:
        """Run `question(jetstream)` on a loop of its own."""

        async def main() -> Any:
            client = await nats.connect(self.url, **options)
            try:
                return await question(client.jetstream(timeout=10))
            finally:
                await client.close()

        return asyncio.run(main())

    def add_stream(self, name: str = "S", subject: str = "orders", **more: Any) -> None:
        """Make a stream."""
        self.ask(lambda js: js.add_stream(name=name, subjects=[subject], **more))

    @contextmanager
    def cleared(self, *, streams: Sequence[str] = ("S",)) -> Iterator[None]:
        """With such streams of a test, and without any afterwards."""

        async def delete_all(js: Any) -> None:
            for each in await js.streams_info():
                await js.delete_stream(each.config.name)

        for stream in streams:
            self.add_stream(stream)
        yield
        self.ask(delete_all)

    def messages(self, stream: str = "S") -> list[Any]:
        """All that the stream has, in order."""

        async def read(js: Any) -> list[Any]:
            state = (await js.stream_info(stream)).state
            found = range(state.first_seq, state.last_seq + 1)
            return [await js.get_msg(stream, seq) for seq in found]

        return list(self.ask(read))


def cluster_of(servers: list[NatsServer]) -> list[str]:
    """What the configuration of each needs so that they are a cluster."""
    ports = [free_port() for _ in servers]
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
    return [ROUTES.format(port=port, routes=routes) for port in ports]


@contextmanager
def serving(
    folder: Path, more: str = "", *, jetstream: bool = True
) -> Iterator[NatsServer]:
    """A server of one node."""
    server = NatsServer(folder, more=more, jetstream=jetstream)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def on_loop(main: Coroutine[Any, Any, Any]) -> Any:
    """Run it, with a deadline."""

    async def limited() -> Any:
        async with asyncio.timeout(60):
            return await main

    return asyncio.run(limited())
