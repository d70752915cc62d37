# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""Batches and slots, which settle and release themselves when they are freed."""

cimport cython
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy

from ringdispatch._spool_map cimport FileMap, mark_taken, settle_mark
from ringdispatch._state cimport RingState, Unsettled, ring_lock, ring_unlock

cdef char NOT_DRAWN[16]


cdef inline void unlink(RingState *state, Unsettled *node) noexcept nogil:
    if node.before is NULL:
        state.oldest = node.after
    else:
        node.before.after = node.after
    if node.after is NULL:
        state.newest = node.before
    else:
        node.after.before = node.before


@cython.no_gc_clear  # freed unsettled, it needs its ring
cdef class Batch:
    """Entries that have left the ring, and whether they are settled.

    A batch freed unsettled counts as failed: whatever is raised between taking and
    settling it, the books agree.
    """

    def __dealloc__(self):
        if self.linked:
            self.settle_once(True, 0.0)
            self.owes_letter = False  # there is none to write it: the next process
            self.unlink_once()

    cdef void link(self) noexcept:
        """Append it to the ring's unsettled batches; called under the lock."""
        cdef RingState *state = self.state
        self.unsettled = self.linked = True
        self.node.start, self.node.end = self.start, self.end
        memcpy(self.origin, state.origin, 16)
        if state.file is not NULL:
            mark_taken(state.file, self.start, self.end - self.start, 1)
        self.node.before = state.newest
        if state.newest is NULL:
            state.oldest = &self.node
        else:
            state.newest.after = &self.node
        state.newest = &self.node

    recovered = False  # whether another process had accepted its entries
    attempts = 1  # calls made for it, this one included

    @property
    def first(self):
        """The position of its first entry in the ring, or in the file of another."""
        return self.start

    @property
    def count(self):
        """How many entries it has; of another's file, with those that are damaged."""
        return self.end - self.start

    @property
    def id(self):
        """The same in each process that calls the function with it, and unique."""
        import uuid  # no other needs it

        cdef bytes drawn = uuid.uuid4().bytes
        cdef const char *data = drawn
        ring_lock(&self.state.mutex)
        if memcmp(self.origin, NOT_DRAWN, 16) == 0:
            if memcmp(self.state.origin, NOT_DRAWN, 16) == 0:
                memcpy(self.state.origin, data, 16)
            memcpy(self.origin, self.state.origin, 16)
        ring_unlock(&self.state.mutex)
        return f"{uuid.UUID(bytes=self.origin[:16])}-{self.first}-{self.count}"

    @property
    def value(self):
        """The dispatch function's argument; None once the entries are released."""
        ring_lock(&self.state.mutex)
        cdef object data = self._data
        cdef bint wrapped = self.wrapped
        ring_unlock(&self.state.mutex)
        if data is None or wrapped:
            return data
        cdef object value = data if self.as_value is None else self.as_value(data)
        cdef object theirs = None  # set if another thread wrapped it first
        ring_lock(&self.state.mutex)
        if self.wrapped:
            theirs = self._data
        elif self._data is not None:
            self._data = value
            self.wrapped = True
        ring_unlock(&self.state.mutex)
        return value if theirs is None else theirs

    @property
    def raw(self):
        """The entries' storage, wrapped or not."""
        ring_lock(&self.state.mutex)
        cdef object data = self._data
        ring_unlock(&self.state.mutex)
        return data

    @property
    def settled(self):
        """Whether the outcome is entered in the books."""
        ring_lock(&self.state.mutex)
        cdef bint unsettled = self.unsettled
        ring_unlock(&self.state.mutex)
        return not unsettled

    @property
    def owes_letter(self):
        """Whether it has failed, and its dead letter is not settled yet."""
        ring_lock(&self.state.mutex)
        cdef bint owes_letter = self.owes_letter
        ring_unlock(&self.state.mutex)
        return owes_letter

    def release(self):
        """Drop the entries: a reference to their call does not keep them alive."""
        ring_lock(&self.state.mutex)
        cdef object data = self._data  # freed on return, when the lock is free
        self._data = None
        ring_unlock(&self.state.mutex)

    def leave(self):
        """If it fails, leave it in its file: the end of the process cuts it short."""
        ring_lock(&self.state.mutex)
        self.leaving = True
        ring_unlock(&self.state.mutex)

    def settle(self, bint failed, double seconds):
        """Enter the outcome in the books; False if that was done before.

        A flush waits for a failed batch until `reported()`: when it returns, `on_error`
        has the batch.
        """
        return self.settle_once(failed, seconds)

    def reported(self):
        """Let flushes pass, once it has failed; False until its letter is settled."""
        return self.unlink_once()

    def settle_letter(self, bint written, uint64_t kept=0):
        """Settle in its file a batch that failed, and let flushes pass; once.

        Args:
            written: Its dead letter is, or can't be; False: the next process has it.
            kept: Entries in the letter.
        """
        cdef RingState *state = self.state
        ring_lock(&state.mutex)
        cdef bint first = self.owes_letter and self.generation == state.generation
        self.owes_letter = False
        if first:
            state.kept += kept
        ring_unlock(&state.mutex)
        if first and written:
            self.settle_file()
        elif first:
            self.return_to_file()
        self.unlink_once()

    def count_dropped(self, uint64_t count):
        """Count entries of dead letters that were removed to have room for its own."""
        ring_lock(&self.state.mutex)
        if self.generation == self.state.generation:
            self.state.kept_dropped += count
        ring_unlock(&self.state.mutex)

    cdef bint settle_once(self, bint failed, double seconds) noexcept nogil:
        cdef RingState *state = self.state
        cdef FileMap *file
        cdef bint elsewhere, left
        cdef uint64_t count = self.end - self.start
        ring_lock(&state.mutex)
        cdef bint first = self.unsettled and self.generation == state.generation
        self.unsettled = False
        if first:
            file = state.file
            # It may lie in a file that was left, and another be in use by now.
            elsewhere = file is NULL or file.base is NULL or self.start < file.released
            left = file is not NULL and (elsewhere or self.leaving)
            left = failed and (left or state.leaving)
            if left and not elsewhere:
                mark_taken(file, self.start, count, 0)  # its process did not die of it
            elif failed and not elsewhere and state.keeps_letters:
                self.owes_letter = True
            elif not elsewhere:
                settle_mark(file, self.start, count)
            state.dispatch_seconds += seconds
            if left:
                state.left += count
            elif failed:
                state.failed_batches += 1
                state.failed += count
            else:
                state.dispatched_batches += 1
                state.dispatched += count
                unlink(state, &self.node)
                self.linked = False
        ring_unlock(&state.mutex)
        return first

    cdef void settle_file(self) noexcept nogil:
        """Settle it in its file, unless that was left."""
        cdef RingState *state = self.state
        ring_lock(&state.mutex)
        cdef FileMap *file = state.file
        if file is not NULL and file.base is not NULL and self.start >= file.released:
            settle_mark(file, self.start, self.end - self.start)
        ring_unlock(&state.mutex)

    cdef void return_to_file(self) noexcept nogil:
        """Leave it in its file for another call: the ring's, for the next process."""

    cdef bint unlink_once(self) noexcept nogil:
        cdef RingState *state = self.state
        ring_lock(&state.mutex)
        cdef bint passes = not self.owes_letter or self.generation != state.generation
        if self.linked and not self.unsettled and passes:
            self.linked = False
            if self.generation == state.generation:
                unlink(state, &self.node)
        ring_unlock(&state.mutex)
        return passes


@cython.no_gc_clear  # freed unreleased, it needs its ring
cdef class Slot:
    """One of `max_in_flight`; freed before it is released, it releases itself."""

    def __dealloc__(self):
        if self._held:
            self.release()

    @property
    def held(self):
        """Whether it counts as busy."""
        ring_lock(&self.state.mutex)
        cdef bint held = self._held
        ring_unlock(&self.state.mutex)
        return held

    def excuse(self, Batch batch, int waits):
        """Count a wait in a flush or a close that its call began (1) or ended (-1)."""
        cdef RingState *state = self.state
        ring_lock(&state.mutex)
        cdef bint counts = self._held and self.generation == state.generation
        state.waiting_slots -= counts and self.waits > 0
        self.waits += waits
        state.waiting_slots += counts and self.waits > 0
        batch.node.excused += waits
        ring_unlock(&state.mutex)

    def release(self):
        """Free the slot; False if that was done before."""
        cdef RingState *state = self.state
        ring_lock(&state.mutex)
        cdef bint held = self._held and self.generation == state.generation
        self._held = False
        state.busy_slots -= held
        state.waiting_slots -= held and self.waits > 0
        ring_unlock(&state.mutex)
        return held
