"""Thousands of calls are in flight at once, at a cost that is linear."""

import asyncio
import sys
import time

from ringdispatch import BackgroundDispatcher


async def inflight(n, context=None):
    async def send(b):
        await asyncio.sleep(0.2)

    d = BackgroundDispatcher(
        send, ms_delay=1, capacity=4 * n, max_batch=1, max_in_flight=n
    )
    worst = 0.0

    async def watch():
        nonlocal worst
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            worst = max(worst, now - last)
            last = now

    w = asyncio.ensure_future(watch())
    c0 = time.process_time()
    for i in range(n):
        d.enqueue(i, context)
        if context:
            await asyncio.sleep(0)
    await d.aflush(600)
    cpu = time.process_time() - c0
    w.cancel()
    await d.aclose()
    return worst, cpu


class Context:
    def wait_until(self, awaitable):
        pass


if __name__ == "__main__":
    rows = []
    for n in (250, 500, 1000, 2000):
        rows.append((n, asyncio.run(inflight(n))[0]))
    with_context = [
        (n, *asyncio.run(inflight(n, Context()))) for n in (100, 200, 400, 800)
    ]
    print("stall without context", rows)
    print("n, stall, cpu with an opener's context per window", with_context)
    if (rows[-1][1] > 2.5 * rows[-2][1] and rows[-1][1] > 0.3) or (
        with_context[-1][1] > 2.5 * with_context[-2][1] and with_context[-1][1] > 0.3
    ):
        sys.exit(
            f"BROKEN: {rows[-1][0]} calls in flight stall the loop {rows[-1][1]:.2f} s; {with_context[-1][0]} with openers {with_context[-1][1]:.2f} s"
        )
    print("ok")
