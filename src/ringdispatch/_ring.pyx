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
from libc.stdint cimport uint64_t
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

    def __cinit__(self, uint64_t capacity, uint64_t max_batch):
        self.capacity = capacity
        self.core.limit = capacity
        self.core.max_batch = max_batch
        self.core.mask = 1
        while self.core.mask < capacity:
            self.core.mask <<= 1
        self.core.mask -= 1
        set_check(&self.core)

    cdef void fill(self, uint64_t start, uint64_t count, list entries) noexcept:
        """Move entries out of the slots into a batch; called under the lock."""

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
    def has_room(self):
        ring_lock(&self.core.mutex)
        cdef bint room = self.core.tail - self.core.head < self.core.limit
        ring_unlock(&self.core.mutex)
        return room

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

    cdef tuple move_out(self, uint64_t most, bint abandoned):
        # Everything that allocates comes first: on 3.11 an allocation can run the
        # collector, and the collector can enqueue. What is pending may change until
        # the lock is held, so the list is cut to size afterwards.
        cdef uint64_t count = min(count_pending(&self.core), most)
        cdef list entries = PyList_New(count)
        cdef Take take = Take.__new__(Take)
        take.ring = self
        take.batch = entries
        ring_lock(&self.core.mutex)
        count = min(self.core.tail - self.core.head, count)
        take.generation = self.core.generation
        take.start = self.core.head
        take.end = self.core.head + count
        self.fill(self.core.head, count, entries)
        Py_SET_SIZE(<PyObject *> entries, count)
        leave(&self.core, count)
        if abandoned:
            self.core.abandoned += count
        elif count:
            self.core.batches += 1
        ring_unlock(&self.core.mutex)
        return take, count

    def take(self, uint64_t most):
        """Take up to `most` of the oldest entries; None if there is none."""
        take, count = self.move_out(most, False)
        return take if count else None

    def abandon(self):
        """Let go of everything pending; return how many entries that were."""
        return self.move_out(self.capacity, True)[1]

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
        fresh.limit = self.core.limit
        fresh.max_batch = self.core.max_batch
        fresh.generation = self.core.generation + 1
        set_check(&fresh)
        self.core = fresh

    def snapshot(self, double now):
        """All that `Statistics` holds, in its order, at one moment."""
        ring_lock(&self.core.mutex)
        cdef Core seen = self.core
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
            None,
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

    cdef void fill(self, uint64_t start, uint64_t count, list entries) noexcept:
        if count == 0:
            return  # an empty list has no items to copy to, not even none of them
        cdef PyObject **items = (<PyListObject *> entries).ob_item
        cdef uint64_t first = start & self.core.mask
        cdef uint64_t until_end = min(count, self.core.mask + 1 - first)
        memcpy(items, self.core.slots + first, until_end * sizeof(PyObject *))
        cdef uint64_t rest = count - until_end
        memcpy(items + until_end, self.core.slots, rest * sizeof(PyObject *))


cdef class Take:
    """Entries on their way out, their positions, and whether they are settled."""

    @property
    def entries(self):
        """The batch; None once it was let go."""
        ring_lock(&self.ring.core.mutex)
        cdef list batch = self.batch
        ring_unlock(&self.ring.core.mutex)
        return batch

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
        cdef list batch = self.batch  # freed on return, when the lock is free
        self.batch = None
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


def keep_for_ever(object thing):
    """Never free `thing`: in a forked child finalizers would act on the parent's."""
    Py_INCREF(<PyObject *> thing)
