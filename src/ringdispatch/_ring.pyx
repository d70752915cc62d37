# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""Rings keep the pending entries, and the books of every entry.

Positions are 64-bit and only grow: an entry lies in cell `position & mask`, `tail`
counts the entries accepted, `head` those that have left. `_enqueue.pyx` stores them.
"""

from cpython.object cimport PyObject
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memset

from ringdispatch cimport _pthread
from ringdispatch._atomic cimport Wake
from ringdispatch._batch cimport Batch, Slot
from ringdispatch._state cimport (
    Item, Py_DECREF, RingState, Unsettled, count_drops, remove_oldest,
    ring_lock, ring_renew, ring_unlock, set_notify_at, set_stop, unclaim,
)

DROP_REASONS = (
    "rejected_full",
    "evicted",
    "rejected_closed",
    "rejected_oversized",
    "abandoned",
)


cdef inline uint64_t read_field(RingState *state, uint64_t *field) noexcept nogil:
    ring_lock(&state.mutex)
    cdef uint64_t value = field[0]
    ring_unlock(&state.mutex)
    return value


cdef class Ring:
    """Positions and books of the pending entries; a subclass stores the entries."""

    def __cinit__(self, uint64_t capacity, uint64_t max_batch, *layout):
        self.capacity = capacity
        self.bound = "capacity"
        self.state.limit = capacity
        self.state.room = UINT64_MAX
        self.state.max_batch = max_batch
        self.state.most_bytes = UINT64_MAX
        self.state.mask = 1
        while self.state.mask < capacity:
            self.state.mask <<= 1
        self.state.mask -= 1
        set_notify_at(&self.state)
        self.forkable.mutex, self.forkable.state = &self.state.mutex, &self.state
        _pthread.watch(&self.forkable)

    def __dealloc__(self):
        if self.forkable.state is not NULL:
            _pthread.unwatch(&self.forkable)

    # For layouts to override; here is the default of each.

    files = None  # that the entries lie in, one after the other
    place = None  # the path of the one that they lie in now
    letters = None  # what keeps the batches that failed

    def end_file(self):
        """Once it is closed and all is settled: remove the file, or leave it."""

    def make_recovery(self, calls, now):
        """Make a source of what other processes left; None: there is no such thing."""

    def take_notes(self):
        """What is to be logged of the file: each with its level, once."""
        return ()

    cdef int make_room(self) except -1:
        """Have a file made where there is none."""
        return 0

    cpdef object encoded(self, object entry):
        """Encode an entry that may wait for room; prepare() does not do it again."""
        return entry

    cdef int prepare(
        self, PyObject *const *given, Py_ssize_t fields, Item *item
    ) except -1:
        """Fill in `item` from an entry, or (`fields` >= 0) from that many of a row."""
        if fields >= 0:
            raise TypeError("enqueue_row is for layout=Records(...): call enqueue")
        item.entry = given[0]
        return 0

    cdef bint store_plain(self, PyObject *const *given, Py_ssize_t fields) noexcept:
        """Store an entry that needs no preparation, below `stop`; False: not stored."""
        return False

    cdef bint fits(self, Item *item) noexcept nogil:
        """Whether the entry's bytes have room, in a ring that has a free cell."""
        return True

    cdef PyObject *evict(self) noexcept nogil:
        """Drop the oldest entry; returns the reference to free after the lock."""
        return NULL

    cdef bint store(self, Item *item) noexcept nogil:
        """Put the entry at `tail`; True if the pending bytes now fill a batch."""
        return False

    cdef object allocate_batch(self, uint64_t count):
        """Allocate the storage that up to `count` entries move to."""

    cdef bint is_full(self, uint64_t first) noexcept nogil:
        """Whether the entries from position `first` on fill a batch."""
        return self.state.tail - first >= self.state.max_batch

    cdef uint64_t batch_end(self, uint64_t first, uint64_t most) noexcept nogil:
        """Where a batch ends that begins at `first` and takes up to `most`."""
        return first + min(self.state.tail - first, most)

    cdef uint64_t copy_out(self, uint64_t count, object storage) noexcept:
        """Move up to `count` of the oldest entries there; returns how many fitted."""

    cdef void entries_left(self) noexcept nogil:
        """Begin anew to count what matters to the entries still pending."""

    cdef void reset_layout(self) noexcept:
        """Start empty in a forked child, in whatever state a thread left this."""

    cdef uint64_t count_bytes(self) noexcept nogil:
        """How many bytes are pending; called under the lock."""
        return 0

    cdef tuple bounds(self, uint64_t pending_bytes):
        """The bytes in `Statistics`: pending, most pending, most in a batch."""
        return None, None, None

    @property
    def head(self):
        return read_field(&self.state, &self.state.head)

    @property
    def tail(self):
        if _pthread.forked:
            _pthread.after_fork()
        return read_field(&self.state, &self.state.tail)

    @property
    def pending(self):
        if _pthread.forked:
            _pthread.after_fork()
        ring_lock(&self.state.mutex)
        cdef uint64_t pending = self.state.tail - self.state.head
        ring_unlock(&self.state.mutex)
        return pending

    @property
    def closed(self):
        return read_field(&self.state, &self.state.limit) == 0

    @property
    def busy_slots(self):
        return read_field(&self.state, &self.state.busy_slots)

    @property
    def drop_announced(self):
        """Whether a drop was announced and `rearm_drop_notice()` not called since."""
        ring_lock(&self.state.mutex)
        cdef bint drop_announced = self.state.drop_announced
        ring_unlock(&self.state.mutex)
        return drop_announced

    @property
    def opened(self):
        """When the current window opened, in seconds of the dispatcher's clock."""
        ring_lock(&self.state.mutex)
        cdef double opened = self.state.opened
        ring_unlock(&self.state.mutex)
        return opened

    def roll_window(self, double now):
        """Begin a window now, for the entries from the returned position on."""
        ring_lock(&self.state.mutex)
        cdef uint64_t reopened_at = self.state.tail
        self.state.opened = now
        self.state.reopened_at = reopened_at
        ring_unlock(&self.state.mutex)
        return reopened_at

    def unclaim_window(self):
        """Let the next entry notify the listener; returns what claim_window() takes."""
        return unclaim(&self.state)

    def claim_window(self, uint64_t pumps):
        """Promise a pump() for the pending entries, unless another has begun since."""
        ring_lock(&self.state.mutex)
        if pumps == self.state.pumps and self.state.head < self.state.tail:
            self.state.claimed = True
            set_stop(&self.state)
        ring_unlock(&self.state.mutex)

    def urge(self, uint64_t end):
        """Have the entries below go out now; returns below where any are to."""
        ring_lock(&self.state.mutex)
        end = self.state.urgent_end = max(self.state.urgent_end, end)
        ring_unlock(&self.state.mutex)
        return end

    def acquire_slot(self, uint64_t max_in_flight):
        """Acquire a slot for a call of the dispatch function; None if all are busy."""
        cdef Slot slot = Slot.__new__(Slot)
        slot.ring, slot.state = self, &self.state
        ring_lock(&self.state.mutex)
        slot.generation = self.state.generation
        slot._held = self.state.busy_slots < max_in_flight
        self.state.busy_slots += slot._held
        cdef bint held = slot._held
        ring_unlock(&self.state.mutex)
        return slot if held else None

    def every_slot_waits(self, uint64_t max_in_flight):
        """Whether all slots are busy with calls that wait in a flush or a close."""
        cdef RingState *state = &self.state
        ring_lock(&state.mutex)
        cdef bint wait = state.waiting_slots >= state.busy_slots >= max_in_flight
        ring_unlock(&state.mutex)
        return wait

    def make_wake(self, object home, object pump):
        """Make the callback by which an event loop runs `pump` with `home`."""
        cdef Wake wake = Wake.__new__(Wake)
        wake.ring, wake.state = self, &self.state
        wake.home, wake.pump = home, pump
        return wake

    def settled_end(self, bint past_excused=False):
        """The position below which every entry is settled, evicted or abandoned.

        Args:
            past_excused: Skip batches whose own calls wait in a flush or a close.
        """
        ring_lock(&self.state.mutex)
        cdef Unsettled *node = self.state.oldest
        while past_excused and node is not NULL and node.excused:
            node = node.after
        cdef uint64_t end = self.state.head if node is NULL else node.start
        ring_unlock(&self.state.mutex)
        return end

    def is_settled(self, uint64_t position):
        """Whether the entry at this position is settled, evicted or abandoned."""
        ring_lock(&self.state.mutex)
        cdef Unsettled *node = self.state.oldest
        while node is not NULL and node.end <= position:
            node = node.after
        cdef bint out = position < self.state.head
        cdef bint settled = out and (node is NULL or position < node.start)
        ring_unlock(&self.state.mutex)
        return settled

    def take(self, uint64_t most, uint64_t due=UINT64_MAX):
        """Take a batch of up to `most` of the oldest entries; None if there are none.

        Args:
            most: How many at most.
            due: Take a batch that is not full only up to this position.
        """
        cdef RingState *state = &self.state
        cdef Batch batch = Batch.__new__(Batch)
        cdef uint64_t count
        batch.ring, batch.state = self, state
        batch.as_value = self.as_value
        # Everything that allocates comes first: on 3.11 an allocation can run the
        # collector, and the collector can enqueue. The pending entries may change until
        # the lock is held, so no more of them move than were allocated for.
        ring_lock(&state.mutex)
        count = self.next_end(most, due) - state.head
        ring_unlock(&state.mutex)
        if count == 0:
            return None
        batch._data = self.allocate_batch(count)
        ring_lock(&state.mutex)
        count = min(self.next_end(most, due) - state.head, count)
        count = self.copy_out(count, batch._data)
        batch.generation = state.generation
        batch.start = state.head
        batch.end = state.head + count
        if count:
            remove_oldest(state, count)
            self.entries_left()
            state.batches += 1
            batch.link()
        ring_unlock(&state.mutex)
        return batch if count else None

    cdef uint64_t next_end(self, uint64_t most, uint64_t due) noexcept nogil:
        cdef uint64_t head = self.state.head
        cdef uint64_t end = head if self.state.abandoning else self.batch_end(head, most)
        return end if self.is_full(head) else max(min(end, due), head)

    def wants_batch(self, uint64_t skip, uint64_t due):
        """Whether, after `skip` batches, one is full or begins below position `due`."""
        cdef uint64_t first
        ring_lock(&self.state.mutex)
        first = self.state.head
        for _ in range(skip):
            first = self.batch_end(first, self.state.max_batch)
        cdef bint wants = first < min(due, self.state.tail) or self.is_full(first)
        wants = wants and not self.state.abandoning
        ring_unlock(&self.state.mutex)
        return wants

    def abandon(self, bint if_closed=False):
        """Drop everything pending, or leave it in the file; returns how many.

        One by one: to allocate a list of them would fail where memory is short.

        Args:
            if_closed: Do nothing, and return None, where entries are accepted.
        """
        cdef RingState *state = &self.state
        cdef PyObject *entry
        cdef uint64_t count = 0
        ring_lock(&state.mutex)
        if if_closed and state.limit:
            ring_unlock(&state.mutex)
            return None
        cdef uint64_t end = state.tail
        state.abandoning += 1  # else a batch could be taken from behind a gap
        state.leaving = state.file is not NULL
        cdef uint64_t *counter = &state.left if state.leaving else &state.abandoned
        while state.head < min(end, state.tail):  # 0 in a child forked meanwhile
            entry = self.evict()
            remove_oldest(state, 1)
            counter[0] += 1
            count += 1
            if entry is not NULL:  # its finalizer may do anything
                ring_unlock(&state.mutex)
                Py_DECREF(entry)
                ring_lock(&state.mutex)
        state.abandoning -= state.abandoning > 0
        self.entries_left()
        ring_unlock(&state.mutex)
        return count

    @property
    def reopenings(self):
        """How often it was opened again."""
        return read_field(&self.state, &self.state.reopenings)

    def close(self, bint reopen=False):
        """Refuse entries, as a ring with room for none; `reopen`: accept them again.

        Returns `reopenings`, which tells this time open from later ones.
        """
        if _pthread.forked:
            _pthread.after_fork()
        ring_lock(&self.state.mutex)
        self.state.reopenings += reopen and not self.state.limit
        cdef uint64_t reopenings = self.state.reopenings
        self.state.limit = self.capacity if reopen else 0
        set_stop(&self.state)
        ring_unlock(&self.state.mutex)
        return reopenings

    def rearm_drop_notice(self):
        """Notify the listener of the next drop again."""
        ring_lock(&self.state.mutex)
        self.state.drop_announced = False
        ring_unlock(&self.state.mutex)

    def reset(self):
        """Start empty in a forked child.

        The lock may have been held by a thread that does not exist here, so it is made
        anew first. The entries belong to the parent; they are dropped by position,
        not freed, because freeing them could run user code.
        """
        ring_renew(&self.state.mutex)
        cdef RingState fresh
        memset(&fresh, 0, sizeof(RingState))
        fresh.mask = self.state.mask
        fresh.cells = self.state.cells
        fresh.slow_path = self.state.slow_path
        fresh.limit = self.state.limit
        fresh.file, fresh.keeps_letters = self.state.file, self.state.keeps_letters
        fresh.room = UINT64_MAX if self.state.room == UINT64_MAX else 0
        fresh.most_bytes = self.state.most_bytes
        fresh.max_batch = self.state.max_batch
        fresh.generation = self.state.generation + 1
        fresh.pumps = self.state.pumps + 1  # what the parent claimed is void
        set_notify_at(&fresh)
        self.state = fresh
        self.reset_layout()

    def take_drops(self, reason, bint to_log=False):
        """How many entries were dropped since the last call with these arguments.

        What two callers get adds up to all drops.

        Args:
            reason: One of DROP_REASONS, which are counters of `Statistics`.
            to_log: Count for the log, which reports drops less often than the hook.
        """
        cdef int which = DROP_REASONS.index(reason)
        cdef uint64_t totals[5]
        ring_lock(&self.state.mutex)
        count_drops(&self.state, totals)
        cdef uint64_t *reported = &self.state.drops_reported[5 * to_log + which]
        cdef uint64_t count = totals[which] - reported[0]
        reported[0] = totals[which]
        ring_unlock(&self.state.mutex)
        return count

    @property
    def has_drops(self):
        """Whether there are drops that take_drops() has not returned."""
        cdef uint64_t totals[5]
        cdef bint has = False
        cdef int i
        ring_lock(&self.state.mutex)
        count_drops(&self.state, totals)
        for i in range(5):
            has |= totals[i] != self.state.drops_reported[i]
            # abandoned entries are logged at once, with those in flight
            has |= i < 4 and totals[i] != self.state.drops_reported[5 + i]
        ring_unlock(&self.state.mutex)
        return has

    def snapshot(self, double now):
        """The fields of `Statistics`, in their order, at one moment."""
        if _pthread.forked:
            _pthread.after_fork()
        ring_lock(&self.state.mutex)
        cdef RingState seen = self.state
        cdef uint64_t pending_bytes = self.count_bytes()
        ring_unlock(&self.state.mutex)
        cdef uint64_t pending = seen.tail - seen.head
        cdef uint64_t gone = seen.evicted + seen.abandoned + seen.left
        return (
            seen.tail, seen.dispatched, seen.failed, seen.evicted, seen.abandoned,
            pending,
            seen.head - gone - seen.dispatched - seen.failed,
            seen.rejected_full,
            seen.rejected_closed,
            seen.rejected_oversized,
            seen.batches,
            seen.dispatched_batches, seen.failed_batches,
            max(seen.peak_pending, pending),
            self.capacity,
            seen.dispatch_seconds,
            max(0.0, now - seen.oldest_at) if pending else 0.0,
            seen.max_batch,
            *self.bounds(pending_bytes),
            seen.left, seen.recovered, seen.recovered_failed, seen.kept, seen.kept_dropped,
        )


def short_repr(object value):
    """Return the value's repr for a message, cut to 200 characters."""
    try:
        text = repr(value)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return f"<{type(value).__name__}: {type(error).__name__} in its repr>"
    return text if len(text) <= 200 else text[:200] + "..."
