"""The rights that docs/scale.md lists are enough for a gateway and for a relay."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")
pytest.importorskip("redis")

from nats_servers import on_loop
from nats_servers import serving as serving_nats
from redis_servers import serving_redis
from ringdispatch import BackgroundDispatcher
from ringdispatch.relay import JetStreamSource, RedisStreamSource
from ringdispatch.relay._source import Source
from ringdispatch.sinks import JetStreamSink, RedisStreamSink
from sources import Target, relaying

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
USERS = """\
authorization {{ users: [
  {{ user: admin, password: p }},
  {{ user: gateway, password: p,
     permissions: {{ publish: {gateway}, subscribe: ["_INBOX.>"] }} }},
  {{ user: relay, password: p,
     permissions: {{ publish: {relay}, subscribe: ["_INBOX.>"] }} }},
] }}
"""


def rights(who: str) -> tuple[list[str], str]:
    """On NATS, and on Redis."""
    (row,) = re.findall(
        rf"^\| {who} \| (.+?) \| `(.+)` \|$", PAGE.read_text(), re.MULTILINE
    )
    nats, redis = row
    return re.findall("`([^`]+)`", nats), redis.replace("\\|", "|")


async def relayed(sink: Any, source: Source) -> None:
    """Send an entry; have it relayed, and what others sent parked."""
    dispatcher = BackgroundDispatcher(sink, ms_delay=1)
    dispatcher.enqueue(1)
    assert await dispatcher.aclose()
    assert dispatcher.statistics().dispatched == 1
    target = Target()
    relay = await relaying(
        source, target, lambda relay: target.records and relay.counts.parked
    )
    assert target.records == [1]
    assert relay.counts.parked == 1


def test_on_nats(tmp_path: Path) -> None:
    may = {who: json.dumps(rights(f"a {who}")[0]) for who in ("gateway", "relay")}
    with serving_nats(tmp_path, USERS.format(**may)) as server:

        async def prepare(js: Any) -> None:
            more = {"retention": "workqueue", "discard": "new", "max_bytes": 2**20}
            await js.add_stream(name="ENTRIES", subjects=["entries"], **more)
            await js.publish("entries", b"of others")

        server.ask(prepare, user="admin", password="p")
        sink = JetStreamSink(server.url, "entries", user="gateway", password="p")
        source = JetStreamSource(server.url, "ENTRIES", user="relay", password="p")
        on_loop(relayed(sink, source))


def test_on_redis(tmp_path: Path) -> None:
    with serving_redis(tmp_path) as server:
        with server.client() as client:
            for who in ("gateway", "relay"):
                words = rights(f"a {who}")[1].split()
                client.execute_command("ACL", "SETUSER", who, "on", ">p", *words)
            client.xadd("ENTRIES", {"of": "others"})
        sink = RedisStreamSink(server.url, "ENTRIES", username="gateway", password="p")
        source = RedisStreamSource(
            server.url, "ENTRIES", username="relay", password="p"
        )
        on_loop(relayed(sink, source))
