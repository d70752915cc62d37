"""An ordinary dispatch function never returns, and asyncio.run ends."""

import asyncio
import threading

from ringdispatch import BackgroundDispatcher


async def main():
    d = BackgroundDispatcher(
        lambda batch: threading.Event().wait(), ms_delay=10, dispatch_timeout=1
    )
    d.enqueue(1)
    await asyncio.sleep(0.1)
    print("aclose ->", await d.aclose(1), flush=True)


asyncio.run(main())
print("after run", flush=True)
