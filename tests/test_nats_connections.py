"""Connections to NATS: who we are, whom we trust, and what becomes of broken ones."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import ssl
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")

from loops import comes_true
from nats_servers import NatsServer, cluster_of, on_loop, serving
from ringdispatch import BackgroundDispatcher, Bytes
from ringdispatch.sinks import JetStreamSink, SinkError
from sockets import sockets

SECRET = "s3cr3t-0123456789"


async def send(sink: JetStreamSink, entries: list[Any], **options: Any) -> Any:
    """Dispatch the entries through a dispatcher; returns its statistics."""
    async with BackgroundDispatcher(sink, ms_delay=1, **options) as dispatcher:
        for entry in entries:
            assert dispatcher.enqueue(entry)
    return dispatcher.statistics()


def failure(sink: JetStreamSink, **options: Any) -> SinkError:
    """What a batch fails with."""
    failures: list[BaseException] = []
    options["on_error"] = lambda error, _: failures.append(error)
    assert on_loop(send(sink, [1], **options)).failed == 1
    (error,) = failures
    assert isinstance(error, SinkError)
    return error


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[NatsServer]:
    """One that the test may end."""
    with serving(tmp_path / "nats", "max_payload: 8M") as server:
        server.add_stream()
        yield server


# ---- who we are


AUTHORIZATION = f'authorization {{ user: us, password: "{SECRET}" }}'


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with serving(tmp_path_factory.mktemp("guarded"), AUTHORIZATION) as server:
        adds = lambda js: js.add_stream(name="S", subjects=["orders"])  # noqa: E731
        server.ask(adds, user="us", password=SECRET)
        yield server


def test_credentials_as_arguments(guarded: NatsServer) -> None:
    sink = JetStreamSink(guarded.url, "orders", user="us", password=SECRET)
    assert on_loop(send(sink, [1])).dispatched == 1
    assert SECRET not in repr(sink) + repr(vars(sink))


def test_credentials_from_the_environment(
    guarded: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_USER", "us")
    monkeypatch.setenv("NATS_PASSWORD", SECRET)
    assert on_loop(send(JetStreamSink(guarded.url, "orders"), [1])).dispatched == 1


def test_credentials_that_are_refused(
    guarded: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[BaseException] = []
    sink = JetStreamSink(guarded.url, "orders", user="us", password=SECRET[::-1])
    on_loop(send(sink, [1], on_error=lambda error, _: failures.append(error)))
    (error,) = failures
    assert isinstance(error, SinkError)
    assert not error.retryable
    assert str(error) == f"{guarded.url}: the credentials are refused"
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    said = "".join(shown.format()) + caplog.text
    assert SECRET[::-1] not in said


def test_credentials_that_are_asked_for(guarded: NatsServer) -> None:
    error = failure(JetStreamSink(guarded.url, "orders"))
    assert not error.retryable
    assert str(error) == (
        f"{guarded.url}: it asks for credentials, and none were given: set NATS_USER "
        "and NATS_PASSWORD, NATS_TOKEN or NATS_CREDS"
    )


PERMISSIONS = """max_payload: 8M
    authorization { users: [{ user: us, password: p, permissions:
    { publish: ["$JS.API.>", "orders"], subscribe: [">"] } }] }"""
US: Any = {"user": "us", "password": "p"}


@pytest.fixture
def permitting(tmp_path: Path) -> Iterator[NatsServer]:
    """One where we may publish to a single subject."""
    with serving(tmp_path / "nats", PERMISSIONS) as server:
        server.ask(lambda js: js.add_stream(name="S", subjects=["orders"]), **US)
        yield server


def test_a_subject_that_we_may_not_publish_to(permitting: NatsServer) -> None:
    sink = JetStreamSink(permitting.url, "private", timeout=0.2, **US)
    error = failure(sink, dispatch_timeout=8)
    assert 'permissions violation for publish to "private"' in str(error).lower()
    assert not error.retryable


def test_what_a_server_said_before_a_batch_arrived_is_no_cause_of_a_later_failure(
    permitting: NatsServer,
) -> None:
    sink = JetStreamSink(permitting.url, "orders", timeout=0.2, **US)

    async def main() -> None:
        await sink([1])
        publisher: Any = await sink._connections.get()
        connection = publisher._connection
        await connection.client.publish("private", b"")
        await comes_true(lambda: connection.error)
        await sink([2])
        permitting.pause()
        sink.prepare(None, 0.5)
        try:
            with pytest.raises(SinkError) as caught:
                await sink([3])
        finally:
            permitting.resume()
        assert "violation" not in str(caught.value).lower()
        await sink.aclose()

    on_loop(main())


def test_certificates_of_ones_own(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    own = trustme.CA()
    issued = own.issue_cert("127.0.0.1")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(chain)
    trusts = ssl.create_default_context()
    own.configure_trust(trusts)
    more = f'tls {{ cert_file: "{chain}", key_file: "{key}" }}'
    failures: list[BaseException] = []
    with serving(tmp_path / "nats", more) as server:
        url = server.url.replace("nats:", "tls:")
        server.ask(lambda js: js.add_stream(name="S", subjects=["orders"]), tls=trusts)
        on_loop(send(JetStreamSink(url, "orders", tls=trusts), [1]))
        seen = on_loop(
            send(
                JetStreamSink(url, "orders"),
                [1],
                on_error=lambda error, _: failures.append(error),
            )
        )
    assert seen.failed == 1
    assert "its certificate is not trusted" in str(failures[0])


def test_a_refusal_is_asked_for_again_after_a_while_only(
    guarded: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    sink = JetStreamSink(guarded.url, "orders", user="us", password="no")
    connects = 0
    connect = sink._servers.connect

    async def counting() -> Any:
        nonlocal connects
        connects += 1
        return await connect()

    sink._connections._connect = counting
    seen = on_loop(send(sink, [*range(50)], max_batch=1))
    assert seen.failed == 50
    assert connects <= 3


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (None, "No such file or directory"),
        ("", "it has no line 'BEGIN NATS USER JWT'"),
        ("-----BEGIN NATS USER JWT-----\nx\n", "it has no line 'END NATS USER JWT'"),
    ],
)
def test_a_credentials_file_that_is_none(
    words: str | None, why: str, tmp_path: Path, guarded: NatsServer
) -> None:
    path = tmp_path / "us.creds"
    if words is not None:
        path.write_text(words)
    error = failure(JetStreamSink(guarded.url, "orders", credentials=path))
    assert not error.retryable
    assert f"credentials='{path}': is no .creds file" in str(error)
    assert why in str(error)


def test_nothing_is_told_to_a_server_without_tls(tmp_path: Path) -> None:
    told = b""

    async def main() -> SinkError:
        async def serve(reader: Any, writer: Any) -> None:
            nonlocal told
            info = b'{"server_id":"x","version":"2.10.0","auth_required":true,'
            info += b'"max_payload":1048576,"headers":true,"proto":1}'
            writer.write(b"INFO " + info + b"\r\n")
            told += await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sink = JetStreamSink(
            f"tls://127.0.0.1:{port}", "orders", user="us", password=SECRET
        )
        try:
            with pytest.raises(SinkError) as caught:
                await sink([1])
        finally:
            server.close()
        return caught.value

    error = on_loop(main())
    assert not error.retryable
    assert "it has no TLS: give nats:// if that is meant" in str(error)
    assert told == b""


# ---- what breaks


def test_a_connection_that_breaks_under_calls_leaves_nothing(
    fragile: NatsServer,
) -> None:
    sink = JetStreamSink(fragile.url, "orders")

    async def main() -> None:
        async with BackgroundDispatcher(
            sink, ms_delay=1, max_batch=1, max_in_flight=20, dispatch_timeout=None
        ) as dispatcher:
            dispatcher.enqueue("first")
            assert await dispatcher.aflush()
            before = sockets()
            for _ in range(3):
                fragile.pause()
                for number in range(20):
                    dispatcher.enqueue(number)
                await asyncio.to_thread(fragile.kill)
                await asyncio.to_thread(fragile.start)
                assert await dispatcher.aflush(20)
            assert sockets() <= before

    on_loop(main())


def test_a_server_that_reads_no_more_is_given_up(fragile: NatsServer) -> None:
    sink = JetStreamSink(fragile.url, "orders", timeout=0.5)

    async def main() -> Any:
        layout = Bytes(max_bytes=16 * 2**20)
        async with BackgroundDispatcher(
            sink, ms_delay=1, layout=layout, dispatch_timeout=None
        ) as dispatcher:
            dispatcher.enqueue(b"first")
            assert await dispatcher.aflush()
            fragile.pause()
            try:
                dispatcher.enqueue(b"x" * 7_000_000)
                await comes_true(lambda: sink._outage._since is not None, 20)
            finally:
                fragile.resume()
            assert await dispatcher.aflush(30)
        return dispatcher.statistics()

    assert on_loop(main()).dispatched == 2


def test_calls_that_a_close_cuts_short_leave_no_words_behind(
    fragile: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringdispatch.sinks._engine.SLOWEST", 2**30)
    sink = JetStreamSink(fragile.url, "orders", timeout=0.5)
    told: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["message"]))
        dispatcher = BackgroundDispatcher(
            sink,
            ms_delay=1,
            layout=Bytes(max_bytes=2**26),
            max_batch=1,
            max_in_flight=8,
        )
        dispatcher.enqueue(b"first")
        assert await dispatcher.aflush()
        publisher: Any = await sink._connections.get()
        client = publisher._connection.client
        fragile.pause()
        try:
            for _ in range(8):  # more than a connection takes that nobody reads
                dispatcher.enqueue(b"x" * 3_000_000)
            await comes_true(lambda: len(client._resp_map) == 8 or sink._outage._since)
            assert not await dispatcher.aclose(timeout=0.1)
            await comes_true(lambda: len(asyncio.all_tasks()) == 1)
        finally:
            fragile.resume()
        gc.collect()

    on_loop(main())
    assert told == []


def test_a_connection_that_broke_says_whose_it_was(fragile: NatsServer) -> None:
    sink = JetStreamSink(fragile.url, "orders")

    async def main() -> None:
        await sink([1])
        publisher: Any = await sink._connections.get()
        fragile.kill()
        await comes_true(lambda: not publisher.usable)
        assert str(publisher._connection) == fragile.url
        await sink.aclose()

    on_loop(main())


def test_a_close_that_is_cancelled_leaves_no_socket(fragile: NatsServer) -> None:
    sink = JetStreamSink(fragile.url, "orders")

    async def main() -> None:
        before = sockets()
        await sink([1])
        publisher: Any = await sink._connections.get()
        client = publisher._connection.client
        begun = asyncio.Event()

        async def hang() -> None:
            begun.set()
            await asyncio.Event().wait()

        client.close = hang
        closing = asyncio.create_task(sink.aclose())
        await begun.wait()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await comes_true(lambda: sockets() <= before)

    on_loop(main())


# ---- a cluster with TLS


def test_servers_that_a_cluster_tells_of_have_the_name_of_the_first(
    tmp_path: Path,
) -> None:
    """They are told of by their addresses, which no certificate has."""
    trustme = pytest.importorskip("trustme")
    own = trustme.CA()
    issued = own.issue_cert("localhost")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(chain)
    trusts = ssl.create_default_context()
    own.configure_trust(trusts)
    tls = f'tls {{ cert_file: "{chain}", key_file: "{key}" }}'
    first = NatsServer(tmp_path / "servers", "one")
    others = [NatsServer(tmp_path / "servers", name) for name in ("two", "three")]
    advertised = ", ".join(f'"127.0.0.1:{each.port}"' for each in others)
    assert advertised
    routes = cluster_of([first, *others])
    for server, route in zip([first, *others], routes, strict=True):
        server.configure(server.name, f"{tls}\n{route}")
    with contextlib.ExitStack() as stack:
        for server in [first, *others]:
            stack.callback(server.stop)
            server.start()
        url = first.url.replace("nats://127.0.0.1", "tls://localhost")

        def add(js: Any) -> Any:
            return js.add_stream(name="S", subjects=["orders"], num_replicas=3)

        deadline = time.monotonic() + 30
        while True:
            try:
                first.ask(add, tls=trusts, tls_hostname="localhost")
                break
            except Exception:  # no leader yet
                if time.monotonic() > deadline:
                    raise
        sink = JetStreamSink(url, "orders", tls=trusts)

        async def main() -> Any:
            async with BackgroundDispatcher(
                sink, ms_delay=1, dispatch_timeout=None
            ) as dispatcher:
                dispatcher.enqueue(1)
                assert await dispatcher.aflush()
                await asyncio.to_thread(first.kill)
                dispatcher.enqueue(2)
                assert await dispatcher.aflush(40)
            return dispatcher.statistics()

        assert on_loop(main()).dispatched == 2


# ---- bad input


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"user": "us"}, "password: must be given, too, or NATS_PASSWORD be set"),
        ({"password": SECRET}, "user: must be given, too, or NATS_USER be set"),
    ],
)
def test_half_of_who_we_are_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        JetStreamSink("nats://127.0.0.1:1", "orders", **options)
