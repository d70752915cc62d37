"""The background thread and its event loop, for all who have no loop of their own."""

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from functools import partial
from typing import Any

from ._home import Home

# The background loop is always asyncio's own, whatever policy the application sets.
if sys.version_info >= (3, 13):
    _EventLoop = asyncio.EventLoop
elif sys.platform == "win32":
    _EventLoop = asyncio.ProactorEventLoop
else:
    _EventLoop = asyncio.SelectorEventLoop


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = _EventLoop.__new__(_EventLoop)
    try:
        loop.__init__()  # type: ignore[misc]
    except OSError:
        # No descriptor was left to make it with. Half made, it would complain from its
        # finalizer that it can't be closed.
        loop._closed = True  # type: ignore[attr-defined]
        raise
    loop.set_default_executor(Executor())
    return loop


@contextlib.contextmanager
def _unseen(loop: Any) -> Iterator[None]:
    """Let nobody else find this loop running while it waits.

    Under gevent the background thread is a greenlet, and while it waits the application
    goes on in the same thread: with a loop running there, `asyncio.run` and Django's
    ORM would refuse to work.
    """
    if "greenlet" not in sys.modules:
        yield
        return
    selector = loop._selector
    wait = selector.select
    others = _become(None, (None, None))

    def select(timeout: float | None = None) -> Any:
        nonlocal others
        mine = _become(*others)
        try:
            return wait(timeout)
        finally:
            others = _become(*mine)

    selector.select = select
    try:
        yield
    finally:
        _become(*others)


def _become(loop: Any, hooks: Any) -> tuple[Any, Any]:
    """Set this thread's running loop and generator hooks; returns what they were."""
    before = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
    asyncio._set_running_loop(loop)
    sys.set_asyncgen_hooks(*hooks)
    return before


class _Background:
    """A daemon thread with an event loop, for all who have no loop of their own."""

    def __init__(self) -> None:
        self.loop = _new_loop()
        self._stopping = False
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="ringdispatch", daemon=True
        )

    @property
    def ident(self) -> int | None:
        """The thread's, once it has started."""
        return self._thread.ident

    def start(self) -> None:
        """Start the thread; the loop is closed where there is none to be had."""
        try:
            self._thread.start()
        except RuntimeError:
            self._close()
            raise

    def _run(self) -> None:
        with _unseen(self.loop):
            try:
                self.loop.run_forever()
            finally:  # stopped at exit, or by a KeyboardInterrupt in a dispatch
                self._stopping = True
                _background["ending"] = self  # first: there is always one to wait for
                _background.pop("thread", None)
                try:
                    self.loop.run_until_complete(self.loop.shutdown_asyncgens())
                finally:
                    try:
                        self._close()
                    finally:
                        self._ended.set()

    def _close(self) -> None:
        for name in ("thread", "ending"):
            if _background.get(name) is self:
                del _background[name]
        self.loop.close()

    def stop(self, seconds: float) -> None:
        """Drain every dispatcher that lives here, then end the thread."""
        with contextlib.suppress(RuntimeError):  # closed already
            self.loop.call_soon_threadsafe(self._stop)
        # A join() that a signal interrupts takes the thread for ended (3.11, 3.12).
        if self._ended.wait(seconds):
            self._thread.join()

    def _stop(self) -> None:
        if not self._stopping:  # a second time would stop the draining
            self._stopping = True
            self.loop.stop()


# Set when the process ends: what is left then runs on a loop of its own.
_exiting = threading.Event()

# "thread": the one, and "ending": one that has been stopped and drains. A dict, because
# its setdefault decides between two threads without a lock, which a signal handler
# could find held.
_background: dict[str, _Background] = {}


def background_home() -> Home:
    """A home on the background thread, which is started if need be.

    Raises:
        RuntimeError: no thread can be started, for instance at interpreter shutdown.
        OSError: no file descriptor is left for its loop.
    """
    background = _background.get("thread")
    if _exiting.is_set():
        raise RuntimeError("the process is ending")
    if background is None:
        # The loop keeps the context it is made in, and from 3.14 on the thread may
        # inherit the one it is started in: not a request's, for ever.
        nobody = Context()
        mine = nobody.run(_Background)
        background = _background.setdefault("thread", mine)
        if background is mine:
            nobody.run(background.start)
        else:
            mine.loop.close()
    return Home(background.loop, background.ident, background=True)


def is_background(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether `loop` is a background thread's."""
    return any(background.loop is loop for background in list(_background.values()))


def stop_background(seconds: float) -> None:
    """End the background thread, if there is one, after it has drained.

    Args:
        seconds: How long to wait for it, and for one that was ending already.
    """
    _exiting.set()
    deadline = time.monotonic() + seconds
    for background in list(_background.values()):
        background.stop(max(0.0, deadline - time.monotonic()))


def forget_background() -> object:
    """Start without a background thread in a forked child; returns the parent's."""
    inherited = dict(_background)
    _background.clear()
    return inherited


def run_inline(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a fresh loop at exit, when no thread can be started."""
    loop = _new_loop()
    with _unseen(loop):
        try:
            loop.run_until_complete(main)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


class Executor(ThreadPoolExecutor):
    """Runs a call in a thread, or at once where no thread will take it any more.

    The interpreter ends all thread pools as soon as its main thread is through, before
    other threads and long before what is pending is dispatched.
    """

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Start the call and return its future."""
        # Refused for want of a thread, the call is left in the pool's queue all the
        # same, where another thread would come to it later.
        turn = [partial(fn, *args, **kwargs)]

        def once() -> Any:
            return turn.pop()() if turn else None

        try:
            return super().submit(once)
        except RuntimeError:
            return _run_at_once(once)


def _run_at_once(fn: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(fn())
    except BaseException as error:
        future.set_exception(error)
    return future
