"""`on_drop` raises a CancelledError: it is logged, and no batch fails for it."""

import asyncio
import logging
import sys

logging.disable(logging.CRITICAL)
from ringdispatch import BackgroundDispatcher

got = []


async def send(batch):
    got.append(list(batch))


def on_drop(reason, count):
    raise asyncio.CancelledError


async def main():
    asyncio.get_running_loop().set_exception_handler(lambda *a: None)
    d = BackgroundDispatcher(send, ms_delay=20, capacity=4, on_drop=on_drop)
    for _ in range(3):
        for i in range(10):
            d.enqueue(i)
        await asyncio.sleep(0.2)
    s = d.statistics()
    await d.aclose()
    return s


s = asyncio.run(main())
if s.failed or got != [[0, 1, 2, 3]] * 3:
    sys.exit(
        f"BROKEN: on_drop raised CancelledError: failed={s.failed} of {s.accepted}, dispatch function got {got}"
    )
print("ok")
