"""KeyboardInterrupt while the background thread starts: the next window starts another."""

import sys
import threading
import time

from ringdispatch import BackgroundDispatcher

got = []
d = BackgroundDispatcher(lambda b: got.extend(b), ms_delay=5)
e = BackgroundDispatcher(lambda b: got.extend(b), ms_delay=5)
start = threading.Thread.start


def interrupted(self):
    threading.Thread.start = start
    raise KeyboardInterrupt


threading.Thread.start = interrupted
try:
    d.enqueue(1)
except KeyboardInterrupt:
    pass
for i in range(2, 12):
    d.enqueue(i)
    time.sleep(0.02)
e.enqueue("another dispatcher")
time.sleep(0.1)
if 11 not in got or "another dispatcher" not in got:
    print(
        f"sent {got}, pending {d.pending} and {e.pending}, flush {d.flush(timeout=0.5)}: nothing in this process is sent any more"
    )
    sys.exit(1)
