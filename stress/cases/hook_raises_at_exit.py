"""At exit one dispatcher's hook raises: the others report their drops all the same."""

import subprocess
import sys

CODE = """
import asyncio, sys, logging, threading
logging.basicConfig(format="LOG %(message)s", stream=sys.stdout)
from ringdispatch import BackgroundDispatcher, _process
def no(self): raise RuntimeError("can't start new thread")
threading.Thread.start = no
async def send(b): pass
def on_drop(reason, count):
    print("on_drop A", reason, count); raise {error}
def other(reason, count): print("on_drop B", reason, count)
ds = [BackgroundDispatcher(send, ms_delay=5, name="A", capacity=1, on_drop=on_drop if i == 0 else other) for i in range(6)]
for d in ds:
    d.close()
    for i in range(3): d.enqueue(i)      # late entries, told at exit
"""
bad = []
for error in ("asyncio.CancelledError", "SystemExit(3)", "ValueError('fine')"):
    p = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE.replace("{error}", error)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    n = p.stdout.count("on_drop B")
    if "-v" in sys.argv:
        print(p.stdout, p.stderr[-800:])
    if n != 5:
        bad.append(f"{error}: {n} of 5 others told")
if bad:
    sys.exit("BROKEN: " + "; ".join(bad))
print("ok")
