"""One round of chaos: a dispatcher with drawn options, all who use it, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from types import FrameType
from typing import Any

from chaos_producers import KINDS, Producers, start
from chaos_record import DROPS, Entry, Judge, Record, Violation
from chaos_sink import BEHAVIOURS, CALM, Sink
from chaos_spool import NAME, Filed, Files
from layouts import LAYOUTS, can_be
from loops import eventually, new_loop
from ringdispatch import BackgroundDispatcher, Statistics

SETTLE_SECONDS = 20.0  # until all is settled, with nobody asking for it
JOIN_SECONDS = 40.0

CLASSES: dict[str, type[BackgroundDispatcher[Any]]] = {**LAYOUTS, "spooled": Filed}
DRAWN = [*filter(can_be, CLASSES)]

# What may be left standing when a round is over; a weak set must become empty.
dispatchers: weakref.WeakSet[BackgroundDispatcher[Any]] = weakref.WeakSet()
loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


@dataclass(frozen=True)
class Plan:
    """What is drawn for a round before it begins."""

    seed: str
    options: dict[str, Any]
    function: str  # the dispatch function: a method of Sink
    weights: dict[str, float]
    lives: tuple[str, ...]  # methods of Producers, one thread each
    main: str  # what the main thread does meanwhile
    signals: bool
    collections: bool
    seconds: float
    switch_interval: float
    ending: str
    layout: str


def draw(seed: int, number: int) -> Plan:
    rng = Random(f"{seed} round {number}")
    capacity = round(5000 ** rng.random())
    options = {
        "ms_delay": 0.2 * 250 ** rng.random(),
        "capacity": capacity,
        "max_batch": rng.choice((None, 1, rng.randint(1, capacity))),
        "max_in_flight": rng.randint(1, 4),
        "dispatch_timeout": rng.choice((0.02, 0.1, 30.0, None)),
        "on_full": rng.choice(("drop_newest", "drop_oldest", "raise")),
        "home": rng.choice(("auto", "auto", "thread")),
    }
    lives = rng.choices(
        ("thread", "loop", "finalizer", "reader", "flusher"),
        (4, 4, 1, 1, 1),
        k=rng.randint(1, 5),
    )
    lives += [life for life in ("forker", "closer") if rng.random() < 0.15]
    return Plan(
        seed=f"{seed} round {number}",
        options=options,
        function=rng.choice(
            ("send", "send", "send", "send_in_thread", "send_in_thread_then_await")
        ),
        weights=rng.choice((CALM, BEHAVIOURS, BEHAVIOURS)),
        lives=tuple(lives),
        main=rng.choice(("loop", "wait", "wait", "thread")),
        signals=rng.random() < 0.3,
        collections=rng.random() < 0.2,
        seconds=rng.choice((0.02, 0.1, 0.3, 0.6)),
        switch_interval=rng.choice((1e-5, 1e-4, 5e-3)),
        ending=rng.choice(("close", "aclose", "with", "loop", "unclosed")),
        layout=rng.choice(DRAWN),
    )


class Round:
    """Plays a plan; `play` returns what was wrong, and leaves nothing behind."""

    def __init__(self, plan: Plan, record: Record) -> None:
        self.plan = plan
        self.record = record
        self.until = float("inf")
        self.sink = Sink(
            record,
            plan.seed,
            plan.weights,
            plan.options["max_in_flight"],
            self.over,
        )
        self.dispatcher: BackgroundDispatcher[Entry] = CLASSES[plan.layout](
            getattr(self.sink, plan.function),
            on_error=record.on_error,
            on_drop=record.on_drop,
            name=NAME,
            **plan.options,
        )
        self.sink.dispatcher = self.dispatcher
        self.files = Files.of(self.dispatcher, Random(f"{plan.seed} files"))
        # It outlives a dispatcher that is dropped.
        self.ring = self.dispatcher._batcher.ring
        dispatchers.add(self.dispatcher)

    def over(self) -> bool:
        return time.monotonic() >= self.until

    def books(self) -> Statistics:
        return Statistics(*self.ring.snapshot(time.monotonic()))

    def play(self) -> list[str]:
        self.produce()
        self.end()
        # One that went down with its loop ends when its coroutine is collected.
        eventually_or(
            lambda: gc.collect() >= 0 and not self.record.running,
            SETTLE_SECONDS,
            lambda: f"calls that never end: {[*self.record.running]}",
        )
        self.receipts_have_ended()
        eventually(self.told_everything)
        closed = self.ring.closed
        books, files = self.books(), self.files
        judge = Judge(self.record, books, self.plan.options, closed, files is not None)
        wrong = judge.verdict()
        if files is not None:
            eventually(files.are_free)
            wrong += files.verdict(self.record, books)
        return wrong

    def produce(self) -> None:
        """Let everybody at it until the round is over."""
        plan = self.plan
        producers = Producers(
            self.dispatcher, self.record, plan.options, self.over, loops.add
        )
        interval = sys.getswitchinterval()
        with contextlib.ExitStack() as stack:
            stack.callback(sys.setswitchinterval, interval)
            sys.setswitchinterval(plan.switch_interval)
            self.until = time.monotonic() + plan.seconds
            if plan.signals:
                stack.enter_context(producers.signals(Random(plan.seed)))
            if plan.collections:
                stack.enter_context(producers.collections(Random(plan.seed)))
            threads = []
            for number, life in enumerate(plan.lives):
                live = producers.guarded(getattr(producers, life))
                rng = Random(f"{plan.seed} {number}")
                threads.append(start(live, f"{life} {number}", rng))
            live = producers.guarded(getattr(producers, plan.main, self.wait))
            live(f"{plan.main} main", Random(f"{plan.seed} main"))
            deadline = time.monotonic() + JOIN_SECONDS
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    raise Violation(f"{thread.name} does not come to an end")
        # A task cancelled while it awaited a receipt lives as long as the receipt.
        del producers.dispatcher

    def wait(self, who: str, rng: Random) -> None:
        while not self.over():
            time.sleep(0.001)

    # ---- the end

    def end(self) -> None:
        was_closed = self.dispatcher.closed
        ending = "close" if was_closed else self.plan.ending
        if ending == "loop":
            self.run(self.leave_entries())
        self.await_settlement()
        if ending in ("loop", "unclosed"):
            self.let_go()
            return
        # By a call that ran until now. What it gave up is not this period's.
        opens_again = ending == "with" and self.dispatcher.closed
        settled = self.close(ending)
        # One before, which ran out of time over a dead letter alone, cut nothing short.
        if not settled and self.files is not None and False in self.record.closes:
            return
        if settled == (self.was_cut_short() and not opens_again):
            raise Violation(f"the last {ending} returned {settled}")

    def was_cut_short(self) -> bool:
        texts = [failure.text for failure in self.record.all_failures]
        given_up = any(text.startswith("close timed out") for text in texts)
        books = self.books()
        return given_up or books.abandoned + books.left > 0

    def close(self, ending: str) -> bool:
        if ending == "aclose":
            return bool(self.run(self.dispatcher.aclose(SETTLE_SECONDS)))
        if ending == "with":
            with self.dispatcher:
                self.record.put(self.dispatcher, ("last", 0))
            self.await_settlement()
        return self.dispatcher.close(SETTLE_SECONDS)

    def run(self, main: Any) -> Any:
        """As asyncio.run, on a loop that is to be gone afterwards."""
        kind = KINDS[-1] if self.plan.signals else KINDS[0]

        def make() -> asyncio.AbstractEventLoop:
            loop = new_loop(kind)
            loops.add(loop)
            self.record.ended_loops.append(loop)
            return loop

        with asyncio.Runner(loop_factory=make) as runner:
            return runner.run(main)

    async def leave_entries(self) -> None:
        for number in range(10):
            self.record.put(self.dispatcher, ("last", number))

    def await_settlement(self) -> None:
        """C3, C6, C14: all is settled by itself, and every slot is given back."""
        while not self.is_settled():  # a busy machine may need long for many batches
            before = self.books().batches
            eventually_or(
                lambda before=before: (
                    self.is_settled() or self.books().batches > before
                ),
                SETTLE_SECONDS,
                self.unsettled,
            )

    def is_settled(self) -> bool:
        books = self.books()
        return not (books.pending or books.in_flight or self.ring.busy_slots)

    def unsettled(self) -> str:
        return f"never settled, {self.ring.busy_slots} slots taken: {self.books()}"

    def let_go(self) -> None:
        """C16: an unclosed dispatcher is freed when nobody needs it any more."""
        gone = weakref.ref(self.dispatcher)
        del self.dispatcher
        self.sink.dispatcher = None
        eventually_or(
            lambda: gc.collect() >= 0 and gone() is None,
            SETTLE_SECONDS,
            lambda: "\n".join(["kept alive by", *held_by(gone())]),
        )

    def receipts_have_ended(self) -> None:
        async def await_all() -> None:
            async with asyncio.timeout(SETTLE_SECONDS):
                for receipt in self.record.receipts:
                    if await receipt is not None:
                        raise Violation("a receipt did not yield None")

        with asyncio.Runner(loop_factory=lambda: new_loop("asyncio")) as runner:
            runner.run(await_all())

    def told_everything(self) -> bool:
        books, dropped = self.books(), self.record.dropped()
        return all(dropped[name] == getattr(books, name) for name in DROPS)


def eventually_or(
    condition: Callable[[], object], seconds: float, otherwise: Callable[[], str]
) -> None:
    try:
        eventually(condition, seconds)
    except AssertionError:
        raise Violation(otherwise()) from None


MOST_HOLDERS = 12  # of one another


def held_by(thing: object, level: int = 1, seen: set[int] | None = None) -> list[str]:
    """What refers to it, and what to that, indented; the frames here left out."""
    seen = {id(thing)} if seen is None else seen
    lines = []
    holders = gc.get_referrers(thing)
    seen.add(id(holders))
    for holder in holders:
        here = isinstance(holder, FrameType) and "chaos" in holder.f_code.co_filename
        if level <= MOST_HOLDERS and not here and id(holder) not in seen:
            seen.add(id(holder))
            lines.append("  " * level + f"{type(holder)} {repr(holder)[:150]}")
            lines += held_by(holder, level + 1, seen)
    return lines


class Watch(logging.Handler):
    """Notes in the current record what nobody is to see: log lines and stray errors."""

    record: Record | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.record is None:
            return
        line = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if record.name == "ringdispatch":
            self.record.logged.append(line)
        elif record.name == "concurrent.futures" and "is closed" in str(error):
            pass  # asyncio asks whether the loop is closed a moment too early
        else:
            self.record.problems.append(f"logged by {record.name}: {line}")

    def stray(self, what: str, error: object) -> None:
        if self.record is not None:
            self.record.problems.append(f"{what}: {error!r}")
