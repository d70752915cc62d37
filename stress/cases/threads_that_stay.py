"""No thread outlives the last dispatcher by more than a second."""

import threading

from ringdispatch import BackgroundDispatcher

d = BackgroundDispatcher(lambda batch: None, ms_delay=1)
d.enqueue(1)
print(d.close(), [t.name for t in threading.enumerate()])
del d
import gc
import time

gc.collect()
time.sleep(1)
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
