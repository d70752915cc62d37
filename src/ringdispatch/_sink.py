"""Sinks: dispatch functions that are objects, closed after each period of use."""

import asyncio
import inspect
import logging
import math
import weakref
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from ._home import Home
from ._loop_end import END_SECONDS
from ._residence import leave_unused, uses
from ._ring import short_repr

if TYPE_CHECKING:
    from ._batcher import Batcher
    from ._reports import Reports

# What a sink's aclose() has at least, where a close or a loop's end has no time left.
_LEAST_SECONDS = 0.2

# The batcher that a sink belongs to, by the sink's id: the batcher keeps the sink.
_owners: "dict[int, weakref.ref[Batcher]]" = {}


def is_sink(value: object) -> bool:
    """Whether a dispatch function is an object with a coroutine method `aclose`.

    Raises:
        TypeError: its `aclose` is an ordinary method, or its `prepare` is not.
    """
    kind = type(value)
    if not hasattr(kind, "aclose"):
        return False
    name = f"dispatch_function={short_repr(value)}"
    if not inspect.iscoroutinefunction(kind.aclose):
        raise TypeError(f"{name}: its aclose must be a coroutine method, async def")
    if inspect.iscoroutinefunction(getattr(kind, "prepare", None)):
        raise TypeError(
            f"{name}: its prepare must be an ordinary method: the constructor calls it"
        )
    return True


def claim(batcher: "Batcher") -> None:
    """Give the sink, if there is one, to this batcher, for as long as that lives.

    Raises:
        ValueError: it belongs to another dispatcher.
        Exception: what the sink's `prepare` raises.
    """
    options = batcher.options
    if batcher.sink is None:
        return
    sink, key = options.function, id(options.function)
    reference = _owners.get(key)
    if reference is not None and (owner := reference()) is not None:
        raise ValueError(_explain_owner(sink, owner))
    if hasattr(type(sink), "prepare"):
        sink.prepare(options.layout, options.dispatch_timeout)

    def collected(reference: object, owners: Any = _owners) -> None:
        if owners.get(key) is reference:
            del owners[key]

    mine = weakref.ref(batcher, collected)
    owner = _owners.setdefault(key, mine)()
    if owner is None:  # its callback has not run yet
        _owners[key] = mine
    elif owner is not batcher:  # another thread was quicker
        raise ValueError(_explain_owner(sink, owner))


def _explain_owner(sink: object, owner: "Batcher") -> str:
    return (
        f"dispatch_function={short_repr(sink)}: belongs to the dispatcher "
        f"{owner.reports.name!r}, which closes it: make a sink for each"
    )


def use_of(batcher: "Batcher") -> "SinkUse | None":
    """Where the batcher's sink was called: nowhere yet. None if it has none."""
    options = batcher.options
    if not is_sink(options.function):
        return None
    return SinkUse(options.function, batcher.reports, batcher.now)


class SinkUse:
    """Where a sink was called, and its closing there.

    `aclose` runs as a task of each loop that the sink was called on: when the
    dispatcher is closed, when it has left the loop for another, or when the loop ends;
    in each case after the last call there has really ended.
    """

    def __init__(self, sink: Any, reports: "Reports", now: Callable[[], float]) -> None:
        # never changed
        self._sink = sink
        self._reports = reports
        self._now = now  # the dispatcher's clock, in seconds
        # any thread, plain stores
        self._deadline = math.inf  # of the close
        # any thread, by single operations of a dict
        self.homes: dict[Home, None] = {}  # called there, and not closed since
        self._asked: dict[Home, None] = {}  # to close it, and has not begun
        self._closings: dict[Home, asyncio.Task[None]] = {}

    # ---- on any thread

    def limit(self, timeout: float | None) -> None:
        """Note when a close that begins now will have run out of time."""
        self._deadline = math.inf if timeout is None else self._now() + timeout

    def close_on(self, home: Home, batcher: "Batcher") -> bool:
        """Have the sink closed on a home that its dispatcher has nothing on any more.

        Returns whether it will leave the home when that is done.
        """
        if home in self._closings or home in self._asked:
            return True
        if home not in self.homes:
            return False
        self._asked[home] = None
        if home.post(partial(self._start, home, batcher)):
            return True
        self.loop_closed(home)
        batcher.settlement.finish()
        return False

    def loop_closed(self, home: Home) -> None:
        """Forget a loop that was closed, and what was open there with it."""
        self.homes.pop(home, None)
        self._asked.pop(home, None)
        task: Any = self._closings.pop(home, None)
        if task is not None:
            task._log_destroy_pending = False

    @property
    def is_open(self) -> bool:
        """Whether it is open on a loop that runs, and so can close it."""
        homes = [*self.homes, *self._closings]
        return any(not home.stalled for home in homes)

    # ---- on the home

    def _start(
        self, home: Home, batcher: "Batcher", seconds: float | None = None
    ) -> None:
        self._asked.pop(home, None)
        if home not in self.homes or home in self._closings:
            return
        if any(call.home is home for call in batcher.calls):
            return  # its end comes here again
        if seconds is None and uses(batcher, home):
            return  # it was opened again, or has moved back
        if seconds is None:
            left = self._deadline - self._now()
            seconds = left if batcher.ring.closed else END_SECONDS
        closing = self._close(max(seconds, _LEAST_SECONDS))
        task = asyncio.Task(closing, loop=home.loop, context=Context())
        asyncio._unregister_task(task)  # the loop's end waits for it in close_here()
        self._closings[home] = task
        del self.homes[home]  # second: a thread that waits must find it in one of both
        task.add_done_callback(partial(self._closed, home, batcher), context=Context())

    async def close_here(self, home: Home, batcher: "Batcher", seconds: float) -> None:
        """Close it on the running loop, which is about to end."""
        self._start(home, batcher, seconds)
        task = self._closings.get(home)
        if task is not None:
            await asyncio.wait({task}, timeout=max(seconds, _LEAST_SECONDS) + 0.1)
            task.cancel()  # it may ignore its own time limit
            await asyncio.sleep(0)

    async def _close(self, seconds: float) -> None:
        time_limit = asyncio.timeout(None if seconds == math.inf else seconds)
        try:
            async with time_limit:
                await self._sink.aclose()
        except GeneratorExit:  # the loop is gone
            raise
        except BaseException as error:
            why = "the sink's aclose raised"
            if time_limit.expired():
                why = f"the sink's aclose was not done within {seconds:.3g} s"
            self._reports.log(logging.ERROR, why, error)

    def _closed(
        self, home: Home, batcher: "Batcher", task: "asyncio.Task[None]"
    ) -> None:
        if self._closings.get(home) is task:
            del self._closings[home]
        leave_unused(batcher)
        batcher.settlement.finish()
