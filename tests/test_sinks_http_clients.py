"""HttpSink against a real server: secrets, loops, sessions, forks, certificates."""

from __future__ import annotations

import asyncio
import logging
import ssl
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

import aiohttp

from answering import Answer, Answering, answering, failing, sending
from ringdispatch import BackgroundDispatcher
from ringdispatch.sinks import HttpSink, SinkError
from ringdispatch.sinks._client import Exchange
from subprocesses import needs_fork, run_snippet

SECRET = "s3cr3t-0123456789"


# ---- secrets


@pytest.mark.parametrize(
    "answer",
    [
        Answer(403, body=f"no such key: {SECRET}, {SECRET}".encode()),
        Answer(403, body=b"x" * 195 + SECRET.encode()),
        Answer(302, {"Location": f"http://x/?{SECRET}"}),
        Answer(instead="garbage"),
        Answer(instead="reset"),
        Answer(instead="stall"),
    ],
)
def test_no_secret_in_message_log_repr_or_traceback(
    server: Answering, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.always = answer
    sink = HttpSink(
        f"{server.url}/{SECRET}?key={SECRET}",
        headers={"Authorization": f"Bearer {SECRET}"},
        timeout=0.2,
    )
    caught: list[BaseException] = []

    async def main() -> None:
        async with BackgroundDispatcher(
            sink, ms_delay=1, on_error=lambda error, _: caught.append(error)
        ) as dispatcher:
            dispatcher.enqueue(1)

    asyncio.run(main())
    (error,) = caught
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    texts = [str(error), repr(error), repr(sink), str(sink), *shown.format()]
    texts += [record.getMessage() for record in caplog.records]
    texts += [record.exc_text or "" for record in caplog.records]
    assert SECRET[:8] not in "\n".join(texts)
    assert error.__context__ is None
    assert isinstance(error, SinkError)


@pytest.mark.parametrize("instead", ["stall", "half"])
def test_cancelled_call_has_no_secret_in_its_traceback(
    server: Answering, instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanges: list[Exchange] = []

    def make() -> Exchange:
        exchanges.append(Exchange())
        return exchanges[-1]

    def is_waiting() -> bool:
        return bool(exchanges[-1].status if instead == "half" else server.requests)

    monkeypatch.setattr("ringdispatch.sinks._post.Exchange", make)
    server.always = Answer(instead=instead)
    sink = HttpSink(
        f"{server.url}/{SECRET}?key={SECRET}",
        headers={"Authorization": f"Bearer {SECRET}"},
    )

    async def main() -> None:
        task = asyncio.ensure_future(sink([1]))
        await asyncio.sleep(0)
        while not is_waiting():  # noqa: ASYNC110, nothing says so
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        shown = traceback.TracebackException.from_exception(
            raised.value, capture_locals=True
        )
        assert "_post" in "".join(shown.format())
        assert SECRET[:8] not in "".join(shown.format())
        assert raised.value.__context__ is None
        await sink.aclose()

    asyncio.run(main())


def test_secrets_of_an_own_session_are_hidden_too(server: Answering) -> None:
    server.always = Answer(403, body=f"no such key: {SECRET}".encode())

    def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET}"})

    error = failing(HttpSink(server.url, session=make), [1])
    assert str(error).endswith("answered 403 No: 'no such key: ***'")


# ---- loops, sessions, forks


def test_client_is_made_anew_for_each_loop(server: Answering) -> None:
    sink = HttpSink(server.url)
    dispatcher = BackgroundDispatcher(sink, ms_delay=1)

    async def main(number: int) -> None:
        dispatcher.enqueue(number)
        assert await dispatcher.aflush()

    for number in range(2):
        asyncio.run(main(number))
    dispatcher.enqueue(2)  # on the background thread
    assert dispatcher.close()
    assert server.arrived == [0, 1, 2]
    assert server.connections == 3
    assert dispatcher.statistics().failed == 0


def test_loop_that_is_dropped_leaves_nothing_to_warn_of(server: Answering) -> None:
    sink = HttpSink(server.url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(sink([1]))
    loop.run_until_complete(loop.shutdown_default_executor())
    server.drop_connections()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    sending(sink, [2])
    assert server.arrived == [1, 2]


def test_sink_that_nothing_closes_closes_its_connections(server: Answering) -> None:
    async def on_its_loop() -> None:
        sink = HttpSink(server.url)
        await sink([1])
        session = session_of(sink)
        del sink
        async with asyncio.timeout(10):
            while not session.closed:  # noqa: ASYNC110, nothing says so
                await asyncio.sleep(0.001)

    asyncio.run(on_its_loop())
    sinks = [HttpSink(server.url)]

    async def without() -> None:
        await sinks[0]([2])
        server.drop_connections()
        await asyncio.sleep(0.01)

    asyncio.run(without())
    session = session_of(sinks.pop())
    assert session.closed
    assert server.arrived == [1, 2]


def session_of(sink: HttpSink[Any]) -> aiohttp.ClientSession:
    (client,) = sink._clients.values()
    return client.session


def test_own_session_is_used_and_left_open(server: Answering) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession(headers={"X-Mine": "yes"}) as session:
            sink = HttpSink(server.url, session=session)
            async with BackgroundDispatcher(sink, ms_delay=1) as dispatcher:
                dispatcher.enqueue(1)
            assert not session.closed

    asyncio.run(main())
    assert server.requests[0].headers["x-mine"] == "yes"


def test_function_makes_the_session_on_each_loop(server: Answering) -> None:
    made: list[aiohttp.ClientSession] = []

    def make() -> aiohttp.ClientSession:
        made.append(aiohttp.ClientSession())
        return made[-1]

    sink = HttpSink(server.url, session=make)
    sending(sink, [1], [2])
    sending(sink, [3])
    assert len(made) == 2
    assert all(session.closed for session in made)
    assert server.arrived == [1, 2, 3]


def test_function_that_makes_something_else_fails_by_name(server: Answering) -> None:
    made: Any = dict
    sink = HttpSink(server.url, session=made)
    with pytest.raises(TypeError, match=r"made an object of type dict: must make an"):
        sending(sink, [1])


def test_session_of_another_loop_fails_by_name(server: Answering) -> None:
    sinks: list[HttpSink[Any]] = []

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            sinks.append(HttpSink(server.url, session=session))
            await sinks[0]([1])

    asyncio.run(main())
    assert "works on its own loop only" in str(failing(sinks[0], [2]))
    assert server.arrived == [1]


def test_proxy_that_refuses_is_named(server: Answering) -> None:
    server.always = Answer(407)

    def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(proxy=server.url)

    error = failing(HttpSink("https://logs.example.com/", session=make), [1])
    assert "its proxy answered 407 No" in str(error)
    assert not error.retryable


def test_session_that_was_closed_fails_by_name(server: Answering) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            sink = HttpSink(server.url, session=session)
        with pytest.raises(SinkError, match="can't be sent: RuntimeError"):
            await sink([1])

    asyncio.run(main())


@needs_fork
def test_forked_child_opens_its_own_connection(server: Answering) -> None:
    ended = run_snippet(
        f"""
        from ringdispatch.sinks import HttpSink

        sink = HttpSink({server.url!r})
        dispatcher = BackgroundDispatcher(sink, ms_delay=1)
        dispatcher.enqueue("parent")
        assert dispatcher.flush()
        if (child := os.fork()) == 0:
            dispatcher.enqueue("child")
            assert dispatcher.close()
            sys.exit()
        os.waitpid(child, 0)
        dispatcher.enqueue("parent again")
        assert dispatcher.close()
        """,
        warnings=("ignore:.*fork:DeprecationWarning",),
    )
    assert ended.stdout == ""
    assert server.arrived == ["parent", "child", "parent again"]
    assert [request.connection for request in server.requests] == [1, 2, 1]


def test_program_that_just_ends_sends_all_and_prints_nothing(
    server: Answering,
) -> None:
    run_snippet(
        f"""
        from ringdispatch.sinks import HttpSink

        dispatcher = BackgroundDispatcher(HttpSink({server.url!r}), ms_delay=60_000)

        async def main():
            dispatcher.enqueue("in a loop")

        asyncio.run(main())
        dispatcher.enqueue("without")
        """
    )
    assert server.arrived == ["in a loop", "without"]


# ---- TLS


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[tuple[Answering, Path]]:
    trustme = pytest.importorskip("trustme")
    own = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.issue_cert("localhost").configure_cert(context)
    path = tmp_path / "ca.pem"
    own.cert_pem.write_to_path(str(path))
    with answering(context) as running:
        yield running, path


def test_certificates_are_checked(authority: tuple[Answering, Path]) -> None:
    server, _ = authority
    error = failing(HttpSink(server.url), [1])
    assert "its certificate is not trusted" in str(error)
    assert not error.retryable
    assert server.requests == []


def test_certificate_of_a_trusted_authority(authority: tuple[Answering, Path]) -> None:
    server, path = authority
    context = ssl.create_default_context(cafile=str(path))

    def make() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))

    sending(HttpSink(server.url, session=make), [1])
    assert server.arrived == [1]
    wrong = server.url.replace("localhost", "127.0.0.1")
    error = failing(HttpSink(wrong, session=make), [2])
    assert "its certificate is not trusted" in str(error)
