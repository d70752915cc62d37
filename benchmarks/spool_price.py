"""What `enqueue` into a ring in a spool's file costs, beside one in memory.

    python benchmarks/spool_price.py [--check] [--json FILE]

As enqueue_price.py. The file is on tmpfs where there is one.
"""

import atexit
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from instructions import CALLS, Cases, Limit, Loop, calling, compare

SIZES = {100: 1.3, 300: 1.4, 1000: 1.6}  # of an entry, and the highest ratio


def enqueuing(size: int, *, spooled: bool) -> Loop:
    """A loop of `enqueue`, of an entry of that size with its separator."""
    from ringdispatch._bytes import ByteRing
    from ringdispatch._enqueue import EnqueueBase, install_enqueue
    from ringdispatch._spool import Spool
    from ringdispatch._spool_ring import SpoolRing

    @install_enqueue
    class Enqueuer(EnqueueBase):
        pass

    cells, max_bytes = 1 << 17, 2 * CALLS * size
    options = cells, cells, None, b"\n", max_bytes, max_bytes
    ring = ByteRing(*options)
    if spooled:
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = Path(tempfile.mkdtemp(dir=shared))
        atexit.register(shutil.rmtree, folder)
        file = Spool(folder, 1, b"\n", print).make(2 * cells, 2 * max_bytes)
        ring = SpoolRing(*options, file, None)
    sink = Enqueuer()
    sink._attach(ring, "drop_newest")
    entry = b"x" * (size - 1)
    sink.enqueue(entry)
    return calling("sink.enqueue(entry)", sink=sink, entry=entry)


def memory(size: int) -> str:
    return f"in memory, {size} B"


def spool(size: int) -> str:
    return f"in a file, {size} B"


CASES: Cases = {
    name(size): partial(enqueuing, size, spooled=name is spool)
    for size in SIZES
    for name in (memory, spool)
}
LIMITS: list[Limit] = [
    (spool(size), memory(size), most, most) for size, most in SIZES.items()
]


if __name__ == "__main__":
    from ringdispatch._spool_file import SUPPORTED

    if not SUPPORTED:
        print("only Linux has spools")
        sys.exit(0)
    sys.exit(compare("enqueue", CASES, memory(100), LIMITS))
