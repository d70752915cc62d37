"""Thousands of tasks on one loop and one on another wait for room, at little cost."""

import asyncio
import logging
import os
import threading
import time

logging.disable(logging.CRITICAL)
from ringdispatch import BackgroundDispatcher


def load(n):
    hang = threading.Event()

    async def send(b):
        while not hang.is_set():
            await asyncio.sleep(0.05)

    d = BackgroundDispatcher(
        send, ms_delay=1, capacity=1, home="thread", dispatch_timeout=None
    )
    d.enqueue(0)
    while d.pending:
        time.sleep(0.001)
    d.enqueue(1)
    cpu = []

    async def many():
        ts = [asyncio.ensure_future(d.aenqueue(i)) for i in range(n)]
        await asyncio.sleep(0.1)
        other = threading.Thread(target=lambda: asyncio.run(d.aenqueue("other")))
        other.start()
        # those who joined before it look again once they are woken: as when a batch goes out
        for t in ts[:1]:
            t.cancel()
        more = [asyncio.ensure_future(d.aenqueue(i)) for i in range(n)]
        await asyncio.sleep(1.5)
        c, t = time.process_time(), time.perf_counter()
        # by the loop's processor time, which other programs do not lengthen
        worst, last = 0.0, time.thread_time()
        while time.perf_counter() - t < 3:
            await asyncio.sleep(0.01)
            now = time.thread_time()
            worst = max(worst, now - last)
            last = now
        cpu.append((time.process_time() - c) / (time.perf_counter() - t))
        cpu.append(worst)
        hang.set()
        for x in ts + more:
            x.cancel()

    asyncio.run(many())
    d.close(1)
    return cpu


a, b = load(500), load(4000)
bad = b[0] > 0.4 or b[1] > 0.25
print(
    ("BROKEN: " if bad else "ok: ")
    + f"1,000 waiters burn {a[0]:.0%} of a core, longest stall {a[1]:.2f} s; 8,000 {b[0]:.0%}, {b[1]:.2f} s, with nothing happening",
    flush=True,
)
os._exit(bad)
