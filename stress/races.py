"""All that a ring and a dispatcher can do at once, from 2 to 8 threads.

    python stress/races.py [--seconds 10] [--threads 8] [--seed 7]

Short rounds, each on a new ring or dispatcher of random layout, size and policy. Every
snapshot balances (C8); after a round nothing is lost and nothing came twice (C9). What
luck hides, ThreadSanitizer sees: `.ci/sanitizers thread` runs this under it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Any

import helpers_path  # noqa: F401  # isort: skip
from lines import Line
from racing import KINDS, Mark
from ringdispatch import BackgroundDispatcher, Full, Statistics, _background
from ringdispatch._batch import Batch
from ringdispatch._enqueue import POLICIES
from support import books_agree

ROUND_SECONDS = 0.15
DEADLINE = 60.0  # seconds; under a sanitizer everything takes long
IDLE_SECONDS = 0.01  # of the background thread, for its end to be a part of this


class RingLine(Line):
    """A ring, with the books where a dispatcher has them."""

    statistics = Line.books


class Round:
    """Threads, each in its role until the time is up, and what they have seen."""

    def __init__(self, random: Random, threads: int) -> None:
        self.random = random
        self.layout = random.choice(sorted(KINDS))
        self.kind = KINDS[self.layout]
        self.capacity = random.choice([1, 2, 7, 64, 1000])
        self.max_batch = random.randint(1, self.capacity)
        self.max_in_flight = 3
        self.on_full = random.choice(sorted(POLICIES))
        self.accepted: list[list[int]] = [[] for _ in range(threads)]
        self.refused = [0] * threads
        self.over = False
        first = [self.produce, self.consume]
        rest = [self.produce, self.produce, self.consume, self.watch, self.meddle]
        self.roles = [*first, *random.choices(rest, k=threads - len(first))]

    def __str__(self) -> str:
        roles = ", ".join(role.__name__ for role in self.roles)
        return (
            f"{type(self).__name__} {self.layout} capacity={self.capacity} "
            f"max_batch={self.max_batch} max_in_flight={self.max_in_flight} "
            f"{self.on_full}: {roles}"
        )

    def run(self) -> None:
        errors: list[BaseException] = []
        barrier = threading.Barrier(len(self.roles) + 1)

        def play(role: Callable[[int, Random], None], mine: int, seed: float) -> None:
            try:
                barrier.wait(DEADLINE)
                role(mine, Random(seed))
            except BaseException as error:
                errors.append(error)
                raise

        threads = [
            threading.Thread(target=play, args=(role, i, self.random.random()))
            for i, role in enumerate(self.roles)
        ]
        for thread in threads:
            thread.daemon = True
            thread.start()
        barrier.wait(DEADLINE)
        time.sleep(ROUND_SECONDS)
        self.interfere()
        self.over = True
        for thread in threads:
            thread.join(DEADLINE)
        assert not errors, errors
        assert not any(thread.is_alive() for thread in threads), "hung"
        self.check()

    def hand_in(self, mine: int, attempt: Callable[[Any], bool | None]) -> None:
        number = len(self.accepted[mine]) + self.refused[mine]
        try:
            accepted = attempt(self.kind.pack(mine, number))
        except Full:
            accepted = False
        if accepted:
            self.accepted[mine].append(number)
        elif accepted is False:
            self.refused[mine] += 1

    def interfere(self) -> None: ...
    def check(self) -> None: ...
    def produce(self, mine: int, random: Random) -> None: ...
    def consume(self, mine: int, random: Random) -> None: ...
    def watch(self, mine: int, random: Random) -> None: ...
    def meddle(self, mine: int, random: Random) -> None: ...

    def nothing_lost(self, out: list[Mark], books: Statistics) -> None:
        """C5, C9: what came out went in once, in order; the rest is accounted for."""
        for whose, accepted in enumerate(self.accepted):
            numbers = [number for who, number in out if who == whose]
            assert numbers == sorted(set(numbers))
            assert set(numbers) <= set(accepted)
        assert books.accepted == sum(map(len, self.accepted))
        assert books.accepted - len(out) == books.evicted + books.abandoned
        assert books.rejected_full + books.rejected_closed == sum(self.refused)
        assert books.dispatched + books.failed == len(out)
        assert books.pending == books.in_flight == 0


class RingRound(Round):
    """On a bare ring, also what a dispatcher does only on its home's thread."""

    def __init__(self, random: Random, threads: int) -> None:
        super().__init__(random, threads)
        self.line = RingLine(
            self.kind.layout,
            self.capacity,
            max_batch=self.max_batch,
            max_in_flight=self.max_in_flight,
            on_full=self.on_full,
        )
        self.takes: list[Batch] = []  # of all threads: anyone may settle any of them
        self.out: list[tuple[int, list[Mark]]] = []
        self.settled: list[tuple[bool, int]] = []  # whether failed, how many entries

    def produce(self, mine: int, random: Random) -> None:
        while not self.over:
            for _ in range(100):
                self.hand_in(mine, self.line.enqueue)
            self.hand_in(mine, self.offer)

    def offer(self, entry: Any) -> bool | None:
        return self.line._offer(self.line.ring.encoded(entry), None)

    def consume(self, mine: int, random: Random) -> None:
        while not self.over:
            slot = self.line.ring.acquire_slot(self.max_in_flight)
            if slot is None:
                continue
            take = self.line.ring.take(random.randint(1, self.max_batch))
            if take is not None:
                assert take.end - take.start == len(take.value) <= self.max_batch
                self.out.append((take.start, self.kind.unpack(take.value)))
                self.takes.append(take)
                self.settle(random)
            assert slot.release()

    def settle(self, random: Random) -> None:
        """Settle one of the last few, as a timeout and a close would at once."""
        take = random.choice(self.takes[-4:])
        failed = random.random() < 0.3
        if take.settle(failed, 0.5):
            self.settled.append((failed, take.end - take.start))
        assert take.settled
        entries = take.value
        assert entries is None or len(entries) == take.end - take.start
        take.release()

    def watch(self, mine: int, random: Random) -> None:
        while not self.over:
            books_agree(self.line)
            ring = self.line.ring
            assert ring.head <= ring.tail
            assert ring.pending <= ring.capacity
            assert 0 <= ring.busy_slots <= self.max_in_flight
            assert ring.opened >= 0.0
            _ = ring.drop_announced, ring.closed

    def meddle(self, mine: int, random: Random) -> None:
        while not self.over:
            ring = self.line.ring
            ring.roll_window(time.monotonic())
            ring.unclaim_window()
            self.line._reject_full()
            self.refused[mine] += 1
            ring.rearm_drop_notice()
            if self.takes:
                self.settle(random)
            if random.random() < 0.01:
                ring.abandon()

    def interfere(self) -> None:
        if self.random.random() < 0.5:
            self.line.ring.close()
            time.sleep(ROUND_SECONDS / 5)

    def check(self) -> None:
        for take in self.takes:
            if take.settle(False, 0.5):
                self.settled.append((False, take.end - take.start))
        self.line.ring.abandon()
        books = self.line.statistics()
        self.out.sort(key=lambda taken: taken[0])
        self.nothing_lost(list(itertools.chain(*(e for _, e in self.out))), books)
        assert books.failed == sum(count for failed, count in self.settled if failed)
        assert books.batches == len(self.settled) == len(self.takes)
        assert books.dispatch_seconds_total == 0.5 * len(self.takes)
        assert self.line.ring.busy_slots == 0


