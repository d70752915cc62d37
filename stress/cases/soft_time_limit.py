"""The handler of a signal raises anywhere in enqueue: the books agree, nothing is printed."""

import gc
import random
import signal
import sys
import time

from ringdispatch import BackgroundDispatcher, Full


class Limit(Exception):
    pass


def handler(_, frame):
    while frame is not None:  # only inside burst(), which is under the try below
        if frame.f_code is burst.__code__:
            raise Limit
        frame = frame.f_back


def burst(d, yes, n):
    for i in range(n, n + 20):
        if d.enqueue(i):
            yes.append(i)


random.seed(1)
bad = []
hits = 0
gc.disable()  # what is raised in a finalizer of anything is printed by Python
sys.unraisablehook = lambda u: bad.append(("printed", repr(u.exc_value), u.object))
w = BackgroundDispatcher(lambda b: None, ms_delay=1)
w.enqueue(0)
assert w.flush()  # the thread runs
signal.signal(signal.SIGALRM, handler)
for round_ in range(60):
    got = []
    yes = []
    n = 1
    end = time.monotonic() + 0.08
    d = BackgroundDispatcher(
        lambda b: got.extend(b),
        ms_delay=0.2,
        capacity=200,
        on_full=("drop_newest", "raise")[round_ % 2],
    )
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0002 + random.random() * 0.0005)
    while time.monotonic() < end:
        try:
            burst(d, yes, n)
        except Limit:
            hits += 1
        except Full:
            pass
        n += 20
    signal.setitimer(signal.ITIMER_REAL, 0)
    end = time.monotonic() + 3  # a machine may be busy
    while set(yes) - set(got) and time.monotonic() < end:
        time.sleep(0.001)
    stuck = len(set(yes) - set(got))
    try:
        d.enqueue(-1)
    except Exception as e:
        bad.append((round_, repr(e)))
    ok = d.close(timeout=3)
    s = d.statistics()
    if (
        not ok
        or stuck
        or set(yes) - set(got)
        or len(got) != len(set(got))
        or s.accepted != s.dispatched + s.failed + s.abandoned
    ):
        bad.append(
            (
                round_,
                ok,
                "stuck",
                stuck,
                len(set(yes) - set(got)),
                len(got) - len(set(got)),
                s,
            )
        )
print("interrupted", hits, "times")
if bad:
    sys.exit("\n".join(map(str, bad[:3])) + f"  ({len(bad)} of 60 rounds)")
