"""A thread binds the dispatcher to its loop while another enqueues the first entry."""

import asyncio
import logging
import os
import threading
import time

logging.disable(logging.CRITICAL)
from ringdispatch import BackgroundDispatcher

lost = later = 0
end = time.monotonic() + 40


async def main():
    global lost, later
    loop = asyncio.get_running_loop()
    i = 0
    while time.monotonic() < end and lost < 3:
        i += 1
        ran = []

        async def send(b):
            ran.append(asyncio.get_running_loop())

        d = BackgroundDispatcher(send, ms_delay=1)
        go = threading.Barrier(2)

        def other():
            go.wait()
            d.enqueue(1)

        t = threading.Thread(target=other)
        t.start()
        go.wait()
        for _ in range(i % 300):
            pass
        d.bind()
        t.join()
        d.enqueue(9)
        await d.aflush()
        if ran and ran[-1] is not loop:
            lost += 1
            for j in range(3):
                ran.clear()
                t = threading.Thread(target=d.enqueue, args=(j,))
                t.start()
                t.join()
                await asyncio.sleep(0.02)
                later += bool(ran) and ran[-1] is not loop
        await d.aclose()
    return i


n = asyncio.run(main())
print(
    f"BROKEN: in {lost} of {n} tries the bound dispatcher lives on the background thread; {later} of {3 * lost} batches enqueued by threads afterwards ran there"
    if lost
    else f"ok {n}",
    flush=True,
)
os._exit(bool(lost))
