"""RedisStreamSink and a relay from a Redis stream, with real redis-servers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("redis")

from loops import comes_true
from redis_servers import RedisServer, serving_redis
from ringdispatch import BackgroundDispatcher, Bytes, Records
from ringdispatch.relay import RedisStreamSource, Relay, SourceError, _redis_stream
from ringdispatch.sinks import RedisStreamSink, SinkError
from ringdispatch.sinks._messages import decode
from sources import Target

SECRET = "s3cr3t-0123456789"
URL = "redis://127.0.0.1:6379/0"
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(module_server: RedisServer) -> RedisServer:
    with module_server.client() as client:
        client.flushall()
    return module_server


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[RedisServer]:
    """One that the test may end."""
    with serving_redis(tmp_path / "redis", *DURABLE) as server:
        yield server


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringdispatch.relay._calls._LONGEST_PAUSE", 0.05)


def on_loop(main: Any) -> Any:
    """Run it, with a deadline."""

    async def limited() -> Any:
        async with asyncio.timeout(60):
            return await main

    return asyncio.run(limited())


def arrived(server: RedisServer, stream: str = "S") -> list[Any]:
    """The entries in the stream, in order."""
    entries: list[Any] = []
    for fields in server.messages(stream):
        body = fields.pop("body")
        headers = {name: value.decode() for name, value in fields.items()}
        entries += list(decode(headers, body).entries)
    return entries


async def send(
    server: RedisServer, entries: list[Any], *, sink: Any = None, **options: Any
) -> Any:
    """Dispatch the entries; returns the dispatcher's statistics."""
    sink = sink or RedisStreamSink(server.url, "S")
    async with BackgroundDispatcher(sink, **{"ms_delay": 1, **options}) as dispatcher:
        for entry in entries:
            assert dispatcher.enqueue(entry)
    return dispatcher.statistics()


def failure(sink: RedisStreamSink, **options: Any) -> SinkError:
    """What a batch fails with."""
    failures: list[BaseException] = []
    options["on_error"] = lambda error, _: failures.append(error)
    assert on_loop(send(None, [1], sink=sink, **options)).failed == 1  # type: ignore[arg-type]
    (error,) = failures
    assert isinstance(error, SinkError)
    return error


async def relaying(
    server: RedisServer,
    target: Any,
    until: Callable[[Relay], object],
    **options: Any,
) -> Relay:
    """Relay until the condition holds, and stop in order."""
    source = RedisStreamSource(
        server.url, "S", dead_letters=options.get("replay", False)
    )
    relay = Relay(source, target, **{"ms_delay": 20, **options})
    running = asyncio.create_task(relay.run())
    try:
        await comes_true(lambda: running.done() or until(relay), 40)
    finally:
        relay.stop()
        await asyncio.wait([running])
    running.result()
    return relay


# ---- the sink


@pytest.mark.parametrize(
    ("layout", "entries"),
    [
        (None, [{"n": 1}, "two"]),
        (Bytes(), [b"one", b"two\nlines", b""]),
        (Records(np.dtype("i4,i4")), [(1, 2), (3, 4)]),
    ],
    ids=repr,
)
def test_a_batch_is_a_message(
    server: RedisServer, layout: Any, entries: list[Any]
) -> None:
    options = {} if layout is None else {"layout": layout}
    assert on_loop(send(server, entries, **options)).dispatched == len(entries)
    found = arrived(server)
    assert [each.tolist() if hasattr(each, "tolist") else each for each in found] == (
        entries
    )


