"""The ring in plain Python: everything the compiled one does, and nothing it needs.

Entries stand in one line. Each accepted entry gets a position, and positions only grow:
`tail` is the position of the next entry, `head` that of the oldest one still in line.

    taken, evicted, abandoned | pending ................ |
                            head                       tail

An entry comes in by `enqueue`, and leaves in one of three ways: in a batch (`take`),
displaced by a newer one (`on_full="drop_oldest"`), or given up (`abandon`). A batch is
in flight until it is settled, once, as dispatched or as failed.

Where entries have a size there are bounds in bytes besides those in entries: an entry
that no batch could hold is refused whatever `on_full` says, one may displace several,
and a batch is also full when it has the bytes that one may have, or when the largest
entry of late would find no room.

A ring in a file has room there for so many entries and bytes, in flight ones included:
from the oldest that is not settled on, settled or not.

`enqueue` notifies a listener of three things, so that nothing ever has to poll: that an
entry found the window unclaimed (no pump will come for it), that it filled a batch (or
that a check of the home is due), and of the first drop since the last was reported.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from ringdispatch import Full
from ringdispatch._ring import DROP_REASONS

# Notify at least every so many entries, in case the home has ended.
CHECK_EVERY = 4096


@dataclass
class ModelBatch:
    """A batch on its way out: what it holds, and the positions [start, end)."""

    ring: ModelRing
    generation: int  # the ring's, when it was taken: a fork begins a new one
    start: int
    end: int
    value: list[Any]
    settled: bool = False
    linked: bool = True  # a flush waits for it
    excused: int = 0  # how often its own call waits in a flush or a close

    def settle(self, failed: bool, seconds: float) -> bool:
        """Enter the outcome in the books; False if that was done before."""
        first = not self.settled and self.generation == self.ring.generation
        self.settled = True
        if first:
            if not failed:
                self.reported()
            count = self.end - self.start
            if failed and self.ring.leaving:
                self.ring.books["left"] += count
            else:
                self.ring.kept.difference_update(range(self.start, self.end))
                outcome = "failed" if failed else "dispatched"
                self.ring.books[outcome] += count
                self.ring.books[f"{outcome}_batches"] += 1
            self.ring.in_flight -= count
            self.ring.dispatch_seconds += seconds
        return first

    def reported(self) -> None:
        """Let flushes pass, once it has failed."""
        if self.linked and self.settled:
            self.linked = False
            if self.generation == self.ring.generation:
                self.ring.unsettled.remove(self)


@dataclass
class ModelSlot:
    """A slot, until it is released."""

    ring: ModelRing
    generation: int
    held: bool = True
    waits: int = 0  # how often its call waits in a flush or a close

    def release(self) -> bool:
        """Free the slot; False if that was done before."""
        first = self.held and self.generation == self.ring.generation
        self.held = False
        self.ring.busy_slots -= first
        return first


class Listener(Protocol):
    """Notified of events; the ring is consistent by then: it may call any method."""

    def encode(self, entry: Any) -> Any:
        """Make of an entry what goes into the ring."""

    def now(self) -> float:
        """The time, in seconds."""

    def window_opened(self, position: int, context: Any) -> bool:
        """The entry at `position` found the window unclaimed; will a pump come?"""

    def batch_full(self) -> None:
        """A batch is full, or a check of the home is due."""

    def entries_dropped(self) -> None:
        """The first drop since `rearm_drop_notice()`."""

    def freed(self, entry: Any) -> None:
        """The ring has freed an entry."""


class ModelRing:
    """A ring, and how entries come into it.

    Args:
        listener: Who is notified.
        capacity: Most entries pending.
        max_batch: Most entries in a batch.
        on_full: What becomes of an entry for which there is no room.
        size: The bytes of an entry.
        max_bytes: Most bytes pending.
        max_batch_bytes: Most bytes in a batch.
        cells: Most entries in its file.
        arena_bytes: Most bytes in its file.
    """

    def __init__(
        self,
        listener: Listener,
        capacity: int,
        max_batch: int,
        on_full: str,
        *,
        size: Callable[[Any], int] = lambda entry: 0,
        max_bytes: float = math.inf,
        max_batch_bytes: float = math.inf,
        cells: float = math.inf,
        arena_bytes: float = math.inf,
    ) -> None:
        self.listener = listener
        self.capacity = capacity
        self.max_batch = max_batch
        self.on_full = on_full
        self.size = size
        self.max_bytes = max_bytes
        self.max_batch_bytes = max_batch_bytes
        self.cells = cells
        self.arena_bytes = arena_bytes
        self.limit = capacity  # most pending entries; 0 once closed
        self.generation = 0
        self._begin()

    def _begin(self) -> None:
        self.pending: deque[Any] = deque()
        self.stored: list[Any] = []  # by position, all that were accepted
        self.kept: set[int] = set()  # positions of those that no batch has settled
        self.tail = 0
        self.claimed = False  # a pump will come for the pending entries
        self.pumps = getattr(self, "pumps", -1) + 1  # how many have begun
        self.unsettled: list[ModelBatch] = []  # in order of position
        self.reported: Counter[tuple[str, bool]] = Counter()
        self.opened = 0.0
        self.oldest = 0.0  # no pending entry is older than this
        self.largest = 0  # bytes of an entry, since the ring was last taken empty
        self.bytes_notified = False  # the listener knows of a batch full of bytes
        self.reopened_at = 0  # from this position on, none is older than `opened`
        self.drop_announced = False  # the listener knows of the drops
        self.busy_slots = 0
        self.peak_pending = 0
        self.in_flight = 0
        self.abandoning = 0
        self.leaving = False  # a close has cut short what lies in the file
        self.has_file = self.generation == 0  # a child makes one with its first entry
        self.dispatch_seconds = 0.0
        self.books: Counter[str] = Counter()
        self._announce_next()

    @property
    def head(self) -> int:
        return self.tail - len(self.pending)

    @property
    def closed(self) -> bool:
        return self.limit == 0

    @property
    def released(self) -> int:
        """The position from which on a file has no room for others."""
        return min(self.kept, default=self.tail)

    def _has_room(self) -> bool:
        in_file = self.tail - self.released < self.cells
        return len(self.pending) < self.limit and in_file

    def _announce_next(self) -> None:
        """Choose the position whose filling calls batch_full(): a full batch's last."""
        full = self.head + self.max_batch - 1
        check = self.tail + CHECK_EVERY - 1
        self.notify_at = full if self.tail <= full < check else check

    # ---- entries come in

    def enqueue(
        self, entry: Any, context: Any = None, *, waits: bool = False
    ) -> bool | None:
        """Accept or refuse an entry; None if it `waits` and there is no room."""
        if not (self.closed or self.has_file):
            self.has_file, self.leaving = True, False
        # A refused entry is not encoded. Only one that opens a window needs the time.
        # While entries are encoded and the clock is read, others may come in.
        displaces = self.on_full == "drop_oldest" and not waits
        refused = self.closed or (not displaces and not self._has_room())
        if not refused and not waits:
            self.listener.encode(entry)
        now = 0.0 if self.claimed or self.closed or refused else self.listener.now()

        # ---- one step, in which no other code runs
        size = self.size(entry)
        reason = self._reason_against(size, displaces)
        if reason == "rejected_full" and waits:
            return None
        drops = reason is not None and self._count_drop(reason)
        accepted = reason is None
        displaced = []
        while accepted and not (self._has_room() and self._fits(size)):
            displaced += self._leave(1)
            drops |= self._count_drop("evicted")
        fills = opens = False
        if accepted:
            opens = not self.claimed
            pumps = self.pumps
            fills = self.tail >= self.notify_at
            self.pending.append(entry)
            self.stored.append(entry)
            self.kept.add(self.tail)
            self.tail += 1
            self.peak_pending = max(self.peak_pending, len(self.pending))
            self.largest = max(self.largest, size)
            if not self.bytes_notified and self._bytes_are_full(self.head):
                self.bytes_notified = fills = True
        first = opens and len(self.pending) == 1
        if first:
            self.opened = self.oldest = now
        reaches = fills and not opens
        if opens or reaches:
            self._announce_next()
        rejected = self.books["rejected_full"]
        looks = reason == "rejected_full" and rejected % CHECK_EVERY == 0
        position = self.tail - 1
        # ---- from here on it can, also from within these calls

        for old in displaced:
            self.listener.freed(old)
        if opens:
            comes = self._announce(position, context if first else None)
            if comes and self.head <= position < self.tail:
                self.claim_window(pumps)
        if reaches or looks:
            self.listener.batch_full()
        if drops:
            self.listener.entries_dropped()
        if reason == "rejected_full" and self.on_full == "raise":
            raise Full
        return accepted

    def _announce(self, position: int, context: Any) -> bool:
        """Have a pump posted; what interrupts that is raised once one is."""
        try:
            return self.listener.window_opened(position, context)
        except BaseException:
            self.listener.window_opened(position, None)
            raise

    def _reason_against(self, size: int, displaces: bool) -> str | None:
        """Why an entry of that size can't come in."""
        if self.closed:
            return "rejected_closed"
        if not displaces and not self._has_room():
            return "rejected_full"
        if size > self.max_batch_bytes:
            return "rejected_oversized"
        if not displaces and not self._fits(size):
            return "rejected_full"
        return None

    def _fits(self, size: int) -> bool:
        if self.bytes_from(self.head) + size > self.max_bytes:
            return False
        in_file = 0 if self.arena_bytes == math.inf else self._stored_bytes()
        return in_file + size <= self.arena_bytes

    def _stored_bytes(self) -> int:
        return sum(map(self.size, self.stored[self.released :]))

    def reject_full(self) -> None:
        """Count an entry that waited for room in vain."""
        if self._count_drop("rejected_full"):
            self.listener.entries_dropped()

    def _count_drop(self, reason: str) -> bool:
        """Count a drop; returns whether it is to be announced."""
        self.books[reason] += 1
        first = not self.drop_announced
        self.drop_announced = True
        return first

    def rearm_drop_notice(self) -> None:
        """Announce the next drop again."""
        self.drop_announced = False

    # ---- the window

    def unclaim_window(self) -> int:
        """A pump begins: the next entry notifies the listener."""
        self.claimed = False
        self.pumps += 1
        return self.pumps

    def claim_window(self, pumps: int) -> None:
        """A pump will come for what is pending, unless another has begun since."""
        if pumps == self.pumps and self.pending:
            self.claimed = True

    def roll_window(self, now: float) -> int:
        """Let a window begin now, for the entries from the returned position on."""
        self.opened = now
        self.reopened_at = self.tail
        return self.reopened_at

    # ---- entries go out

    def bytes_from(self, position: int) -> int:
        """How many bytes are pending from that position on."""
        if self.max_bytes == math.inf:
            return 0  # not counted
        return sum(map(self.size, islice(self.pending, position - self.head, None)))

    def _bytes_are_full(self, first: int) -> bool:
        pending = self.bytes_from(first)
        no_room = pending + self.largest > self.max_bytes
        return pending >= self.max_batch_bytes or no_room

    def _is_full(self, first: int) -> bool:
        """Whether what is pending from position `first` on fills a batch."""
        many = self.tail - first >= self.max_batch
        return many or (self.tail > first and self._bytes_are_full(first))

    def _batch_end(self, first: int, most: int) -> int:
        """Where a batch of up to `most` ends that begins at `first`."""
        end = first
        room = self.max_batch_bytes
        for entry in islice(self.pending, first - self.head, first - self.head + most):
            room -= self.size(entry)
            if room < 0:
                break
            end += 1
        return end

    def wants_batch(self, skip: int, due: int) -> bool:
        """Whether, after `skip` batches, one is full or begins below position `due`."""
        first = self.head
        for _ in range(skip):
            first = self._batch_end(first, self.max_batch)
        wants = first < min(due, self.tail) or self._is_full(first)
        return wants and not self.abandoning

    def take(self, most: int, due: float = math.inf) -> ModelBatch | None:
        """Take up to `most` of the oldest entries for one batch; None if none is.

        Of a batch that is not full, only what lies below position `due`. Nothing while
        the rest is given up: it would be taken from behind a gap.
        """
        if self.abandoning:
            return None
        end = self._batch_end(self.head, most)
        if not self._is_full(self.head):
            end = int(max(self.head, min(end, due)))
        batch = self._move_out(end - self.head)
        if batch.value:
            self.books["batches"] += 1
            self.in_flight += len(batch.value)
            self.unsettled.append(batch)
        return batch if batch.value else None

    def settled_end(self, past_excused: bool = False) -> int:
        """The position below which every entry is settled, evicted or abandoned."""
        for batch in self.unsettled:
            if not (past_excused and batch.excused):
                return batch.start
        return self.head

    def is_settled(self, position: int) -> bool:
        """Whether that entry is settled, evicted or abandoned."""
        out = any(batch.start <= position < batch.end for batch in self.unsettled)
        return position < self.head and not out

    def abandon(self) -> int:
        """Drop everything pending, or leave it in the file; returns how many.

        What frees one may enqueue: no more are dropped than were pending.
        """
        end, count = self.tail, 0
        self.abandoning += 1
        self.leaving = self.cells < math.inf
        while self.head < end:
            (entry,) = self._move_out(1).value
            self.books["abandoned" if self.cells == math.inf else "left"] += 1
            count += 1
            self.listener.freed(entry)
        self.abandoning -= 1
        self.bytes_notified = False
        return count

    def _move_out(self, count: int) -> ModelBatch:
        start = self.head
        entries = self._leave(count)
        if not self.pending:
            self.claimed = False
            self.largest = 0
        self.bytes_notified = False
        self._announce_next()
        return ModelBatch(self, self.generation, start, start + count, entries)

    def _leave(self, count: int) -> list[Any]:
        left = [self.pending.popleft() for _ in range(count)]
        if self.head >= self.reopened_at:
            self.oldest = self.opened
        return left

    # ---- slots, for calls of the dispatch function

    def acquire_slot(self, max_in_flight: int) -> ModelSlot | None:
        """A slot, if one is free."""
        if self.busy_slots >= max_in_flight:
            return None
        self.busy_slots += 1
        return ModelSlot(self, self.generation)

    # ---- drops

    def take_drops(self, reason: str, to_log: bool = False) -> int:
        """How many came since the last call with these arguments."""
        count = self.books[reason] - self.reported[reason, to_log]
        self.reported[reason, to_log] = self.books[reason]
        return count

    @property
    def has_drops(self) -> bool:
        """Whether there are drops that take_drops() has not returned."""
        return any(
            self.books[reason] != self.reported[reason, to_log]
            for reason in DROP_REASONS
            for to_log in (False, True)
            if not (to_log and reason == "abandoned")
        )

    # ---- the end, and a new beginning

    def close(self) -> None:
        """Refuse entries from now on: a closed ring is a ring with room for none."""
        self.limit = 0

    def reset(self) -> None:
        """Start empty in a forked child. The entries are the parent's: not freed."""
        self.generation += 1
        self._begin()

    # ---- what it all came to

    def snapshot(self, now: float) -> dict[str, Any]:
        """All that Statistics holds."""
        return {
            "accepted": self.tail,
            "dispatched": self.books["dispatched"],
            "failed": self.books["failed"],
            "evicted": self.books["evicted"],
            "abandoned": self.books["abandoned"],
            "pending": len(self.pending),
            "in_flight": self.in_flight,
            "rejected_full": self.books["rejected_full"],
            "rejected_closed": self.books["rejected_closed"],
            "rejected_oversized": self.books["rejected_oversized"],
            "batches": self.books["batches"],
            "dispatched_batches": self.books["dispatched_batches"],
            "failed_batches": self.books["failed_batches"],
            "peak_pending": self.peak_pending,
            "capacity": self.capacity,
            "dispatch_seconds_total": self.dispatch_seconds,
            "oldest_age_seconds": max(0.0, now - self.oldest) if self.pending else 0.0,
            "max_batch": self.max_batch,
            **self._bounds(),
            "left": self.books["left"],
            "recovered": 0,
            "recovered_failed": 0,
            "kept": 0,
            "kept_dropped": 0,
        }

    def _bounds(self) -> dict[str, Any]:
        if self.max_bytes == math.inf:
            return dict.fromkeys(("pending_bytes", "max_bytes", "max_batch_bytes"))
        return {
            "pending_bytes": self.bytes_from(self.head),
            "max_bytes": self.max_bytes,
            "max_batch_bytes": self.max_batch_bytes,
        }
