"""No thread can be started, and the newest entries displace others: memory is bounded."""

import logging
import os
import threading

logging.disable(logging.CRITICAL)
import gc
import weakref

from ringdispatch import BackgroundDispatcher

alive = weakref.WeakSet()


class Context:
    def __init__(self):
        alive.add(self)

    def wait_until(self, awaitable):
        pass


def no(self):
    raise RuntimeError("can't start new thread")


threading.Thread.start = no


async def send(b):
    pass


d = BackgroundDispatcher(send, ms_delay=5, capacity=10, on_full="drop_oldest")
for i in range(20_000):
    d.enqueue(i, Context())
gc.collect()
n = len(alive)
bad = n > 1000
print(
    f"BROKEN: {n} contexts are kept for {d.pending} pending entries"
    if bad
    else f"ok {n}",
    flush=True,
)
os._exit(bad)
