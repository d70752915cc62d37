"""The engine behind the public face: from an open window to settled batches."""

import asyncio
import logging
import math
import sys
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from threading import get_ident
from typing import Any

from . import _close, _process, _residence
from ._atomic import Wake, WorkerThreads, call_once
from ._background import background_home, is_exiting
from ._batch import Batch
from ._call import EAGER, LATE_SECONDS, Call
from ._flush import Looks
from ._home import Home, home_of, running_loop
from ._options import Options
from ._ordered import OrderedSet
from ._reports import Drops, Reports
from ._ring import Ring
from ._sink import claim, use_of
from ._waiting import FlushWaiter, OpenerWaiter, RoomQueue, SettlementQueue

# A timer that fires this much early is on time; asyncio's own slack is below it. uvloop
# may fire almost a tick early: then wait for one more.
_ON_TIME_SECONDS = 1e-4
_TICK_SECONDS = 1e-3  # no loop waits more finely

# How often an ending loop checks whether all remaining work is on other loops.
_LOOK_SECONDS = 0.1


class Batcher:
    """Turns windows into settled batches, on whatever home the dispatcher has.

    Every event (a window opens, its timer fires, a batch is full, a slot is freed, a
    flush, a loop's close) ends in `pump()` on the home's thread. `pump()` is
    idempotent: an extra call does nothing. Invariant: while entries are pending in a
    claimed window, a timer is armed, a call is running, or a `pump()` is posted; a
    closed loop posts another. Whatever is raised in between leaves the window
    unclaimed, and the next entry posts a `pump()`.
    """

    # Not a module attribute, which libraries that freeze time would replace.
    now = staticmethod(time.monotonic)

    def __init__(self, options: Options) -> None:
        # never changed
        self.options = options
        self.max_in_flight: int = options.max_in_flight
        self.ring: Ring = options.make_ring()
        self.reports = Reports(options, options.name_for(self), self.now)
        self.reset()
        claim(self)
        self.drops.report_now()  # what the ring has to say of its place
        _process.batchers.add(self)

    def reset(self) -> None:
        """Start empty: in the constructor, and in a forked child."""
        # home's thread only (while the home moves, two threads may be in pump(): the
        # ring's lock decides what each takes)
        self.due = 0  # positions below it are to go out now
        self._ends_window = False  # whether the next take is the delay's
        self._taken_at = -math.inf  # when the delay's last take was
        self._out_of_memory = False  # for the last batch
        self._timer: tuple[Wake, asyncio.TimerHandle] | None = None
        # any thread, by single operations of a set or dict
        # strong: a loop holds its tasks weakly; in the order of their start
        self.calls: OrderedSet[Call] = OrderedSet()
        self.recovery = self.ring.make_recovery(self.calls, self.now)
        self.unstarted: dict[Call, None] = {}  # of these, about to take (3.11)
        self.settlement = SettlementQueue(self.ring, self.max_in_flight)
        self.looks = Looks()
        self.room = RoomQueue(looks=self.recovery is not None)
        self.workers = WorkerThreads()
        self._choosing: set[int] = set()  # threads, in _replace_home()
        self.sink = use_of(self)
        self.homes: dict[Home, None] = {}  # that it is attached to
        # any thread, plain stores; a stale read costs an extra pump()
        self.home: Home | None = None
        self.bound_home: Home | None = None  # by bind(), which wins over a choice
        self.overseen_on: Home | None = None  # which has timers for calls elsewhere
        self._posted: Wake | None = None
        self._posted_at = -math.inf
        self.gave_up_after = -1  # so many reopenings came an end before all was settled
        self.cut_short = [0, 0]  # by exit: entries in flight of its own, of others
        self.reports.reset()
        self.drops = Drops(self.ring, self.reports, self.now, self.settlement.finish)

    @property
    def has_work(self) -> bool:
        """Whether anything is pending or in flight."""
        return bool(self.ring.pending or self.calls)

    # ---- the listener of enqueue, on any thread

    def window_opened(self, position: int, context: Any) -> bool:
        """Have the home pump; returns whether it will."""
        if context is None:
            return self.wake_home(self._ensure_home())
        opener = self.settlement.openers[position] = OpenerWaiter(context)
        posted = self.wake_home(self._ensure_home())
        if self.ring.head > position:  # another thread was quicker
            self.wake_home(self.home)
        try:
            opener.call_wait_until()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # enqueue never logs: the home does.
            report = partial(self.reports.log, logging.ERROR, "wait_until raised")
            self.post(partial(report, error))
        return posted

    def batch_full(self) -> None:
        """Dispatch a full batch; every 4,096 entries, look whether the home runs."""
        home = self.home
        if home is None or home.stalled:
            self.wake()
        elif self.settlement.openers or self.ring.busy_slots < self.max_in_flight:
            self.wake_home(home)

    def entries_dropped(self) -> None:
        """Have the first drop reported, if there is a home; else at a later one."""
        home = self.home
        if (home is None or home.closed) and running_loop() is not None:
            home = self._replace_home(home)
            self.wake_home(home)  # as after every move: what is pending goes with it
        if home is None or not home.post(partial(self.drops.report, home)):
            self.ring.rearm_drop_notice()

    # ---- the home

    def _ensure_home(self) -> Home | None:
        """The home of a window that opens now; None where no thread can be started."""
        home = self.home
        if home is None or home.ended:
            return self._replace_home(home)
        gives_way = home.background and home is not self.bound_home
        if gives_way and not self.options.prefers_thread:
            # A thread taken only for want of a loop gives way to a loop.
            loop = running_loop()
            if loop is not None and loop is not home.loop:
                return self._replace_home(home)
        return home  # closed, it takes no pump(), and another is chosen

    def _replace_home(self, before: Home | None) -> Home | None:
        """As _choose_home(); None within one of this thread, which wakes the home."""
        return call_once(self._choosing, self._choose_home, before)

    def _choose_home(
        self, before: Home | None, *, blocking: bool = False
    ) -> Home | None:
        """Choose a home in the place of `before`, unless another thread is quicker.

        The loop of a caller that will block its thread can't be the home.
        """
        _process.register_exit()
        elsewhere = blocking or self.options.prefers_thread
        loop = None if elsewhere else running_loop()
        home = None if loop is None else home_of(loop)
        if home is None or home.background:
            try:
                home = background_home()
            except (RuntimeError, OSError):  # no thread, or no descriptor
                return None
        bound = self.bound_home if before is self.bound_home else None
        runs_again = bound is not None and not (bound.stalled or bound.ended)
        if self.home in {before, None} and not runs_again:  # None: reset, or reopened
            if bound is not None:
                self.bound_home = None
            self._move_to(home)
            if (later := self.bound_home) is not None:  # by another thread meanwhile
                self._move_to(later)
        home.notice_desertion()  # the background's may have been started for nothing
        return self.home

    def bind(self, home: Home) -> None:
        """Make this the home, until its loop is closed or found stopped."""
        if self.bound_home is home:
            return
        _process.register_exit()
        self.bound_home = home  # first: _choose_home() looks at it last
        self._move_to(home)
        if self.ring.pending or self.recovery is not None:
            self.wake_home(home)

    def _move_to(self, home: Home) -> None:
        _residence.attach(self, home)  # first: interrupted, it is attached
        before, self.home = self.home, home
        _residence.attach(self, home)  # again: a thread may have left it
        if before is not home:
            self.drops.loop_closed()  # what its timer would have reported
        if self.recovery is not None:
            self.recovery.resume()
        for call in self.calls:
            if call.is_orphaned():
                call.orphan()
        _residence.leave_unused(self)

    def wake(self, *, blocking: bool = False) -> None:
        """Have the home pump, or a new one where it stands still; see _choose_home."""
        home = self.home
        if home is None or home.stalled or home.ended:
            home = self._choose_home(home, blocking=blocking)
        self.wake_home(home)

    def wake_home(self, home: Home | None) -> bool:
        """Post a pump(); returns whether it was posted."""
        while home is not None:
            wake = self.ring.make_wake(home, self.pump)
            if home.post(wake):
                self._posted, self._posted_at = wake, self.now()
                return True
            wake.cancel()  # the closed loop may keep it
            if not self.has_work:
                break  # it was served before the loop was closed
            home = self._replace_home(home)
        # Else no thread can start. The next entry tries again; at exit they go out.
        return False

    def has_posted(self, seconds: float) -> bool:
        """Whether a pump() that was posted so recently will run."""
        wake = self._posted
        recent = self.now() <= self._posted_at + seconds
        return recent and wake is not None and wake.pending and wake.home is self.home

    def post(self, callback: Callable[[], object]) -> None:
        """Have the home call back, if there is one."""
        if (home := self.home) is not None:
            home.post(callback)

    def loop_closed(self, home: Home) -> None:
        """Move what waits for a loop that was closed, and from no other loop."""
        self._posted = None
        self.homes.pop(home, None)
        self.drops.loop_closed()
        for call in self.calls:
            if call.home is home:
                call.orphan()
        if self.recovery is not None and home is self.home and not is_exiting():
            self.recovery.end()  # another process may go on
        if self.sink is not None:
            self.sink.loop_closed(home)
            self.settlement.finish()
        if self.has_work:
            self.wake_home(self._ensure_home())

    # ---- on the home: what is due

    def pump(self, home: Home, pumps: int) -> None:
        """Start what is due and a slot is free for; arm the timer for the rest.

        `home` is where it runs, `pumps` what Ring.unclaim_window() returned before it.
        """
        if not home.is_guarded or home.thread != get_ident():
            home.arrive()
        if home is not self.home or home.ended:
            self.settlement.finish()
            if self.ring.pending:
                self.wake_home(self._ensure_home())
            return
        ring, loop, recovery = self.ring, home.loop, self.recovery
        if recovery is not None and recovery.is_next:
            recovery.pump(self, home)
        if self.overseen_on is not home:
            _residence.oversee(self, home)
        if ring.pending and loop is not None:
            now = self.now()
            due_now = now >= self._due_at() - _ON_TIME_SECONDS
            free = ring.busy_slots < self.max_in_flight
            if due_now:
                self.due = ring.roll_window(now)
                self._ends_window = free
            self.due = ring.urge(self.due)
            if not free:
                self._expire_first(now)
            elif (due_now or not self._out_of_memory) and self._wants_call:
                self._start_calls(home, loop)
        if recovery is not None:
            recovery.pump(self, home)
        self._keep_timer(home)
        self.settlement.finish()
        if ring.closed and not self.has_work:
            _close.end_files(self)
            _residence.leave_unused(self)
        ring.claim_window(pumps)

    def _due_at(self) -> float:
        """When the delay ends the window, by the dispatcher's clock."""
        # On a busy machine the take may come long after pump(); the delay runs from it.
        return max(self.ring.opened, self._taken_at) + self.options.delay

    def _expire_first(self, now: float) -> None:
        """End the longest running call where its loop or its timer did not."""
        call = self.calls.first()
        if call is None:
            return
        if call.is_orphaned():
            call.orphan()
        elif (call.deadline or math.inf) + LATE_SECONDS < now:
            call.expire()

    @property
    def _wants_call(self) -> bool:
        """Whether entries are to go out now that no call is about to take."""
        return self.ring.wants_batch(len(self.unstarted), self.due)

    def _start_calls(self, home: Home, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(self.max_in_flight):
            if not Call(self, home, self.ring).start(loop) or not self._wants_call:
                return
        # Calls that end at once could go on for ever: let others run.
        loop.call_soon(self.ring.make_wake(home, self.pump), context=Context())

    def _keep_timer(self, home: Home) -> None:
        """Keep one timer while a window is open that a free slot could serve."""
        timer, ring, pending = self._timer, self.ring, self.ring.pending
        if timer is not None:
            wake, handle = timer
            if not pending or not wake.pending or wake.home is not home:
                self._timer = timer = None
                # Another loop's handle is not ours to touch; one that ran is over.
                if wake.pending and wake.home is home:
                    handle.cancel()
                wake.cancel()
        if timer is None and pending and ring.busy_slots < self.max_in_flight:
            left = self._due_at() - self.now()
            least = min(_TICK_SECONDS, self.options.delay) if left > 0 else 0.0
            loop = home.loop
            if loop is not None and not loop.is_closed():
                wake = ring.make_wake(home, self.pump)
                handle = loop.call_later(max(left, least), wake, context=Context())
                self._timer = wake, handle
        if home is not self.home:  # moved meanwhile: that keeps one
            self.wake_home(self._ensure_home() if ring.pending else None)
            _residence.leave_unused(self)

    # ---- what a call reports

    def on_taken(self, call: Call, batch: Batch, now: float) -> None:
        """A batch has left the ring: there is room."""
        self._out_of_memory = False
        if self.sink is not None:
            self.sink.homes[call.home] = None
        if self._ends_window and not batch.recovered:
            self._ends_window = False
            self._taken_at = now
        if self.recovery is not None and not batch.recovered:
            self.recovery.is_next = True
        if self.settlement.openers:
            self.settlement.move_openers(batch.start, batch.end, call.openers)
        if call.home is not self.home:
            _residence.attach(self, call.home)  # moved before it began
            if self.ring.pending:
                self.wake_home(self.home)
        elif not EAGER and (self._timer or self.ring.pending):  # else pump() goes on
            self._keep_timer(call.home)
        if self.room.tickets:
            self.room.wake(batch.end - batch.start)
        if self.ring.drop_announced or self.ring.has_drops:
            self.drops.report(call.home)

    def report_no_batch(self, error: BaseException) -> None:
        """A call could take no batch: its entries wait for another delay."""
        if not isinstance(error, MemoryError):
            return  # it was interrupted
        self._taken_at = self.now()  # a retry at once would never end
        if not self._out_of_memory:
            self._out_of_memory = True
            why = f"no memory for a batch, its entries wait: {error}"
            self.reports.log(logging.ERROR, why)

    def slot_freed(self, call: Call, *, here: bool) -> None:
        """Give the slot of an ended call to the next batch; `here`: on its home."""
        if call.home is not self.home:
            _residence.leave_unused(self)
        ring = self.ring
        here = here and call.home is self.home
        idle = not (ring.pending or ring.closed)
        if idle and self.recovery is None:
            self.settlement.finish()
        elif here:
            self.pump(call.home, self.ring.unclaim_window())
        else:
            self.settlement.finish()
            self.wake_home(self.home if idle else self._ensure_home())

    # ---- the end

    async def drain(
        self, home: Home, timeout: float, *, last: bool, everywhere: bool = False
    ) -> None:
        """Dispatch what is pending on the running loop, which is about to end.

        `everywhere` waits for calls on other loops too; after the `last` time no call
        starts here any more.
        """
        deadline = self.now() + timeout
        recovery = self.recovery
        if recovery is not None and (home is self.home or recovery.uses(home)):
            recovery.stop(home)
        while (left := deadline - self.now()) > 0:
            here = home is self.home
            running = self.running_on(None if everywhere else home)
            local = [call for call in self.calls if call.home is home]
            ending = [task for call in local if (task := call.ending_task)]
            if not running and not ending and not (here and self.ring.pending):
                return
            waiter = FlushWaiter(self.ring.tail if here else self.ring.head, None)
            self.settlement.add(waiter)
            self.pump(home, self.ring.unclaim_window())
            # It may wait for a slow call on another loop, which must not hold this one.
            left = min(left, _LOOK_SECONDS)
            if await self.settlement.wait(waiter, left):  # for no recovered batch
                wait = partial(asyncio.wait, ending, timeout=left)
                await (wait() if ending else asyncio.sleep(_TICK_SECONDS))
        home.ended = home.ended or last
        for call in self.running_on(home):
            call.cut(TimeoutError(f"the loop ended, {timeout:.3g} s were not enough"))
            call.stop()
        await asyncio.sleep(0)

    def running_on(self, home: Home | None) -> list[Call]:
        """The calls that are not settled, on that home or on any."""
        return [c for c in self.calls if home in {None, c.home} and not c.is_settled]

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_finalizing() or not hasattr(self, "drops"):
            return  # end() was there before; or the constructor was interrupted
        self.workers.end()
        self.ring.close()
        if self.ring.pending:
            _close.give_up(self, None, "collected without close", anyway=True)
        _close.end_files(self)
        self.drops.report_now(last=True)
