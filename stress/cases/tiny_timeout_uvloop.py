"""A `dispatch_timeout` shorter than uvloop's tick: each call begins."""

import asyncio
import resource
import sys

try:
    import uvloop
except ImportError as error:
    print(error)
    sys.exit(77)
from ringdispatch import BackgroundDispatcher


async def main(seconds):
    called = []

    async def send(b):
        called.append(len(b))

    d = BackgroundDispatcher(send, ms_delay=5, dispatch_timeout=seconds)
    d.enqueue(1)
    cpu = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    await asyncio.sleep(1.0)
    return (
        called,
        d.pending,
        resource.getrusage(resource.RUSAGE_SELF).ru_utime - cpu,
        await d.aclose(timeout=0.5),
        d.statistics().abandoned,
    )


bad = []
for s in (0.1, 0.0006, 0.0004, 1e-6):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as r:
        out = r.run(main(s))
    print(s, out)
    if not out[0]:
        bad.append(
            f"dispatch_timeout={s}: never called in 1 s, {out[2]:.1f} s of CPU, pending {out[1]}, aclose {out[3]}"
        )
if bad:
    sys.exit("; ".join(bad))
