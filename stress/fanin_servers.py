"""The servers of fanin.py: NATS, of one node or three, or one of Redis."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import helpers_path  # noqa: F401, finds the tests' helpers
from nats_servers import NatsServer, cluster_of
from redis_servers import RedisServer

STREAM = {"subjects": ["orders"], "max_bytes": 4 * 2**30, "discard": "new"}
DURABLE = ("--appendonly", "yes", "--maxmemory-policy", "noeviction")


class NatsServers:
    """One node, or three that keep each message."""

    def __init__(self, folder: Path, nodes: int) -> None:
        names = [f"node{number}" for number in range(nodes)]
        self.nodes = [NatsServer(folder, name) for name in names]
        for node, more in zip(self.nodes, cluster_of(self.nodes), strict=True):
            node.configure(node.name, more if nodes > 1 else "")
        self.again_at: dict[NatsServer, float] = {}
        self.urls = [node.url for node in self.nodes]
        for node in self.nodes:
            node.start()
        self._add_stream()

    def _add_stream(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.ask(
                    lambda js: js.add_stream(
                        name="S", num_replicas=len(self.nodes), **STREAM
                    )
                )
            except Exception:  # no leader is elected yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def ask(self, question: Any) -> Any:
        """Ask one that runs."""
        running = [node for node in self.nodes if node not in self.again_at]
        return running[0].ask(question)

    def kill_leader(self) -> bool:
        """Kill the node that leads the stream; False if none does now."""
        try:
            info = self.ask(lambda js: js.stream_info("S"))
        except Exception:
            return False
        leader = info.cluster.leader if info.cluster else self.nodes[0].name
        for node in self.nodes:
            if node.name == leader or len(self.nodes) == 1:
                return self._kill(node)
        return False

    def kill_another(self, drawn: random.Random) -> bool:
        """Kill any node; with one that is down, there is no majority."""
        running = [node for node in self.nodes if node not in self.again_at]
        return len(running) > 1 and self._kill(drawn.choice(running))

    def pids(self) -> list[int]:
        """Of the nodes that run."""
        return [node.pid for node in self.nodes if node not in self.again_at]

    def _kill(self, node: NatsServer) -> bool:
        if node in self.again_at:
            return False
        node.kill()
        self.again_at[node] = 0.0
        return True

    def stop(self) -> None:
        """End them all."""
        for node in self.nodes:
            with contextlib.suppress(Exception):
                node.stop()

    def messages(self) -> tuple[int, int]:
        """How many were ever sent, and how many are parked."""
        sent = self.ask(lambda js: js.stream_info("S")).state.last_seq
        parked = 0
        with contextlib.suppress(Exception):  # it is made for the first one
            parked = self.ask(lambda js: js.stream_info("S-dead")).state.messages
        return sent, parked


class RedisServers:
    """One server, which writes down what it answers."""

    def __init__(self, folder: Path) -> None:
        self.node = RedisServer(folder, *DURABLE)
        self.again_at: dict[Any, float] = {}
        self.urls = [self.node.url]
        self.node.start()

    def kill_leader(self) -> bool:
        """Kill it, if it runs."""
        if self.node in self.again_at:
            return False
        self.node.kill()
        self.again_at[self.node] = 0.0
        return True

    def kill_another(self, drawn: random.Random) -> bool:
        """There is no other."""
        del drawn
        return False

    def pids(self) -> list[int]:
        """Of the server, if it runs."""
        return [] if self.again_at else [self.node.pid]

    def messages(self) -> tuple[int, int]:
        """How many were ever sent, and how many are parked."""
        with self.node.client() as client:
            sent = client.xinfo_stream("S")["entries-added"]
            return sent, client.xlen("S-dead")

    def stop(self) -> None:
        """End it."""
        self.node.stop()
