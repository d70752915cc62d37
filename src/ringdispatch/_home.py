"""Where a dispatcher runs: its place on an event loop, and what tells of its end.

A loop is held weakly and reached through `call_soon_threadsafe` alone, so that an entry
may come from any thread, a signal handler or a finalizer. Its `close` is wrapped, to
learn of it at once.
"""

import asyncio
import contextlib
import functools
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from contextvars import Context
from typing import Any, Protocol

# How long the end of a loop or of the process may take over what is still pending.
END_SECONDS = 5.0

# Loops that have shut down their async generators: their next step is to close.
_ended: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
# Notices it, for loops that a dispatcher has lived on: uvloop does not tell.
_watching: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, AsyncGenerator[None, None]
] = weakref.WeakKeyDictionary()


class Resident(Protocol):
    """What a home knows of the dispatcher that lives there."""

    async def _drain(self, home: "Home", timeout: float) -> None: ...

    def loop_closed(self) -> None:
        """Hear that a loop it lives or has lived on was closed."""


# Who lives or has lived on a loop, by identity, and is told when it is closed.
_residents: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, dict[int, weakref.ref[Resident]]
] = weakref.WeakKeyDictionary()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread and has not begun to end."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    thread = getattr(loop, "_thread_id", None)
    if thread not in (None, threading.get_ident()):
        return None  # under gevent: it runs in another greenlet
    over = loop in _ended or getattr(loop, "_asyncgens_shutdown_called", False)
    return None if over else loop


def raise_from(loop: asyncio.AbstractEventLoop, error: BaseException) -> None:
    """Raise what ends the program from the running `loop` itself.

    Raised in a task, it would end the loop as well, and leave the task behind with an
    exception that nobody retrieved.
    """
    loop.call_soon(_raise, error)


def _raise(error: BaseException) -> None:
    raise error


class Errand:
    """A callback given to a loop that tells if the loop drops it uncalled.

    A loop that is closed lets go of its callbacks and timers without a word. This one's
    finalizer then calls `lost`, so that no entry waits for a timer that will never
    fire.
    """

    __slots__ = ("__weakref__", "_lost", "_run")

    def __init__(self, run: Callable[[], object], lost: Callable[[], object]) -> None:
        self._run: Callable[[], object] | None = run
        self._lost: Callable[[], object] | None = lost

    def __call__(self) -> None:
        run = self._run
        self.cancel()
        if run is not None:
            run()

    def cancel(self) -> None:
        """Make the call, and the loss, do nothing."""
        self._run = self._lost = None

    def __del__(self) -> None:
        lost = self._lost  # another thread may cancel it meanwhile
        if lost is not None and not sys.is_finalizing():
            lost()


class Timer:
    """An errand for later.

    The loop alone keeps it: held from here too, it would not tell when the loop is
    closed.
    """

    __slots__ = ("_errand", "_handle")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        delay: float,
        errand: Errand,
        context: Context,
    ) -> None:
        handle = loop.call_later(delay, errand, context=context)
        self._errand = weakref.ref(errand)
        self._handle = weakref.ref(handle)

    def disarm(self) -> None:
        """Make it do nothing; from any thread."""
        if (errand := self._errand()) is not None:
            errand.cancel()

    def cancel(self) -> None:
        """Take it off its loop; on the loop's thread."""
        self.disarm()
        if (handle := self._handle()) is not None:
            handle.cancel()


class Home:
    """One dispatcher's place on one event loop.

    closed: nothing will ever run here. A new home takes over.
    stalled: closed, or stopped and perhaps never run again. Whoever waits (a flush, a
        close, `aenqueue`) and every 4,096th entry take all to a new home.
    ended: drained at the end of its loop, which is about to be closed. A new home takes
        over for entries that come later still.
    here: the calling thread is running it: to block would be to wait for oneself.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        thread: int | None = None,
        *,
        background: bool = False,
    ) -> None:
        self._loop = weakref.ref(loop)
        self._thread = thread if background else threading.get_ident()
        self._guard: AsyncGenerator[None, None] | None = None
        self._guarding = False
        self._disowned = False
        self.background = background
        self.ended = False  # drained by the loop's end: no window may open here

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop, or None once it is gone."""
        return self._loop()

    @property
    def closed(self) -> bool:
        """Whether nothing will run here any more."""
        loop = self._loop()
        return loop is None or loop.is_closed()

    @property
    def stalled(self) -> bool:
        """Whether nothing runs here now: closed, or merely stopped."""
        loop = self._loop()
        if self.closed or loop is None:
            return True
        # The background loop runs as soon as its thread does.
        return not (self.background or loop.is_running())

    @property
    def here(self) -> bool:
        """Whether the calling thread is the one that runs this home.

        Decided by the thread's identity: under gevent the running loop of a greenlet
        may be another greenlet's.
        """
        loop = self._loop()
        return (
            loop is not None
            and loop.is_running()
            and self._thread == threading.get_ident()
        )

    def post(self, callback: Callable[[], object], context: Context) -> bool:
        """Have the loop call back soon; False where it is closed."""
        loop = self._loop()
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(callback, context=context)
        except RuntimeError:
            if loop.is_closed():
                return False
            raise
        # Closed meanwhile by another thread, it keeps the callback and never calls it.
        return not loop.is_closed()

    def settle_in(self, resident: Resident) -> None:
        """Take note of the thread and of the loop's end; runs on the loop."""
        self._thread = threading.get_ident()
        if self._guard is not None or self._disowned:
            pass
        elif running_loop() is None:
            self.ended = True  # the loop has begun to end, and closes no guard any more
        else:
            # Started, the generator belongs to the loop's shutdown_asyncgens(), which
            # closes it at the end of asyncio.run. It needs no finalizer of the loop's:
            # that would start a task for a dispatcher that is simply let go.
            self._guarding = True
            self._guard = guard = _drain_at_end(
                weakref.ref(self), weakref.ref(resident)
            )
            loop = self._loop()
            try:
                _start(guard)
            except ResourceWarning:  # under -W error: uvloop had begun to end
                self.disown()
                self.ended = True
                if loop is not None:  # pragma: no branch - it runs this
                    _ended.add(loop)
                return
            if loop is not None:  # pragma: no branch - it runs this
                _watch(loop)
            if self._disowned:  # pragma: no cover - by another thread meanwhile
                self.disown()  # type: ignore[unreachable]

    def tell_of_close(self, resident: Resident) -> None:
        """Have the resident told when the loop is closed, by whatever thread.

        An errand's finalizer tells as well, unless somebody keeps the loop's timers (as
        the traceback of any exception may that was raised on it), or a thread made the
        errand that sleeps now: without the GIL it is finalized when that wakes.
        """
        loop = self._loop()
        if loop is None:
            return
        mine: dict[int, weakref.ref[Resident]] = {}
        residents = _residents.setdefault(loop, mine)
        if residents is mine:  # else it is wrapped already, by whatever thread
            _tell_when_closed(loop, residents)
        who = id(resident)
        residents[who] = weakref.ref(resident, lambda _: residents.pop(who, None))

    def disown(self) -> None:
        """Stop watching for the loop's end; from any thread."""
        self._disowned = True  # first: settle_in looks at it last
        self._guarding = False
        self._guard = None

    def leave(self) -> None:
        """Stop watching for the loop's end, for good; runs on the loop."""
        if self._guarding and self._guard is not None:  # else it drains already
            self._guarding = False
            guard, self._guard = self._guard, None
            _step(guard.aclose())


