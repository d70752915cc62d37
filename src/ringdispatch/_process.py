"""Fork and exit: what a forked child starts with, what the end of a process does."""

import asyncio
import atexit
import contextlib
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

from ._background import reset_background, run_inline, stop_background
from ._close import end
from ._home import home_of, raise_from
from ._loop_end import END_SECONDS
from ._pthread import handled, immortalize, is_forked, set_hook

if TYPE_CHECKING:
    from ._batcher import Batcher


batchers: "weakref.WeakSet[Batcher]" = weakref.WeakSet()
_imported_by = os.getpid()
_registered: set[int] = set()  # process ids, by register_exit()
_resetting = threading.RLock()


def register_exit() -> None:
    """Make `at_exit` run in this process too.

    A child of `multiprocessing` forgets what was registered with atexit, and on 3.11
    and 3.12 runs nothing at its exit but multiprocessing's own finalizers.
    """
    if os.getpid() in _registered:
        return
    after_fork_in_child()
    _registered.add(os.getpid())
    if os.getpid() != _imported_by:
        atexit.unregister(at_exit)
        atexit.register(at_exit)
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process():
        util.Finalize(None, at_exit, exitpriority=0)


def after_fork_in_child() -> None:
    """Reset every dispatcher to empty; where C code forked, at the first use of any.

    What belonged to the parent (entries, tasks, timers, loops) must never be freed
    here: finalizers would run for things that live on in the parent.
    """
    if not is_forked():
        return  # without the lock, which a fork must find free
    with _resetting:
        if not is_forked():
            return  # another thread was quicker
        living = list(batchers)
        homes = {batcher.home for batcher in living}
        loop = asyncio._get_running_loop()
        if loop is not None and home_of(loop) in homes:
            asyncio._set_running_loop(None)  # from 3.14 on only Python's fork does so
        for batcher in living:
            batcher.ring.reset()  # first: a thread left behind may hold its lock
        for batcher in living:
            inherited = dict(vars(batcher))
            immortalize(inherited)
            batcher.reset()
            for name, value in vars(batcher).items():
                if inherited.get(name) is value:  # it is still in use
                    del inherited[name]
        immortalize(reset_background())
        handled()


def at_exit() -> None:
    """Dispatch the pending entries within five seconds; report the rest."""
    after_fork_in_child()
    deadline = time.monotonic() + END_SECONDS
    try:
        while time.monotonic() < deadline:
            try:
                _dispatch_all(deadline)
                break
            except SystemExit:
                continue  # from the handler of a second signal: the end is under way
    finally:
        with contextlib.ExitStack() as each:  # all, whatever one raises
            for batcher in list(batchers):
                each.callback(end, batcher)


def _dispatch_all(deadline: float) -> None:
    stop_background(deadline - time.monotonic() + 1.0)
    waiting = [batcher for batcher in list(batchers) if batcher.has_work]
    left = deadline - time.monotonic()
    if waiting and left > 0:
        run_inline(_end_all(waiting, left))


async def _end_all(waiting: "list[Batcher]", seconds: float) -> None:
    await asyncio.gather(*(_end_one(batcher, seconds) for batcher in waiting))


async def _end_one(batcher: "Batcher", seconds: float) -> None:
    loop = asyncio.get_running_loop()
    try:
        if batcher.recovery is not None:
            batcher.recovery.stop()  # until bind(): what is cut short is left
        # A loop in a daemon thread runs on meanwhile, and so do the calls there.
        for call in batcher.calls:
            if call.home.stalled:
                call.orphan()
        home = home_of(loop)
        batcher.bind(home)
        deadline = loop.time() + seconds
        await batcher.drain(home, seconds, last=True, everywhere=True)
        if batcher.sink is not None:
            await batcher.sink.close_here(home, batcher, deadline - loop.time())
    except (KeyboardInterrupt, SystemExit) as error:  # by the handler of a signal
        raise_from(loop, error)


atexit.register(at_exit)
set_hook(after_fork_in_child)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork_in_child)
