"""C5 to C11: each accepted entry is settled and reported once, in order.

A history is made of steps (entries, time, flushes, cancellations, a close) and of what
each call of the dispatch function does. It runs on a loop whose time stands still, next
to a record of what really happened, with which the books are compared all the way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Collection
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extent import extent
from layouts import in_file
from lines import Line
from ringdispatch import Full, Objects
from ringdispatch._batcher import Batcher
from ringdispatch._waiting import FlushWaiter, SettlementQueue
from support import SteppedLoop, books_agree

Entry = tuple[str, int]

# No two sums of these durations are the same moment.
DELAY = 0.1
TIMEOUTS = (None, 0.2513, 2.5171)
PATIENCE = (0, 0.1709, 1.7053, 7.0119)

options = st.integers(1, 6).flatmap(
    lambda capacity: st.fixed_dictionaries(
        {
            "capacity": st.just(capacity),
            "max_batch": st.none() | st.integers(1, capacity),
            "max_in_flight": st.integers(1, 3),
            "on_full": st.sampled_from(["drop_newest", "drop_oldest", "raise"]),
            "dispatch_timeout": st.sampled_from(TIMEOUTS),
        }
    )
)
outcomes = st.sampled_from(
    [
        "return",
        "return late",
        "raise",
        "raise late",
        "raise CancelledError",
        "hang",
        "swallow one cancellation",
        "enqueue",
        "flush",
    ]
)
steps = st.one_of(
    st.tuples(st.just("enqueue"), st.integers(1, 8)),
    st.tuples(st.just("wait_for_room"), st.sampled_from((None, *PATIENCE))),
    st.tuples(st.just("advance"), st.sampled_from([0.0101, 0.0503, 0.1003, 1.0007])),
    st.tuples(st.just("let_run"), st.integers(1, 4)),
    st.tuples(st.just("flush"), st.sampled_from(PATIENCE)),
    st.tuples(st.just("cancel_dispatch"), st.integers(0, 2)),
    st.tuples(st.just("cancel_every_task")),
    st.tuples(st.just("cancel_waiter")),
)
closings = st.none() | st.sampled_from(PATIENCE)


@dataclass(eq=False)
class Dispatch:
    """What one call of the dispatch function did, seen from inside it."""

    batch: list[Entry]
    began: float
    task: asyncio.Task[Any] | None
    ended: float | None = None
    returned: bool = False
    given_up: bool = False  # by a close that ran out of time


@dataclass
class Context:
    """A request's context: keeps what it is given to wait for."""

    receipts: list[Awaitable[None]] = field(default_factory=list)

    def wait_until(self, receipt: Awaitable[None]) -> None:
        self.receipts.append(receipt)


