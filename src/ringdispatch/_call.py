"""One call of the dispatch function: a slot, from taking a batch until it has ended."""

import asyncio
import logging
import sys
import weakref
from contextvars import Context, ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from ._atomic import cancel, watch
from ._background import is_exiting
from ._batch import Batch, Slot
from ._home import Home, raise_from
from ._ring import short_repr
from ._waiting import OpenerWaiter
from ._worker import ThreadCall

if TYPE_CHECKING:
    from ._batch_info import BatchInfo
    from ._batcher import Batcher
    from ._recovery import Recovery
    from ._ring import Ring

# From 3.12 on a task can take its first step at once, one loop iteration earlier.
EAGER = sys.version_info >= (3, 12)
_EAGERLY: dict[str, Any] = {"eager_start": True} if EAGER else {}

# A call's own timer ends it in time; where it has not after this, another does.
LATE_SECONDS = 1.0

# The call that the running code belongs to: the dispatch function and all it started;
# and whose call it is. Weakly: a context outlives its call wherever something keeps it,
# as an idle loop does with that of the last timer that was cancelled.
_current: ContextVar["tuple[weakref.ref[Call], weakref.ref[Batcher]] | None"] = (
    ContextVar("ringdispatch_call", default=None)
)


def current_call() -> "Call | None":
    """The call that the running code belongs to, until that has ended."""
    current = _current.get()
    return None if current is None else current[0]()


def current_batch() -> "BatchInfo | None":
    """The batch that the running code belongs to; None outside of a batch's call.

    That is code of the dispatch function, in a worker thread too, and of tasks that it
    started, until the call has ended.
    """
    call = current_call()
    return None if call is None else call.batch_info


def id_of_own(value: object) -> str | None:
    """The id of the running call's batch, if this is the very object; else None."""
    call = current_call()
    info = None if call is None or not call.has(value) else call.batch_info
    if info is None or (isinstance(value, list) and len(value) != info.count):
        return None  # the function has cut the list, or added to it
    return info.id


def current_batcher() -> "Batcher | None":
    """Whose call the running code belongs to, or was started by."""
    current = _current.get()
    return None if current is None else current[1]()


