"""C code calls fork(2), so that no hook of Python's runs in the child."""

import ctypes
import os
import pathlib
import re
import sys
import tempfile
import threading
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


def others():
    me = str(threading.get_native_id())
    return [
        re.findall("State:.*|voluntary_ctxt_switches:.*", (task / "status").read_text())
        for task in pathlib.Path("/proc/self/task").iterdir()
        if task.name != me
    ]


def sleep():
    """Whether all others slept while this thread let go of the GIL twenty times."""
    before = others()
    for _ in range(20):
        time.sleep(0.001)
    return before == others() and all("S (" in state for state, *_ in before)


# A thread that waits for the GIL at the fork may leave it broken in the child.
end = time.monotonic() + 30
while not sleep():
    assert time.monotonic() < end
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
