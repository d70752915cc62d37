"""An exception at each line of the package in turn: later entries go out all the same.

The argument names the exception; the default is KeyboardInterrupt. On 3.11 each line
has a process of its own: there CPython crashes where a trace function raises again and
again, with asyncio alone too. No issue of CPython's was found that reports it.
"""

import asyncio
import json
import logging
import os
import sys
import time

import ringdispatch
from ringdispatch import BackgroundDispatcher

logging.disable(logging.CRITICAL)
Error = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": SystemExit,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
}[sys.argv[1] if len(sys.argv) > 1 else "KeyboardInterrupt"]
ours = os.path.dirname(ringdispatch.__file__) + os.sep


def attempt(scene, k):
    n, where = 0, ""

    def local(f, e, a):
        nonlocal n, where
        if e == "line":
            n += 1
            if n == k:
                where = f"{os.path.basename(f.f_code.co_filename)}:{f.f_lineno}"
                raise Error
        return local

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *a: None)
    got = []
    kept = []

    async def send(b):
        got.extend(b)

    async def hit():
        d = BackgroundDispatcher(
            send, ms_delay=3, capacity=8, max_batch=8, on_drop=lambda *a: None
        )
        kept.append(d)
        d.enqueue(0)
        await asyncio.sleep(0.006)
        sys.settrace(
            lambda f, e, a: local if f.f_code.co_filename.startswith(ours) else None
        )
        try:
            for i in range(20 if scene == "drops" else 1):
                d.enqueue(i)
        except Error:
            pass
        if scene == "flush":
            try:
                await d.aflush(0.05)
            except Error:
                pass
        await asyncio.sleep(0.012)

    async def later():
        d = kept[0]
        for i in range(3):
            d.enqueue(f"later{i}")
            await asyncio.sleep(0.02)
        ok = await d.aclose(0.5)
        return ok, d.statistics()

    task = loop.create_task(hit())
    end = time.monotonic() + 1
    while not task.done() and time.monotonic() < end:
        try:
            loop.run_until_complete(asyncio.wait({task}, timeout=0.2))
        except (Error, RuntimeError):
            pass
    sys.settrace(None)
    ok, s = loop.run_until_complete(later())
    if not task.done():
        task.cancel()
        loop.run_until_complete(asyncio.wait({task}))
    task.cancelled() or task.exception()
    loop.close()
    fine = (
        ok
        and s.pending == s.in_flight == 0
        and s.accepted == s.dispatched + s.failed + s.evicted + s.abandoned
        and {"later0", "later1", "later2"} <= set(got)
    )
    return n >= k, fine, where


def attempt_apart(scene, k):
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writes, json.dumps(attempt(scene, k)).encode())
        os._exit(0)
    os.close(writes)
    with open(reads) as file:
        said = file.read()
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit(f"{scene}, line {k}: the process died: {status}")
    return json.loads(said)


attempt_at = attempt_apart if sys.version_info < (3, 12) else attempt
bad, points = [], 0
for scene in ("window", "drops", "flush"):
    k = 1
    while True:
        hit, fine, where = attempt_at(scene, k)
        if not hit:
            break
        points += 1
        k += 1
        if not fine:
            bad.append(f"{scene}@{where}")
print(f"{points - len(bad)} of {points} points held")
sys.exit(f"stranded: {len(bad)}: {' '.join(bad[:6])}" if bad else 0)
