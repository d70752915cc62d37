"""One end of a fan-in, for fanin_costs.py: a gateway's sink, or a relay.

    fanin_end.py send|take URL SIZE MESSAGES BYTES

Sends messages of SIZE entries one after the other, or takes so many. Prints the
seconds of a processor that they took, and by how many bytes the process has grown.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

WARM = 20  # messages before the measured ones


def resident() -> int:
    """Bytes of this process in memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


async def send(url: str, size: int, messages: int, count: int) -> float:
    """Send messages of entries of so many bytes; the seconds of a processor."""
    from ringdispatch import BackgroundDispatcher, Bytes, sinks

    sink: Any = (
        sinks.RedisStreamSink(url, "S")
        if url.startswith("redis")
        else sinks.JetStreamSink(url, "orders")
    )
    entry = b"x" * count
    began = 0.0
    layout = Bytes(max_bytes=2 * size * (count + 1))
    async with BackgroundDispatcher(
        sink, ms_delay=60_000, capacity=2 * size, max_batch=size, layout=layout
    ) as dispatcher:
        for sent in range(WARM + messages):
            if sent == WARM:
                began = time.process_time()
            for _ in range(size):
                if not dispatcher.enqueue(entry):
                    raise RuntimeError("the ring was full")
            await dispatcher.aflush()
        return time.process_time() - began


async def take(url: str, size: int, messages: int, count: int) -> float:
    """Take what `send` has sent; the seconds of a processor."""
    del count
    from ringdispatch import relay

    source: Any = (
        relay.RedisStreamSource(url, "S")
        if url.startswith("redis")
        else relay.JetStreamSource(url, "S")
    )
    missing = (WARM + messages) * size

    async def count_down(records: list[bytes], ids: list[str]) -> None:
        nonlocal missing
        del ids
        missing -= len(records)
        if missing <= 0:
            taken.stop()

    taken = relay.Relay(source, count_down, ms_delay=100)
    began = time.process_time()
    await taken.run()
    if missing:
        raise RuntimeError(f"{missing} entries did not arrive")
    return time.process_time() - began


def main(role: str, url: str, *numbers: str) -> None:
    """Be that end, and print what it took."""
    before = resident()
    seconds = asyncio.run({"send": send, "take": take}[role](url, *map(int, numbers)))
    print(json.dumps({"seconds": seconds, "grown": resident() - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
