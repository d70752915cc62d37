"""What `enqueue` costs: ours in each layout, and others'."""

import asyncio
from statistics import median
from typing import Any

import pytest

from peer import Peer
from peers import PEERS, Deque
from suite import Suite
from timing import THREADS, price

CASES = [
    pytest.param(
        peer,
        threads,
        full,
        id=f"{peer.name}, {threads} thread{'s' * (threads > 1)}{', full' * full}",
    )
    for threads in (1, THREADS)
    for full in (False, True)
    for peer in PEERS
    if (peer.threads or threads == 1) and (peer.bounded or not full)
]


@pytest.mark.duration(0.45)
@pytest.mark.parametrize(("peer", "threads", "full"), CASES)
def test_price(
    peer: type[Peer], threads: int, full: bool, benchmark: Any, suite: Suite
) -> None:
    async def on_a_loop() -> list[float]:
        rounds = (40 if suite.quick else 200) if threads == 1 else 40
        return price(peer, threads, full=full, rounds=rounds, benchmark=benchmark)

    benchmark.group = "cost of enqueue"
    try:
        samples = asyncio.run(on_a_loop())
    except ImportError as error:
        suite.missing[peer.package or peer.name] = str(error)
        pytest.skip(f"{peer.name}: not installed ({error})")
    if not samples:
        return
    suite.samples[peer.name, threads, full] = samples
    suite.said = f"{median(samples):,.0f} ns, the loop included"
    if suite.has_base(peer.name, threads):
        found = suite.price(peer.name, threads, full)
        benchmark.extra_info["ns"] = found.ns_median
        benchmark.extra_info[f"ratio to {Deque.name}"] = found.ratio
        suite.said = f"{found.ns_median:,.0f} ns, {found.ratio:,.2f} of {Deque.name}"
