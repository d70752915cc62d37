"""Where a batcher lives: at its home, and at those where its calls still run.

It is attached to each of these, and leaves the others. Threads do so at once, and
reopen it meanwhile: who takes a home sets `batcher.home` before attaching, and who
leaves one looks at that afterwards, so that one of both sees the other.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._batcher import Batcher
    from ._home import Home


def attach(batcher: "Batcher", home: "Home") -> None:
    """Have the batcher drained at the loop's end, and notified of its close."""
    batcher.homes[home] = None
    home.attach(batcher)


def leave_unused(batcher: "Batcher") -> None:
    """Leave the homes that have nothing of the batcher any more; first close its sink.

    Where that takes time, its end comes here again.
    """
    for home in list(batcher.homes):
        if _uses(batcher, home):
            continue
        if batcher.sink is not None and batcher.sink.close_on(home, batcher):
            continue
        batcher.homes.pop(home, None)
        home.remove(batcher)
        if _uses(batcher, home):  # again, by another thread
            attach(batcher, home)


def _uses(batcher: "Batcher", home: "Home") -> bool:
    lives = home is batcher.home and (not batcher.ring.closed or batcher.has_work)
    return lives or any(call.home is home for call in batcher.calls)
