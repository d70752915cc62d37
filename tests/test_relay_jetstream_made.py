"""The stream and the consumer that a relay makes, or finds; a real nats-server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")

from nats.js.api import AckPolicy, ConsumerConfig

from nats_servers import NatsServer, on_loop, serving
from ringdispatch.relay import JetStreamSource, SourceError


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with serving(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def server(module_server: NatsServer) -> Iterator[NatsServer]:
    with module_server.cleared(streams=()):
        yield module_server


def warnings(server: NatsServer, **options: Any) -> list[str]:
    """What a relay says at the start."""

    async def main() -> list[str]:
        source = JetStreamSource(server.url, "S", **options)
        try:
            return (await source.open()).warnings
        finally:
            await source.close()

    return list(on_loop(main()))


def refusal(server: NatsServer, **options: Any) -> str:
    """What a relay does not start for."""
    with pytest.raises(SourceError) as caught:
        warnings(server, **options)
    words = str(caught.value)
    assert "\n" not in words
    assert words.startswith(f"{server.url}: stream 'S'")
    return words


@pytest.mark.parametrize(
    ("subjects", "taken"),
    [
        (["a.b"], True),
        (["x", "a.b"], True),
        (["a.*"], True),
        (["*.b"], True),
        (["a.>"], True),
        (["*.*"], True),
        ([">"], True),
        (["a"], False),
        (["*"], False),
        (["a.b.*"], False),
        (["a.b.>"], False),
        (["b.>", "a.c"], False),
    ],
)
def test_a_stream_that_is_there_takes_what_it_is_to_be_made_for(
    server: NatsServer, subjects: list[str], taken: bool
) -> None:
    more = {"no_ack": True} if ">" in subjects else {}
    server.ask(lambda js: js.add_stream(name="S", subjects=subjects, **more))
    if taken:
        assert warnings(server, create="a.b")
        return
    takes = ", ".join(map(repr, subjects))
    assert refusal(server, create="a.b").endswith(
        f"stream 'S' takes {takes}, not 'a.b': add the subject to it, or name another "
        "stream"
    )


def test_fewer_replicas_than_asked_for_are_told(server: NatsServer) -> None:
    assert warnings(server, create="orders") == []
    (line,) = warnings(server, create="orders", replicas=3)
    assert "'S': was there already, with num_replicas=1, not 3: change" in line


# ---- what is made


def test_a_stream_is_made_with_so_many_bytes(server: NatsServer) -> None:
    assert warnings(server, create="orders", create_bytes=10**6) == []
    assert server.ask(lambda js: js.stream_info("S")).config.max_bytes == 10**6


def test_a_stream_whose_subject_another_one_takes(server: NatsServer) -> None:
    server.add_stream("OTHER", "orders.>")
    assert refusal(server, create="orders.one").endswith(
        ": stream 'S': can't be made for 'orders.one', with 1 GiB: another stream "
        "takes 'orders.one' already: name that by --stream"
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"replicas": 3}, "non-clustered mode: --replicas 1, or a cluster"),
        (
            {"create_bytes": 10**12},
            "resources available: fewer --create-bytes, or more room for JetStream",
        ),
    ],
)
def test_a_stream_that_a_server_can_not_make(
    server: NatsServer, options: dict[str, Any], why: str
) -> None:
    assert refusal(server, create="orders", **options).endswith(why)


@pytest.mark.parametrize(
    ("options", "kind", "why"),
    [
        ({"create_bytes": 1}, ValueError, "create_bytes=1: is of the stream that is"),
        ({"create_bytes": 0, "create": "s"}, ValueError, "create_bytes=0: must be"),
        ({"create_bytes": 1.0, "create": "s"}, TypeError, "create_bytes=1.0: must be"),
        ({"create_bytes": True, "create": "s"}, TypeError, "create_bytes=True: must"),
    ],
)
def test_bytes_that_no_stream_can_have(
    options: dict[str, Any], kind: type[Exception], why: str
) -> None:
    with pytest.raises(kind, match=why):
        JetStreamSource("nats://127.0.0.1:1", "S", **options)


# ---- consumers


def test_a_work_queue_that_has_a_consumer_names_it(server: NatsServer) -> None:
    warnings(server, create="orders")
    assert refusal(server, consumer="mine").endswith(
        "consumer 'mine': can't be made: a work queue has one consumer only, and it "
        "has 'ringdispatch': name that by --consumer, or remove it"
    )


def test_all_that_differs_of_a_consumer_is_told(server: NatsServer) -> None:
    server.add_stream()
    other = ConsumerConfig(
        durable_name="ringdispatch",
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=30.0,
        max_deliver=5,
    )
    server.ask(lambda js: js.add_consumer("S", other))
    assert refusal(server).endswith(
        " has ack_wait=30.0, and must have 10.0; max_deliver=5, and must have -1: "
        "remove it, or name another with --consumer"
    )


# ---- what was parked


def test_what_was_parked_is_told_at_the_start(server: NatsServer) -> None:
    server.add_stream("S-dead", "S-dead")
    assert warnings(server, create="orders") == []
    server.ask(lambda js: js.publish("S-dead", b"one"))
    (line,) = warnings(server)
    assert line == (
        f"{server.url}: stream 'S-dead' holds 1 message that was parked: "
        "--replay-dead-letters calls for it again"
    )
    server.ask(lambda js: js.publish("S-dead", b"two"))
    (line,) = warnings(server)
    assert "stream 'S-dead' holds 2 messages that were parked: --replay-dead" in line


def test_a_relay_that_may_not_look_for_what_was_parked_starts(tmp_path: Path) -> None:
    more = """authorization { users: [{ user: weak, password: p, permissions: {
        publish: { deny: ["$JS.API.STREAM.INFO.S-dead"] }, subscribe: [">"] } }] }"""
    with serving(tmp_path, more) as server:
        (line,) = warnings(server, create="orders", user="weak", password="p")
    assert 'publish to "$JS.API.STREAM.INFO.S-dead": give the user the right' in line
