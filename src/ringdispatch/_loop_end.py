"""The end of an event loop: calls in flight and pending entries have five seconds.

Ending a loop cancels its tasks, closes its async generators, then closes the loop. At
the first step calls in flight get their time; at the second a generator drains what
lives there; at the third the wrapped `close` moves what is left.
"""

import asyncio
import contextlib
import functools
import sys
import weakref
from collections.abc import AsyncGenerator, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._home import Home

# How long the end of a loop or of the process may take over what is still pending.
END_SECONDS = 5.0

# Of these, for the calls in flight when the loop's tasks are cancelled: where one
# hangs, the pending entries have the rest.
_CALL_SHARE = 0.8

# After a loop's tasks were cancelled, when it goes on as if it had not ended.
_AGAIN_SECONDS = 1.0

# How often a wait for all tasks of a loop looks whether calls are in flight.
_LOOK_SECONDS = 0.05


async def _drain(home: "Home", seconds: float, *, last: bool = True) -> None:
    """Dispatch what is pending here; the loop is about to end.

    The `last` time, close the sinks too.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    drains = [one.drain(home, seconds, last=last) for one in home.batchers()]
    try:
        outcomes = await asyncio.gather(*drains, return_exceptions=True)
    finally:  # this task may be cancelled, too; and the loop go on
        for batcher in () if last else home.batchers():
            if batcher.recovery is not None:
                batcher.recovery.resume()
                again = functools.partial(batcher.wake_home, batcher.home)
                loop.call_later(_AGAIN_SECONDS, again, context=Context())
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    if last:
        home.ended = True  # first: a call that began now would not be drained
        # Other threads may have gone on with entries, so that one did begin.
        while any(one.running_on(home) for one in home.batchers()):
            left = deadline - loop.time()
            drains = [one.drain(home, left, last=True) for one in home.batchers()]
            await asyncio.gather(*drains)
            if left <= 0:
                break
        left = deadline - loop.time()
        sinks = [(one, one.sink) for one in home.batchers() if one.sink is not None]
        await asyncio.gather(*(sink.close_here(home, one, left) for one, sink in sinks))


# ---- its tasks are cancelled


class InFlight:
    """Stands for the calls in flight among a loop's tasks, while there are any.

    Whatever ends a loop cancels all tasks and waits for them. Calls are hidden from it;
    this object, with a task's methods, gives them their share of the end's time.
    """

    _asyncio_future_blocking = False  # by this asyncio knows a future

    def __init__(self, home: "Home") -> None:
        self._home = weakref.ref(home)
        self._drain: asyncio.Task[None] | None = None
        self._looks: dict[Any, asyncio.TimerHandle] = {}  # of those that wait

    def get_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop, or None once it is gone."""
        home = self._home()
        return None if home is None else home.loop

    def done(self) -> bool:
        """Whether no call's task is in flight there; a letter's thread may be."""
        return not self._tasks

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002, a task's
        """Give the calls their time, once; returns whether there are any."""
        home, loop = self._home(), self.get_loop()
        if home is None or loop is None or self.done():
            return False
        if self._drain is None:
            home.ends_at = loop.time() + END_SECONDS
            # Not by the loop: a task factory may take no context.
            self._drain = asyncio.Task(self._run(home), loop=loop, context=Context())
        return True

    async def _run(self, home: "Home") -> None:
        try:
            await _drain(home, END_SECONDS * _CALL_SHARE, last=False)
        finally:
            self._drain = None  # it would keep the loop

    def add_done_callback(self, function: Any, *, context: Any = None) -> None:
        """Call back when the calls' time is over, or when no call is in flight."""
        loop = self.get_loop()
        self._looks.pop(function, None)
        if self._drain is not None:
            self._drain.add_done_callback(function, context=context)
        elif loop is not None and self.done():
            loop.call_soon(function, self, context=context)
        elif loop is not None:  # waited for, without a cancellation
            again = functools.partial(self.add_done_callback, function, context=context)
            look = loop.call_later(_LOOK_SECONDS, again, context=Context())
            self._looks[function] = look

    def __await__(self) -> Generator[Any, None, None]:
        """Wait until the calls' time is over, or no call is in flight."""
        while self._drain is not None or not self.done():
            yield from asyncio.sleep(_LOOK_SECONDS).__await__()

    def remove_done_callback(self, function: Any) -> int:
        """Forget a callback; returns how many were taken from the drain."""
        look = self._looks.pop(function, None)
        if look is not None:
            look.cancel()
        return self._drain.remove_done_callback(function) if self._drain else 0

    # asyncio calls them where an exception would leave it waiting: no lines of ours.
    cancelled: Any = staticmethod(bool)  # False
    exception: Any = staticmethod(type(None))  # None
    result = exception

    def __getattr__(self, name: str) -> Any:
        """What tools ask of a task, of one of the calls."""
        for task in self._tasks:
            return getattr(task, name)
        raise AttributeError(name)

    @property
    def _tasks(self) -> list[Any]:
        home = self._home()
        calls = [c for b in home.batchers() for c in b.running_on(home)] if home else []
        return [task for call in calls if (task := call.task) is not None]


