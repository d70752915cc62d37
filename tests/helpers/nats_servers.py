"""Real nats-servers on free ports of the loopback, one or a cluster."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serving import free_port

nats = pytest.importorskip("nats")

PROGRAM = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
START_SECONDS = 20.0

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


class NatsServer:
    """One server, which may be killed and started again with what it has stored."""

    def __init__(
        self,
        folder: Path,
        name: str = "one",
        more: str = "",
        *,
        jetstream: bool = True,
    ) -> None:
        assert PROGRAM, "nats-server is not installed: .ci/system installs it"
        self.name = name
        self._jetstream = jetstream
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        self._config = self._folder / "config"
        self.configure(name, more)
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, name: str = "one", more: str = "") -> None:
        """Write what the next start reads."""
        config = CONFIG.format(name=name, port=self.port, more=more)
        if self._jetstream:
            config += JETSTREAM.format(folder=self._folder / "store")
        self._config.write_text(config)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert PROGRAM
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "--config", str(self._config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as client:
                    if client.recv(4) == b"INFO":
                        return
            except OSError:
                pass
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "nats-server does not answer"
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """Of the server, which runs."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Have it answer nothing, with its connections open."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # each of its threads

    def resume(self) -> None:
        """Have it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
            process.wait(20)

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
