"""Thousands of tasks flush at once, at a cost that is linear."""

import asyncio
import sys
import time

from ringdispatch import BackgroundDispatcher


async def send(batch):
    await asyncio.sleep(0.005)


async def run(n):
    d = BackgroundDispatcher(send, ms_delay=10)

    async def handler(i):
        d.enqueue(i)
        return await d.aflush(timeout=30)

    stall, last, stop = 0.0, time.perf_counter(), False

    async def beat():
        nonlocal stall, last
        while not stop:
            await asyncio.sleep(0)
            now = time.perf_counter()
            stall = max(stall, now - last)
            last = now

    b = asyncio.create_task(beat())
    t = time.perf_counter()
    ok = await asyncio.gather(*(handler(i) for i in range(n)))
    t = time.perf_counter() - t
    stop = True
    await b
    assert all(ok)
    await d.aclose()
    return t, stall


# The least of three: something else may run meanwhile.
counts = (250, 500, 1000, 2000, 4000)
res = {n: min(asyncio.run(run(n)) for _ in range(3)) for n in counts}
for n, (t, s) in res.items():
    print(n, f"{t:.3f} s, stall {s:.3f} s")
ratio = res[4000][0] / res[1000][0]
if ratio > 8:
    sys.exit(
        f"4x the waiters took {ratio:.1f}x the time: {res[1000][0]:.3f} -> {res[4000][0]:.3f} s"
    )
