"""Where a batcher lives: at its home, and at those where its calls still run.

It is attached to each of these, and leaves the others. Several threads may do so at the
same time, or open it again meanwhile: who comes to a home attaches once more when it is
in use, and who leaves one looks afterwards whether it is.
"""

import weakref
from contextvars import Context
from typing import TYPE_CHECKING

from ._call import LATE_SECONDS, expire_late

if TYPE_CHECKING:
    from ._batcher import Batcher
    from ._home import Home


def attach(batcher: "Batcher", home: "Home") -> None:
    """Have the batcher drained at the loop's end, and notified of its close."""
    batcher.homes[home] = None
    home.attach(batcher)


def leave_unused(batcher: "Batcher") -> None:
    """Leave the homes that have nothing of the batcher any more.

    First its sink is closed there, by a task whose end comes here again.
    """
    for home in list(batcher.homes):
        if uses(batcher, home):
            continue
        if batcher.sink is not None and batcher.sink.close_on(home, batcher):
            continue
        batcher.homes.pop(home, None)
        home.remove(batcher)
        if uses(batcher, home):  # again, by another thread
            attach(batcher, home)


def oversee(batcher: "Batcher", home: "Home") -> None:
    """Time out, on its new home, the calls elsewhere: their loops may stop."""
    loop, timeout = home.loop, batcher.options.dispatch_timeout
    for call in list(batcher.calls):
        elsewhere = call.home is not home and call.is_unsettled
        if elsewhere and loop is not None and timeout is not None:
            now = batcher.now()
            left = (call.began or now) + timeout + LATE_SECONDS - now
            late = weakref.ref(call)  # else it would live as long as the timer
            loop.call_later(max(left, 0.0), expire_late, late, context=Context())
    batcher.overseen_on = home  # last: twice is better than never


def uses(batcher: "Batcher", home: "Home") -> bool:
    """Whether entries may come there, or calls are there."""
    lives = home is batcher.home and (not batcher.ring.closed or batcher.has_work)
    return lives or any(call.home is home for call in batcher.calls)
