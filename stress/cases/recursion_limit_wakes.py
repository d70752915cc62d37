"""An entry enqueued near the recursion limit goes out in time, or is not accepted."""

import logging
import os
import sys
import time

logging.disable(logging.CRITICAL)
sys.unraisablehook = lambda u: None
from ringdispatch import BackgroundDispatcher


def deep(n, f):
    return f() if n <= 0 else deep(n - 1, f)


def depth():
    f, n = sys._getframe(), 0
    while f:
        n += 1
        f = f.f_back
    return n


stuck = []
for left in range(2, 16):
    got, out = [], []

    async def send(b):
        got.extend(b)

    d = BackgroundDispatcher(send, ms_delay=5, home="thread")
    d.enqueue("warm")
    d.flush()

    def act():
        try:
            out.append(d.enqueue("deep"))
        except RecursionError:
            out.append("RecursionError")

    sys.setrecursionlimit(depth() + 300)
    try:
        deep(300 - left, act)
    except RecursionError:
        pass
    sys.setrecursionlimit(1000)
    time.sleep(0.15)
    s = d.statistics()
    if "-v" in sys.argv:
        print(left, out, s.accepted, got, s.pending, flush=True)
    if out and s.accepted == 2 and "deep" not in got:
        stuck.append((left, out[0], s.pending))
if stuck:
    print(
        "BROKEN: (frames left, result, pending 0.15 s after ms_delay=5):",
        stuck,
        flush=True,
    )
    os._exit(1)
print("ok", flush=True)
os._exit(0)