class DispatcherRound(Round):
    """Through the public face, on the background thread and on loops of their own."""

    def __init__(self, random: Random, threads: int) -> None:
        super().__init__(random, threads)
        self.out: list[Mark] = []
        home = random.choice(["auto", "thread"])
        # Two homes in turn may begin two calls at once, each in its own thread.
        self.max_in_flight = random.randint(1, 3) if home == "thread" else 1
        self.dispatcher: BackgroundDispatcher[Any] = BackgroundDispatcher(
            self.dispatch,
            layout=self.kind.layout,
            ms_delay=1,
            capacity=self.capacity,
            max_batch=self.max_batch,
            max_in_flight=self.max_in_flight,
            on_full=self.on_full,
            home=home,
            on_error=lambda error, batch: len(batch),
            on_drop=lambda reason, count: None,
        )
        self.fails = random.random() < 0.3

    async def dispatch(self, batch: Any) -> None:
        self.out += self.kind.unpack(batch)
        await asyncio.sleep(0 if len(self.out) % 2 else 0.001)
        if self.fails:
            raise ConnectionError

    def produce(self, mine: int, random: Random) -> None:
        while not self.over:
            for _ in range(20):
                self.hand_in(mine, self.dispatcher.enqueue)
            time.sleep(0)

    def consume(self, mine: int, random: Random) -> None:
        """Wait for room, and for settlement, on a loop of its own."""

        async def main() -> None:
            number = len(self.accepted[mine])
            entry = self.kind.pack(mine, number)
            if await self.dispatcher.aenqueue(entry, timeout=DEADLINE):
                self.accepted[mine].append(number)
            else:
                self.refused[mine] += 1
            await self.dispatcher.aflush(random.choice([0.0, 0.001, 1.0]))

        while not self.over and not self.refused[mine]:
            asyncio.run(main())

    def watch(self, mine: int, random: Random) -> None:
        while not self.over:
            books_agree(self.dispatcher)
            assert self.dispatcher.pending <= self.capacity
            repr(self.dispatcher)

    def meddle(self, mine: int, random: Random) -> None:
        while not self.over:
            self.dispatcher.flush(random.choice([0.0, 0.001, 1.0]))

    def interfere(self) -> None:
        """Close from two threads at once, one of them in no mood to wait."""
        waiting = self.random.choice([0.0, 30.0])
        other = threading.Thread(target=self.dispatcher.close, args=(waiting,))
        other.start()
        self.dispatcher.close(30.0)
        other.join(DEADLINE)

    def check(self) -> None:
        deadline = time.monotonic() + DEADLINE
        while self.dispatcher._batcher.calls:  # cancelled, and about to end
            assert time.monotonic() < deadline, "in flight for ever"
            time.sleep(0.001)
        self.nothing_lost(self.out, self.dispatcher.statistics())


