"""Behind the public face: windows, batches and calls, up to the end of their loop."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ._call import Call
from ._drops import Drops
from ._home import Errand, Home, Timer, running_loop
from ._housed import Housed
from ._producer import give_enqueue
from ._reports import Reports
from ._ring import Ring, Take
from ._room import RoomQueue
from ._waiters import Opener, Receipt, Waiter, Waiters

if TYPE_CHECKING:
    from ._statistics import Statistics

Entry = TypeVar("Entry")

# A timer that fires this much early is on time; asyncio's own slack is below it. uvloop
# counts in whole milliseconds and may fire almost one early: then wait for one more.
_ON_TIME_SECONDS = 1e-4
_TICK_SECONDS = 1e-3  # no loop waits more finely

_GONE = object()


@give_enqueue
class Batching(Housed[Entry]):
    """Serves the windows that `enqueue` opens.

    Every event (a window opens, its timer fires, a batch is full, a place is given
    back, a flush) leads to one method, `look`, on the home's thread. It may be called
    once too often, never too seldom: whoever leaves entries in the ring leaves a timer,
    a running call or a posted `look` behind, and is told when their loop is closed.
    """

    # Without an instance dict the interpreter specialises `dispatcher.enqueue(...)`;
    # with one, a call takes two and a half times the instructions on 3.12 and later.
    __slots__ = (
        "_calls",
        "_cut_short",
        "_delay",
        "_drops",
        "_due",
        "_ends_window",
        "_is_async",
        "_max_batch",
        "_max_in_flight",
        "_room",
        "_starting",
        "_starved",
        "_taken_at",
        "_timer",
        "_waiters",
        "dispatch_function",
        "dispatch_timeout",
        "reports",
    )

    # Not a module attribute, which libraries that freeze time would replace.
    _now = staticmethod(time.monotonic)

    if TYPE_CHECKING:  # from _producer.pyx, put here by give_enqueue

        def enqueue(self, entry: Entry, context: Any = None) -> bool: ...

        def enqueue_row(self, *fields: Any, context: Any = None) -> bool: ...

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        give_enqueue(cls)

    def _set_up(
        self,
        ring: Ring,
        on_full: str,
        reports: Reports,
        *,
        dispatch_function: Callable[[Any], Any],
        is_async: bool,
        dispatch_timeout: float | None,
        delay: float,
        max_batch: int,
        max_in_flight: int,
        prefers_thread: bool,
    ) -> None:
        self.reports = reports
        self.dispatch_function = dispatch_function
        self.dispatch_timeout = dispatch_timeout
        self._is_async = is_async
        self._delay = delay
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._prefers_thread = prefers_thread
        # Timers and dispatches run in copies of this, never in a request's context.
        self._context = copy_context()
        self._attach(ring, on_full)
        self._begin()

    def _begin(self) -> None:
        self._start_homeless()
        self._calls: dict[Call, None] = {}  # strong: the loop holds tasks weakly
        self._waiters = Waiters(self.ring, self._calls, self._max_in_flight)
        self._room = RoomQueue()
        self._drops = Drops(
            self.ring, self.reports, self._waiters, self._now, self._context
        )
        self._due = 0  # positions below it are to go out now
        self._ends_window = False  # whether the next take is the delay's
        self._taken_at = -math.inf  # when the delay's last take was
        self._starved = False  # whether there was no memory for the last batch
        self._cut_short = False  # whether an end came before all was settled
        self._starting: Home | None = None
        self._timer: tuple[Home, Timer] | None = None

    def _start_anew(self) -> object:
        """Start empty in a forked child; returns the parent's state."""
        inherited = (
            self.reports,
            self._home,
            self._calls,
            self._waiters,
            self._room,
            self._timer,
            self._drops,
        )
        self.reports = self.reports.renewed()
        self._begin()
        return inherited

    def statistics(self) -> "Statistics":
        """One consistent snapshot of the books; from any thread."""
        from ._statistics import Statistics  # noqa: PLC0415, see __init__.py

        return Statistics(*self.ring.snapshot(self._now()))

    # ---- hooks of enqueue, on any thread

    def _opened(self, position: int, context: Any) -> None:
        """Have the home look after a window that has just opened."""
        opener = None
        if context is not None:
            opener = Opener(position, context)
            self._waiters.add(opener)
        self._call_home(self._home_for_window())
        if opener is not None:
            # The caller's own context, in the caller's own call: a serverless runtime
            # takes no promise after the request has ended.
            try:
                wait_until = getattr(context, "wait_until", None)
                if wait_until is not None:
                    wait_until(Receipt(opener.future))
            except Exception as error:
                # enqueue never logs: the home does.
                raised = partial(self.reports.hook_raised, "wait_until", error)
                self._post(raised)

    def _reached(self) -> None:
        """A batch is full, or it is time to see whether the home still runs.

        Or, with `drop_oldest`, whether an entry that somebody waits for is still here.
        """
        if self._home is None or self._home.stalled:
            self._revive()
        elif self._called:
            pass  # it is about to look, and will see this entry
        elif self._waiters or (
            self.ring.places < self._max_in_flight and self._wants_call()
        ):
            self._call_home(self._home)

    def _dropped(self) -> None:
        """Have the first drop told, if anybody is there to tell it; else at exit."""
        home = self._home
        if (home is None or home.closed) and running_loop() is not None:
            home = self._choose_home()
            self._call_home(home)  # as after every move: what is pending goes with it
        if home is not None and not home.stalled:
            report = Errand(partial(self._drops.report, home), self._drops.lost)
            if not home.post(report, self.fresh_context()):
                self._drops.lost()

    # ---- on the home: what is due

    def _needs_end(self) -> bool:
        return bool(self.ring.pending or self._calls)

    def look(self, home: Home) -> None:
        """Start what is due and a place is free for; set the timer for the rest."""
        for call in list(self._calls):
            if call.is_orphaned():
                call.orphan()
        if home.ended:
            self._waiters.finish()
            if self.ring.pending:
                self._call_home(self._home_for_window())
            return
        if home is not self._home:
            if self._home is not None and self.ring.pending:
                self._call_home(self._home)
            self._waiters.finish()
            return
        ring = self.ring
        if ring.pending:
            now = self._now()
            is_due = now >= self._due_at() - _ON_TIME_SECONDS
            if is_due:
                self._due = ring.reopen(now)
                self._ends_window = ring.places < self._max_in_flight
            if is_due or not self._starved:
                self._due = max(self._due, self._waiters.urgent_end())
                self._start_calls(home)
        self._set_timer(home)
        self._waiters.finish()

    def _due_at(self) -> float:
        """When the delay ends the window; seconds of the dispatcher's clock.

        A busy machine can take long after it has looked: the next window still lasts
        its full delay from there.
        """
        return max(self.ring.opened, self._taken_at) + self._delay

    def _start_calls(self, home: Home) -> None:
        loop = home.loop
        started = 0
        self._starting = home
        try:
            while loop is not None and self._wants_call():
                if not self.ring.reserve(self._max_in_flight):
                    break
                if started == self._max_in_flight:
                    # Calls that end at once could go on for ever: let others run.
                    self.ring.release()
                    errand = Errand(partial(self.look, home), self.loop_closed)
                    loop.call_soon(errand, context=self.fresh_context())
                    break
                started += 1
                call = Call(self, home)
                self._calls[call] = None
                call.start(loop)
        finally:
            self._starting = None

    def _wants_call(self) -> bool:
        """Whether entries are to go out now that no call is about to take."""
        spoken_for = sum(call.take is None for call in list(self._calls))
        return self.ring.wants_batch(spoken_for, self._due)

    def _set_timer(self, home: Home) -> None:
        """Keep one timer while a window is open that a free place could serve."""
        timer, ring = self._timer, self.ring
        if timer is not None and timer[0] is not home:
            timer[1].disarm()  # its loop is not ours to touch
            timer = self._timer = None
        if not ring.pending:
            if timer is not None:
                timer[1].cancel()
                self._timer = None
        elif timer is None and ring.places < self._max_in_flight:
            self._arm(home, self._due_at() - self._now())

    def _arm(self, home: Home, left: float) -> None:
        loop = home.loop
        if loop is not None and not loop.is_closed():
            least = min(_TICK_SECONDS, self._delay) if left > 0 else 0.0
            delay = max(left, least)
            errand = Errand(partial(self._ring_timer, home), self.loop_closed)
            self._timer = (home, Timer(loop, delay, errand, self.fresh_context()))

    def _ring_timer(self, home: Home) -> None:
        self._timer = None
        self.look(home)

    # ---- what a call tells of itself

    def has_place(self, call: Call) -> bool:
        """Whether the call still holds its place."""
        return call in self._calls

    def take(self) -> Take | None:
        """Take the next batch: a full one, or else what is due."""
        try:
            take = self.ring.take(self._max_batch, self._due)
        except MemoryError as error:
            # Tried again after another delay: at once would be for ever.
            self._taken_at = self._now()
            if not self._starved:
                self._starved = True
                self.reports.say(
                    logging.ERROR, "no memory for a batch, its entries wait: %s", error
                )
            return None
        self._starved = False
        return take

    def taken(self, home: Home, now: float) -> None:
        """A batch has left the ring: there is room, and perhaps no window any more."""
        if self._ends_window:
            self._ends_window = False
            self._taken_at = now
        if home is self._home:
            self._set_timer(home)
        elif self.ring.pending:
            self._call_home(self._home)
        self._room.call_next()
        if self.ring.telling or self._drops.overdue:
            self._drops.report(home)

    def invoke(self, call: Call, batch: Any) -> Awaitable[Any]:
        """Call the dispatch function, here or in a worker thread."""
        if self._is_async:
            awaitable: Awaitable[Any] = self.dispatch_function(batch)
            return awaitable
        return call.in_thread(batch)

    def failed(
        self, error: BaseException, take: Take, batch: Any, *, report: bool
    ) -> None:
        """A batch has failed."""
        self.reports.failed(
            error,
            batch,
            take.end - take.start,
            self._waiters.contexts(take),
            quiet=not report,
        )

    def released(self, call: Call) -> None:
        """A call has ended: give its place to the next batch."""
        if self._calls.pop(call, _GONE) is _GONE:
            return
        self.ring.release()
        if call.take is not None:
            call.take.forget()
        home = self._home
        if home is not None and home is call.home and home.here:
            if self._starting is not home:  # else it looks again when it has started
                self.look(home)
        else:
            self._waiters.finish()
            if self.ring.pending:
                self._call_home(self._home_for_window())

    # ---- the end of the loop

    async def _drain(
        self, home: Home, timeout: float, *, everywhere: bool = False
    ) -> None:
        """Dispatch what is pending on the running loop, which is about to end.

        Args:
            home: The place on that loop.
            timeout: Seconds it may take.
            everywhere: Wait for calls on other loops too.
        """
        deadline = self._now() + timeout
        while True:
            here = home is self._home
            calls = [
                call
                for call in list(self._calls)
                if (everywhere or call.home is home) and call.covers(0, self.ring.tail)
            ]
            if not calls and not (here and self.ring.pending):
                return
            left = deadline - self._now()
            if left <= 0:
                break
            waiter = Waiter(0, self.ring.tail if here else self.ring.head)
            self._waiters.add(waiter)
            self.look(home)
            await self._waiters.wait(waiter, left)
        home.ended = True
        for call in calls:
            if call.home is home:
                call.fail(TimeoutError(f"the loop ended, {timeout} s were not enough"))
                call.stop()
        await asyncio.sleep(0)
