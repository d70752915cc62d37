# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps out members nobody asked for; mypy.stubtest compares the rest.)
"""Rings keep pending entries, and the books of all that came in and went out.

Positions are 64-bit and only grow: an entry lies in slot `position & mask`, `tail`
counts what was accepted, `head` what has left. Entries come in by `_producer.pyx`.
"""

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.list cimport PyList_New
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.string cimport memcpy, memset

cdef extern from "Python.h":
    ctypedef struct PyListObject:
        PyObject **ob_item
    void Py_SET_SIZE(PyObject *, Py_ssize_t) noexcept

cdef inline uint64_t look_at(Core *core, uint64_t *field) noexcept nogil:
    ring_lock(&core.mutex)
    cdef uint64_t value = field[0]
    ring_unlock(&core.mutex)
    return value


cdef inline uint64_t count_pending(Core *core) noexcept nogil:
    ring_lock(&core.mutex)
    cdef uint64_t pending = core.tail - core.head
    ring_unlock(&core.mutex)
    return pending


cdef inline void leave(Core *core, uint64_t count) noexcept nogil:
    """Move `head` on, after the entries were taken or abandoned."""
    if core.tail - core.head > core.peak_pending:
        core.peak_pending = core.tail - core.head
    move_head(core, count)
    if core.head == core.tail:
        core.window = False
    set_check(core)
    set_stop(core)