def test_a_batch_larger_than_a_message_may_be_goes_in_pieces(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringdispatch.sinks._redis_stream.LARGEST", 1_000)
    entries = [b"x" * 100 for _ in range(100)]
    on_loop(send(server, entries, layout=Bytes()))
    assert arrived(server) == entries
    assert len(server.messages()) >= 10


def test_a_server_that_crashes_and_comes_back_gets_all(fragile: RedisServer) -> None:
    sink = RedisStreamSink(fragile.url, "S")

    async def main() -> Any:
        async with BackgroundDispatcher(
            sink, ms_delay=1, max_batch=1, dispatch_timeout=None
        ) as dispatcher:
            for number in range(3):
                dispatcher.enqueue(number)
                assert await dispatcher.aflush()
                await asyncio.to_thread(fragile.kill)
                dispatcher.enqueue(number + 100)
                await comes_true(lambda: sink._outage._since is not None)
                await asyncio.to_thread(fragile.start)
                assert await dispatcher.aflush(20)
        return dispatcher.statistics()

    assert on_loop(main()).dispatched == 6
    assert set(arrived(fragile)) == {0, 1, 2, 100, 101, 102}


def test_a_memory_that_is_full_until_there_is_room(server: RedisServer) -> None:
    sink = RedisStreamSink(server.url, "S")
    with server.client() as client:
        client.config_set("maxmemory", "1")
        try:

            async def main() -> Any:
                async with BackgroundDispatcher(
                    sink, ms_delay=1, dispatch_timeout=None
                ) as dispatcher:
                    dispatcher.enqueue(1)
                    await comes_true(lambda: sink._outage._since is not None)
                    client.config_set("maxmemory", "0")
                    assert await dispatcher.aflush(20)

            on_loop(main())
        finally:
            client.config_set("maxmemory", "0")
    assert arrived(server) == [1]


def test_a_key_that_is_no_stream(server: RedisServer) -> None:
    with server.client() as client:
        client.set("S", "a string")
    error = failure(RedisStreamSink(server.url, "S"))
    assert not error.retryable
    assert f"{server.url}: stream 'S': WRONGTYPE" in str(error)


def test_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_redis(tmp_path, "--requirepass", SECRET) as server:
        sink = RedisStreamSink(server.url, "S", password=SECRET)
        assert on_loop(send(server, [1], sink=sink)).dispatched == 1
        assert SECRET not in repr(sink)
        for password, why in (
            (SECRET[::-1], "the credentials are refused"),
            (None, "credentials, and none were given: set REDIS_PASSWORD, and REDIS_U"),
        ):
            error = failure(RedisStreamSink(server.url, "S", password=password))
            assert not error.retryable
            assert why in str(error)
            assert SECRET[::-1] not in str(error)
        monkeypatch.setenv("REDIS_PASSWORD", SECRET)
        sink = RedisStreamSink(server.url, "S")
        assert on_loop(send(server, [1], sink=sink)).dispatched == 1


def test_certificates_of_ones_own(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    own = trustme.CA()
    issued = own.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    own.cert_pem.write_to_path(tmp_path / "ca.pem")
    trusts = ssl.create_default_context()
    own.configure_trust(trusts)
    with serving_redis(
        tmp_path / "redis",
        *("--tls-cert-file", str(tmp_path / "chain.pem")),
        *("--tls-key-file", str(tmp_path / "key.pem")),
        *("--tls-ca-cert-file", str(tmp_path / "ca.pem")),
        *("--tls-auth-clients", "no", "--tls-port", "0"),
    ) as server:
        from serving import free_port

        port = free_port()
        with server.client() as client:
            client.config_set("tls-port", port)
        url = f"rediss://127.0.0.1:{port}"
        sink = RedisStreamSink(url, "S", tls=trusts)
        assert on_loop(send(server, [1], sink=sink)).dispatched == 1
        error = failure(RedisStreamSink(url, "S"))
        assert not error.retryable
        assert "its certificate is not trusted" in str(error)


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((1, "S"), {}, TypeError, "url: must be a string, not int"),
        (("http://x", "S"), {}, ValueError, "'http://x': must be redis://"),
        (("redis://x/y", "S"), {}, ValueError, "'redis://x/y': must be redis://"),
        (
            ("redis://x:y", "S"),
            {},
            ValueError,
            "'redis://x:y': its host or port is not",
        ),
        (
            (f"redis://x:{SECRET}/@y", "S"),
            {},
            ValueError,
            "url: its host or port is no",
        ),
        ((f"redis://:{SECRET}@x", "S"), {}, ValueError, "credentials.*REDIS_PASSWORD"),
        ((f"redis://x?password={SECRET}", "S"), {}, ValueError, "has credentials"),
        ((URL, ""), {}, ValueError, "stream='': must not be empty"),
        ((URL, 1), {}, TypeError, "stream=1: must be a string"),
        ((URL, "S"), {"timeout": 0}, ValueError, "timeout=0: must be"),
        ((URL, "S"), {"password": 1}, TypeError, "password: must be a string, not int"),
        ((URL, "S"), {"username": "us"}, ValueError, "password: must be given, too"),
        (
            (URL, "S"),
            {"tls": ssl.create_default_context()},
            ValueError,
            "tls: is for rediss://",
        ),
    ],
)
def test_bad_input_is_refused_by_its_name(
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message) as caught:
        RedisStreamSink(*arguments, **options)
    assert SECRET not in str(caught.value)


# ---- the relay


