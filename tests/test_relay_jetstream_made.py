"""The stream and the consumer that a relay makes, or finds; a real nats-server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("nats")

import nats.js.errors

from nats_servers import NatsServer, on_loop, serving
from ringdispatch.relay import JetStreamSource, SourceError


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with serving(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def server(module_server: NatsServer) -> Iterator[NatsServer]:
    yield module_server
    for name in ("S", "S-dead", "OTHER"):
        with suppress(nats.js.errors.NotFoundError):
            module_server.ask(lambda js, name=name: js.delete_stream(name))


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