class Call:
    """Holds a slot from start() until the dispatch function has really ended.

    Its batch may be settled earlier: at `dispatch_timeout`, when close runs out of
    time, or when the loop is closed under it.
    """

    def __init__(
        self, batcher: "Batcher", home: Home, source: "Ring | Recovery"
    ) -> None:
        # never changed
        self._batcher = batcher
        self._source = source  # of its batch
        self.home = home
        self._slot: Slot | None = None  # set by start()
        # the home's thread, or the one that orphans it; the ring decides races
        self.batch: Batch | None = None
        self.deadline: float | None = None  # by the dispatcher's clock
        self.began = 0.0
        self.openers: list[OpenerWaiter] = []
        self.task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._thread_call: ThreadCall | None = None
        self._suspended = False  # past its first step, which pump() waits for
        self._letter_begun = False
        self._function_ended = False  # and the slot waits for the letter only
        self._ended = False

    # ---- the task

    def start(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Run the call as a task of the running `loop`; False if no slot is free."""
        batcher = self._batcher
        main = None
        try:
            self._slot = batcher.ring.acquire_slot(batcher.max_in_flight)
            if self._slot is None:
                return False
            main = self._run(loop)
            batcher.calls.add(self)
            task = asyncio.Task(main, loop=loop, context=Context(), **_EAGERLY)
            if EAGER and task.done():
                self.finish()
                return True
            asyncio._unregister_task(task)  # InFlight gives it time at the loop's end
            if EAGER:
                self.task = task
                self._suspended = True
                watch(self, loop, task)
            else:
                if self._source is batcher.ring:
                    batcher.unstarted[self] = None
                loop.call_soon(watch, self, loop, task, context=Context())
                self._suspended = True
                self.task = task  # last: cancelled now, it would not even begin
        except BaseException:
            if self.task is None:
                if main is not None:
                    main.close()
                self.finish()
            cancel(self)  # it may not be watched
            self._suspended = True
            raise
        return True

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        batcher = self._batcher
        try:
            _current.set((weakref.ref(self), weakref.ref(batcher)))
            if not EAGER:
                batcher.unstarted.pop(self, None)
                if self._slot is None or not self._slot.held:
                    return  # its loop stood still, and another call has its slot
            if self.home is not batcher.home:
                return  # the dispatcher has moved: its new home takes the batch
            # Taken inside the running task: one that is closed before its first step
            # would fail entries that can still go out elsewhere.
            batch = self.batch = self._source.take(
                batcher.options.max_batch, batcher.due
            )
            if batch is None:
                return
            self.began = batcher.now()
            batcher.on_taken(self, batch, self.began)
            if batcher.options.is_async:
                await batcher.options.function(batch.value)
            else:
                await self._in_thread(batch.value)
            settled = batch.settle(False, batcher.now() - self.began)
            if settled and batcher.reports.failing:
                batcher.reports.succeeded()
        except (KeyboardInterrupt, SystemExit) as error:
            self.fail(error)
            raise_from(loop, error)
        except BaseException as error:
            self.fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            thread_call = self._thread_call
            if thread_call is None or thread_call.ended.done():
                self.finish()
            else:  # cancelled, but a thread can't be: the slot is held until it ends
                thread_call.ended.add_done_callback(self._on_done)

    async def _in_thread(self, value: Any) -> None:
        """Call an ordinary dispatch function in a worker thread."""
        context = Context()
        context.run(_current.set, (weakref.ref(self), weakref.ref(self._batcher)))
        function = partial(context.run, self._batcher.options.function, value)
        thread_call = ThreadCall(self.home, function)
        try:
            self._thread_call = thread_call
            thread_call.start(self._batcher.workers)
        except BaseException:
            thread_call.skip()  # interrupted, a thread may have it
            self._thread_call = None
            raise
        await thread_call.result()

    def _on_done(self, done: "asyncio.Future[None]") -> None:
        """Finish where neither the task nor a worker runs any more; from both."""
        if self._ended:
            if self.batch is None and not done.cancelled():
                done.exception()  # orphaned, it could take no step
            return
        if self._thread_call is None or self._thread_call.ended.done():
            self.finish()
        if not done.cancelled():
            done.exception()  # it was raised from the loop, too

    def finish(self, *, here: bool = True) -> None:
        """Free the slot, once: the function has ended. `here`: on the home's thread."""
        if self._ended:
            return
        if self._function_ended:
            here = False  # by whoever has seen that the letter is written
        if self._timer is not None:
            self._timer.cancel()
            self.deadline = None
        if self._thread_call is not None:
            self._thread_call.discard()
        # Dropped here, not by a thread that still sees the call: CPython 3.14.5 without
        # the GIL may free a task twice there (python/cpython#153809).
        self.task = None
        batch = self.batch
        if batch is not None:
            batch.settle(True, 0.0)  # interrupted before it was
            if not batch.reported():
                self._suspended = self._function_ended = True
                self._write_letter(batch, "interrupted")
                if not batch.reported():
                    return  # _letter_written() goes on
            batch.release()
        if self.openers:
            self._finish_openers()
        batcher = self._batcher
        if self._slot is not None:
            self._slot.release()
        if not EAGER:
            batcher.unstarted.pop(self, None)
        batcher.calls.discard(self)
        if batcher.room.tickets:  # in the file; what was to wake them was interrupted
            batcher.room.wake(1)
        if self._suspended:  # else pump() goes on
            batcher.slot_freed(self, here=here)
        self._ended = True

    def excuse(self, waits: int) -> None:
        """Count a wait in a flush or a close that it began (1) or ended (-1)."""
        if self._slot is not None and self.batch is not None:
            self._slot.excuse(self.batch, waits)

    def has(self, value: object) -> bool:
        """Whether this is what the dispatch function was called with."""
        return self.batch is not None and self.batch.value is value

    @property
    def batch_info(self) -> "BatchInfo | None":
        """What the dispatch function may know of its batch; None once it has ended."""
        batch = self.batch
        if batch is None or self._ended:
            return None
        from ._batch_info import BatchInfo  # noqa: PLC0415, imports take less without it

        return BatchInfo(
            batch.id, batch.recovered, batch.first, batch.count, batch.attempts
        )

    # ---- failure

    def fail(self, error: BaseException, *, quiet: bool = False) -> int:
        """Fail a batch not settled yet; log that, unless `quiet`; return its size."""
        batcher, batch = self._batcher, self.batch
        if batch is None:
            batcher.report_no_batch(error)
            return 0
        try:
            value = batch.value  # once it is settled, the home may release it
        except Exception:
            value = batch.raw  # no batch could be made of it
        if not batch.settle(True, batcher.now() - self.began):
            return 0
        if self._thread_call is not None:
            self._thread_call.skip()
        count = batch.count
        contexts = [opener.context for opener in self.openers]
        try:
            batcher.reports.failed(error, value, count, contexts, quiet=quiet)
        finally:
            passes = batch.reported()
            if not passes:
                self._write_letter(batch, short_repr(error))
        if passes:
            self._finish_openers()
        return count

    def cut(self, error: BaseException) -> None:
        """Fail a batch that its loop's end cuts short; or leave it in its file.

        That is one of another process, and any where this process ends.
        """
        batcher, batch = self._batcher, self.batch
        exits = batcher.ring.place is not None and is_exiting()
        if batch is None or not (exits or batch.recovered):
            self.fail(error)
            return
        batch.leave()
        count = self.fail(error, quiet=True)
        if exits:
            batcher.cut_short[batch.recovered] += count

    def _write_letter(self, batch: Batch, reason: str) -> None:
        """Have the failed batch kept, once."""
        if self._letter_begun:
            return
        batcher = self._batcher
        args = batch, reason, batcher.workers, batcher.reports, self._letter_written
        batcher.ring.letters.write(*args)
        self._letter_begun = True  # last: twice is better than never

    def _letter_written(self) -> None:
        """Free what has waited for the letter; mostly in the thread that wrote it."""
        if self.batch is not None:
            self.batch.settle_letter(False)  # its writer was interrupted
        self._finish_openers()
        if self._function_ended:
            self.finish()
        else:
            self._batcher.settlement.finish()

    @property
    def is_settled(self) -> bool:
        """Whether its batch is settled, and its letter if it has one."""
        batch = self.batch
        return batch is not None and batch.settled and not batch.owes_letter

    @property
    def is_unsettled(self) -> bool:
        """Whether it has a batch that is not, or whose letter is not."""
        return self.batch is not None and not self.is_settled

    def _finish_openers(self) -> None:
        for opener in list(self.openers):  # another may come while its batch is taken
            opener.finish()

    def stop(self) -> None:
        """Ask the task to end; from any thread."""
        self.home.post(partial(cancel, self))

    @property
    def ending_task(self) -> "asyncio.Task[None] | None":
        """The task of a call whose batch is settled, while it cleans up."""
        settled = self.batch is not None and self.batch.settled
        task = self.task
        return task if settled and task is not None and not task.done() else None

    def is_orphaned(self) -> bool:
        """Whether its loop is closed, or stands still before it has taken anything."""
        return self.home.closed or (self.batch is None and self.home.stalled)

    def orphan(self) -> None:
        """Settle and free a call whose loop was closed under it, or stands still."""
        task = self.task
        if task is not None:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            if self.batch is None:
                coroutine: Any = task.get_coro()
                coroutine.close()  # or Python would complain that it was never awaited
        self.cut(RuntimeError("the event loop was closed during the dispatch"))
        self.finish(here=False)

    # ---- the timeout

    def expire(self) -> None:
        """Settle the batch as failed and ask for cancellation: it ran out of time.

        Called again a second later, report that the call goes on nevertheless.
        """
        if self.deadline is None:
            self._batcher.reports.log(
                logging.ERROR,
                "a dispatch timed out and ignores its cancellation: it keeps its slot, "
                f"and entries wait for it ({self._batcher.ring.pending} pending)",
            )
            return
        if self.home.here:
            cancel(self)
        else:
            self.stop()
        timeout = self._batcher.options.dispatch_timeout
        self.fail(TimeoutError(f"not done within dispatch_timeout={timeout} s"))
        self._batcher.wake_home(self._batcher.home)
        self.deadline = None  # last: interrupted before, it is done again


def expire_late(reference: "weakref.ref[Call]") -> None:
    """Expire a call whose own loop has not."""
    call = reference()
    if call is not None and call.is_unsettled:
        call.deadline = call.began  # where its first step was its last, it has none
        call.expire()