class History:
    def __init__(
        self,
        dispatcher_class: type,
        loop: SteppedLoop,
        options: dict[str, Any],
        script: list[str],
    ) -> None:
        self.loop = loop
        self.options = options
        self.script = iter(script)
        self.dispatches: list[Dispatch] = []
        self.accepted: set[Entry] = set()
        self.refused = 0
        self.given = {"enqueued": 0, "waited": 0}
        self.context = Context()
        self.gate = asyncio.Event()  # what hangs waits for it
        self.mine: set[asyncio.Task[Any]] = set()
        self.waiters: list[asyncio.Task[None]] = []
        self.errors: list[list[Entry]] = []
        self.drops: Counter[str] = Counter()
        self.dispatcher = dispatcher_class(
            self.dispatch,
            ms_delay=DELAY * 1000,
            on_error=lambda error, batch: self.errors.append(list(batch)),
            on_drop=lambda reason, count: self.drops.update({reason: count}),
            **options,
        )

    # ---- the dispatch function

    async def dispatch(self, batch: list[Entry]) -> None:
        assert batch  # C3
        assert len(batch) <= self.dispatcher.statistics().max_batch  # C6
        this = Dispatch(list(batch), self.loop.time(), asyncio.current_task())
        self.dispatches.append(this)
        running = [other for other in self.dispatches if other.ended is None]
        assert len(running) <= self.options["max_in_flight"]  # C6
        try:
            await self.do(next(self.script, "return"))
            this.returned = True
        finally:
            this.ended = self.loop.time()

    async def do(self, outcome: str) -> None:
        match outcome:
            case "return late":
                await asyncio.sleep(0.3107)
            case "raise":
                raise ValueError("no")
            case "raise late":
                await asyncio.sleep(0.2303)
                raise ValueError("no")
            case "raise CancelledError":
                raise asyncio.CancelledError
            case "hang":
                await self.gate.wait()
            case "swallow one cancellation":
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    await asyncio.sleep(0.7109)
            case "enqueue":
                self.enqueue(1)
            case "flush":
                await self.dispatcher.aflush(timeout=0.4337)

    def in_time(self, this: Dispatch) -> bool:
        """Whether the call has not been settled as failed while it was running."""
        timeout = self.options["dispatch_timeout"]
        ended = self.loop.time() if this.ended is None else this.ended
        late = timeout is not None and ended - this.began >= timeout - 1e-6
        return not late and not this.given_up

    # ---- the steps

    def new_entry(self, kind: str) -> Entry:
        self.given[kind] += 1
        return kind, self.given[kind]

    def enqueue(self, count: int) -> None:
        for _ in range(count):
            entry = self.new_entry("enqueued")
            try:
                accepted = self.dispatcher.enqueue(entry, self.context)
            except Full:
                accepted = False
            self.answered(entry, accepted=accepted)

    def answered(self, entry: Entry, *, accepted: bool) -> None:
        if accepted:
            self.accepted.add(entry)
        else:
            self.refused += 1

    async def waiter(self, timeout: float | None) -> None:
        entry = self.new_entry("waited")
        accepted = await self.dispatcher.aenqueue(entry, self.context, timeout)
        self.answered(entry, accepted=accepted)

    async def flush(self, timeout: float) -> None:
        before = set(self.accepted)
        if await self.dispatcher.aflush(timeout):
            for this in self.dispatches:
                if this.ended is None and self.in_time(this):
                    assert before.isdisjoint(this.batch)

    async def close(self, timeout: float) -> None:
        settled = await self.dispatcher.aclose(timeout)
        for this in self.dispatches:
            if this.ended is None and self.in_time(this):
                assert not settled
                this.given_up = True

    def start(self, main: Any) -> asyncio.Task[None]:
        task = self.loop.create_task(main)
        self.mine.add(task)
        return task

    async def step(self, what: str, value: Any = None) -> None:
        match what:
            case "enqueue":
                self.enqueue(value)
            case "wait_for_room":
                self.waiters.append(self.start(self.waiter(value)))
            case "advance":
                await self.loop.advance(value)
            case "let_run":
                for _ in range(value):
                    await asyncio.sleep(0)
            case "flush":
                self.start(self.flush(value))
            case "close":
                self.start(self.close(value))
            case "cancel_dispatch":
                running = [this for this in self.dispatches if this.ended is None]
                if running:
                    running[value % len(running)].task.cancel()
            case "cancel_every_task":
                for task in asyncio.all_tasks() - self.mine:
                    task.cancel()
            case "cancel_waiter":
                if self.waiters:
                    self.waiters.pop(0).cancel()

    # ---- what must hold

    def books_tell_what_happened(self) -> None:  # C8
        books_agree(self.dispatcher)
        seen = self.dispatcher.statistics()
        good = [
            this for this in self.dispatches if this.returned and self.in_time(this)
        ]
        flying = [
            this
            for this in self.dispatches
            if this.ended is None and self.in_time(this)
        ]
        taken = [entry for this in self.dispatches for entry in this.batch]
        assert seen.accepted >= len(self.accepted)
        assert seen.batches == len(self.dispatches)
        assert seen.dispatched == sum(len(this.batch) for this in good)
        assert seen.in_flight == sum(len(this.batch) for this in flying)
        failed = seen.failed + self.left_in_flight(taken)
        assert failed == sum(map(len, self.errors))
        assert seen.failed_batches <= seen.batches - len(good) - len(flying)
        if seen.left == 0:
            assert seen.failed_batches == seen.batches - len(good) - len(flying)
        assert len(taken) + seen.pending <= seen.accepted

    def left_in_flight(self, taken: Collection[Entry]) -> int:
        """How many a close left to the next process that were in flight."""
        seen = self.dispatcher.statistics()
        left = len(taken) - seen.dispatched - seen.failed - seen.in_flight
        assert 0 <= left <= seen.left
        assert seen.left == 0 or in_file(self.dispatcher)
        return left

    def entries_kept_their_order(self) -> None:  # C5, C9
        taken = [entry for this in self.dispatches for entry in this.batch]
        for kind in self.given:
            numbers = [number for what, number in taken if what == kind]
            assert numbers == sorted(set(numbers))

    async def run(self, steps: list[tuple[Any, ...]]) -> None:
        self.mine.add(asyncio.current_task())
        for step in steps:
            await self.step(*step)
            self.books_tell_what_happened()
        self.gate.set()
        await self.loop.advance(60)
        await self.everything_is_settled()

    async def everything_is_settled(self) -> None:
        """Without anything else enqueued, flushed or closed."""
        self.books_tell_what_happened()
        self.entries_kept_their_order()
        seen = self.dispatcher.statistics()
        taken = {entry for this in self.dispatches for entry in this.batch}
        assert seen.pending == seen.in_flight == 0
        assert self.dispatcher._batcher.ring.busy_slots == 0
        assert seen.accepted == len(self.accepted)
        assert taken <= self.accepted
        left_pending = seen.left - self.left_in_flight(taken)
        gone = seen.evicted + seen.abandoned + left_pending
        assert len(taken) + gone == len(self.accepted)
        assert seen.rejected_full + seen.rejected_closed == self.refused
        assert seen.evicted == 0 or self.options["on_full"] == "drop_oldest"
        assert seen.abandoned == 0 or self.dispatcher.closed
        if self.accepted:  # else it never had a home to report anything from
            for reason in ("rejected_full", "rejected_closed", "evicted", "abandoned"):
                assert self.drops[reason] == getattr(seen, reason)  # C10
        assert self.loop.timers() == []  # C3
        receipts = [asyncio.ensure_future(each) for each in self.context.receipts]
        await self.loop.settle()
        assert all(receipt.done() for receipt in receipts)
        for task in self.mine - {asyncio.current_task()}:
            assert task.done()
            if not task.cancelled():
                task.result()
        cut_short = (
            seen.abandoned
            or left_pending
            or any(this.given_up for this in self.dispatches)
        )
        assert await self.dispatcher.aclose() == (not cut_short)


