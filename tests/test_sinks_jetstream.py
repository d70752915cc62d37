"""JetStreamSink against a real nats-server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nats")

from loops import comes_true
from nats_servers import NatsServer, on_loop, serving
from ringdispatch import BackgroundDispatcher, Bytes, Records, current_batch
from ringdispatch.sinks import JetStreamSink, SinkError
from ringdispatch.sinks._messages import decode
from subprocesses import needs_fork, run_snippet
from support import logged

SECRET = "s3cr3t-0123456789"


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with serving(tmp_path_factory.mktemp("nats"), "max_payload: 64K") as server:
        yield server


@pytest.fixture
def server(module_server: NatsServer) -> Iterator[NatsServer]:
    with module_server.cleared():
        yield module_server


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[NatsServer]:
    """One that the test may end."""
    with serving(tmp_path / "nats") as server:
        server.add_stream()
        yield server


def arrived(server: NatsServer) -> list[Any]:
    """The entries in the stream, in order."""
    read = [decode(each.headers, each.data) for each in server.messages()]
    return [entry for each in read for entry in list(each.entries)]


async def send(sink: Any, entries: list[Any], **options: Any) -> Any:
    """Dispatch the entries through a dispatcher; returns its statistics."""
    async with BackgroundDispatcher(sink, ms_delay=1, **options) as dispatcher:
        for entry in entries:
            assert dispatcher.enqueue(entry)
    return dispatcher.statistics()


async def send_and_close(
    function: Any, entries: list[Any], *sinks: JetStreamSink
) -> None:
    """As `send`, by a function that calls sinks: they are its own to close."""
    await send(function, entries)
    for sink in sinks:
        await sink.aclose()


def sending(
    sink: Any, entries: list[Any], meanwhile: Callable[[], object], **options: Any
) -> Any:
    """Dispatch the entries, and do something in a thread once the sink has failed."""

    async def main() -> Any:
        async with BackgroundDispatcher(sink, ms_delay=1, **options) as dispatcher:
            for entry in entries:
                assert dispatcher.enqueue(entry)
            await comes_true(lambda: sink._outage._since is not None)
            await asyncio.to_thread(meanwhile)
            assert await dispatcher.aclose(30)
        return dispatcher.statistics()

    return on_loop(main())


# ---- what arrives


def test_a_batch_is_a_message(server: NatsServer) -> None:
    sink = JetStreamSink(server.url, "orders")
    seen = on_loop(send(sink, [{"order": number} for number in range(100)]))
    assert seen.dispatched == 100
    assert arrived(server) == [{"order": number} for number in range(100)]
    assert len(server.messages()) == seen.batches


def test_entries_of_bytes_go_as_they_were_encoded(server: NatsServer) -> None:
    entries = [b"one", b"two\nlines", b""]
    seen = on_loop(send(JetStreamSink(server.url, "orders"), entries, layout=Bytes()))
    assert seen.dispatched == 3
    assert arrived(server) == entries


def test_records_go_as_an_array(server: NatsServer) -> None:
    dtype = np.dtype([("status", "i4"), ("path", "S8")])
    rows = [(200, b"/"), (404, b"/x")]
    sink = JetStreamSink([server.url], "orders")
    on_loop(send(sink, rows, layout=Records(dtype)))
    assert [row.tolist() for row in arrived(server)] == rows


def test_the_id_is_that_of_the_batch(server: NatsServer) -> None:
    ids = []

    class Noting(JetStreamSink):
        async def __call__(self, batch: Any) -> None:
            info = current_batch()
            assert info is not None
            ids.append(info.id)
            await super().__call__(batch)
            await super().__call__(batch)  # the stream knows it

    sink = Noting(server.url, "orders")
    on_loop(send(sink, [b"one", b"two"], layout=Bytes()))
    assert [each.headers["Nats-Msg-Id"] for each in server.messages()] == [
        f"{each}@orders" for each in ids
    ]
    assert arrived(server) == [b"one", b"two"]


def test_a_batch_may_go_to_several_subjects_of_a_stream(
    module_server: NatsServer,
) -> None:
    sinks = [JetStreamSink(module_server.url, f"both.{each}") for each in "ab"]
    module_server.add_stream("S", "both.*")
    try:

        async def both(batch: Any) -> None:
            for sink in sinks:
                await sink(batch)

        on_loop(send_and_close(both, [1, 2], *sinks))
        assert arrived(module_server) == [1, 2, 1, 2]
    finally:
        module_server.ask(lambda js: js.delete_stream("S"))


def test_another_list_of_as_many_entries_has_another_id(server: NatsServer) -> None:
    sink = JetStreamSink(server.url, "orders")

    async def twice(batch: list[Any]) -> None:
        await sink(batch)
        await sink([{"copy": entry} for entry in batch])

    on_loop(send_and_close(twice, [1, 2], sink))
    assert arrived(server) == [1, 2, {"copy": 1}, {"copy": 2}]


def test_a_list_that_was_cut_in_place_has_another_id(server: NatsServer) -> None:
    sink = JetStreamSink(server.url, "orders")

    async def cut(batch: list[Any]) -> None:
        await sink(batch)
        del batch[0]
        await sink(batch)

    on_loop(send_and_close(cut, [1, 2], sink))
    assert arrived(server) == [1, 2, 2]


def test_an_account_that_is_full_until_there_is_room(tmp_path: Path) -> None:
    more = """accounts {{ A {{ users: [{{ user: a, password: p }}], jetstream
        {{ max_file: {most}, max_streams: 9 }} }} }}"""
    own: Any = {"user": "a", "password": "p"}
    with serving(tmp_path, more.format(most=20_000)) as server:
        server.ask(lambda js: js.add_stream(name="S", subjects=["orders"]), **own)
        sink = JetStreamSink(server.url, "orders", **own)
        entries = ["x" * 9_000] * 4
        seen = sending(
            sink,
            entries,
            lambda: server.ask(lambda js: js.purge_stream("S"), **own),
            max_batch=1,
            dispatch_timeout=None,
        )
    assert seen.dispatched == 4


def test_a_batch_larger_than_the_server_takes_goes_in_pieces(
    server: NatsServer,
) -> None:
    entries = [bytes([65 + number % 26]) * 1_000 for number in range(300)]
    sink = JetStreamSink(server.url, "orders")
    layout = Bytes(max_bytes=1_000_000)
    seen = on_loop(send(sink, entries, layout=layout, capacity=1_024))
    assert (seen.dispatched, seen.batches) == (300, 1)
    assert arrived(server) == entries
    messages = server.messages()
    assert 300_000 // 65_536 < len(messages) <= 8
    ids = {decode(each.headers, each.data).batch for each in messages}
    assert len(ids) == 1
    assert len({each.headers["Nats-Msg-Id"] for each in messages}) == len(messages)


def test_a_batch_larger_than_the_stream_takes_goes_in_pieces(
    module_server: NatsServer,
) -> None:
    module_server.add_stream(max_msg_size=2_000)
    try:
        entries = [b"x" * 100 for _ in range(100)]
        sink = JetStreamSink(module_server.url, "orders")
        on_loop(send(sink, entries, layout=Bytes()))
        assert arrived(module_server) == entries
    finally:
        module_server.ask(lambda js: js.delete_stream("S"))


@pytest.mark.parametrize(
    ("most", "size", "whose"),
    [(-1, 70_000, "that nats:"), (2_000, 3_000, "the stream")],
)
def test_an_entry_that_is_too_large_fails_its_batch_and_the_rest_arrives(
    module_server: NatsServer, most: int, size: int, whose: str
) -> None:
    module_server.add_stream(max_msg_size=most)
    try:
        failures: list[BaseException] = []
        seen = on_loop(
            send(
                JetStreamSink(module_server.url, "orders"),
                [b"one", b"x" * size, b"two"],
                layout=Bytes(),
                on_error=lambda error, _: failures.append(error),
            )
        )
        assert seen.failed == 3
        assert arrived(module_server) == [b"one", b"two"]
    finally:
        module_server.ask(lambda js: js.delete_stream("S"))
    (error,) = failures
    assert isinstance(error, SinkError)
    assert not error.retryable
    assert "2 of 3 entries arrived" in str(error)
    assert f"{size + 1:,} B of" in str(error)
    assert whose in str(error)


# ---- the engine is away


def test_a_server_that_crashes_and_comes_back_gets_all(
    fragile: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ringdispatch")
    sink = JetStreamSink(fragile.url, "orders", timeout=1)
    fragile.kill()
    seen = sending(sink, [*range(50)], fragile.start)
    assert (seen.dispatched, seen.failed) == (50, 0)
    assert arrived(fragile) == [*range(50)]
    warnings = logged(caplog, logging.WARNING)
    assert len(warnings) == 1, "once an outage"
    assert "it is tried again" in warnings[0]
    assert "works again" in logged(caplog, logging.INFO)[-1]


def test_a_server_that_crashes_under_a_connection(fragile: NatsServer) -> None:
    sink = JetStreamSink(fragile.url, "orders", timeout=1)

    async def main() -> None:
        async with BackgroundDispatcher(sink, ms_delay=1) as dispatcher:
            for turn in range(3):
                dispatcher.enqueue(turn)
                assert await dispatcher.aflush(20)
                await asyncio.to_thread(fragile.kill)
                dispatcher.enqueue(-turn)
                await comes_true(lambda: sink._outage._since is not None)
                await asyncio.to_thread(fragile.start)
                await comes_true(lambda: sink._outage._since is None)
            assert await dispatcher.aclose(30)

    on_loop(main())
    assert sorted(arrived(fragile)) == [-2, -1, 0, 0, 1, 2]


def test_a_message_whose_acknowledgement_is_late_is_there_once(
    fragile: NatsServer,
) -> None:
    sink = JetStreamSink(fragile.url, "orders", timeout=0.2)

    async def main() -> None:
        async with BackgroundDispatcher(sink, ms_delay=1) as dispatcher:
            dispatcher.enqueue("before")
            await comes_true(lambda: dispatcher.statistics().dispatched == 1)
            fragile.pause()
            dispatcher.enqueue("late")
            await comes_true(lambda: sink._outage._since is not None)
            fragile.resume()
            assert await dispatcher.aclose(30)

    on_loop(main())
    assert arrived(fragile) == ["before", "late"]


def test_a_stream_that_is_made_later(module_server: NatsServer) -> None:
    sink = JetStreamSink(module_server.url, "later")

    def make() -> None:
        module_server.add_stream("L", "later")

    try:
        assert sending(sink, [1], make).dispatched == 1
        assert len(module_server.messages("L")) == 1
    finally:
        module_server.ask(lambda js: js.delete_stream("L"))


def test_a_stream_that_is_full_until_there_is_room(module_server: NatsServer) -> None:
    module_server.add_stream(max_msgs=1, discard="new")
    try:
        sink = JetStreamSink(module_server.url, "orders")
        on_loop(send(sink, [1]))
        make_room = lambda: module_server.ask(lambda js: js.purge_stream("S"))  # noqa: E731
        assert sending(sink, [2], make_room).dispatched == 1
        assert arrived(module_server) == [2]
    finally:
        module_server.ask(lambda js: js.delete_stream("S"))


def test_what_never_succeeds_says_why_within_the_time_of_the_dispatcher(
    module_server: NatsServer,
) -> None:
    failures: list[BaseException] = []
    began = time.monotonic()
    seen = on_loop(
        send(
            JetStreamSink(module_server.url, "nowhere"),
            [1],
            dispatch_timeout=1,
            on_error=lambda error, _: failures.append(error),
        )
    )
    assert time.monotonic() - began >= 0.9
    assert seen.failed == 1
    (error,) = failures
    assert isinstance(error, SinkError)
    assert error.retryable
    assert f"{module_server.url}: subject 'nowhere': no stream takes it" in str(error)


# ---- loops and processes


def test_each_loop_has_a_connection_of_its_own(server: NatsServer) -> None:
    sink = JetStreamSink(server.url, "orders")
    for number in range(3):
        on_loop(send(sink, [number]))
        assert sink._connections._places == {}
    assert arrived(server) == [0, 1, 2]


def test_end_of_a_loop_without_a_close_delivers(server: NatsServer) -> None:
    """`asyncio.run` cancels the client's tasks before the last batch goes out."""
    outcome = run_snippet(
        f"""
        from ringdispatch.sinks import JetStreamSink
        sink = JetStreamSink({server.url!r}, "orders", timeout=1)
        dispatcher = BackgroundDispatcher(sink, ms_delay=60_000)
        async def main():
            dispatcher.enqueue(1)
            assert await dispatcher.aflush()
            dispatcher.enqueue(2)
        run(main())
        books(dispatcher)
        """
    )
    assert outcome.lines == ["accepted=2 dispatched=2"]
    assert arrived(server) == [1, 2]


