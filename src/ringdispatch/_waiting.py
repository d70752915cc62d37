"""Waiting: for entries to be settled, and for room in the ring.

Both queues are nearly in order. Every operation is a single one of a set or a dict: no
lock is needed.
"""

import asyncio
import concurrent.futures
import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from ._atomic import resolve
from ._ordered import OrderedSet
from ._ring import Ring

if TYPE_CHECKING:
    from ._call import Call

# How often one that waits looks whether what it waits for still runs.
LOOK_SECONDS = 1.0

_FEW = 64  # waiters that are told at once


class Ending(Protocol):
    """What a close waits for, beside the ring's entries."""

    @property
    def is_open(self) -> bool:
        """Whether it has not ended yet."""


class FlushWaiter:
    """Waits until every entry below position `end` is settled."""

    __slots__ = ("end", "event", "excused", "future", "last", "reopenings", "settled")

    def __init__(
        self, end: int, excused: "Call | None", last: tuple[Ending, ...] = ()
    ) -> None:
        self.end = end
        self.excused = excused  # the call that it waits in, which it can't wait for
        self.last = last  # to end too, before a close is over
        self.reopenings = 0  # before the close
        # None: not known yet; False: no slot but its own call's could serve it
        self.settled: bool | None = None
        self.future: asyncio.Future[None] | None = None  # of an async waiter
        self.event: threading.Event | None = None  # of a blocking one


