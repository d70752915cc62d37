"""The background thread and its event loop, for dispatchers without another.

It starts with the first window that needs it, and ends soon after its last dispatcher
was closed or collected.
"""

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from functools import partial
from typing import Any

from ._home import Home, home_of

# The background loop is always asyncio's own, whatever policy the application sets.
if sys.version_info >= (3, 13):
    _EventLoop = asyncio.EventLoop
elif sys.platform == "win32":
    _EventLoop = asyncio.ProactorEventLoop
else:
    _EventLoop = asyncio.SelectorEventLoop

_logger = logging.getLogger("asyncio")

# How long the thread outlives its last dispatcher: an application may make and close
# one for each request.
_IDLE_SECONDS = 0.5

# Set when the process ends: what remains then runs on a loop of its own.
_exiting: list[bool] = []

# "thread": the running one; "ending": one that was stopped and drains. A dict, because
# its setdefault decides between two threads without a lock, which a signal handler
# could find held.
_background: dict[str, "_Background"] = {}


def background_home() -> Home:
    """Return the background thread's home, and start the thread if there is none.

    RuntimeError where no thread can be started, OSError where no loop can be made.
    """
    if _exiting:
        raise RuntimeError("the process is ending")
    while True:
        background = _background.get("thread")
        if background is not None and background.home is not None:
            return background.home
        # An interruption leaves a thread that has registered itself, or none. From
        # 3.14 on the thread may inherit the context it is started in: an empty one, or
        # it would keep a request's for ever.
        Context().run(_Background().start)


def is_exiting() -> bool:
    """Whether the process ends."""
    return bool(_exiting)


def stop_background(seconds: float) -> None:
    """Have the background thread drain and end, and wait for it."""
    _exiting.append(True)
    deadline = time.monotonic() + seconds
    for background in list(_background.values()):
        background.stop(max(0.0, deadline - time.monotonic()))


def reset_background() -> object:
    """Start without a background thread in a forked child; returns the parent's."""
    inherited = dict(_background)
    _background.clear()
    _exiting.clear()
    for background in inherited.values():
        if background.home is not None:
            background.home.on_deserted = None  # it would wake the parent's loop
    return inherited


def run_inline(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a fresh loop at exit, when no thread can be started."""
    loop = _new_loop()
    home_of(loop).is_ours = True
    with _hidden(loop):
        try:
            loop.run_until_complete(main)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


class _Background:
    """A daemon thread with an event loop."""

    def __init__(self) -> None:
        self.home: Home | None = None
        self._error: BaseException | None = None
        self._is_waiting = False
        self._ready = threading.Event()
        self._ended = threading.Event()
        name = "ringdispatch"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread, and wait until its loop runs."""
        # This thread may hold the locks of logging, inside a handler for instance: what
        # it looks up here, the other one, which makes the loop, takes no lock for.
        _logger.isEnabledFor(logging.DEBUG)
        self._thread.start()
        while not self._ready.wait(0.1):
            if not self._thread.is_alive():
                raise RuntimeError("the background thread died")
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            loop = _new_loop()
        except BaseException as error:
            self._error = error
            self._ready.set()
            return
        try:
            home = home_of(loop)
            home.background = home.is_ours = True
            home.on_deserted = partial(home.post, self._wait_for_another)
            self.home = home
            hidden = _hidden(loop)  # first: a fork must not find it half imported
            if _background.setdefault("thread", self) is self:
                self._ready.set()
                with hidden:
                    self._serve(loop)
        finally:
            self._ready.set()
            self._withdraw("thread")
            loop.close()
            self._withdraw("ending")
            self._ended.set()

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:  # stopped, or by a KeyboardInterrupt in a dispatch
            self._begin_to_end()
            loop.run_until_complete(loop.shutdown_asyncgens())

    def _begin_to_end(self) -> None:
        _background["ending"] = self  # first: there is always one to wait for
        self._withdraw("thread")  # later windows take a new one

    def _withdraw(self, role: str) -> None:
        if _background.get(role) is self:
            del _background[role]

    def _wait_for_another(self) -> None:
        if not self._is_waiting:  # one timer, however many dispatchers come and go
            self._is_waiting = True
            asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._stop_if_deserted)

    def _stop_if_deserted(self) -> None:
        self._is_waiting = False
        if self.home is not None and not self.home.batchers():
            self._stop()

    def stop(self, seconds: float) -> None:
        """Drain every dispatcher that lives here, then end the thread."""
        if self.home is not None:
            self.home.post(self._stop)
        deadline = time.monotonic() + seconds
        # In slices: a signal that comes just before a wait is handled after it.
        while not self._ended.wait(0.1):
            if time.monotonic() >= deadline:
                return
        # A join() that a signal interrupts takes the thread for ended (3.11, 3.12).
        self._thread.join()

    def _stop(self) -> None:
        if _background.get("thread") is self:  # a second time would stop the draining
            self._begin_to_end()
            asyncio.get_running_loop().stop()


def _hidden(loop: asyncio.AbstractEventLoop) -> contextlib.AbstractContextManager[None]:
    if "greenlet" not in sys.modules:
        return contextlib.nullcontext()
    from ._gevent import hidden_while_waiting  # noqa: PLC0415

    return hidden_while_waiting(loop)


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = _EventLoop.__new__(_EventLoop)
    mine = threading.get_ident()

    def is_elsewhere(_: object) -> bool:
        return threading.get_ident() != mine

    try:
        _logger.addFilter(is_elsewhere)  # it would log its selector: see start()
        loop.__init__()  # type: ignore[misc]
    except OSError:
        # No descriptor was left. Half made, the loop's finalizer would warn that it
        # can't be closed.
        loop._closed = True  # type: ignore[attr-defined]
        raise
    finally:
        _logger.removeFilter(is_elsewhere)
    loop.set_default_executor(Executor())
    return loop


class Executor(ThreadPoolExecutor):
    """Runs a call in a thread, or at once where no thread can be started any more.

    The interpreter ends all thread pools as soon as its main thread has ended, before
    other threads and long before the pending entries are dispatched.
    """

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Start the call and return its future."""
        # A call refused for lack of a thread stays in the pool's queue, where another
        # thread could run it later.
        calls = [partial(fn, *args, **kwargs)]

        def once() -> Any:
            return calls.pop()() if calls else None

        try:
            return super().submit(once)
        except RuntimeError:
            future: Future[Any] = Future()
        try:
            future.set_result(once())
        except BaseException as error:
            future.set_exception(error)
        return future
