"""C code calls fork(2), so that no hook of Python's runs in the child."""

import ctypes
import os
import sys
import tempfile
import time

from ringdispatch import BackgroundDispatcher

out = tempfile.mktemp()
open(out, "w").close()


def send(batch):
    with open(out, "a") as f:
        f.writelines(f"{e}\n" for e in batch)


d = BackgroundDispatcher(send, ms_delay=10)
d.enqueue("import")
assert d.flush()
libc = ctypes.PyDLL(None)
pid = libc.fork()
if pid == 0:
    for i in range(20):
        d.enqueue(i)
        time.sleep(0.005)
    time.sleep(0.3)
    n = len(open(out).read().split())
    os._exit(0 if n == 21 else 3)
_, status = os.waitpid(pid, 0)
d.close()
if status:
    sys.exit(
        f"child of a C fork: {len(open(out).read().split()) - 1} of 20 entries sent, nothing said (status {status >> 8})"
    )
