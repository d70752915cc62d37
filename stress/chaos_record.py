"""What a chaos round sees of a dispatcher from outside, and whether the books agree."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from ringdispatch import BackgroundDispatcher, Full, Statistics
from ringdispatch._call import Call
from support import adds_up

Entry = tuple[str, int]  # whose it is, and its number

# They may be entered again in the middle of their own enqueue, or wait in a line of
# their own: their entries have no order.
UNORDERED = ("signal", "finalizer", "collector", "dispatch", "waiter")
DROPS = ("rejected_full", "rejected_closed", "evicted", "abandoned")

# The log lines that count failures, of an outage and at close.
FAILED = re.compile(
    r"(?:closed; before that )?(\d+) batch(?:es)? failed \((\d+) entr(?:y|ies)\)"
)

# The timeout's timer is set before the batch is taken: on 3.11 an iteration of the loop
# earlier, which may take any time, and a busy machine may stop in between for long.
EARLY_SECONDS = 1.0 if sys.version_info >= (3, 12) else math.inf


class Violation(Exception):
    """Something is not as it must be: ringdispatch's fault, or the chaos run's own."""


class Injected(Exception):
    """What the dispatch function raises when it is its turn to fail."""


@dataclass(eq=False)
class SeenCall:
    """One call of the dispatch function, seen from inside it."""

    batch: list[Entry]
    start: int  # positions, as the ring had them
    end: int
    began: float
    loop: asyncio.AbstractEventLoop
    in_thread: bool  # begun whenever a worker thread came to it
    outcome: str = "running"  # returned, raised, cancelled, destroyed
    error: str = ""


@dataclass(frozen=True)
class Failure:
    """What on_error got; not the error itself, whose traceback keeps frames."""

    kind: type[BaseException]
    text: str
    batch: list[Entry]
    when: float


@dataclass(eq=False)
class Context:
    """A request's context."""

    record: Record

    def wait_until(self, receipt: Awaitable[object]) -> None:
        self.record.receipts.append(receipt)

    def log(self, message: str) -> None:
        self.record.told_contexts.append(message)