class OpenerWaiter:
    """Waits for the one entry that opened a window, for its context's sake."""

    __slots__ = ("_future", "context")

    def __init__(self, context: Any) -> None:
        self.context = context
        self._future: concurrent.futures.Future[None] = concurrent.futures.Future()

    def call_wait_until(self) -> None:
        """Hand the context's `wait_until` an awaitable that ends with the wait.

        Within `enqueue`: a serverless runtime takes no promise after the caller's call.
        """
        wait_until = getattr(self.context, "wait_until", None)
        wait_until = wait_until or getattr(self.context, "waitUntil", None)
        if wait_until is not None:
            wait_until(Receipt(self._future))

    def finish(self) -> None:
        """End the awaitable that `wait_until` got; again does nothing."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self._future.set_result(None)


class Receipt:
    """What `wait_until` gets: awaitable on any loop, by several tasks, or never."""

    __slots__ = ("_future",)

    def __init__(self, future: "concurrent.futures.Future[None]") -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, None]:
        if not self._future.done():
            # Shielded: a task that is cancelled here must not end it for the others.
            yield from asyncio.shield(asyncio.wrap_future(self._future)).__await__()


class SettlementQueue:
    """Flushes and openers that wait until entries of the ring are settled."""

    def __init__(self, ring: Ring, max_in_flight: int) -> None:
        # never changed
        self._ring = ring
        self._max_in_flight = max_in_flight
        # any thread, by single operations of a set or dict
        # By position, nearly: two threads that flush at once may be queued in the wrong
        # order, and the waiter in front then delays the other.
        self._flushes: OrderedSet[FlushWaiter] = OrderedSet()
        self._closes: OrderedSet[FlushWaiter] = OrderedSet()  # with something `last`
        # Flushes from within calls, which wait for no call that waits itself.
        self._inner: OrderedSet[FlushWaiter] = OrderedSet()
        self.openers: dict[int, OpenerWaiter] = {}  # in the ring, by position

    # ---- flushes

    @property
    def has_flushes(self) -> bool:
        """Whether one waits, in any thread."""
        return bool(self._flushes or self._closes or self._inner)

    def is_settled(self, waiter: FlushWaiter) -> bool:
        """Whether all that it waits for is settled."""
        return self._ring.settled_end(waiter.excused is not None) >= waiter.end

    def add(self, waiter: FlushWaiter) -> None:
        """Have its entries go out now, and finish it when they are settled."""
        self._ring.urge(waiter.end)
        if waiter.excused is not None:
            waiter.excused.excuse(1)
            self._inner.add(waiter)
        elif waiter.last:
            self._closes.add(waiter)
        else:
            self._flushes.add(waiter)

    def remove(self, waiter: FlushWaiter) -> None:
        """Forget a waiter that waits no longer."""
        self._flushes.discard(waiter)
        self._closes.discard(waiter)
        if self._inner.discard(waiter) and waiter.excused is not None:
            waiter.excused.excuse(-1)

    async def wait(self, waiter: FlushWaiter, timeout: float | None) -> bool:
        """Wait until it is finished; returns whether all was settled."""
        future = waiter.future = asyncio.get_running_loop().create_future()
        try:
            if waiter.settled is None:  # else finished before it was ready for it
                await wait_for(future, timeout)
            return self._outcome(waiter)
        finally:
            self.remove(waiter)

    def block(
        self, waiter: FlushWaiter, timeout: float | None, look: Callable[[], object]
    ) -> bool:
        """Block until it is finished; the same otherwise.

        Now and then `look` is called: what was to finish it may stand still.
        """
        event = waiter.event = threading.Event()
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        try:
            while waiter.settled is None and (left := deadline - time.monotonic()) > 0:
                if not event.wait(min(left, LOOK_SECONDS)) and left > LOOK_SECONDS:
                    look()
            return self._outcome(waiter)
        finally:
            self.remove(waiter)

    def _outcome(self, waiter: FlushWaiter) -> bool:
        return self.is_settled(waiter) if waiter.settled is None else waiter.settled

    def finish(self) -> None:
        """End the waits that are over."""
        if self._flushes:
            self._finish_below(self._flushes, self._ring.settled_end())
        if self._inner:
            self._finish_below(self._inner, self._ring.settled_end(True))
            # Then no batch can start.
            if self._ring.every_slot_waits(self._max_in_flight):
                self._finish_all(list(self._inner), False)
        for waiter in self._closes or ():
            is_open = any(each.is_open for each in waiter.last)
            if self.is_settled(waiter) and not (is_open and self._ring.closed):
                self._finish_all([waiter], True)
        for position, opener in list(self.openers.items()) if self.openers else ():
            if self._ring.is_settled(position):
                opener.finish()
                self.openers.pop(position, None)

    def _finish_below(self, waiters: "OrderedSet[FlushWaiter]", end: int) -> None:
        while over := [each for each in waiters.first_few(_FEW) if each.end <= end]:
            self._finish_all(over, True)

    def _finish_all(self, waiters: "list[FlushWaiter]", settled: bool) -> None:
        for waiter in waiters:
            waiter.settled = settled
            if waiter.event is not None:
                waiter.event.set()
        resolve_all([w.future for w in waiters if w.future is not None])
        for waiter in waiters:  # last: twice is better than never
            self.remove(waiter)

    # ---- openers

    def move_openers(self, start: int, end: int, to: "list[OpenerWaiter]") -> None:
        """Hand over the openers of entries in [start, end): a batch has them now."""
        for position, opener in list(self.openers.items()):
            if start <= position < end:
                to.append(opener)  # first: twice is better than never
                self.openers.pop(position, None)


class _Ticket:
    __slots__ = ("loop", "wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.wake: asyncio.Future[None] = loop.create_future()


class RoomQueue:
    """Serves tasks that wait for room, first come, first served, on any loop.

    Only the first tries. A batch that leaves the ring wakes as many as it has entries;
    a task that was served, or gives up, wakes the next; with `looks`, a second does.
    """

    def __init__(self, *, looks: bool = False) -> None:
        self.looks = looks  # never changed
        self.tickets: OrderedSet[_Ticket] = OrderedSet()
        # Woken, but their loop stands still.
        self._stalled: OrderedSet[_Ticket] = OrderedSet()
        self._loops: set[int] = set()  # seen since it was last empty

    def __len__(self) -> int:
        return len(self.tickets) + len(self._stalled)

    async def wait(
        self, attempt: Callable[[], bool | None], timeout: float | None
    ) -> bool | None:
        """Repeat `attempt` until it returns True or False; None when time runs out."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        if not self:
            self._loops.clear()
        self._loops.add(id(loop))
        ticket = _Ticket(loop)
        try:
            try:
                self.tickets.add(ticket)
                while True:
                    ticket.wake = loop.create_future()  # before it looks
                    if self._stalled.discard(ticket):
                        self.tickets.add_first(ticket)
                    if self.tickets.first() is ticket:
                        accepted = attempt()
                        if accepted is not None:
                            return accepted
                    seconds = None if deadline is None else deadline - loop.time()
                    if seconds is not None and seconds <= 0:
                        return None
                    if self.looks or len(self._loops) > 1:  # the first may stand still
                        seconds = min(LOOK_SECONDS, seconds or LOOK_SECONDS)
                    await wait_for(ticket.wake, seconds)
                    if len(self._loops) > 1:
                        self.wake(1)
            finally:
                self._leave(ticket)
        finally:  # again, where the first time was interrupted
            self._leave(ticket)

    def _leave(self, ticket: _Ticket) -> None:
        self.tickets.discard(ticket)
        self._stalled.discard(ticket)
        self.wake(1)

    def wake(self, count: int) -> None:
        """Wake the first `count` whose loops run: there may be room for them."""
        futures: list[asyncio.Future[None]] = []
        while count > 0 and (tickets := self.tickets.first_few(count)):
            count = 0
            for ticket in tickets:
                if ticket.loop.is_closed():
                    self.tickets.discard(ticket)
                    count += 1
                elif not ticket.loop.is_running():
                    self.tickets.move(ticket, self._stalled)  # until that runs again
                    count += 1
                futures.append(ticket.wake)
        resolve_all(futures)

    def wake_all(self) -> None:
        """Wake every waiter: the ring was closed."""
        self.wake(len(self.tickets))


async def wait_for(future: "asyncio.Future[None]", seconds: float | None) -> None:
    """Wait until the future is done, or `seconds` have passed."""
    if seconds is None:
        await future
        return
    timer = future.get_loop().call_later(seconds, resolve, future, context=Context())
    try:
        await future
    finally:
        timer.cancel()


def resolve_all(futures: "list[asyncio.Future[None]]") -> None:
    """End the waits for them, with one wake-up for each other loop."""
    here = asyncio._get_running_loop()
    elsewhere: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for future in futures:
        loop = future.get_loop()
        if loop is here:
            resolve(future)
        else:
            elsewhere.setdefault(loop, []).append(future)
    for loop, theirs in elsewhere.items():
        with contextlib.suppress(RuntimeError):  # closed: nothing waits there any more
            loop.call_soon_threadsafe(resolve_all, theirs, context=Context())
