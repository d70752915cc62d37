"""A wrapped dispatch function returns an async generator: the batch has failed."""

import functools
import logging
import sys

from ringdispatch import BackgroundDispatcher

logging.basicConfig(level=logging.CRITICAL)
ran = []


async def send(batch):
    ran.extend(batch)
    yield len(batch)


def traced(f):
    @functools.wraps(f)
    def call(*a):
        return f(*a)

    return call


wrapped = traced(send)
del wrapped.__wrapped__
d = BackgroundDispatcher(wrapped, ms_delay=5)
d.enqueue(1)
d.close()
s = d.statistics()
if not ran and s.dispatched:
    sys.exit(
        f"nothing ran, yet dispatched={s.dispatched} failed={s.failed}: a returned generator is taken for success"
    )
