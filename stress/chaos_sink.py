"""The dispatch function of a chaos round: does to each batch what is drawn for it."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from random import Random

from chaos_record import Entry, Injected, Record, SeenCall, Violation
from ringdispatch import BackgroundDispatcher
from ringdispatch._call import current_call

# What a call may do, and how often in a round where everything happens.
BEHAVIOURS: dict[str, float] = {
    "return": 30,
    "return late": 10,
    "raise": 6,
    "raise late": 4,
    "raise CancelledError": 4,
    "hang": 3,
    "swallow cancellation": 3,
    "block": 3,
    "enqueue": 8,
    "flush": 3,
    "close": 0.05,
}
CALM: dict[str, float] = {"return": 10, "return late": 3, "enqueue": 2}
SLOW = ("return late", "raise late", "hang", "swallow cancellation", "block", "flush")
LONGEST_HANG = 0.6  # seconds; where nothing cancels it, it returns late


class Sink:
    """Records each call, and misbehaves as drawn.

    Args:
        record: Where everything is noted.
        seed: What the behaviour of the n-th call is drawn from, with n.
        weights: How often each behaviour comes.
        over: Whether entries are no longer wanted.
    """

    dispatcher: BackgroundDispatcher[Entry] | None = None

    def __init__(
        self,
        record: Record,
        seed: str,
        weights: dict[str, float],
        max_in_flight: int,
        over: Callable[[], bool],
    ) -> None:
        self.record = record
        self.seed = seed
        self.weights = weights
        self.max_in_flight = max_in_flight
        self.over = over
        self.process = os.getpid()
        self.begun = itertools.count()
        self.numbers = itertools.count()

    # ---- the three kinds of dispatch function

    async def send(self, batch: list[Entry]) -> None:
        seen, rng = self.begin(batch, in_thread=False)
        try:
            await self.act(self.draw(rng), rng)
            seen.outcome = "returned"
        except BaseException as error:
            self.note(seen, error)
            raise
        finally:
            self.end(seen)

    def send_in_thread(self, batch: list[Entry]) -> None:
        seen, rng = self.begin(batch, in_thread=True)
        try:
            self.act_in_thread(self.draw(rng), rng)
            seen.outcome = "returned"
        except BaseException as error:
            self.note(seen, error)
            raise
        finally:
            self.end(seen)

    def send_in_thread_then_await(self, batch: list[Entry]) -> Awaitable[None] | None:
        seen, rng = self.begin(batch, in_thread=True)
        try:
            self.act_in_thread("return" if self.over() else "return late", rng)
            seen.outcome = "returned"
        finally:
            self.end(seen)
        return asyncio.sleep(0) if rng.random() < 0.5 else None

    # ---- what is noted of a call

    def begin(self, batch: list[Entry], *, in_thread: bool) -> tuple[SeenCall, Random]:
        call = current_call()
        if call is None or call.batch is None or (loop := call.home.loop) is None:
            raise Violation("a dispatch function called outside of any call")
        start, end = call.batch.start, call.batch.end
        seen = SeenCall(list(batch), start, end, call.began, loop, in_thread)
        record = self.record
        with record.lock:
            # What was in flight on a loop since closed has lost its slot (C14).
            running = list(record.running)
            others = [one for one in running if not one.loop.is_closed()]
            if not loop.is_closed() and len(others) >= self.max_in_flight:  # C6
                record.problems.append(f"{len(others) + 1} calls at once")
            record.running[seen] = None
            recovered = call.batch.recovered
            (record.recovered if recovered else record.calls).append(seen)
            return seen, Random(f"{self.seed} call {next(self.begun)}")

    def note(self, seen: SeenCall, error: BaseException) -> None:
        seen.error = str(error)
        if isinstance(error, asyncio.CancelledError):
            seen.outcome = "cancelled"
        elif isinstance(error, GeneratorExit):
            seen.outcome = "destroyed"
        else:
            seen.outcome = "raised"
            if not isinstance(error, Injected):
                self.record.problems.append(f"in the dispatch function: {error!r}")

    def end(self, seen: SeenCall) -> None:
        self.record.running.pop(seen, None)

    def draw(self, rng: Random) -> str:
        if os.getpid() != self.process:
            return "return"  # a forked child has other things to find out
        (behaviour,) = rng.choices([*self.weights], [*self.weights.values()])
        if self.over() and behaviour in SLOW:
            return "return"  # a full ring of batches of one would take minutes
        self.record.injected[behaviour] += 1
        return behaviour

    # ---- what it does

    async def act(self, behaviour: str, rng: Random) -> None:
        match behaviour:
            case "return late":
                await asyncio.sleep(rng.uniform(0, 0.02))
            case "raise late":
                await asyncio.sleep(rng.uniform(0, 0.02))
                raise Injected(f"late {rng.random()}")
            case "raise CancelledError":
                raise asyncio.CancelledError
            case "hang":
                await asyncio.sleep(LONGEST_HANG)
            case "swallow cancellation":
                await self.swallow(rng.uniform(0, 0.2))
            case "flush" if self.dispatcher is not None:
                await self.dispatcher.aflush(rng.uniform(0, 0.05))
            case "close" if self.dispatcher is not None:
                self.record.closes.append(None)  # it may give up later
                await self.dispatcher.aclose(rng.uniform(0, 0.1))
            case _:
                self.act_at_once(behaviour, rng)

    async def swallow(self, seconds: float) -> None:
        try:
            await asyncio.sleep(LONGEST_HANG)
        except asyncio.CancelledError:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                try:
                    await asyncio.sleep(left)
                except asyncio.CancelledError:
                    continue

    def act_in_thread(self, behaviour: str, rng: Random) -> None:
        match behaviour:
            case "return late":
                time.sleep(rng.uniform(0, 0.02))
            case "raise late":
                time.sleep(rng.uniform(0, 0.02))
                raise Injected(f"late {rng.random()}")
            case "raise CancelledError":
                raise asyncio.CancelledError
            case "hang" | "swallow cancellation":  # a thread can't be cancelled
                time.sleep(rng.uniform(0, 0.3))
            case "flush" if self.dispatcher is not None:
                self.dispatcher.flush(rng.uniform(0, 0.05))
            case "close" if self.dispatcher is not None:
                self.record.closes.append(None)
                self.dispatcher.close(rng.uniform(0, 0.1))
            case _:
                self.act_at_once(behaviour, rng)

    def act_at_once(self, behaviour: str, rng: Random) -> None:
        match behaviour:
            case "raise":
                raise Injected(f"at once {rng.random()}")
            case "block":
                time.sleep(rng.uniform(0, 0.01))
            case "enqueue" if self.dispatcher is not None and not self.over():
                for _ in range(rng.randint(1, 4)):
                    entry = ("dispatch", next(self.numbers))
                    self.record.put(self.dispatcher, entry)
