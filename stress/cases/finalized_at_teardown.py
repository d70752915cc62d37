"""A dispatcher lives until the interpreter takes its modules apart: nothing is printed."""

import subprocess
import sys

PRE = "import gc, sys\nfrom ringdispatch import BackgroundDispatcher\nd = BackgroundDispatcher(lambda b: None, ms_delay=5)\n"
CASES = {
    "gc.freeze": "d.enqueue(1); gc.freeze(); d.close()",
    "gc.freeze unused": "gc.freeze()",
    "kept by sys": "sys.keep = d; d.enqueue(1); d.close()",
    "kept by a builtin": "import builtins; builtins.keep = d; d.enqueue(1)",
    "kept by a codec registry": "import codecs; codecs.register(lambda name, d=d: None); d.enqueue(1)",
    "kept by a thread's local": "import threading; l = threading.local(); l.d = d; d.enqueue(1)",
    "kept by a context var": "import contextvars; v = contextvars.ContextVar('v', default=d); d.enqueue(1)",
    "kept by a cache": "import functools; c = functools.lru_cache(lambda x: d); c(1); d.enqueue(1)",
    "daemon thread": "import threading, time\ndef f(d=d):\n    while True: time.sleep(1)\nthreading.Thread(target=f, daemon=True).start(); d.enqueue(1)",
    "refs at C level": "import ctypes; ctypes.pythonapi.Py_IncRef(ctypes.py_object(d)); d.enqueue(1)",
    "cycle with frozen": "class C: pass\nc = C(); c.c = c; c.d = d; gc.freeze(); del c, d",
    "atexit registered": "import atexit; atexit.register(d.close); d.enqueue(1)",
    "module kept in C": "import ctypes; [ctypes.pythonapi.Py_IncRef(ctypes.py_object(m)) for n, m in [*sys.modules.items()] if n.startswith(('ringdispatch', '__main__'))]; d.enqueue(1); d.flush()",
    "signal handler": "import signal; signal.signal(signal.SIGUSR1, lambda *_, d=d: d.enqueue(1)); d.enqueue(1)",
}
bad = []
for name, code in CASES.items():
    r = subprocess.run(
        [sys.executable, "-c", PRE + code], capture_output=True, text=True, timeout=30
    )
    if r.returncode or r.stderr:
        bad.append((name, r.returncode, r.stderr[-220:]))
if bad:
    sys.exit("\n".join(map(str, bad)))
