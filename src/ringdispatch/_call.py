"""One call of the dispatch function, from taking its batch to giving its place back."""

import asyncio
import logging
import sys
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from ._home import Errand, Home, Timer, raise_from
from ._ring import Take
from ._worker import Worker

if TYPE_CHECKING:
    from ._batching import Batching

# From 3.12 on a task can take its first step at once, one loop iteration earlier.
_EAGER: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}

# After this long a call that was told to stop and did not is reported.
GRACE_SECONDS = 1.0
_DAY = 86_400.0

# The call that the running code belongs to: the dispatch function and all it started.
# Weakly: a context outlives its call wherever something keeps it, as an idle loop does
# with that of the last timer that was cancelled.
_current: ContextVar["weakref.ref[Call] | None"] = ContextVar(
    "ringdispatch_call", default=None
)


def current_call() -> "Call | None":
    """The call that the running code belongs to, until that has ended."""
    reference = _current.get()
    return None if reference is None else reference()


class Call:
    """Holds a place from start() until the dispatch function has really ended.

    Its batch may be settled earlier: at `dispatch_timeout`, when close runs out of
    time, or when the loop is closed under it.
    """

    __slots__ = (
        "__weakref__",
        "_began",
        "_dispatcher",
        "_task",
        "_timer",
        "_worker",
        "home",
        "take",
    )

    def __init__(self, dispatcher: "Batching[Any]", home: Home) -> None:
        self._dispatcher = dispatcher
        self.home = home
        self.take: Take | None = None
        self._began = 0.0
        self._task: asyncio.Task[None] | None = None
        self._timer: Timer | None = None
        self._worker: Worker | None = None

    def covers(self, start: int, end: int) -> bool:
        """Whether it may yet settle an entry at a position in [start, end)."""
        take = self.take
        if take is None:  # about to take, nobody knows what
            return True
        return not take.settled and take.start < end and start < take.end

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the call as a task of the running `loop`."""
        context = self._dispatcher.fresh_context()
        context.run(_current.set, weakref.ref(self))
        self._watch(loop, self._dispatcher.dispatch_timeout)
        main = self._run(loop) if _EAGER else _lazily(partial(self._run, loop))
        task = asyncio.Task(main, loop=loop, context=context, **_EAGER)
        if not task.done():
            self._task = task
        if not _EAGER:  # cancelled before its first step, it runs nothing of its own
            task.add_done_callback(self._never_began, context=context)

    def _never_began(self, _: asyncio.Task[None]) -> None:  # pragma: no cover - 3.11
        if self.take is None:
            self.release()

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        dispatcher = self._dispatcher
        if not dispatcher.has_place(self):  # pragma: no cover - 3.11
            return  # its loop stood still, and its place was given to another
        try:
            # Taken inside the running task: one closed before its first step would
            # leave its batch unsettled.
            take = self.take = dispatcher.take()
            if take is None:
                return
            self._began = dispatcher._now()
            dispatcher.taken(self.home, self._began)
            awaitable = dispatcher.invoke(self, take.batch)
            await awaitable
        except (KeyboardInterrupt, SystemExit) as error:
            self.fail(error)
            raise_from(loop, error)
        except (asyncio.CancelledError, GeneratorExit) as error:
            self.fail(error)
            raise
        except BaseException as error:
            self.fail(error)
        else:
            if take.settle(False, dispatcher._now() - self._began):
                dispatcher.reports.succeeded()
        finally:
            if self._worker is None or self._worker.ended.done():
                self._worker_ended()
            else:  # cancelled, but a thread can't be: the place is held until it ends
                self._worker.ended.add_done_callback(self._worker_ended)

    def in_thread(self, batch: Any) -> Awaitable[Any]:
        """Call an ordinary dispatch function in a worker thread."""
        context = self._dispatcher.fresh_context()
        context.run(_current.set, weakref.ref(self))
        function = partial(self._dispatcher.dispatch_function, batch)
        self._worker = Worker(self.home, function, context)
        return self._worker.result()

    def _worker_ended(self, _: object = None) -> None:
        if self._worker is not None:
            self._worker.drop()
        self.release()

    def fail(self, error: BaseException, *, report: bool = True) -> int:
        """Settle the batch as failed, if nothing has settled it; returns its size."""
        dispatcher, take = self._dispatcher, self.take
        if take is None:
            return 0
        try:
            batch = take.batch  # once it is settled, the home may let go of it
        except Exception:
            batch = take.storage  # as they are: no batch could be made of them
        if not take.settle(True, dispatcher._now() - self._began):
            return 0
        if self._worker is not None:
            self._worker.skip()
        dispatcher.failed(error, take, batch, report=report)
        return take.end - take.start

    def release(self) -> None:
        """Give the place back, once."""
        self._unwatch()
        # Let go of here: a thread that still sees the call must not be the one to free
        # its task, which CPython 3.14.5 without the GIL may do twice there
        # (python/cpython#153809).
        self._task = None
        self._dispatcher.released(self)

    def stop(self) -> None:
        """Ask the task to end; from any thread."""
        self.home.post(self._cancel_task, self._dispatcher.fresh_context())

    def _cancel_task(self) -> None:
        task = self._task  # released meanwhile by another thread, there is none
        if task is not None:
            task.cancel()

    def is_orphaned(self) -> bool:
        """Whether its loop is closed, or stands still before it has taken anything."""
        return self.home.closed or (self.take is None and self.home.stalled)

    def orphan(self) -> None:
        """Settle and release a call whose loop was closed under it, or stands still."""
        task = self._task
        if task is not None:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.fail(RuntimeError("the event loop was closed during the dispatch"))
        self._worker_ended()

    # ---- the timeout; its timer also tells when the loop is closed

    def _watch(self, loop: asyncio.AbstractEventLoop, seconds: float | None) -> None:
        late = self._expire if seconds is not None else _nothing
        self._set_timer(loop, _DAY if seconds is None else seconds, late)

    def _set_timer(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        run: Callable[[], object],
    ) -> None:
        errand = Errand(run, self._dispatcher.loop_closed)
        context = self._dispatcher.fresh_context()
        self._timer = Timer(loop, seconds, errand, context)

    def _unwatch(self) -> None:
        if self._timer is not None:  # pragma: no branch - start() has set it
            self._timer.cancel()

    def _expire(self) -> None:
        timeout = self._dispatcher.dispatch_timeout
        self._cancel_task()
        self.fail(TimeoutError(f"not done within dispatch_timeout={timeout} s"))
        self._dispatcher.look(self.home)
        loop = self.home.loop
        if loop is not None:  # pragma: no branch - it runs this
            self._set_timer(loop, GRACE_SECONDS, self._overstay)

    def _overstay(self) -> None:
        self._dispatcher.reports.say(
            logging.ERROR,
            "a dispatch timed out and ignores its cancellation: it keeps its place, "
            "and entries wait for it (%d pending)",
            self._dispatcher.ring.pending,
        )


@types.coroutine
def _lazily(  # pragma: no cover - 3.11
    run: Callable[[], Coroutine[Any, Any, None]],
) -> Generator[Any, Any, None]:
    """Make the coroutine in the task's first step.

    A loop that is closed before that step drops this without a word, where Python would
    complain of a coroutine never awaited.
    """
    yield from run().__await__()


def _nothing() -> None:
    pass