cdef class Ring:
    """Positions and books of the pending entries; a subclass knows where they lie."""

    def __cinit__(self, uint64_t capacity, uint64_t max_batch, *layout):
        self.capacity = capacity
        self.bound = "capacity"
        self.core.limit = capacity
        self.core.max_batch = max_batch
        self.core.most_bytes = UINT64_MAX
        self.core.mask = 1
        while self.core.mask < capacity:
            self.core.mask <<= 1
        self.core.mask -= 1
        set_check(&self.core)

    # What a layout does in its own way; here, what it does where it has none.

    cpdef object encoded(self, object entry):
        """Do what prepare() need not do again for an entry that waits for room."""
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
        """Store an entry that needs no preparation, below `stop`; False if it can't."""
        return False

    cdef bint fits(self, Item *item) noexcept nogil:
        """Whether there is room, once there is for one more entry."""
        return True

    cdef PyObject *evict(self) noexcept nogil:
        """Drop the oldest entry, about to leave; returns what is then to be freed."""
        return NULL

    cdef bint store(self, Item *item) noexcept nogil:
        """Put the entry at `tail`; True if a batch is full for more than its count."""
        return False

    cdef object room_for(self, uint64_t start, uint64_t end, bint given_up):
        """Make what these entries move to; None where nothing is to be kept."""

    cdef bint is_full(self, uint64_t first) noexcept nogil:
        """Whether the entries from position `first` on fill a batch."""
        return self.core.tail - first >= self.core.max_batch

    cdef uint64_t batch_end(self, uint64_t first, uint64_t most) noexcept nogil:
        """Where a batch ends that begins at `first` and takes up to `most`."""
        return first + min(self.core.tail - first, most)

    cdef uint64_t move(self, uint64_t count, object storage) noexcept:
        """Move the oldest entries, about to leave; returns how many found room."""

    cdef void forget(self) noexcept:
        """Start empty in a forked child, whatever another thread was about here."""

    cdef object present(self, object storage):
        """Make of what the entries moved to what the dispatch function gets."""
        return storage

    cdef uint64_t count_bytes(self) noexcept nogil:
        """How many bytes are pending; called under the lock."""
        return 0

    cdef tuple bounds(self, uint64_t pending_bytes):
        """What `Statistics` says of bytes: pending, most pending, most in a batch."""
        return None, None, None

    @property
    def head(self):
        return look_at(&self.core, &self.core.head)

    @property
    def tail(self):
        return look_at(&self.core, &self.core.tail)

    @property
    def pending(self):
        return count_pending(&self.core)

    @property
    def closed(self):
        return look_at(&self.core, &self.core.limit) == 0

    @property
    def places(self):
        return look_at(&self.core, &self.core.places)

    @property
    def telling(self):
        """Whether a drop was announced and `told()` not called since."""
        ring_lock(&self.core.mutex)
        cdef bint telling = self.core.telling
        ring_unlock(&self.core.mutex)
        return telling

    @property
    def opened(self):
        """When the current window opened, in seconds of the dispatcher's clock."""
        ring_lock(&self.core.mutex)
        cdef double opened = self.core.opened
        ring_unlock(&self.core.mutex)
        return opened

    def reopen(self, double now):
        """Let a window begin now, for the entries from the returned position on."""
        ring_lock(&self.core.mutex)
        cdef uint64_t turn = self.core.tail
        self.core.opened = now
        self.core.turn = turn
        ring_unlock(&self.core.mutex)
        return turn

    def forsake(self):
        """Nobody could be told of the pending entries: let the next one open again."""
        ring_lock(&self.core.mutex)
        self.core.window = False
        set_stop(&self.core)
        ring_unlock(&self.core.mutex)

    def reserve(self, uint64_t max_in_flight):
        """Take a place for one call of the dispatch function, if one is free."""
        ring_lock(&self.core.mutex)
        cdef bint free = self.core.places < max_in_flight
        self.core.places += free
        ring_unlock(&self.core.mutex)
        return free

    def release(self):
        """Give a place back."""
        ring_lock(&self.core.mutex)
        self.core.places -= 1
        ring_unlock(&self.core.mutex)

    cdef tuple move_out(self, uint64_t most, uint64_t due, bint given_up):
        cdef Core *core = &self.core
        cdef Take take = Take.__new__(Take)
        cdef uint64_t count, start, end
        take.ring = self
        # Everything that allocates comes first: on 3.11 an allocation can run the
        # collector, and the collector can enqueue. What is pending may change until
        # the lock is held, so what moves is cut to the room that was made for it.
        ring_lock(&core.mutex)
        start, end = core.head, self.next_end(most, due, given_up)
        ring_unlock(&core.mutex)
        take.kept = self.room_for(start, end, given_up)
        ring_lock(&core.mutex)
        count = min(self.next_end(most, due, given_up) - core.head, end - start)
        count = self.move(count, take.kept)
        take.generation = core.generation
        take.start = core.head
        take.end = core.head + count
        leave(core, count)
        if given_up:
            core.abandoned += count
        elif count:
            core.batches += 1
        ring_unlock(&core.mutex)
        return take, count

    cdef uint64_t next_end(
        self, uint64_t most, uint64_t due, bint given_up
    ) noexcept nogil:
        cdef uint64_t head = self.core.head
        if given_up:
            return self.core.tail
        cdef uint64_t end = self.batch_end(head, most)
        return end if self.is_full(head) else max(min(end, due), head)

    def wants_batch(self, uint64_t skip, uint64_t due):
        """Whether, after `skip` batches, one is full or begins below position `due`."""
        cdef uint64_t first
        ring_lock(&self.core.mutex)
        first = self.core.head
        for _ in range(skip):
            first = self.batch_end(first, self.core.max_batch)
        cdef bint wants = first < min(due, self.core.tail) or self.is_full(first)
        ring_unlock(&self.core.mutex)
        return wants

    def take(self, uint64_t most, uint64_t due=UINT64_MAX):
        """Take up to `most` of the oldest entries; None if there is none to take.

        Args:
            most: How many at most.
            due: Of a batch that is not full, take what lies below this position.
        """
        take, count = self.move_out(most, due, False)
        return take if count else None

    def abandon(self):
        """Let go of everything pending; return how many entries that were."""
        return self.move_out(0, 0, True)[1]

    def close(self):
        """Refuse entries from now on: a closed ring is a ring with room for none."""
        ring_lock(&self.core.mutex)
        self.core.limit = 0
        set_stop(&self.core)
        ring_unlock(&self.core.mutex)

    def told(self):
        """Announce the next drop again."""
        ring_lock(&self.core.mutex)
        self.core.telling = False
        ring_unlock(&self.core.mutex)

    def reset(self):
        """Start empty in a forked child.

        The lock may have been held by a thread that does not exist here, so it is made
        anew first. The entries belong to the parent; they are forgotten by position,
        not freed, because freeing them could run user code.
        """
        ring_renew(&self.core.mutex)
        cdef Core fresh
        memset(&fresh, 0, sizeof(Core))
        fresh.mask = self.core.mask
        fresh.slots = self.core.slots
        fresh.otherwise = self.core.otherwise
        fresh.limit = self.core.limit
        fresh.most_bytes = self.core.most_bytes
        fresh.max_batch = self.core.max_batch
        fresh.generation = self.core.generation + 1
        set_check(&fresh)
        self.core = fresh
        self.forget()

    def drops(self):
        """How many entries were dropped, by reason: a counter of `Statistics`."""
        ring_lock(&self.core.mutex)
        cdef Core seen = self.core
        ring_unlock(&self.core.mutex)
        return {
            "rejected_full": seen.rejected_full,
            "evicted": seen.evicted,
            "rejected_closed": seen.rejected_closed,
            "rejected_oversized": seen.rejected_oversized,
            "abandoned": seen.abandoned,
        }

    def snapshot(self, double now):
        """All that `Statistics` holds, in its order, at one moment."""
        ring_lock(&self.core.mutex)
        cdef Core seen = self.core
        cdef uint64_t pending_bytes = self.count_bytes()
        ring_unlock(&self.core.mutex)
        cdef uint64_t pending = seen.tail - seen.head
        return (
            seen.tail,
            seen.dispatched,
            seen.failed,
            seen.evicted,
            seen.abandoned,
            pending,
            seen.head - seen.evicted - seen.abandoned - seen.dispatched - seen.failed,
            seen.rejected_full,
            seen.rejected_closed,
            seen.rejected_oversized,
            seen.batches,
            seen.failed_batches,
            max(seen.peak_pending, pending),
            self.capacity,
            seen.dispatch_seconds,
            max(0.0, now - seen.oldest) if pending else 0.0,
            seen.max_batch,
            *self.bounds(pending_bytes),
        )