async def _drain_at_end(
    home_reference: "weakref.ref[Home]",
    resident_reference: "weakref.ref[Resident]",
) -> AsyncGenerator[None, None]:
    """Drain a home when its loop closes its async generators; by nothing else.

    Let go of with its home, or by the garbage collector, it has nothing to do: the loop
    goes on, and others live there.
    """
    try:
        yield
    finally:
        home, resident = home_reference(), resident_reference()
        loop = None if home is None else home.loop
        if (
            home is not None
            and home._guarding
            and resident is not None
            and loop is not None
            and getattr(loop, "_asyncgens_shutdown_called", True)  # uvloop has none
        ):
            # The loop warns of every generator that starts from now on, also of those
            # inside the user's client; the drain is what it is waiting for. Not
            # restored: other dispatchers may still drain, and the loop restores the
            # hooks itself when it stops.
            home._guarding = False
            sys.set_asyncgen_hooks(firstiter=None)
            try:
                await resident._drain(home, END_SECONDS)
            finally:
                home.ended = True
                _ended.add(loop)


def _watch(loop: asyncio.AbstractEventLoop) -> None:
    """Have its end noted, once for all who live on the running `loop`."""
    if loop not in _watching:
        _watching[loop] = watching = _note_end(weakref.ref(loop))
        _start(watching)


def _tell_when_closed(
    loop: asyncio.AbstractEventLoop, residents: dict[int, weakref.ref[Resident]]
) -> None:
    """Wrap the loop's `close`, on the loop itself, to tell the residents after it."""
    close = loop.close
    kind: Any = type(loop)

    @functools.wraps(close)
    def close_and_tell(*args: Any, **kwargs: Any) -> Any:
        try:
            return close(*args, **kwargs)
        finally:
            if loop.is_closed():
                with contextlib.suppress(AttributeError):
                    _unwrap(loop, close_and_tell, None if inherited else close)
                _tell(residents)

    # Not through its `__dict__`: CPython 3.11 and 3.12 make one when asked for it, and
    # every turn of the loop is slower from then on. A loop that takes no attribute
    # leaves it to the errands.
    with contextlib.suppress(AttributeError):
        inherited = close == kind.close.__get__(loop)
        loop.close = close_and_tell  # type: ignore[method-assign]


def _unwrap(loop: asyncio.AbstractEventLoop, wrapper: object, own: Any) -> None:
    """Undo it, or loop and wrapper would keep each other; leave what others did."""
    if loop.close is wrapper:
        del loop.close
        if own is not None:
            loop.close = own  # type: ignore[method-assign]


def _tell(residents: dict[int, weakref.ref[Resident]]) -> None:
    with contextlib.ExitStack() as telling:  # all of them, whatever one raises
        for reference in list(residents.values()):
            if (resident := reference()) is not None:
                telling.callback(resident.loop_closed)


async def _note_end(
    loop_reference: "weakref.ref[asyncio.AbstractEventLoop]",
    ended: weakref.WeakSet[asyncio.AbstractEventLoop] = _ended,
) -> AsyncGenerator[None, None]:
    """Note the end of a loop also where no dispatcher lives there any more.

    `ended` is an argument because a loop that is never closed comes here when the
    interpreter ends, where this module has lost its names.
    """
    try:
        yield
    finally:
        loop = loop_reference()
        if loop is not None:
            ended.add(loop)


def _start(generator: AsyncGenerator[None, None]) -> None:
    """Run it to its yield, known to the loop's end but not to its finalizer."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=None)
    try:
        _step(generator.__anext__())
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _step(awaitable: Any) -> None:
    """Run an awaitable that does not suspend."""
    with contextlib.suppress(StopIteration, StopAsyncIteration):
        awaitable.send(None)
