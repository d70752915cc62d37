"""Each enqueue near the recursion limit returns."""

import asyncio
import logging
import os
import sys
import threading
import time

logging.disable(logging.CRITICAL)
calls = 0


def unraisable(u):
    global calls
    calls += 1


if "--default-hook" not in sys.argv:
    sys.unraisablehook = unraisable
from ringdispatch import BackgroundDispatcher


def deep(n, f):
    return f() if n <= 0 else deep(n - 1, f)


def depth():
    f, n = sys._getframe(), 0
    while f:
        n += 1
        f = f.f_back
    return n


where = None


def watch():
    last = None
    while True:
        time.sleep(4)
        if where == last and where is not None:
            print(
                f"BROKEN: enqueue with {where} frames left has not returned for 4 s; {calls} failed finalizers so far",
                flush=True,
            )
            os._exit(1)
        last = where


threading.Thread(target=watch, daemon=True).start()


async def send(b):
    pass


def attempt(home, left):
    global where
    where = (home, left)
    d = BackgroundDispatcher(send, ms_delay=5, home=home)

    def act():
        try:
            d.enqueue("deep")
        except RecursionError:
            pass

    if home == "thread":
        d.enqueue("warm")
        d.flush()
    sys.setrecursionlimit(depth() + 300)
    try:
        deep(300 - left, act)
    except RecursionError:
        pass
    sys.setrecursionlimit(1000)
    return d


for left in range(2, 20):
    attempt("thread", left)


async def on_loop():
    for left in range(2, 20):
        d = attempt("auto", left)
        await asyncio.sleep(0.01)


asyncio.run(on_loop())
print("ok", flush=True)
os._exit(0)
