"""A real HTTP server that answers by a script, stalls, breaks, and recovers."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from collecting import Post
from ringdispatch.sinks import SinkError

if TYPE_CHECKING:
    from ringdispatch.sinks import HttpSink


@dataclass(frozen=True)
class Answer:
    """What one request gets: an answer, or what happens instead of one."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reason: str = ""
    close: bool = False  # the connection, after the answer
    # "stall", "half" (stalls within the body), "reset", "close", "garbage", "cut" (half
    # of the head, then closed) or "endless" (a body that is too large to read)
    instead: str = ""
    most_entries: int | None = None  # 413 for more


OK = Answer()


@dataclass
class Request(Post):
    """A post, and the connection that it came over."""

    connection: int = 0
    answer: Answer = OK


class Answering:
    """Answers by `script`, one each; by `always` when that is empty."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.script: list[Answer] = []
        self.always = OK
        self.requests: list[Request] = []
        self.connections = 0
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def arrived(self) -> list[Any]:
        """The entries of what was answered by 2xx."""
        accepted = [r for r in self.requests if 200 <= r.answer.status < 300]
        return [e for r in accepted if not r.answer.instead for e in r.entries]

    @property
    def keys(self) -> list[str]:
        return [each.headers["idempotency-key"] for each in self.requests]

    def drop_connections(self) -> None:
        """Close the connections that are open, as a server does with idle ones."""
        done = threading.Event()

        def drop() -> None:
            for writer in self._writers:
                writer.transport.abort()
            self._loop.call_soon(done.set)

        self._loop.call_soon_threadsafe(drop)
        assert done.wait(10)

    # ---- the server

    def start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[ready])
        self._thread.start()
        assert ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self, ready: threading.Event) -> None:
        asyncio.run(self._serve(ready))

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(
            self._converse, "127.0.0.1", 0, ssl=self._tls, limit=2**24
        )
        port = server.sockets[0].getsockname()[1]
        scheme, host = ("https", "localhost") if self._tls else ("http", "127.0.0.1")
        self.url = f"{scheme}://{host}:{port}/logs"
        ready.set()
        await self._stopped.wait()
        server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        number = self.connections
        self._writers.add(writer)
        try:
            while await self._answer(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")[:-2]
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ")
        request = Request(path, headers | {":method": method}, body, number)
        answer = self.script.pop(0) if self.script else self.always
        if answer.most_entries is not None:
            too_many = len(request.entries) > answer.most_entries
            answer = Answer(413) if too_many else OK
        request.answer = answer
        self.requests.append(request)
        if answer.instead:
            return await self._instead(answer, writer)
        given = {"Content-Length": str(len(answer.body)), **answer.headers}
        reason = answer.reason or ("Fine" if answer.status < 300 else "No")
        lines = [f"HTTP/1.1 {answer.status} {reason}"]
        lines += [f"{name}: {value}" for name, value in given.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + answer.body)
        await writer.drain()
        return not answer.close

    async def _instead(self, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        if answer.instead in {"stall", "half"}:
            if answer.instead == "half":
                writer.write(b"HTTP/1.1 200 Fine\r\nContent-Length: 9\r\n\r\nxxx")
            await self._stopped.wait()
        elif answer.instead == "reset":
            # Not a FIN.
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif answer.instead == "garbage":
            writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")
        elif answer.instead == "cut":
            writer.write(b"HTTP/1.1 204 Fine\r\nContent-")
        elif answer.instead == "endless":
            writer.write(b"HTTP/1.1 200 Fine\r\nContent-Length: 999999999\r\n\r\n")
            for _ in range(20):
                writer.write(b"x" * 65_536)
                await writer.drain()
        else:
            assert answer.instead == "close"
        return False


@contextmanager
def answering(tls: ssl.SSLContext | None = None) -> Iterator[Answering]:
    server = Answering(tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def sending(sink: HttpSink[Any], *batches: list[Any]) -> None:
    """Call the sink with each batch, on one loop, and close it."""

    async def main() -> None:
        try:
            for batch in batches:
                await sink(batch)
        finally:
            await sink.aclose()

    asyncio.run(main())


def failing(sink: HttpSink[Any], *batches: list[Any]) -> SinkError:
    with pytest.raises(SinkError) as raised:
        sending(sink, *batches)
    return raised.value
