"""The event loops that dispatchers live on, and what notices the end of a loop.

Ending a loop cancels its tasks, closes its async generators, then closes the loop. At
the first step calls in flight get their time; at the second a generator drains what
lives there; at the third the wrapped `close` moves what is left.
"""

import asyncio
import contextlib
import functools
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, MutableMapping
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._batcher import Batcher

# How long the end of a loop or of the process may take over what is still pending.
END_SECONDS = 5.0

# Of these, for the calls in flight when the loop's tasks are cancelled: where one
# hangs, the pending entries have the rest.
_CALL_SHARE = 0.8

# How often a wait for all tasks of a loop looks whether calls are in flight.
_LOOK_SECONDS = 0.05

_Reference = Callable[[], asyncio.AbstractEventLoop | None]

_homes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, "Home"] = (
    weakref.WeakKeyDictionary()
)
# Of loops that take no weak reference, until they are closed.
_held_homes: dict[asyncio.AbstractEventLoop, "Home"] = {}


def home_of(loop: asyncio.AbstractEventLoop) -> "Home":
    """The one home of this loop."""
    homes: MutableMapping[asyncio.AbstractEventLoop, Home] = _homes
    try:
        reference: _Reference = weakref.ref(loop)
    except TypeError:
        homes, reference = _held_homes, lambda: loop
    return homes.get(loop) or homes.setdefault(loop, Home(loop, reference))


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread and has not begun to end."""
    loop = asyncio._get_running_loop()
    if loop is None:
        return None
    thread = getattr(loop, "_thread_id", None)
    if thread not in (None, threading.get_ident()):
        return None  # under gevent: it runs in another greenlet
    if getattr(loop, "_asyncgens_shutdown_called", False) or home_of(loop).ended:
        return None
    return loop


def raise_from(loop: asyncio.AbstractEventLoop, error: BaseException) -> None:
    """Raise what ends the program from the running `loop` itself.

    A task that raised it would keep an exception that was never retrieved.
    """
    loop.call_soon(_raise, error)


def _raise(error: BaseException) -> None:
    try:
        raise error
    finally:
        del error  # or its traceback would keep this frame, and what its frames hold


class Home:
    """An event loop, and the batchers that live or have lived there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reference: _Reference) -> None:
        # never changed
        self._loop = reference
        # nest_asyncio runs callbacks inside callbacks: no shortcut to its queue
        self._reentrant = hasattr(loop, "_nest_patched")
        # set once, before the home is known
        self.background = False
        self.is_ours = False  # no code of the application's runs on the loop
        self.on_deserted: Callable[[], object] | None = None
        # any thread, by single operations of the dict
        self._batchers: dict[int, weakref.ref[Batcher]] = {}
        self._is_wrapped = False  # twice does no harm
        # the loop's thread
        running = asyncio._get_running_loop() is loop
        self.thread: int | None = threading.get_ident() if running else None
        self._guard: AsyncGenerator[None, None] | None = None
        self._in_flight = _InFlight(self)
        self.ends_at = 0.0  # by the loop's clock, once its tasks were cancelled
        self.is_guarded = False
        self.ended = False  # drained: a new home takes over for later entries

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop, or None once it is gone."""
        return self._loop()

    @property
    def closed(self) -> bool:
        """Whether nothing will run here any more: a new home takes over."""
        loop = self._loop()
        return loop is None or loop.is_closed()

    @property
    def stalled(self) -> bool:
        """Whether nothing runs here now: closed, or stopped, perhaps for ever.

        A flush, a close, `aenqueue` and every 4,096th entry move all to a new home.
        """
        loop = self._loop()
        if loop is None or loop.is_closed():
            return True
        # The background loop runs as soon as its thread does.
        return not (self.background or loop.is_running())

    @property
    def here(self) -> bool:
        """Whether the calling thread runs this home: to block would stop it."""
        # By identity: a greenlet's running loop may be another greenlet's.
        mine = self.thread == threading.get_ident()
        loop = self._loop()
        return mine and loop is not None and loop.is_running()

    def post(self, callback: Callable[[], object]) -> bool:
        """Have the loop call back soon, from any thread; False where it is closed."""
        loop = self._loop()
        if loop is None:
            return False
        # Inside a task the loop does not sleep, and need not be woken. A signal handler
        # may be here while it does, but not while a task runs.
        if (
            asyncio._get_running_loop() is loop
            and not self._reentrant
            and asyncio.current_task(loop) is not None
        ):
            loop.call_soon(callback, context=Context())
            return True
        try:
            loop.call_soon_threadsafe(callback, context=Context())
        except RuntimeError:
            if not loop.is_closed():
                raise
        # Closed meanwhile by another thread, it keeps the callback and never calls it.
        return not loop.is_closed()

    def attach(self, batcher: "Batcher") -> None:
        """Have the batcher drained at the loop's end, and notified of its close."""
        mine, key = self._batchers, id(batcher)

        def collected(_: object, is_finalizing: Any = sys.is_finalizing) -> None:
            mine.pop(key, None)
            if not is_finalizing():  # else the modules have lost their names
                self._notice_desertion()

        mine[key] = weakref.ref(batcher, collected)
        loop = self._loop()
        if loop is not None and not self._is_wrapped:
            self._wrap_close(loop)
            self._is_wrapped = True

    def remove(self, batcher: "Batcher") -> None:
        """Forget a batcher that has nothing here any more; from any thread."""
        if self._batchers.pop(id(batcher), None) is not None:
            self._notice_desertion()

    def _notice_desertion(self) -> None:
        if self.on_deserted is not None and not self._batchers:
            self.on_deserted()

    def residents(self) -> "list[Batcher]":
        """The batchers that live or have lived here."""
        found = [reference() for reference in list(self._batchers.values())]
        return [batcher for batcher in found if batcher is not None]

    # ---- the loop's end

    def arrive(self) -> None:
        """Note the thread, and guard the loop's end; on the loop."""
        self.thread = threading.get_ident()
        if self.is_guarded:
            return
        loop = self._loop()
        if self.ended or loop is None or running_loop() is not loop:
            self.ended = True  # it has begun to end, and closes no guard any more
            return
        guard = _drain_at_end(weakref.ref(self))
        try:
            _start(guard)
        except ResourceWarning:  # under -W error: uvloop had begun to end
            self.ended = True
        else:
            self._guard = guard
            asyncio._register_task(self._in_flight)  # type: ignore[arg-type]
            self.is_guarded = True

    async def drain(self, seconds: float, *, last: bool = True) -> None:
        """Dispatch what is pending here; the loop is about to end."""
        drains = [one.drain(self, seconds, last=last) for one in self.residents()]
        for outcome in await asyncio.gather(*drains, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def _wrap_close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wrap the loop's `close`, on the loop itself, to notify the batchers."""
        close = loop.close
        kind: Any = type(loop)
        inherited = close == kind.close.__get__(loop)
        wrapper: Any = None

        @functools.wraps(close)
        def close_and_notify(*args: Any, **kwargs: Any) -> Any:
            nonlocal wrapper
            batchers = self.residents()
            for batcher in batchers:
                batcher.ring.unclaim_window()  # whatever is raised from here on
            try:
                return close(*args, **kwargs)
            finally:
                if loop.is_closed():
                    _held_homes.pop(loop, None)
                    _unwrap(loop, wrapper, None if inherited else close)
                    wrapper = None  # it refers to the loop, and to itself
                    with contextlib.ExitStack() as each:  # all, whatever one raises
                        for batcher in batchers:
                            each.callback(batcher.loop_closed, self)

        # Not through its `__dict__`: CPython 3.11 and 3.12 make one when asked for it,
        # and every turn of the loop is slower from then on. A loop that takes no
        # attribute is looked at when a window opens.
        wrapper = close_and_notify
        with contextlib.suppress(AttributeError):
            loop.close = wrapper  # type: ignore[method-assign]


class _InFlight:
    """Stands for the calls in flight among a loop's tasks, while there are any.

    Whatever ends a loop cancels all tasks, and waits for them. Calls are hidden from
    that: cancelling this object instead gives them their share of the time that the
    loop's end may take. Its methods are those of a task that the ends of loops use.
    """

    _asyncio_future_blocking = False  # by this asyncio knows a future

    def __init__(self, home: Home) -> None:
        self._home = weakref.ref(home)
        self._drain: asyncio.Task[None] | None = None
        self._looks: dict[Any, asyncio.TimerHandle] = {}  # of those that wait

    def get_loop(self) -> asyncio.AbstractEventLoop | None:
        home = self._home()
        return None if home is None else home.loop

    def done(self) -> bool:
        home = self._home()
        return home is None or not any(b.running_on(home) for b in home.residents())

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002, a task's
        home, loop = self._home(), self.get_loop()
        if home is None or loop is None or self.done():
            return False
        if self._drain is None:
            home.ends_at = loop.time() + END_SECONDS
            # Not by the loop: a task factory may take no context.
            self._drain = asyncio.Task(self._run(home), loop=loop, context=Context())
        return True

    async def _run(self, home: Home) -> None:
        try:
            await home.drain(END_SECONDS * _CALL_SHARE, last=False)
        finally:
            self._drain = None  # it would keep the loop

    def add_done_callback(self, function: Any, *, context: Any = None) -> None:
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
        while self._drain is not None or not self.done():
            yield from asyncio.sleep(_LOOK_SECONDS).__await__()

    def remove_done_callback(self, function: Any) -> int:
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
        home = self._home()
        for batcher in home.residents() if home else ():
            for call in batcher.running_on(home):
                if call.task is not None:
                    return getattr(call.task, name)
        raise AttributeError(name)


def _unwrap(loop: asyncio.AbstractEventLoop, wrapper: object, own: Any) -> None:
    """Undo it, or loop and wrapper would keep each other; leave what others did."""
    if loop.close is wrapper:
        del loop.close
        if own is not None:
            loop.close = own  # type: ignore[method-assign]


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
                await home.drain(left if left > 0 else END_SECONDS)
            finally:
                home.ended = True


def _start(generator: AsyncGenerator[None, None]) -> None:
    """Run it to its yield, as one that the loop's shutdown_asyncgens() closes.

    Without the loop's finalizer: that would start a task for a loop that is dropped.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=None)
    try:
        with contextlib.suppress(StopIteration, StopAsyncIteration):
            generator.__anext__().send(None)
    finally:
        sys.set_asyncgen_hooks(*hooks)
