"""Fork and exit: what happens to every dispatcher of the process."""

import asyncio
import atexit
import os
import sys
import time
import weakref
from typing import TYPE_CHECKING

from ._background import reset_background, run_inline, stop_background
from ._home import END_SECONDS, raise_from
from ._ring import immortalize

if TYPE_CHECKING:
    from ._batcher import Batcher


_batchers: "weakref.WeakSet[Batcher]" = weakref.WeakSet()
_imported_by = os.getpid()
_registered: set[int] = set()  # process ids, by register_exit()


def register(batcher: "Batcher") -> None:
    """Register a dispatcher for fork and exit."""
    _batchers.add(batcher)


def register_exit() -> None:
    """Make `at_exit` run in this process too.

    A child of `multiprocessing` clears what was registered with atexit before the fork,
    and on 3.11 and 3.12 runs only multiprocessing's own finalizers at its exit.
    """
    if os.getpid() in _registered:
        return
    _registered.add(os.getpid())
    if os.getpid() != _imported_by:
        atexit.unregister(at_exit)
        atexit.register(at_exit)
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process():
        util.Finalize(None, at_exit, exitpriority=0)


def after_fork_in_child() -> None:
    """Reset every dispatcher to empty.

    The parent's objects (entries, tasks, timers, loops) must never be freed here: their
    finalizers would act on what the parent still uses.
    """
    batchers = list(_batchers)
    for batcher in batchers:
        batcher.ring.reset()  # first: a thread of the parent may have held its lock
    for batcher in batchers:
        immortalize(batcher.inherited())
        batcher.reset()
    immortalize(reset_background())


def at_exit() -> None:
    """Dispatch the pending entries within five seconds; report the rest."""
    deadline = time.monotonic() + END_SECONDS
    try:
        while (left := deadline - time.monotonic()) > 0:
            try:
                _dispatch_all(left)
                break
            except SystemExit:
                continue  # from the handler of a second signal: the end is under way
    finally:
        for batcher in list(_batchers):
            batcher.end()


def _dispatch_all(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    stop_background(seconds + 1.0)
    waiting = [batcher for batcher in list(_batchers) if batcher.has_work]
    left = deadline - time.monotonic()
    if waiting and left > 0:
        run_inline(_end_all(waiting, left))


async def _end_all(batchers: "list[Batcher]", seconds: float) -> None:
    await asyncio.gather(*(_end_one(batcher, seconds) for batcher in batchers))


async def _end_one(batcher: "Batcher", seconds: float) -> None:
    try:
        await batcher.end_here(seconds)
    except (KeyboardInterrupt, SystemExit) as error:  # from a signal handler
        raise_from(asyncio.get_running_loop(), error)


atexit.register(at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork_in_child)