@needs_fork
def test_a_forked_child_connects_by_itself(server: NatsServer) -> None:
    outcome = run_snippet(
        f"""
        from ringdispatch.sinks import JetStreamSink
        sink = JetStreamSink({server.url!r}, "orders")
        dispatcher = BackgroundDispatcher(sink, ms_delay=1, home="thread")
        with dispatcher:
            dispatcher.enqueue("parent")
            assert dispatcher.flush()
            child = os.fork()
            if not child:
                dispatcher.enqueue("child")
                assert dispatcher.flush()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            dispatcher.enqueue("parent again")
        books(dispatcher)
        """,
        warnings=("ignore:.*multi-threaded:DeprecationWarning",),
    )
    assert outcome.lines == ["accepted=2 dispatched=2"]
    assert arrived(server) == ["parent", "child", "parent again"]


# ---- bad input

URL = "nats://127.0.0.1:4222"


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((1, "s"), {}, TypeError, "servers: must be a url or several, not int"),
        (([1], "s"), {}, TypeError, "servers: must be strings, not int"),
        (([], "s"), {}, ValueError, "servers: must have a url at least"),
        (
            ("localhost:4222", "s"),
            {},
            ValueError,
            "must be nats://host:port, or tls://",
        ),
        (("http://x", "s"), {}, ValueError, "'http://x': must be nats://"),
        (("127.0.0.1:4222", "s"), {}, ValueError, "'127.0.0.1:4222': must be nats://"),
        (("nats://", "s"), {}, ValueError, "'nats://': must be nats://"),
        (("nats://x:y", "s"), {}, ValueError, "'nats://x:y': a host or port is not va"),
        (
            ("nats://[x", "s"),
            {},
            ValueError,
            r"'nats://\[x': a host or port is not val",
        ),
        (("nats://x:1/foo", "s"), {}, ValueError, "'nats://x:1/...' has a path: must"),
        ((f"nats://x?{SECRET}", "s"), {}, ValueError, "'nats://x' has more behind it"),
        (
            ("nats://a,nats://b", "s"),
            {},
            ValueError,
            "'nats://a,...': give a list, one",
        ),
        ((f"nats://x:y/{SECRET}", "s"), {}, ValueError, "'nats://x:y': a host or port"),
        (("nats://a:1,b:2", "s"), {}, ValueError, "give a list, one url each"),
        ((f"nats://a:{SECRET}@x", "s"), {}, ValueError, "'nats://x' has cred.*NATS_US"),
        ((f"nats://a:{SECRET}/@x:1", "s"), {}, ValueError, "'nats://x:1' has creden"),
        ((f"{SECRET}@x", "s"), {}, ValueError, "'nats://x' has credentials"),
        ((URL, 1), {}, TypeError, "subject=1: must be a string"),
        ((URL, ""), {}, ValueError, "subject='': must have"),
        ((URL, "a b"), {}, ValueError, "subject='a b': must have"),
        ((URL, "a.*"), {}, ValueError, r"subject='a\.\*': must have"),
        ((URL, "a..b"), {}, ValueError, r"subject='a\.\.b': must have"),
        ((URL, "s"), {"timeout": 0}, ValueError, "timeout=0: must be"),
        ((URL, "s"), {"user": 1}, TypeError, "user: must be a string, not int"),
        ((URL, "s"), {"tls": True}, TypeError, "tls=True: must be an ssl.SSLContext"),
    ],
)
def test_bad_input_is_refused_by_its_name(
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message) as caught:
        JetStreamSink(*arguments, **options)
    assert SECRET not in str(caught.value)
