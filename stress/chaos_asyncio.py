"""What a chaos run does without in an interpreter; imported before asyncio.

Without the GIL, asyncio's tasks in C are freed twice in CPython 3.14.5 where one thread
frees a pending task of another while a third collects garbage: then it hangs or crashes
(python/cpython#153809). Here loops are closed all the time with tasks pending, so there
asyncio is the one in Python.
"""

import sys

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

if not GIL and sys.version_info < (3, 15):
    if "asyncio" in sys.modules:
        raise ImportError("asyncio was imported before chaos_asyncio")
    sys.modules["_asyncio"] = None  # type: ignore[assignment]
