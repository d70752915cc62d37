"""Who uses the dispatcher in a chaos round: producers, readers, closers, all at once.

Each runs in a thread of its own until the round is over, and draws what it does from
its own random numbers, so that a seed repeats its decisions whatever the others do.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import itertools
import os
import signal
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from random import Random
from typing import Any

from chaos_asyncio import GIL
from chaos_fork import fork
from chaos_record import Context, Entry, Record, Violation, identity_holds
from loops import new_loop
from ringdispatch import BackgroundDispatcher, Statistics

KINDS = ["asyncio"]  # of loops
# Without the GIL uvloop 0.23 crashes, with nothing of ours about, when a loop is closed
# while another thread wakes it; here that happens all the time.
if GIL and importlib.util.find_spec("uvloop") is not None:
    KINDS.append("uvloop")
RISING = (
    "accepted",
    "dispatched",
    "failed",
    "evicted",
    "abandoned",
    "batches",
    "failed_batches",
    "rejected_full",
    "rejected_closed",
    "peak_pending",
    "left",
    "recovered",
    "recovered_failed",
)


def gone_out(books: Statistics) -> int:
    lost = books.evicted + books.abandoned + books.left
    return books.dispatched + books.failed + lost


class Garbage:
    """Enqueues when it is collected."""

    def __init__(self, put: Callable[[], object]) -> None:
        self.put = put
        self.me = self  # a cycle: only the collector ends it

    def __del__(self) -> None:
        self.put()


class Producers:
    """What they do; each method is the whole life of one thread.

    Args:
        dispatcher: Used by all of them at once.
        record: Where they note what they did and were answered.
        options: The dispatcher's.
        over: Whether the round is over.
        loops: Notified of every loop made.
    """

    def __init__(
        self,
        dispatcher: BackgroundDispatcher[Entry],
        record: Record,
        options: dict[str, Any],
        over: Callable[[], bool],
        loops: Callable[[asyncio.AbstractEventLoop], object],
    ) -> None:
        self.dispatcher = dispatcher
        self.record = record
        self.options = options
        self.over = over
        self.loops = loops
        self.process = os.getpid()
        self.numbers: dict[str, Iterator[int]] = {}

    def guarded(self, live: Callable[[str, Random], None]) -> Callable[..., None]:
        """The same, with whatever it raises noted as a problem."""

        def run(who: str, rng: Random) -> None:
            try:
                live(who, rng)
            except BaseException:
                self.record.problems.append(f"{who}: {traceback.format_exc()}")

        return run

    def entry(self, who: str) -> Entry:
        return who, next(self.numbers.setdefault(who, itertools.count()))

    def put(self, who: str, context: Context | None = None) -> None:
        if os.getpid() != self.process:
            return  # a finalizer, a collection or a late signal in a forked child
        # A collection may have begun before the round was over, in another thread.
        if (dispatcher := getattr(self, "dispatcher", None)) is not None:
            self.record.put(dispatcher, self.entry(who), context)

    def context(self, rng: Random) -> Context | None:
        return Context(self.record) if rng.random() < 0.3 else None

    # ---- threads

    def thread(self, who: str, rng: Random) -> None:
        pause = rng.choice((0, 0, 0.0002, 0.002, 0.02))
        while not self.over():
            for _ in range(rng.choice((1, 3, 30, 300))):
                self.put(who, self.context(rng))
            time.sleep(rng.uniform(0, pause))

    def finalizer(self, who: str, rng: Random) -> None:
        def put() -> None:
            if not self.over():
                self.put("finalizer")

        while not self.over():
            for _ in range(rng.randint(1, 20)):
                Garbage(put)
                garbage = Garbage(put)
                garbage.me = None  # type: ignore[assignment]
                del garbage
                self.put(who)
            if rng.random() < 0.05:
                gc.collect(0)
            time.sleep(rng.uniform(0, 0.003))

    def forker(self, who: str, rng: Random) -> None:
        while not self.over():
            time.sleep(rng.uniform(0.02, 0.15))
            fork(self.dispatcher, self.record, rng)

    def reader(self, who: str, rng: Random) -> None:
        last = self.dispatcher.statistics()
        while not self.over():
            books = self.dispatcher.statistics()
            identity_holds(books, self.options)
            for name in RISING:
                if getattr(books, name) < getattr(last, name):
                    raise Violation(f"{name} fell: {last}, {books}")
            last = books
            time.sleep(rng.choice((0, 0, 0.001)))

    def flusher(self, who: str, rng: Random) -> None:
        while not self.over():
            timeout = rng.choice((0, 0.01, 0.1, 0.5))
            with self.flushing(timeout) as report:
                report(self.dispatcher.flush(timeout))
            time.sleep(rng.uniform(0, 0.03))

    def closer(self, who: str, rng: Random) -> None:
        self.pause(rng.uniform(0, 0.4))
        self.closed(self.dispatcher.close(rng.choice((0, 0.05, 1.0, 5.0))))

    def pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.over():
            time.sleep(0.001)

    @contextlib.contextmanager
    def flushing(self, timeout: float) -> Iterator[Callable[[bool], object]]:
        """Judge the answer of a flush."""
        before = self.dispatcher.statistics().accepted
        began = time.monotonic()
        answers: list[bool] = []
        yield answers.append
        lasted = time.monotonic() - began
        for settled in answers:
            if settled and gone_out(self.dispatcher.statistics()) < before:
                raise Violation("a flush returned before all was settled")
            if not settled and lasted < timeout - 0.002:
                raise Violation(f"a flush gave up after {lasted} of {timeout} s")

    def closed(self, settled: bool) -> None:
        """Judge the answer of a close."""
        self.record.closes.append(settled)
        books = self.dispatcher.statistics()
        if books.pending or (settled and books.in_flight):
            raise Violation(f"close returned {settled} with entries left: {books}")
        if self.dispatcher.enqueue(("late", 0)):
            raise Violation("an entry was accepted after close")
        self.record.refused.append(("late", 0))

    # ---- loops

    def loop(self, who: str, rng: Random) -> None:
        """One loop after another, each with an end of its own."""
        while not self.over():
            ending = rng.choice(("run", "run", "stop", "close"))
            kind = rng.choice(KINDS)
            with contextlib.ExitStack() as ends:
                loop = self.new_loop(kind)
                ends.enter_context(contextlib.closing(loop))
                if ending == "run":  # as asyncio.run ends
                    ends.callback(self.shut_down, loop)
                loop.run_until_complete(self.visit(who, rng))
                if ending == "stop":  # stands still, then runs again
                    time.sleep(rng.uniform(0, 0.02))
                    loop.run_until_complete(self.visit(who, rng))
                self.record.ended_loops.append(loop)

    def new_loop(self, kind: str) -> asyncio.AbstractEventLoop:
        loop, problems = new_loop(kind), self.record.problems
        loop.set_exception_handler(lambda _, seen: problems.append(f"loop: {seen}"))
        self.loops(loop)
        return loop

    def shut_down(self, loop: asyncio.AbstractEventLoop) -> None:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())

    async def visit(self, who: str, rng: Random) -> None:
        """Several tasks for a while, cut off in the middle."""
        if rng.random() < 0.2:
            self.dispatcher.bind()
        kinds = rng.choices(
            (self.enqueuing, self.waiting, self.flushing_here, self.awaiting_receipts),
            (4, 3, 1, 1),
            k=rng.randint(1, 4),
        )
        tasks = [
            self.task(kind, f"{who} task {number}", Random(rng.random()))
            for number, kind in enumerate(kinds)
        ]
        rare = (self.closing_here, self.forking_here)
        tasks += [self.task(live, who, rng) for live in rare if rng.random() < 0.02]
        for _ in range(rng.randint(0, 20)):
            if not self.over():
                await asyncio.sleep(rng.uniform(0, 0.01))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(rng.choice((0, 5))):  # left to the loop's end
            self.put(f"{who} leaving", self.context(rng))

    def task(
        self, live: Callable[..., Coroutine[Any, Any, None]], *values: Any
    ) -> asyncio.Task[None]:
        return asyncio.create_task(self.noted(live, *values))

    async def noted(
        self, live: Callable[..., Coroutine[Any, Any, None]], *values: Any
    ) -> None:
        try:
            await live(*values)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.record.problems.append(traceback.format_exc())

    async def enqueuing(self, who: str, rng: Random) -> None:
        while not self.over():
            for _ in range(rng.choice((1, 5, 50))):
                self.put(who, self.context(rng))
            await asyncio.sleep(rng.choice((0, 0.001, 0.01)))

    async def waiting(self, who: str, rng: Random) -> None:
        """Wait for room in turn, and with waiters of which some are cancelled."""
        waiters: set[asyncio.Task[None]] = set()
        try:
            while not self.over():
                await self.wait_for_room(who, rng, None)
                for _ in range(rng.randint(0, 3)):
                    timeout = rng.choice((0, 0.001, 0.02, None))
                    waiter = self.task(self.wait_for_room, "waiter", rng, timeout)
                    waiters.add(waiter)
                    waiter.add_done_callback(waiters.discard)
                await asyncio.sleep(rng.choice((0, 0.003)))
                if rng.random() < 0.3 and waiters:
                    next(iter(waiters)).cancel()
        finally:
            for waiter in waiters:
                waiter.cancel()
            if waiters:
                await asyncio.wait(waiters)

    async def wait_for_room(self, who: str, rng: Random, timeout: float | None) -> None:
        context = self.context(rng)
        entry = self.entry(who)
        await self.record.put_waiting(self.dispatcher, entry, context, timeout)

    async def flushing_here(self, who: str, rng: Random) -> None:
        while not self.over():
            timeout = rng.choice((0, 0.01, 0.1))
            with self.flushing(timeout) as report:
                report(await self.dispatcher.aflush(timeout))
            await asyncio.sleep(rng.uniform(0, 0.01))

    async def closing_here(self, who: str, rng: Random) -> None:
        await asyncio.sleep(rng.uniform(0, 0.1))
        self.closed(await self.dispatcher.aclose(rng.choice((0, 0.05, 1.0))))

    async def forking_here(self, who: str, rng: Random) -> None:
        await asyncio.sleep(rng.uniform(0, 0.05))
        fork(self.dispatcher, self.record, rng)

    async def awaiting_receipts(self, who: str, rng: Random) -> None:
        while not self.over():
            receipts: list[Awaitable[object]] = self.record.receipts[-3:]
            for receipt in receipts:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(rng.uniform(0, 0.02)):
                        if await receipt is not None:
                            raise Violation("a receipt did not yield None")
            await asyncio.sleep(0.002)

    # ---- from inside other code, for as long as the block lasts

    @contextlib.contextmanager
    def signals(self, rng: Random) -> Iterator[None]:
        every = rng.choice((0.0003, 0.001, 0.005))
        signal.signal(signal.SIGALRM, lambda *_: self.put("signal"))
        signal.setitimer(signal.ITIMER_REAL, every, every)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            # Without the GIL another thread may be noting one: it needs a handler.
            signal.signal(signal.SIGALRM, lambda *_: None)

    @contextlib.contextmanager
    def collections(self, rng: Random) -> Iterator[None]:
        threshold = gc.get_threshold()

        def collecting(phase: str, info: dict[str, int]) -> None:
            self.put("collector")

        gc.callbacks.append(collecting)
        gc.set_threshold(rng.choice((50, 500, 2000)))
        try:
            yield
        finally:
            gc.set_threshold(*threshold)
            gc.callbacks.remove(collecting)


def start(run: Callable[..., None], who: str, rng: Random) -> threading.Thread:
    thread = threading.Thread(target=run, args=(who, rng), name=who, daemon=True)
    thread.start()
    return thread