@dataclass(eq=False)
class Record:
    """Everything that was seen in one round; single list operations need no lock."""

    accepted: list[Entry] = field(default_factory=list)
    refused: list[Entry] = field(default_factory=list)  # enqueue returned False
    full: list[Entry] = field(default_factory=list)  # enqueue raised Full
    no_room: list[Entry] = field(default_factory=list)  # aenqueue returned False
    calls: list[SeenCall] = field(default_factory=list)
    running: dict[SeenCall, None] = field(default_factory=dict)
    recovered: list[SeenCall] = field(default_factory=list)  # of another's entries
    failures: list[Failure] = field(default_factory=list)
    recovered_failures: list[Failure] = field(default_factory=list)
    drops: list[tuple[str, int]] = field(default_factory=list)
    receipts: list[Awaitable[object]] = field(default_factory=list)
    told_contexts: list[str] = field(default_factory=list)
    ended_loops: list[asyncio.AbstractEventLoop] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    closes: list[bool | None] = field(default_factory=list)  # None: nobody saw
    forks: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start_anew(self) -> None:
        """Forget the parent's part, in a forked child."""
        self.__init__()  # type: ignore[misc]

    # ---- enqueueing

    def put(
        self,
        dispatcher: BackgroundDispatcher[Entry],
        entry: Entry,
        context: Context | None = None,
    ) -> None:
        try:
            accepted = dispatcher.enqueue(entry, context)
        except Full:
            self.full.append(entry)
        else:
            (self.accepted if accepted else self.refused).append(entry)

    async def put_waiting(
        self,
        dispatcher: BackgroundDispatcher[Entry],
        entry: Entry,
        context: Context | None,
        timeout: float | None,
    ) -> None:
        accepted = await dispatcher.aenqueue(entry, context, timeout)
        (self.accepted if accepted else self.no_room).append(entry)

    # ---- hooks

    def on_error(self, error: BaseException, batch: list[Entry]) -> None:
        now = time.monotonic()
        failure = Failure(type(error), str(error), list(batch), now)
        mine = self.failures
        if is_recovered(sys._getframe()):
            mine = self.recovered_failures
        mine.append(failure)

    def on_drop(self, reason: str, count: int) -> None:
        self.drops.append((reason, count))

    def dropped(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for reason, count in list(self.drops):
            total[reason] += count
        return total

    def received(self) -> list[Entry]:
        """What the dispatch function got, in the order in which it was taken."""
        taken = sorted(self.calls, key=lambda call: call.start)
        return [entry for call in taken for entry in call.batch]

    @property
    def gave_up(self) -> bool:
        """Whether a close ran out of time, or may have."""
        return not all(self.closes)

    @property
    def all_failures(self) -> list[Failure]:
        """Of batches of the ring's, and of others'."""
        return [*self.failures, *self.recovered_failures]


def is_recovered(frame: FrameType | None) -> bool:
    """Whether on_error was called for a batch that another process had accepted."""
    while frame is not None:
        call = frame.f_locals.get("self")
        if frame.f_code is Call.fail.__code__ and isinstance(call, Call):
            return call.batch is not None and call.batch.recovered
        frame = frame.f_back
    raise Violation("on_error was called outside of Call.fail")


@dataclass
class Judge:
    """Compares the books with the record, once nothing is pending or in flight."""

    record: Record
    books: Statistics
    options: dict[str, Any]
    closed: bool
    in_file: bool = False

    def verdict(self) -> list[str]:
        """Everything that differs."""
        return [
            *self.record.problems,
            *self._counters(),
            *self._drops(),
            *self._batches(),
            *self._order(),
            *self._failures(),
            *self._log(),
        ]

    def __post_init__(self) -> None:
        # What failed (by a timeout, a close, the end of its loop) before a worker
        # thread came to it was never begun (C11).
        calls = self.record.calls
        begun = {call.batch[0] for call in calls if call.batch}
        self.unbegun = [
            failure.batch
            for failure in self.record.failures
            if failure.batch[0] not in begun
            and failure.kind is not Injected
            and all(call.in_thread for call in calls)
        ]

    def _counters(self) -> Iterator[str]:  # C8, C9
        record, books = self.record, self.books
        batches = [*(call.batch for call in record.calls), *self.unbegun]
        received = sum(map(len, batches))
        failed = sum(len(failure.batch) for failure in record.failures)
        refused = len(record.refused) + len(record.full) + len(record.no_room)
        lost = len(record.accepted) - received
        cut = 0  # entries in flight that are left in the file, and no failures
        if self.in_file:
            cut, lost = books.left - lost, 0
            if not 0 <= cut <= failed or (books.left and not record.gave_up):
                yield f"{books.left} left, {cut} of them in flight, of {failed}"
        failed_batches = len(record.failures)
        if cut:
            failed_batches = min(failed_batches, books.failed_batches)
        yield from differences(
            ("accepted", books.accepted, len(record.accepted)),
            ("batches", books.batches, len(batches)),
            ("failed", books.failed, failed - cut),
            ("failed_batches", books.failed_batches, failed_batches),
            ("dispatched", books.dispatched, received - failed),
            ("pending", books.pending, 0),
            ("in_flight", books.in_flight, 0),
            (
                "evicted + abandoned",
                books.evicted + books.abandoned,
                lost,
            ),
            ("rejected", books.rejected_full + books.rejected_closed, refused),
            ("rejected_oversized", books.rejected_oversized, 0),
        )
        if books.peak_pending > self.options["capacity"]:
            yield f"peak_pending {books.peak_pending} is above the capacity"

    def _drops(self) -> Iterator[str]:  # C10, C15
        record, books = self.record, self.books
        reported = record.dropped()
        yield from differences(
            *(
                (f"reported {name}", reported[name], getattr(books, name))
                for name in DROPS
            )
        )
        on_full = self.options["on_full"]
        if books.evicted and on_full != "drop_oldest":
            yield f"{books.evicted} entries evicted under {on_full}"
        if books.abandoned and not record.gave_up:
            yield f"{books.abandoned} entries abandoned, but every close was in time"
        if not self.closed:
            yield from differences(("rejected_closed", books.rejected_closed, 0))
        if on_full != "drop_newest":  # then enqueue returns False only where closed
            least = len(record.full)
            if not least <= books.rejected_full <= least + len(record.no_room):
                yield f"rejected_full is {books.rejected_full}, {least} raised Full"

    def _batches(self) -> Iterator[str]:  # C3, C5, C6
        most = self.options["max_batch"] or self.options["capacity"]
        for call in self.record.calls:
            if not 1 <= len(call.batch) <= most:
                yield f"a batch of {len(call.batch)}, max_batch is {most}"
            if len(call.batch) != call.end - call.start:
                yield f"{len(call.batch)} entries from [{call.start}, {call.end})"
            if call.outcome == "running":
                yield f"a call never ended: [{call.start}, {call.end})"

    def _order(self) -> Iterator[str]:  # C5, C9
        record = self.record
        taken = sorted(record.calls, key=lambda call: call.start)
        for before, after in itertools.pairwise(taken):
            if before.end > after.start:
                yield f"taken twice: [{after.start}, {min(before.end, after.end)})"
        for loop in {call.loop for call in record.calls}:
            calls = [call for call in record.calls if call.loop is loop]
            begun = [call.start for call in calls if not call.in_thread]
            if begun != sorted(begun):
                yield f"batches began out of order on {loop}: {begun}"
        received = record.received()
        if len(set(received)) < len(received):
            twice = [entry for entry, n in Counter(received).items() if n > 1]
            yield f"{len(twice)} entries received twice, such as {twice[:3]}"
        if strange := set(received) - set(record.accepted):
            yield f"{len(strange)} entries never accepted: {sorted(strange)[:3]}"
        missing = {entry for batch in self.unbegun for entry in batch}
        went_in = by_producer([e for e in record.accepted if e not in missing])
        came_out = by_producer(received)
        for who, numbers in came_out.items():
            wanted = went_in.get(who, [])
            if who.split()[0] in UNORDERED:
                continue
            if self.options["on_full"] == "drop_oldest":
                ordered = numbers == sorted(numbers)
            else:  # what is missing was abandoned in the end
                ordered = numbers == wanted[: len(numbers)]
            if not ordered:
                pairs = enumerate(zip(numbers, wanted, strict=False))
                apart = (at for at, (got, due) in pairs if got != due)
                at = next(apart, min(len(numbers), len(wanted)))
                yield (
                    f"entries of {who!r} came out of order, or with gaps: at {at}, "
                    f"{numbers[at : at + 3]}, not {wanted[at : at + 3]}, of "
                    f"{len(numbers)} of {len(wanted)}; {len(missing)} were never begun"
                )

    def _failures(self) -> Iterator[str]:  # C9, C11
        calls = {call.batch[0]: call for call in self.record.calls if call.batch}
        failed = Counter(failure.batch[0] for failure in self.record.failures)
        for first, times in failed.items():
            if times > 1:
                yield f"the batch from {first} failed {times} times"
        for failure in self.record.failures:
            if failure.batch in self.unbegun:
                continue
            call = calls.get(failure.batch[0])
            if call is None or call.batch != failure.batch:
                yield f"on_error got a batch that was never received: {failure}"
            elif not self._justified(failure, call):
                yield (
                    f"{failure.kind.__name__}: {failure.text!r} is no reason for a "
                    f"call that {call.outcome} {call.error!r}"
                )
        for call in self.record.calls:
            if call.outcome != "returned" and call.batch[0] not in failed:
                yield f"a call that {call.outcome} {call.error!r} has not failed"

    def _justified(self, failure: Failure, call: SeenCall) -> bool:
        kind, text = failure.kind, failure.text
        ended = call.loop.is_closed() or call.loop in self.record.ended_loops
        if kind is Injected:
            return text == call.error
        if issubclass(kind, asyncio.CancelledError | GeneratorExit):
            return call.outcome in ("cancelled", "destroyed") or ended
        if kind is TimeoutError and "dispatch_timeout" in text:
            # A worker thread may come to its call at any time after the clock started.
            early = math.inf if call.in_thread else EARLY_SECONDS
            least: float = self.options["dispatch_timeout"] - early
            return failure.when - call.began >= least
        if kind is TimeoutError and text.startswith("close timed out"):
            return self.record.gave_up
        if kind is TimeoutError and text.startswith("the loop ended"):
            return ended
        return kind is RuntimeError and "closed during" in text and ended

    def _log(self) -> Iterator[str]:
        for line in self.record.logged:
            text = line.partition(": ")[2]
            if not self._expected(text):
                yield f"logged: {line}"

    def _expected(self, text: str) -> bool:
        failures = self.record.all_failures
        entries = sum(len(failure.batch) for failure in failures)
        if failed := re.match(r"dispatch failed \((\d+) entr(?:y|ies)\): ", text):
            return int(failed[1]) <= entries
        if failed := FAILED.match(text):
            return int(failed[1]) <= len(failures) and int(failed[2]) <= entries
        if text.startswith("close timed out"):
            return self.record.gave_up
        if text.startswith("a dispatch timed out and ignores its cancellation"):
            return self.options["dispatch_timeout"] is not None
        dropped = re.match(r"(\d+) entr(?:y|ies) (\w+);", text)
        if dropped is None:
            return False
        return int(dropped[1]) <= int(getattr(self.books, dropped[2]))


def differences(*rows: tuple[str, object, object]) -> Iterator[str]:
    """A line for each name whose two values are not the same."""
    for name, value, seen in rows:
        if value != seen:
            yield f"{name} is {value}, seen from outside {seen}"


def by_producer(entries: list[Entry]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    for who, number in entries:
        numbers.setdefault(who, []).append(number)
    return numbers


def identity_holds(books: Statistics, options: dict[str, Any]) -> None:
    """C8 at one snapshot, and every counter within its bounds."""
    most = options["max_batch"] or options["capacity"]
    if not (
        adds_up(books)
        and 0 <= books.pending <= books.peak_pending <= books.capacity
        and 0 <= books.in_flight <= most * options["max_in_flight"]
        and 0 <= books.failed_batches <= books.batches
    ):
        raise Violation(f"a snapshot that can't be: {books}")