class ReopeningRound(DispatcherRound):
    """It is closed and opened again, and its thread comes and goes."""

    def meddle(self, mine: int, random: Random) -> None:
        while not self.over:
            assert self.dispatcher.close(DEADLINE)
            time.sleep(random.choice([0.0, 0.001, 2 * IDLE_SECONDS]))
            self.dispatcher.__enter__()
            time.sleep(random.choice([0.0, 0.001]))

    def interfere(self) -> None: ...

    def check(self) -> None:
        assert self.dispatcher.close(DEADLINE)
        super().check()


def main() -> None:
    parser = argparse.ArgumentParser(description="Race, and see that the books agree.")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, help="each round; 2 to 8 if not given")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    print(f"--seed {options.seed}", flush=True)
    random = Random(options.seed)
    logging.getLogger("ringdispatch").addHandler(logging.NullHandler())
    _background._IDLE_SECONDS = IDLE_SECONDS
    sys.setswitchinterval(5e-6)  # threads that share a GIL take turns often
    end = time.monotonic() + options.seconds
    accepted = rounds = 0
    while time.monotonic() < end:
        kind = random.choice([RingRound, DispatcherRound, ReopeningRound])
        this = kind(random, options.threads or random.randint(2, 8))
        try:
            this.run()
        except BaseException:
            print(f"in round {rounds}, {this}", file=sys.stderr)
            raise
        rounds += 1
        accepted += sum(map(len, this.accepted))
    print(f"{rounds} rounds, {accepted:,} entries accepted, all accounted for")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