# ---- its async generators are closed


def start_guard(home: "Home") -> AsyncGenerator[None, None]:
    """Have the running loop's shutdown_asyncgens() drain the home.

    Without the loop's finalizer: that would start a task for a loop that is dropped.
    """
    guard = _drain_at_end(weakref.ref(home))
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=None)
    try:
        with contextlib.suppress(StopIteration, StopAsyncIteration):
            guard.__anext__().send(None)  # runs to its yield
    finally:
        sys.set_asyncgen_hooks(*hooks)
    return guard


async def _drain_at_end(reference: "weakref.ref[Home]") -> AsyncGenerator[None, None]:
    """Drain a home when its loop closes its async generators; by nothing else.

    Freed with its home, or by the garbage collector, it does nothing. That may happen
    when the interpreter ends and this module has lost its names.
    """
    try:
        yield
    finally:
        home = reference()
        loop = home.loop if home else None
        # uvloop has no such attribute
        if home and loop and getattr(loop, "_asyncgens_shutdown_called", True):
            # The loop warns of every generator that starts from now on, also of those
            # inside the user's client; the drain is what it is waiting for. The loop
            # restores the hooks itself when it stops.
            sys.set_asyncgen_hooks(firstiter=None)
            left = home.ends_at - loop.time()
            try:
                await _drain(home, left if left > 0 else END_SECONDS)
            finally:
                home.ended = True


# ---- it is closed


def wrap_close(loop: asyncio.AbstractEventLoop, home: "Home") -> None:
    """Wrap the loop's `close`, on the loop itself, to notify the home's batchers."""
    close = loop.close
    kind: Any = type(loop)
    inherited = close == kind.close.__get__(loop)
    wrapper: Any = None

    @functools.wraps(close)
    def close_and_notify(*args: Any, **kwargs: Any) -> Any:
        nonlocal wrapper
        for batcher in home.batchers():
            batcher.ring.unclaim_window()  # whatever is raised from here on
        try:
            return close(*args, **kwargs)
        finally:
            if loop.is_closed():
                _unwrap(loop, wrapper, None if inherited else close)
                wrapper = None  # it refers to the loop, and to itself
                home.loop_closed(loop)

    # Not through its `__dict__`: CPython 3.11 and 3.12 make one when asked for it, and
    # every turn of the loop is slower from then on. A loop that takes no attribute is
    # looked at when a window opens.
    wrapper = close_and_notify
    with contextlib.suppress(AttributeError):
        loop.close = wrapper  # type: ignore[method-assign]


def _unwrap(loop: asyncio.AbstractEventLoop, wrapper: object, own: Any) -> None:
    """Undo it, or loop and wrapper would keep each other; leave what others did."""
    if loop.close is wrapper:
        del loop.close
        if own is not None:
            loop.close = own  # type: ignore[method-assign]
