# cython: language_level=3, freethreading_compatible=True
"""A spool's file, declared for the ring that lies in it."""

from libc.stdint cimport uint32_t, uint64_t

from ringdispatch._pthread cimport Forkable
from ringdispatch._spool_map cimport FileMap
from ringdispatch._state cimport ring_mutex

# Where an entry's bytes lie.
ctypedef struct Piece:
    uint32_t start
    uint32_t size

# A batch that may be taken: what is intact at the positions from `start` to `end`.
ctypedef struct Found:
    uint64_t start
    uint64_t end
    uint64_t skipped  # positions without an intact entry, since the batch before
    uint32_t attempts
    uint64_t count
    uint64_t size
    Piece *pieces


cdef class SpoolFile:
    cdef object __weakref__
    cdef public str path  # changed by the thread that renames it
    # never changed
    cdef readonly uint64_t size
    cdef Forkable forkable
    # under the lock
    cdef ring_mutex mutex
    cdef FileMap map
    cdef uint64_t next  # position of the first entry that is in no batch
    cdef uint64_t in_flight  # batches taken and not settled
    cdef uint64_t skipped
    cdef uint64_t poisoned  # entries of batches that no process calls for any more
    cdef bint words_differ
    cdef uint64_t separator_size
    cdef public bint leaving  # what is cut short is for the next process
    cdef bint populating  # the mapping is in use without the lock

    cdef uint64_t read(self, uint64_t *word) noexcept nogil
    cdef bint words_make_sense(self) noexcept nogil
    cdef uint64_t newest(self) noexcept nogil
    cdef bint read_cell(self, uint64_t position, Piece *piece) noexcept nogil
    cdef bint find(self, uint64_t most, uint64_t most_bytes, Found *found) noexcept nogil
    cdef void copy(self, Found *found, char *to) noexcept nogil
    cdef void settle_batch(self, uint64_t start, uint64_t end) noexcept nogil
    cdef void count_attempts(
        self, uint64_t start, uint64_t end, uint32_t attempts
    ) noexcept nogil
    cdef void give_back(
        self, uint64_t start, uint64_t end, uint32_t attempts, bint again
    ) noexcept nogil
    cdef bint commit(self, Found *found, uint64_t before, char *to) noexcept nogil