def test_all_arrives_with_ids_and_is_removed(server: RedisServer) -> None:
    target = Target()

    async def main() -> None:
        await send(server, [*range(1_000)], max_batch=10)
        await relaying(server, target, lambda _: len(target.records) == 1_000)

    on_loop(main())
    assert target.records == [*range(1_000)]
    assert len(set(target.ids)) == 1_000
    assert server.messages() == []


def test_what_another_group_reads_is_not_removed(server: RedisServer) -> None:
    target = Target()
    with server.client() as client:
        client.xgroup_create("S", "other", "0", mkstream=True)

    async def main() -> None:
        await send(server, [1, 2])
        await relaying(server, target, lambda _: len(target.records) == 2)

    on_loop(main())
    assert arrived(server) == [1, 2]


def test_a_relay_that_dies_leaves_its_messages_to_another(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_stream, "_HOLD_SECONDS", 0.2)
    target = Target()
    with server.client() as client:
        client.xgroup_create("S", "ringdispatch", "0", mkstream=True)

    async def main() -> Relay:
        await send(server, [1, 2])
        with server.client() as client:
            assert client.xreadgroup("ringdispatch", "dead", {"S": ">"})
        return await relaying(server, target, lambda _: len(target.records) == 2)

    relay = on_loop(main())
    assert target.records == [1, 2]
    assert relay.counts.redelivered == 1


def test_a_stop_gives_back_at_once(server: RedisServer) -> None:
    """With ten seconds until a message is free, another relay has it now."""
    target = Target()
    target.away = True

    async def main() -> None:
        await send(server, [1])
        await relaying(server, target, lambda _: target.calls, grace=0.01)
        target.away = False
        await relaying(server, target, lambda _: target.records)

    on_loop(main())
    assert target.records == [1]


def test_poison_is_parked_and_replayed(server: RedisServer) -> None:
    target = Target()
    target.refuses = {7}

    async def main() -> None:
        await send(server, [*range(20)], max_batch=1)
        with server.client() as client:
            client.xadd("S", {"not": "ours"})

        async def more() -> None:
            for number in range(100, 10_000):
                await send(server, [number])

        sending = asyncio.create_task(more())
        await relaying(server, target, lambda relay: relay.counts.parked == 2)
        sending.cancel()
        target.refuses = set()
        relay = await relaying(server, target, lambda _: False, replay=True)
        assert relay.counts.parked == 1

    on_loop(main())
    assert set(range(20)) <= set(target.records)
    (left,) = server.messages("S-dead")
    assert left["not"] == b"ours"
    assert left["Ringdispatch-Reason"] == b"it has no header Ringdispatch-Version"


def test_a_server_that_crashes_under_a_relay_loses_nothing(
    fragile: RedisServer,
) -> None:
    target = Target()

    def more_than(count: int, _: Relay | None = None) -> bool:
        return len(set(target.records)) >= count

    async def main() -> None:
        options = {"max_batch": 10, "dispatch_timeout": None}
        sending = asyncio.create_task(send(fragile, [*range(1_000)], **options))
        running = asyncio.create_task(
            relaying(fragile, target, partial(more_than, 1_000))
        )
        for taken in (1, 300, 600):
            await comes_true(partial(more_than, taken), 30)
            await asyncio.to_thread(fragile.kill)
            await asyncio.to_thread(fragile.start)
        await running
        await sending

    on_loop(main())
    assert set(target.records) == {*range(1_000)}


def test_a_group_that_is_removed_ends_the_relay(server: RedisServer) -> None:
    async def main() -> None:
        async def remove() -> None:
            with server.client() as client:
                await comes_true(lambda: client.exists("S"))
                await asyncio.sleep(0.1)
                client.xgroup_destroy("S", "ringdispatch")

        removing = asyncio.create_task(remove())
        await relaying(server, Target(), lambda _: False)
        await removing

    with pytest.raises(SourceError, match="group 'ringdispatch' is not there any more"):
        on_loop(main())


def test_what_the_server_may_lose_is_told(tmp_path: Path) -> None:
    async def warnings(server: RedisServer) -> list[str]:
        source = RedisStreamSource(server.url, "S")
        try:
            found = (await source.open()).warnings
            return [line for line in found if "was not there" not in line]
        finally:
            await source.close()

    bounded = ("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")
    with serving_redis(tmp_path / "one") as server:
        (line,) = on_loop(warnings(server))
        assert "appendonly is no" in line
    with serving_redis(tmp_path / "two", *DURABLE, *bounded) as server:
        (line,) = on_loop(warnings(server))
        assert "maxmemory-policy is allkeys-lru: the server may remove" in line
    with serving_redis(tmp_path / "three", *DURABLE) as server:
        assert on_loop(warnings(server)) == []
