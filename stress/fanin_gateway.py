"""A gateway of fanin.py: it accepts entries as fast as it can, and ships them.

    fanin_gateway.py FOLDER NUMBER LIFE URL... [--drain]

An entry is `<gateway> <life> <number> <time>`. How many were accepted is in the file
`accepted.<gateway>.<life>` as soon as they were. SIGTERM ends it in order. With
`--drain` it accepts few, until no killed gateway's spool is left.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path

from ringdispatch import BackgroundDispatcher, Bytes, sinks

CLOSE_SECONDS = 60.0
SLOW_SECONDS = 0.05  # between two entries, with --drain


def main(folder: Path, gateway: int, life: int, urls: list[str], drain: bool) -> int:
    """Accept entries until a signal comes."""
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    path = folder / f"accepted.{gateway}.{life}"
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        counter = mmap.mmap(file.fileno(), 8)
    spool = folder / "spool"
    sink: sinks.RedisStreamSink[bytes] | sinks.JetStreamSink[bytes]
    if urls[0].startswith("redis"):
        sink = sinks.RedisStreamSink(urls[0], "S")
    else:
        sink = sinks.JetStreamSink(urls, "orders")
    dispatcher: BackgroundDispatcher[bytes] = BackgroundDispatcher(
        sink,
        ms_delay=10,
        capacity=65_536,
        max_batch=5_000,
        dispatch_timeout=None,
        name=f"gateway{gateway}",
        layout=Bytes(spool=spool),
    )
    number = 0
    while not stopping:
        if drain:
            files = list((spool / f"gateway{gateway}").glob("*.spool"))
            if number and len(files) <= 1:
                break  # its own
            time.sleep(SLOW_SECONDS)
        if dispatcher.enqueue(b"%d %d %d %f" % (gateway, life, number, time.time())):
            number += 1
            struct.pack_into("<Q", counter, 0, number)
        else:
            time.sleep(0.001)
    return 0 if dispatcher.close(CLOSE_SECONDS) else 1


if __name__ == "__main__":
    given = [each for each in sys.argv[1:] if each != "--drain"]
    status = main(
        Path(given[0]), int(given[1]), int(given[2]), given[3:], "--drain" in sys.argv
    )
    os._exit(status)
