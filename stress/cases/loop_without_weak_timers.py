"""An event loop, rloop's, whose timer handles take no weak reference."""

import asyncio
import sys

try:
    import rloop
except ImportError as error:
    print(error)
    sys.exit(77)
from ringdispatch import BackgroundDispatcher

got = []


async def send(b):
    got.extend(b)


errors = []


async def main():
    asyncio.get_running_loop().set_exception_handler(
        lambda l, c: errors.append(repr(c.get("exception")))
    )
    d = BackgroundDispatcher(send, ms_delay=10)
    try:
        said = [d.enqueue(i) for i in range(3)]
    except Exception as e:
        return f"enqueue raised {e!r}"
    await asyncio.sleep(0.3)
    by_delay = list(got)
    try:
        f = await d.aflush(timeout=1)
    except Exception as e:
        f = repr(e)
    return said, by_delay, f, await d.aclose(timeout=1), d.statistics()


with asyncio.Runner(loop_factory=rloop.new_event_loop) as r:
    out = r.run(main())
if isinstance(out, str) or out[1] != [0, 1, 2] or errors:
    sys.exit(
        f"rloop {rloop.__version__ if hasattr(rloop, '__version__') else ''}: by the delay {out[1]}, aflush {out[2]}, aclose {out[3]}, errors {errors[:2]}, pending {out[4].pending} dispatched {out[4].dispatched}"
    )