cdef class ObjectRing(Ring):
    """Entries as references: any object, a list as batch."""

    def __cinit__(self, uint64_t capacity, uint64_t max_batch):
        cdef size_t size = (self.core.mask + 1) * sizeof(PyObject *)
        self.core.slots = <PyObject **> PyMem_RawMalloc(size)
        if self.core.slots is NULL:
            raise MemoryError(
                f"capacity={capacity}: no {size:,} bytes for the ring; "
                "take a smaller one"
            )
        memset(self.core.slots, 0, size)  # touch the pages now, not in a request

    def __dealloc__(self):
        cdef Core *core = &self.core
        while core.head < core.tail:
            core.head += 1
            Py_DECREF(core.slots[(core.head - 1) & core.mask])
        PyMem_RawFree(core.slots)

    cdef PyObject *evict(self) noexcept nogil:
        return self.core.slots[self.core.head & self.core.mask]

    cdef bint store(self, Item *item) noexcept nogil:
        Py_INCREF(item.entry)
        self.core.slots[self.core.tail & self.core.mask] = item.entry
        return False

    cdef object room_for(self, uint64_t start, uint64_t end, bint given_up):
        return PyList_New(end - start)

    cdef uint64_t move(self, uint64_t count, object storage) noexcept:
        Py_SET_SIZE(<PyObject *> storage, count)
        if count == 0:
            return 0  # an empty list has no items to copy to, not even none of them
        cdef PyObject **items = (<PyListObject *> storage).ob_item
        cdef uint64_t first = self.core.head & self.core.mask
        cdef uint64_t until_end = min(count, self.core.mask + 1 - first)
        memcpy(items, self.core.slots + first, until_end * sizeof(PyObject *))
        cdef uint64_t rest = count - until_end
        memcpy(items + until_end, self.core.slots, rest * sizeof(PyObject *))
        return count


cdef class Take:
    """Entries on their way out, their positions, and whether they are settled."""

    @property
    def batch(self):
        """What the dispatch function gets; None once the entries were let go of."""
        ring_lock(&self.ring.core.mutex)
        cdef object kept = self.kept
        cdef bint presented = self.presented
        ring_unlock(&self.ring.core.mutex)
        if kept is None or presented:
            return kept
        cdef object batch = self.ring.present(kept)
        cdef object theirs = None  # another thread may have been quicker
        ring_lock(&self.ring.core.mutex)
        if self.presented:
            theirs = self.kept
        elif self.kept is not None:
            self.kept = batch
            self.presented = True
        ring_unlock(&self.ring.core.mutex)
        return batch if theirs is None else theirs

    @property
    def storage(self):
        """What the entries lie in, whether or not it was made a batch."""
        ring_lock(&self.ring.core.mutex)
        cdef object kept = self.kept
        ring_unlock(&self.ring.core.mutex)
        return kept

    @property
    def settled(self):
        """Whether the outcome is in the books."""
        ring_lock(&self.ring.core.mutex)
        cdef bint settled = self.outcome_known
        ring_unlock(&self.ring.core.mutex)
        return settled

    def forget(self):
        """Let the entries go; what still refers to their call does not keep them."""
        ring_lock(&self.ring.core.mutex)
        cdef object kept = self.kept  # freed on return, when the lock is free
        self.kept = None
        ring_unlock(&self.ring.core.mutex)

    def settle(self, bint failed, double seconds):
        """Enter the outcome in the books; False if that was done before."""
        cdef Core *core = &self.ring.core
        cdef uint64_t count = self.end - self.start
        ring_lock(&core.mutex)
        cdef bint first = not self.outcome_known and self.generation == core.generation
        self.outcome_known = True
        if first:
            core.dispatch_seconds += seconds
            core.failed_batches += failed
            if failed:
                core.failed += count
            else:
                core.dispatched += count
        ring_unlock(&core.mutex)
        return first


def shown(object value):
    """The value for a message: its repr, if it has one, and not too much of it."""
    try:
        text = repr(value)
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__} in its repr>"
    return text if len(text) <= 200 else text[:200] + "..."


def keep_for_ever(object thing):
    """Never free `thing`: in a forked child finalizers would act on the parent's."""
    Py_INCREF(<PyObject *> thing)
