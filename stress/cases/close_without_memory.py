"""A close runs out of time, and there is no memory for a list of what it gives up."""

import subprocess
import sys

CODE = r"""
import resource, sys, time, logging, os, asyncio
logging.disable(logging.CRITICAL)
from ringdispatch import BackgroundDispatcher
async def send(b): await asyncio.sleep(60)
N = 1 << 22
d = BackgroundDispatcher(send, ms_delay=1, capacity=N)
d.enqueue(0)
while d.pending: time.sleep(0.01)
for i in range(N): d.enqueue(None)
vm = [int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmSize")][0] * 1024
resource.setrlimit(resource.RLIMIT_AS, (vm + (8 << 20), resource.RLIM_INFINITY))
try: r = d.close(0.2)
except BaseException as x: r = type(x).__name__
s = d.statistics()
print(f"close -> {r}; pending {s.pending}, in_flight {s.in_flight}, failed {s.failed}, abandoned {s.abandoned}", flush=True)
os._exit(0 if s.abandoned == N else 1)
"""
p = subprocess.run(
    [sys.executable, "-W", "ignore", "-c", CODE],
    capture_output=True,
    text=True,
    timeout=60,
)
if p.returncode:
    sys.exit("BROKEN: " + (p.stdout.strip() or p.stderr[-300:]))
print("ok", p.stdout.strip())
