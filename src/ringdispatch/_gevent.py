"""Hides the background loop while its greenlet waits; imported only with greenlet.

Under gevent the background thread is a greenlet, and while it waits the application
runs on in the same thread: with a loop running there, `asyncio.run` and Django's ORM
would raise.
"""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def hidden_while_waiting(loop: Any) -> Iterator[None]:
    """Make `loop` the thread's running loop only while it does not wait."""
    selector = loop._selector
    wait = selector.select
    others = swap_running_loop(None, (None, None))

    def select(timeout: float | None = None) -> Any:
        nonlocal others
        mine = swap_running_loop(*others)
        try:
            return wait(timeout)
        finally:
            others = swap_running_loop(*mine)

    selector.select = select
    try:
        yield
    finally:
        swap_running_loop(*others)


def swap_running_loop(loop: Any, hooks: Any) -> tuple[Any, Any]:
    """Set this thread's running loop and generator hooks; returns the former ones."""
    before = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
    asyncio._set_running_loop(loop)
    sys.set_asyncgen_hooks(*hooks)
    return before
