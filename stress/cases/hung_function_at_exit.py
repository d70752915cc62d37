"""An ordinary dispatch function never returns, and the process ends."""

import sys
import threading
import time

from ringdispatch import BackgroundDispatcher

d = BackgroundDispatcher(
    lambda batch: threading.Event().wait(), ms_delay=10, dispatch_timeout=1
)
d.enqueue(1)
time.sleep(0.2)
t = time.monotonic()
if "close" in sys.argv:
    print("close ->", d.close(1), round(time.monotonic() - t, 2), "s", flush=True)
print("end of main", flush=True)
