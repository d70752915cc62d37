"""A flush: what is pending goes out now, and the caller waits until it is settled."""

from functools import partial
from typing import TYPE_CHECKING

from ._call import current_call
from ._waiting import Ending, FlushWaiter

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
    look = partial(_look, batcher, blocking=False)
    return await batcher.settlement.wait(waiter, timeout, look)


def block(batcher: "Batcher", waiter: FlushWaiter, timeout: float | None) -> bool:
    """Block until it is over; returns whether all was settled."""
    return batcher.settlement.block(
        waiter, timeout, partial(_look, batcher, blocking=True)
    )


def _look(batcher: "Batcher", *, blocking: bool) -> None:
    """Take another home where this one stopped before it served what it was posted."""
    batcher.settlement.finish()
    home = batcher.home
    if batcher.has_work and (home is None or home.stalled):
        batcher.wake(blocking=blocking)
