"""F23: no wake-up is lost between taking and waiting, in 8,000 windows each way.

Each dispatcher has a chain: when a batch is about to be taken, a thread is sent for the
next entry, which comes just before the taking, in the middle of it, or just after.
Nothing else is ever enqueued, so that one wake-up lost breaks the chain for good.

RINGDISPATCH_TEST_WINDOWS=1000000 makes it a million; then give pytest a longer timeout.
"""

from __future__ import annotations

import asyncio
import os
import queue
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from layouts import of_layout
from ringdispatch import BackgroundDispatcher
from ringdispatch._batch import Batch
from watching import WatchedRing

# What is posted to a loop; a ring in a file posts the same.
pytestmark = pytest.mark.usefixtures("in_memory")

ENTRIES = int(os.environ.get("RINGDISPATCH_TEST_WINDOWS", "8000"))
DEADLINE = 40.0 * max(1.0, ENTRIES / 8_000)  # seconds, for all of them

# What an entry can come across: a timer, a full batch, a slot released.
KINDS: list[dict[str, Any]] = [
    {"ms_delay": 0.05},
    {"ms_delay": 0.5},
    {"ms_delay": 0.5, "max_in_flight": 3},
    {"ms_delay": 0.05, "max_batch": 2, "max_in_flight": 2},
    {"ms_delay": 60_000, "max_batch": 1},
    {"ms_delay": 60_000, "max_batch": 1, "max_in_flight": 2},
]


def pass_a_moment(moments: random.Random) -> None:
    """Be late by up to some ten microseconds."""
    for _ in range(moments.choice((0, 0, 10, 30, 100, 300, 1000))):
        pass


class Announcing(WatchedRing):
    """Has its chain send for an entry before each take."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain)
        self.chain = chain

    def take(self, *bounds: int) -> Batch | None:
        self.chain.send_for_another()
        taken: Batch | None = self.ring.take(*bounds)
        return taken


class Chain(BackgroundDispatcher[int]):
    """Sends for an entry each time it is about to take."""

    __slots__ = ("moments", "producer", "slow")

    def __init__(self, producer: Producer, *, slow: bool, **options: Any) -> None:
        super().__init__(self.receive, **options)
        self.producer = producer
        self.moments = random.Random(random.getrandbits(32))
        self.slow = slow  # its calls last longer than a step of the loop
        Announcing(self)
        producer.chains.append(self)

    def send_for_another(self) -> None:
        self.producer.orders.put(self)
        pass_a_moment(self.moments)

    async def receive(self, batch: list[int]) -> None:
        if self.slow:
            await asyncio.sleep(0)
        for _ in batch[1:]:  # came together with another, and had no taking of its own
            self.producer.orders.put(self)
        self.producer.received(len(batch))


class Producer(threading.Thread):
    """Enqueues an entry for each order, after a moment that varies."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.chains: list[Chain] = []
        self.orders: queue.SimpleQueue[Chain] = queue.SimpleQueue()
        self.arrived = 0
        self.all_arrived = threading.Event()

    def run(self) -> None:
        moments = random.Random(random.getrandbits(32))  # the run's seed
        for chain in self.chains:
            self.orders.put(chain)
        for number in range(ENTRIES):
            chain = self.orders.get()
            pass_a_moment(moments)
            chain.enqueue(number)

    def received(self, count: int) -> None:
        """Count what arrives; all chains call it on one thread."""
        self.arrived += count
        if self.arrived == ENTRIES:
            self.all_arrived.set()

    def broken(self) -> list[str]:
        return [f"{chain!r} {chain.statistics()}" for chain in self.chains]


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Let threads that share a GIL take turns a thousand times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 1000)
    yield
    sys.setswitchinterval(interval)


def chains(dispatcher_class: type, **options: Any) -> Producer:
    producer = Producer()
    chain_class = of_layout(Chain, dispatcher_class)
    for kind in KINDS:
        for slow in (False, True):
            chain_class(producer, slow=slow, **kind, **options)
    return producer


def test_f23_no_wake_up_is_lost_on_a_loop(dispatcher_class: type) -> None:
    producer = chains(dispatcher_class)  # C9

    async def main() -> None:
        for chain in producer.chains:
            chain.bind()
        producer.start()
        assert await asyncio.to_thread(producer.all_arrived.wait, DEADLINE), (
            producer.broken()
        )
        for chain in producer.chains:
            assert await chain.aclose()

    asyncio.run(main())


def test_f23_no_wake_up_is_lost_on_the_background_thread(
    dispatcher_class: type,
) -> None:
    producer = chains(dispatcher_class, home="thread")
    producer.start()
    assert producer.all_arrived.wait(DEADLINE), producer.broken()
    for chain in producer.chains:
        assert chain.close()
