"""A task waits for room on a loop that is stopped: nothing piles up there."""

import asyncio
import os
import sys

from ringdispatch import BackgroundDispatcher

hang = True


async def send(batch):
    while hang:
        await asyncio.sleep(0.001)


d = BackgroundDispatcher(send, ms_delay=1000, capacity=2, home="thread")
a = asyncio.new_event_loop()


async def stuck():
    for i in range(4):
        d.enqueue(i)
        await asyncio.sleep(0.02)  # 2 in flight, 2 pending
    t = asyncio.ensure_future(d.aenqueue(3))
    await asyncio.sleep(0.05)
    assert not t.done()
    return t


t = a.run_until_complete(stuck())  # a is stopped, one waiter left there
hang = False
N = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
for i in range(N):
    d.enqueue(i)
    d.flush()
n = len(a._ready)
if n > 100:
    print(f"BROKEN: {n} callbacks lie in the stopped loop after {N} batches elsewhere")
    os._exit(1)
print("ok", n)
os._exit(0)
