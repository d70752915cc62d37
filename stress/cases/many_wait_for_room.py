"""Thousands of tasks wait for room at once, at a cost that is linear."""

import asyncio
import sys
import time

from ringdispatch import BackgroundDispatcher

got = []


async def send(batch):
    got.extend(batch)


async def run(n):
    got.clear()
    d = BackgroundDispatcher(send, ms_delay=1, capacity=16)
    t = time.perf_counter()
    ok = await asyncio.gather(*(d.aenqueue(i) for i in range(n)))
    t = time.perf_counter() - t
    await d.aclose()
    assert all(ok) and got == list(range(n)), "lost or out of order"
    return t


# The least of three: something else may run meanwhile.
counts = (500, 1000, 2000, 4000, 8000)
res = {n: min(asyncio.run(run(n)) for _ in range(3)) for n in counts}
for n, t in res.items():
    print(n, f"{t:.3f} s")
ratio = res[8000] / res[2000]
if ratio > 8:
    sys.exit(
        f"4x the waiters took {ratio:.1f}x the time: {res[2000]:.3f} -> {res[8000]:.3f} s"
    )
