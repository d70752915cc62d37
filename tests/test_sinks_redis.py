"""RedisStreamSink and a real redis-server: slow links, answers that are errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("redis")

import redis.exceptions

from loops import comes_true, eventually
from redis_servers import RedisServer, serving_redis
from ringdispatch.sinks import RedisStreamSink, SinkError
from ringdispatch.sinks._redis import failure_of

LARGE = "x" * 4 * 2**20


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(module_server: RedisServer) -> RedisServer:
    with module_server.client() as client:
        client.flushall()
    return module_server


async def failure(sink: RedisStreamSink, seconds: float = 5.0) -> SinkError:
    """What a batch fails with, within so many seconds."""
    sink.prepare(None, seconds)
    with pytest.raises(SinkError) as caught:
        await sink([1])
    return caught.value


# ---- slow links and slow answers


class Link:
    """What a link has let through, and whether it lets large messages through."""

    def __init__(self) -> None:
        self.connections = 0
        self.held = False
        self.opens = asyncio.Event()

    async def pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        passed = 0
        while data := await reader.read(2**16):
            passed += len(data)
            if passed > 2**16:
                self.held = True
                await self.opens.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def link_to(server: RedisServer) -> AsyncIterator[tuple[str, Link]]:
    """The url of a link to a server."""
    link = Link()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link.connections += 1
        there = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(
            link.pass_on(reader, there[1]), link.pass_on(there[0], writer)
        )

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        yield f"redis://127.0.0.1:{port}/0", link


def test_a_large_batch_has_time_for_a_slow_link(server: RedisServer) -> None:
    async def main() -> None:
        async with link_to(server) as (url, link):
            sink = RedisStreamSink(url, "S", timeout=0.1)
            sending = asyncio.create_task(sink([LARGE]))
            await comes_true(lambda: link.held)
            await asyncio.sleep(0.5)  # five times what a small one has
            link.opens.set()
            await sending
            await sink.aclose()
            assert link.connections == 1

    asyncio.run(main())
    (message,) = server.messages()
    assert len(message["body"]) > len(LARGE)


def test_a_small_batch_has_no_more_than_its_timeout(server: RedisServer) -> None:
    sink = RedisStreamSink(server.url, "S", timeout=0.1)

    async def main(client: Any) -> None:
        await sink(["before"])
        client.client_pause(60_000, all=False)
        try:
            error = await failure(sink, 0.5)
        finally:
            client.client_unpause()
        assert error.retryable
        assert "stream 'S': no answer within 0." in str(error)
        sink.prepare(None, None)
        await sink(["after"])
        await sink.aclose()

    with server.client() as client:
        asyncio.run(main(client))
    bodies = [message["body"] for message in server.messages()]
    assert (bodies[0], bodies[-1]) == (b'"before"\n', b'"after"\n')


# ---- answers that are errors


@contextmanager
def user_of(client: Any) -> Iterator[Any]:
    """A user who may do everything, and how to connect as that."""
    client.acl_setuser(
        "us", enabled=True, passwords=["+old"], keys=["*"], commands=["+@all"]
    )
    try:
        yield {"username": "us", "password": "old"}
    finally:
        client.acl_deluser("us")


def test_a_user_who_may_not_add_to_streams(server: RedisServer) -> None:
    async def main(client: Any) -> SinkError:
        with user_of(client) as us:
            client.acl_setuser("us", enabled=True, commands=["-xadd"])
            sink = RedisStreamSink(server.url, "S", **us)
            error = await failure(sink)
            await sink.aclose()
            return error

    with server.client() as client:
        error = asyncio.run(main(client))
    assert not error.retryable
    assert "xadd" in str(error)


def test_a_server_of_a_cluster(tmp_path: Path) -> None:
    with (
        serving_redis(tmp_path / "one", "--cluster-enabled", "yes") as one,
        serving_redis(tmp_path / "two", "--cluster-enabled", "yes") as two,
        one.client() as client,
        two.client() as other,
    ):
        other.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
        client.execute_command(f"CLUSTER MEET 127.0.0.1 {two.port}")
        eventually(lambda: client.cluster("INFO")["cluster_state"] == "ok", 30)

        async def main() -> SinkError:
            sink = RedisStreamSink(one.url, "S")
            error = await failure(sink)
            await sink.aclose()
            return error

        error = asyncio.run(main())
    assert not error.retryable
    assert "it is one of a cluster, which is not supported: moved to" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.ConnectionError("Error 111 connecting to removed:6379."),
        redis.exceptions.ConnectionError("Error 111 connecting to noperm:6379."),
        redis.exceptions.ResponseError("MISCONF the stream's WRONGTYPE is no matter"),
        redis.exceptions.OutOfMemoryError("command not allowed when used memory"),
    ],
    ids=str,
)
def test_words_of_a_final_error_in_another_are_not_final(error: Exception) -> None:
    assert failure_of("here", error).retryable


def test_a_password_that_was_changed_is_not_sent_with_every_batch(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringdispatch.sinks._connections._FIRST_REFUSAL", 60.0)

    async def main(client: Any) -> None:
        with user_of(client) as us:
            sink = RedisStreamSink(server.url, "S", **us)
            await sink([1])
            client.acl_setuser("us", enabled=True, passwords=["-old", "+new"])
            client.client_kill_filter(user="us")
            client.config_resetstat()
            for _ in range(10):
                error = await failure(sink)
                assert not error.retryable
                assert "the credentials are refused" in str(error)
            assert client.info("commandstats")["cmdstat_auth"]["calls"] <= 2
            await sink.aclose()

    with server.client() as client:
        asyncio.run(main(client))
