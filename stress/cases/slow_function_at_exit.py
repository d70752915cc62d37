"""An ordinary dispatch function takes twenty seconds, and the process ends within five."""

import time

from ringdispatch import BackgroundDispatcher

d = BackgroundDispatcher(lambda batch: time.sleep(20), ms_delay=10)
d.enqueue(1)
time.sleep(0.1)
print("end of main", flush=True)