@settings(
    max_examples=extent(100, 200),  # with each layout
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it keeps no state
)
@given(
    options=options,
    script=st.lists(outcomes, max_size=12),
    steps=st.lists(steps, max_size=30),
    closing=closings,
    after=st.lists(steps, max_size=5),
)
def test_every_accepted_entry_is_settled_once_and_in_order(
    options: dict[str, Any],
    script: list[str],
    steps: list[tuple[Any, ...]],
    closing: float | None,
    after: list[tuple[Any, ...]],
    dispatcher_class: type,
) -> None:  # C9
    if closing is not None:
        steps = [*steps, ("close", closing), *after]
    run(dispatcher_class, options, script, steps)


def run(
    dispatcher_class: type,
    options: dict[str, Any],
    script: list[str],
    steps: list[tuple[Any, ...]],
) -> None:
    logging.getLogger("ringdispatch").setLevel(logging.CRITICAL)
    loop = SteppedLoop()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Batcher, "now", staticmethod(loop.time))

            async def main() -> None:
                await History(dispatcher_class, loop, options, script).run(steps)

            loop.run_until_complete(main())
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
        logging.getLogger("ringdispatch").setLevel(logging.NOTSET)


CALM = {
    "capacity": 2000,
    "max_batch": 1,
    "max_in_flight": 1,
    "on_full": "drop_newest",
    "dispatch_timeout": None,
}


def test_call_cancelled_before_its_first_step_gives_its_slot_back(
    dispatcher_class: type,
) -> None:  # C6, C9
    run(
        dispatcher_class,
        CALM,
        [],
        [("enqueue", 1), ("let_run", 1), ("cancel_every_task",)],
    )


def test_backlog_of_many_batches_goes_out_at_once(
    dispatcher_class: type,
) -> None:  # C6, C9
    run(dispatcher_class, CALM, [], [("enqueue", 2000), ("let_run", 10_000)])


def test_backlog_of_many_failing_batches_goes_out_at_once(
    dispatcher_class: type,
) -> None:  # C6, C11
    run(
        dispatcher_class,
        CALM,
        ["raise"] * 2000,
        [("enqueue", 2000), ("let_run", 10_000)],
    )


# Objects only: no dispatcher.
def test_waiter_that_has_gone_is_not_woken() -> None:
    """Another thread settles its entries in the moment in which it is cancelled."""
    line = Line(Objects(), 1)
    queue = SettlementQueue(line.ring, 1)

    async def main() -> None:
        assert line.enqueue("a")
        batch = line.ring.take(1)
        waiters = [FlushWaiter(1, None) for _ in range(2)]
        for waiter in waiters:
            queue.add(waiter)
        waits = [asyncio.ensure_future(queue.wait(each, None)) for each in waiters]
        await asyncio.sleep(0)
        gone, stays = waits
        assert gone.cancel()
        assert batch.settle(False, 0.0)
        queue.finish()
        assert await stays is True
        await asyncio.wait([gone])
        assert gone.cancelled()

    asyncio.run(main())
