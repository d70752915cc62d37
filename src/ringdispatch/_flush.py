"""A flush: what is pending goes out now, and the caller waits until it is settled."""

import asyncio
import weakref
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

from ._call import current_call
from ._home import running_loop
from ._waiting import LOOK_SECONDS, Ending, FlushWaiter

if TYPE_CHECKING:
    from ._batcher import Batcher

# A posted pump() older than this may have gone down with its loop: post another.
_POSTED_SECONDS = 0.1


def begin_flush(
    batcher: "Batcher", *, blocking: bool = False, last: tuple[Ending, ...] = ()
) -> FlushWaiter:
    """Have what is pending go out now; returns what to wait for."""
    calling = current_call()
    if calling not in batcher.calls:  # another's, ended, or the parent's of a fork
        calling = None
    if batcher.ring.closed and batcher.ring.has_drops:
        batcher.drops.report_now(last=True)  # no batch and no timer may come
    waiter = FlushWaiter(batcher.ring.tail, calling, last)
    batcher.settlement.add(waiter)
    batcher.settlement.finish()
    if waiter.settled is not None:
        return waiter
    home = batcher.home
    if not batcher.has_posted(_POSTED_SECONDS) or home is None or home.stalled:
        batcher.wake(blocking=blocking)
    return waiter


async def wait(batcher: "Batcher", waiter: FlushWaiter, timeout: float | None) -> bool:
    """Wait until it is over; returns whether all was settled."""
    batcher.looks.keep(batcher)
    try:
        return await batcher.settlement.wait(waiter, timeout)
    finally:
        batcher.looks.rest(batcher)


def block(batcher: "Batcher", waiter: FlushWaiter, timeout: float | None) -> bool:
    """Block until it is over; returns whether all was settled."""
    look = partial(_look, batcher, blocking=True)
    return batcher.settlement.block(waiter, timeout, look)


class Looks:
    """A timer of each loop on which flushes wait, however many there are."""

    def __init__(self) -> None:
        # each loop's thread, its own
        self._timers: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle] = {}

    def keep(self, batcher: "Batcher") -> None:
        """Look from time to time, until no flush waits any more; on a running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._timers:
            for other in list(self._timers):
                if other.is_closed():
                    self._timers.pop(other, None)
            self._set_timer(weakref.ref(batcher), loop)

    def rest(self, batcher: "Batcher") -> None:
        """Look no more if no flush waits; where the loop has ended, nothing looks."""
        loop = running_loop()
        if loop is not None and not batcher.settlement.has_flushes:
            timer = self._timers.pop(loop, None)
            if timer is not None:
                timer.cancel()

    def look(self, batcher: "Batcher", loop: asyncio.AbstractEventLoop) -> None:
        """Look, and once more after a while."""
        self._timers.pop(loop, None)
        if not batcher.settlement.has_flushes:
            return
        try:
            _look(batcher, blocking=False)
        finally:
            self._set_timer(weakref.ref(batcher), loop)

    def _set_timer(
        self, ref: "weakref.ref[Batcher]", loop: asyncio.AbstractEventLoop
    ) -> None:
        look = partial(_look_again, ref, loop)
        self._timers[loop] = loop.call_later(LOOK_SECONDS, look, context=Context())


def _look_again(ref: "weakref.ref[Batcher]", loop: asyncio.AbstractEventLoop) -> None:
    if (batcher := ref()) is not None:
        batcher.looks.look(batcher, loop)


def _look(batcher: "Batcher", *, blocking: bool) -> None:
    """Take another home where this one stopped before it served what it was posted."""
    batcher.settlement.finish()
    home = batcher.home
    if batcher.has_work and (home is None or home.stalled):
        batcher.wake(blocking=blocking)
