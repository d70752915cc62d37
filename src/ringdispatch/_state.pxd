# cython: language_level=3, freethreading_compatible=True
"""The plain C state of a ring, shared by enqueueing and taking."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from ringdispatch._spool_map cimport FileMap


cdef extern from "Python.h":
    # on borrowed pointers: cpython.ref's would add a pair of their own
    void Py_INCREF(PyObject *) noexcept nogil
    void Py_DECREF(PyObject *) noexcept
    void Py_XDECREF(PyObject *) noexcept


cdef extern from *:
    """
    /* One mutex a ring on free-threaded builds. With the GIL, C code that never
       gives it up between reading and writing a position needs no lock. */
    #ifdef Py_GIL_DISABLED
      typedef PyMutex ring_mutex;
      #define ring_lock(mutex) PyMutex_Lock(mutex)
      #define ring_unlock(mutex) PyMutex_Unlock(mutex)
      #define ring_renew(mutex) memset(mutex, 0, sizeof(PyMutex))
    #else
      typedef char ring_mutex;
      #define ring_lock(mutex)
      #define ring_unlock(mutex)
      #define ring_renew(mutex)
    #endif
    """
    ctypedef struct ring_mutex:
        pass
    void ring_lock(ring_mutex *) noexcept nogil
    void ring_unlock(ring_mutex *) noexcept nogil
    void ring_renew(ring_mutex *) noexcept nogil


# As METH_FASTCALL | METH_KEYWORDS has it.
ctypedef PyObject *(*FastCall)(
    PyObject *, PyObject *const *, Py_ssize_t, PyObject *
) noexcept


# A batch that flushes wait for; linked in order of position.
ctypedef struct Unsettled:
    uint64_t start
    uint64_t end
    uint64_t excused  # how often its own call waits in a flush or a close
    Unsettled *before
    Unsettled *after


# Everything in here is read and written under `mutex` only, and while it is held no
# Python code runs: no allocation of a traced object, no DECREF, no call.
ctypedef struct RingState:
    # what the fast path of enqueue touches
    ring_mutex mutex
    uint64_t tail  # position of the next entry; also: entries accepted
    uint64_t object_stop  # `stop` where references are kept, else 0
    uint64_t mask
    PyObject **cells  # NULL where no references are kept
    FastCall slow_path  # called where the fast path does not apply
    uint64_t stop  # first position that the fast path must not fill
    # what `stop` is made from
    uint64_t head  # position of the oldest pending entry
    uint64_t limit  # most pending entries: the capacity, or 0 once closed
    uint64_t reopenings
    uint64_t room  # first position without a cell, in a file; UINT64_MAX in memory
    FileMap *file  # that the entries lie in; NULL: in memory
    uint64_t max_batch
    uint64_t notify_at  # filling this position calls batch_full()
    uint64_t most_bytes  # of one entry; UINT64_MAX where a layout does not count them
    bint claimed  # the window: a pump() will run for the pending entries
    uint64_t pumps  # how many have begun; what an older one claims is void
    bint drop_announced  # the listener was notified of drops
    # the books; in flight is `head` less the five that follow
    uint64_t dispatched
    uint64_t failed
    uint64_t evicted
    uint64_t abandoned
    uint64_t left  # in the file, for another process: what a close cut short
    uint64_t recovered  # entries of other processes; in no sum of this ring's own
    uint64_t recovered_failed
    uint64_t kept  # entries in dead letters
    uint64_t kept_dropped  # entries of dead letters that were removed again
    uint64_t rejected_full
    uint64_t rejected_closed
    uint64_t rejected_oversized
    uint64_t batches
    uint64_t dispatched_batches
    uint64_t failed_batches
    uint64_t peak_pending
    uint64_t abandoning  # calls of abandon(); nothing may be taken meanwhile
    char origin[16]  # the uuid in batches' ids, its file's; zeros: not drawn yet
    bint keeps_letters  # a failed batch is settled in its file once its letter is
    bint leaving  # a close has cut short what lies in the file: that is left in it
    uint64_t urgent_end  # entries below it are to go out now: a flush waits for them
    uint64_t busy_slots  # calls of the dispatch function that have not ended
    uint64_t waiting_slots  # of these, those that wait in a flush or a close
    Unsettled *oldest  # of the batches that flushes wait for
    Unsettled *newest
    uint64_t generation  # of the process: raised in each forked child
    double dispatch_seconds
    double opened  # when the window opened, by the dispatcher's clock
    double oldest_at  # no pending entry is older than this
    uint64_t reopened_at  # from this position on, none is older than `opened`
    uint64_t drops_reported[10]  # to the hook, to the log; as take_drops() counts


# Rows up to this size are packed on the stack.
cdef enum:
    ROW_BYTES = 256

# An entry on its way into a ring.
ctypedef struct Item:
    # from the caller, and what the layout made of it before the lock was taken
    PyObject *entry
    const char *data  # the bytes that go into the ring, where a layout keeps bytes
    uint64_t size  # how many of them count against a bound
    bint encoded  # already, by Ring.encoded()
    bint viewed  # `view` holds `data` still
    Py_buffer view
    # only for an entry that finds the window unclaimed: its time and position
    bint timed
    double now
    uint64_t position
    uint64_t pumps
    PyObject *displaced  # an evicted entry, to be freed once the lock is free
    char row[ROW_BYTES]  # where `data` may be written


# Entries accepted or refused between two checks that the home still runs.
cdef enum:
    CHECK_EVERY = 4096


cdef inline void set_stop(RingState *state) noexcept nogil:
    cdef uint64_t full = min(state.head + state.limit, state.room)
    state.stop = 0 if not state.claimed else full if full < state.notify_at else state.notify_at
    state.object_stop = 0 if state.cells is NULL else state.stop


cdef inline bint has_cell(RingState *state) noexcept nogil:
    """Whether there is a cell for the next entry: a file frees them as it settles."""
    cdef FileMap *file = state.file
    if file is not NULL and (file.base is NULL or state.tail >= state.room):
        state.room = 0 if file.base is NULL else file.released + state.mask + 1
        set_stop(state)
    return state.tail < state.room


cdef inline void move_head(RingState *state, uint64_t count) noexcept nogil:
    if state.tail - state.head > state.peak_pending:
        state.peak_pending = state.tail - state.head
    state.head += count
    if state.head >= state.reopened_at:
        state.oldest_at = state.opened


cdef inline void set_notify_at(RingState *state) noexcept nogil:
    """Notify next of what comes first: a full batch, or the next check."""
    cdef uint64_t full = state.head + state.max_batch - 1
    cdef uint64_t check = state.tail + CHECK_EVERY - 1
    state.notify_at = full if state.tail <= full and full < check else check


cdef inline uint64_t unclaim(RingState *state) noexcept nogil:
    """Let the next entry notify the listener; returns the number of this pump."""
    ring_lock(&state.mutex)
    state.claimed = False
    state.pumps += 1
    cdef uint64_t pumps = state.pumps
    set_stop(state)
    ring_unlock(&state.mutex)
    return pumps


cdef inline void remove_oldest(RingState *state, uint64_t count) noexcept nogil:
    """Remove the oldest entries, taken or abandoned, from the ring's positions."""
    move_head(state, count)
    if state.head == state.tail:
        state.claimed = False
    set_notify_at(state)
    set_stop(state)


cdef inline void count_drops(RingState *state, uint64_t *totals) noexcept nogil:
    """Fill in the counters of DROP_REASONS; called under the lock."""
    totals[0] = state.rejected_full
    totals[1] = state.evicted
    totals[2] = state.rejected_closed
    totals[3] = state.rejected_oversized
    totals[4] = state.abandoned
