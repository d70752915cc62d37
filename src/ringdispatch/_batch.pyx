# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps out members nobody asked for; mypy.stubtest compares the rest.)
"""What leaves a ring: batches and slots, which settle and release themselves."""

cimport cython
from libc.stdint cimport uint64_t

from ringdispatch._state cimport RingState, Unsettled, ring_lock, ring_unlock, unclaim


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

    Freed before it is settled, it has failed: whatever is raised between a take and its
    settlement, the books agree.
    """

    def __dealloc__(self):
        if self.unsettled:
            self.settle_once(True, 0.0)

    cdef void link(self) noexcept:
        """Append it to the list of what is out; called under the lock."""
        cdef RingState *state = self.state
        self.unsettled = True
        self.node.start, self.node.end = self.start, self.end
        self.node.before = state.newest
        if state.newest is NULL:
            state.oldest = &self.node
        else:
            state.newest.after = &self.node
        state.newest = &self.node

    @property
    def value(self):
        """What the dispatch function gets; None once the entries were released."""
        ring_lock(&self.state.mutex)
        cdef object data = self._data
        cdef bint wrapped = self.wrapped
        ring_unlock(&self.state.mutex)
        if data is None or wrapped:
            return data
        cdef object value = data if self.as_value is None else self.as_value(data)
        cdef object theirs = None  # another thread may have been quicker
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
        """What the entries lie in, whether or not it was wrapped."""
        ring_lock(&self.state.mutex)
        cdef object data = self._data
        ring_unlock(&self.state.mutex)
        return data

    @property
    def settled(self):
        """Whether the outcome is in the books."""
        ring_lock(&self.state.mutex)
        cdef bint unsettled = self.unsettled
        ring_unlock(&self.state.mutex)
        return not unsettled

    def excuse(self, int waits):
        """Count the waits of its own call that began (1) or ended (-1)."""
        ring_lock(&self.state.mutex)
        self.node.excused += waits
        ring_unlock(&self.state.mutex)

    def release(self):
        """Drop the entries; what still refers to their call does not keep them."""
        ring_lock(&self.state.mutex)
        cdef object data = self._data  # freed on return, when the lock is free
        self._data = None
        ring_unlock(&self.state.mutex)

    def settle(self, bint failed, double seconds):
        """Enter the outcome in the books; False if that was done before."""
        return self.settle_once(failed, seconds)

    cdef bint settle_once(self, bint failed, double seconds) noexcept nogil:
        cdef RingState *state = self.state
        cdef uint64_t count = self.end - self.start
        ring_lock(&state.mutex)
        cdef bint first = self.unsettled and self.generation == state.generation
        self.unsettled = False
        if first:
            unlink(state, &self.node)
            state.dispatch_seconds += seconds
            state.failed_batches += failed
            if failed:
                state.failed += count
            else:
                state.dispatched += count
        ring_unlock(&state.mutex)
        return first


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

    def release(self):
        """Free the slot; False if that was done before."""
        cdef RingState *state = self.state
        ring_lock(&state.mutex)
        cdef bint held = self._held and self.generation == state.generation
        self._held = False
        state.busy_slots -= held
        ring_unlock(&state.mutex)
        return held


cdef class Wake:
    """What an event loop calls back: unclaims the window, then runs `pump`, once.

    Compiled, because between these two nothing may be raised: an exception in `pump`
    then leaves a window that the next entry claims anew.

    `pump` is called with `home` and what `Ring.claim_window` takes. Made by `Ring.wake`.
    """

    @property
    def pending(self):
        """Whether it was neither called nor cancelled."""
        ring_lock(&self.state.mutex)
        cdef bint done = self.done
        ring_unlock(&self.state.mutex)
        return not done

    def cancel(self):
        """Make the call do nothing; from any thread."""
        ring_lock(&self.state.mutex)
        self.done = True
        ring_unlock(&self.state.mutex)

    def __call__(self):
        ring_lock(&self.state.mutex)
        cdef bint done = self.done
        self.done = True
        ring_unlock(&self.state.mutex)
        pump, self.pump = self.pump, None
        if not done:
            pump(self.home, unclaim(self.state))


cdef class Finalizer:
    """Calls `function(*arguments)` once, when it is freed, by whatever ended its holder.

    Compiled, so that nothing can be raised in between. A RuntimeError is ignored: the
    event loop that is to be called is closed.
    """

    def __cinit__(self, function, *arguments):
        self.function = function
        self.arguments = arguments

    def __del__(self):
        try:
            self.function(*self.arguments)
        except RuntimeError:
            pass


def resolve(future):
    """End the wait for a future, unless it has ended; interrupted by nothing."""
    if not future.done():
        future.set_result(None)
