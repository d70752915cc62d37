"""Homes: the event loops that dispatchers live on, one `Home` for each loop."""

import asyncio
import contextlib
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ._loop_end import InFlight, start_guard, wrap_close

if TYPE_CHECKING:
    from ._batcher import Batcher

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
        self.is_ours = False  # the loop runs for dispatchers alone
        self.on_deserted: Callable[[], object] | None = None
        # any thread, by single operations of the dict
        self._batchers: dict[int, weakref.ref[Batcher]] = {}
        self._is_wrapped = False  # twice does no harm
        # the loop's thread
        running = asyncio._get_running_loop() is loop
        self.thread: int | None = threading.get_ident() if running else None
        self._guard: AsyncGenerator[None, None] | None = None
        self._in_flight = InFlight(self)
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
        # may be here while it does, but not while a task runs. In asyncio's debug mode
        # a loop refuses another greenlet than its own.
        try:
            if (
                asyncio._get_running_loop() is loop
                and not self._reentrant
                and asyncio.current_task(loop) is not None
            ):
                loop.call_soon(callback, context=Context())
                return True
        except RuntimeError:  # not `suppress`, whose price each window would pay
            pass
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
                self.notice_desertion()

        mine[key] = weakref.ref(batcher, collected)
        loop = self._loop()
        if loop is not None and not self._is_wrapped:
            wrap_close(loop, self)
            self._is_wrapped = True

    def remove(self, batcher: "Batcher") -> None:
        """Forget a batcher that has nothing here any more; from any thread."""
        if self._batchers.pop(id(batcher), None) is not None:
            self.notice_desertion()

    def notice_desertion(self) -> None:
        """Have a home of ours end in time if nothing lives there."""
        if self.on_deserted is not None and not self._batchers:
            self.on_deserted()

    def batchers(self) -> "list[Batcher]":
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
        try:
            self._guard = start_guard(self)
        except ResourceWarning:  # under -W error: uvloop had begun to end
            self.ended = True
        else:
            asyncio._register_task(self._in_flight)  # type: ignore[arg-type]
            self.is_guarded = True

    def loop_closed(self, loop: asyncio.AbstractEventLoop) -> None:
        """Notify the batchers that the loop was closed."""
        _held_homes.pop(loop, None)
        with contextlib.ExitStack() as each:  # all, whatever one raises
            for batcher in self.batchers():
                each.callback(batcher.loop_closed, self)
