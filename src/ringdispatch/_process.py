"""What happens to every dispatcher of a process when it forks and when it ends."""

import asyncio
import atexit
import os
import sys
import time
import weakref
from typing import Any, Protocol

from ._background import forget_background, run_inline, stop_background
from ._home import END_SECONDS, raise_from
from ._ring import Ring, keep_for_ever


class Member(Protocol):
    """What the process knows of a dispatcher."""

    @property
    def ring(self) -> Ring:
        """Where its entries wait."""

    def _start_anew(self) -> object: ...
    def _needs_end(self) -> bool: ...
    async def _end_here(self, timeout: float) -> None: ...
    def _end(self) -> None: ...


_members: weakref.WeakSet[Any] = weakref.WeakSet()
_imported_by = os.getpid()
_seen_to: set[int] = set()  # by register_exit(), process by process


def register(member: Member) -> None:
    """Look after a dispatcher when the process forks and when it ends."""
    _members.add(member)


def register_exit() -> None:
    """See to it that `at_exit` runs in this process too.

    A child of `multiprocessing` forgets what was registered with atexit before it was
    forked, and on 3.11 and 3.12 runs nothing at its exit but multiprocessing's own
    finalizers.
    """
    if os.getpid() in _seen_to:
        return
    _seen_to.add(os.getpid())
    if os.getpid() != _imported_by:
        atexit.unregister(at_exit)
        atexit.register(at_exit)
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process():
        util.Finalize(None, at_exit, exitpriority=0)


def after_fork_in_child() -> None:
    """Let every dispatcher start empty.

    What belonged to the parent (its entries, tasks, timers, loops) must never be freed
    here: finalizers would run for things that live on in the parent.
    """
    members = list(_members)
    for member in members:
        member.ring.reset()  # first: its lock may be held by a thread left behind
    for member in members:
        keep_for_ever(member._start_anew())
    keep_for_ever(forget_background())


def at_exit() -> None:
    """Dispatch what is pending, within five seconds; report what cannot be."""
    deadline = time.monotonic() + END_SECONDS
    try:
        while (left := deadline - time.monotonic()) > 0:
            try:
                _dispatch_all(left)
                break
            except SystemExit:
                continue  # by the handler of a second signal: the end is under way
    finally:
        for member in list(_members):
            member._end()


def _dispatch_all(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    stop_background(seconds + 1.0)
    waiting = [member for member in list(_members) if member._needs_end()]
    left = deadline - time.monotonic()
    if waiting and left > 0:
        run_inline(_end_all(waiting, left))


async def _end_all(members: list[Member], seconds: float) -> None:
    await asyncio.gather(*(_end_one(member, seconds) for member in members))


async def _end_one(member: Member, seconds: float) -> None:
    try:
        await member._end_here(seconds)
    except (KeyboardInterrupt, SystemExit) as error:  # by the handler of a signal
        raise_from(asyncio.get_running_loop(), error)


atexit.register(at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork_in_child)
