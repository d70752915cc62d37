# cython: language_level=3, freethreading_compatible=True
"""The ring's plain C core, shared by those who put in and those who take out."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t


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


# Everything in here is read and written under `mutex` only, and while it is held no
# Python code runs: no allocation of a traced object, no DECREF, no call.
ctypedef struct Core:
    # what the fast path of enqueue touches
    ring_mutex mutex
    uint64_t tail  # position of the next entry; also: entries accepted
    uint64_t own_stop  # `stop` where references are kept, else 0
    uint64_t mask
    PyObject **slots  # NULL where no references are kept
    FastCall otherwise  # what enqueue does where that does not do
    uint64_t stop  # first position that can't be filled without a look round
    # what `stop` is made from
    uint64_t head  # position of the oldest pending entry
    uint64_t limit  # most pending entries: the capacity, or 0 once closed
    uint64_t max_batch
    uint64_t check  # position whose filling is announced: a full batch, or a look round
    uint64_t most_bytes  # of one entry; no end where a layout does not count them
    bint window  # open: somebody has been told of the pending entries
    bint telling  # somebody has been told of the drops
    # the books; what is in flight is head less all that has left it
    uint64_t dispatched
    uint64_t failed
    uint64_t evicted
    uint64_t abandoned
    uint64_t rejected_full
    uint64_t rejected_closed
    uint64_t rejected_oversized
    uint64_t batches
    uint64_t failed_batches
    uint64_t peak_pending
    uint64_t places  # calls of the dispatch function that have a place
    uint64_t generation  # of the process: raised in each forked child
    double dispatch_seconds
    double opened  # when the window opened, by the dispatcher's clock
    double oldest  # no pending entry is older than this
    uint64_t turn  # from this position on, none is older than `opened`


# Rows up to this size are packed on the stack.
cdef enum:
    ROW_BYTES = 256

# An entry on its way into a ring.
ctypedef struct Item:
    # from the caller, and what the layout made of it before the lock was taken
    PyObject *entry
    const char *data  # the bytes that go into the ring, where a layout keeps bytes
    uint64_t size  # how many of them count against a bound
    bint encoded  # by Ring.encoded(), before
    bint viewed  # `view` holds `data` still
    Py_buffer view
    # what only the opener of a window needs: when, and where it lies
    bint timed
    double now
    uint64_t position
    PyObject *displaced  # an entry that had to go, to be freed after the lock is
    char row[ROW_BYTES]  # where `data` may be written


# How often enqueue looks whether its home still runs, in entries taken or refused.
cdef enum:
    LOOK_ROUND = 4096


cdef inline void set_stop(Core *core) noexcept nogil:
    cdef uint64_t full = core.head + core.limit
    core.stop = 0 if not core.window else full if full < core.check else core.check
    core.own_stop = 0 if core.slots is NULL else core.stop


cdef inline void move_head(Core *core, uint64_t count) noexcept nogil:
    core.head += count
    if core.head >= core.turn:
        core.oldest = core.opened


cdef inline void set_check(Core *core) noexcept nogil:
    """Announce next what comes first: a full batch, or the look round."""
    cdef uint64_t full = core.head + core.max_batch - 1
    cdef uint64_t look = core.tail + LOOK_ROUND - 1
    core.check = full if core.tail <= full and full < look else look


cdef class Ring:
    cdef Core core
    cdef readonly uint64_t capacity
    cdef readonly str bound  # the option to raise where the ring is full

    # ---- in: before the lock is taken, where user code may run
    cpdef object encoded(self, object entry)
    cdef int prepare(
        self, PyObject *const *given, Py_ssize_t fields, Item *item
    ) except -1
    cdef bint store_plain(self, PyObject *const *given, Py_ssize_t fields) noexcept
    # ---- in: under the lock
    cdef bint fits(self, Item *item) noexcept nogil
    cdef PyObject *evict(self) noexcept nogil
    cdef bint store(self, Item *item) noexcept nogil
    # ---- out: before the lock is taken
    cdef object room_for(self, uint64_t start, uint64_t end, bint given_up)
    # ---- out: under the lock
    cdef bint is_full(self, uint64_t first) noexcept nogil
    cdef uint64_t batch_end(self, uint64_t first, uint64_t most) noexcept nogil
    cdef uint64_t move(self, uint64_t count, object storage) noexcept
    cdef void forget(self) noexcept
    cdef uint64_t count_bytes(self) noexcept nogil
    # ---- out: after it is free
    cdef object present(self, object storage)
    cdef tuple bounds(self, uint64_t pending_bytes)

    cdef uint64_t next_end(
        self, uint64_t most, uint64_t due, bint given_up
    ) noexcept nogil
    cdef tuple move_out(self, uint64_t most, uint64_t due, bint given_up)


cdef class ObjectRing(Ring):
    pass


cdef class Take:
    # never changed once it is handed out
    cdef Ring ring
    cdef uint64_t generation
    cdef readonly uint64_t start
    cdef readonly uint64_t end
    # under the ring's lock: a close in one thread reads what the home lets go of
    cdef object kept  # what the entries lie in; once presented, the batch
    cdef bint presented
    cdef bint outcome_known
