# cython: language_level=3, freethreading_compatible=True
"""The ring of bytes, declared for the one that lies in a file."""

from libc.stdint cimport uint32_t, uint64_t

from ringdispatch._ring cimport Ring


cdef class BytesBatch:
    # never changed once it is handed out
    cdef readonly bytes payload
    cdef uint32_t *ends  # positions in the arena, modulo 2**32, separators included
    cdef uint32_t start  # of the first entry there
    cdef uint64_t count
    cdef uint64_t separator_size

    cdef bytes entry(self, uint64_t which)
    cdef uint32_t offset_of(self, uint64_t which) noexcept
    cdef uint32_t size_of(self, uint64_t which) noexcept


cdef class ByteRing(Ring):
    # never changed
    cdef object encode
    cdef bytes separator
    cdef const char *separator_data
    cdef uint64_t separator_size
    cdef uint64_t max_bytes
    cdef uint64_t max_batch_bytes
    # under the ring's lock; byte positions only grow, as those of entries do
    cdef char *arena
    cdef uint64_t arena_bytes
    cdef uint64_t byte_room  # first byte position without room in a file
    cdef uint32_t *ends  # by cell: where the entry ends, modulo 2**32
    cdef uint64_t byte_head
    cdef uint64_t byte_tail
    cdef uint64_t largest  # size of the largest entry since the ring was empty
    cdef bint bytes_notified  # the listener was notified of a batch full of bytes

    cdef object refusal(self, object entry, object encoded)
    cdef void put(self, const char *data, uint64_t size) noexcept nogil
    cdef uint64_t full_batch(self, uint64_t size) noexcept nogil
    cdef uint64_t start_of(self, uint64_t position) noexcept nogil
    cdef uint64_t last_before(
        self, uint64_t end, uint64_t low, uint64_t high
    ) noexcept nogil
    cdef void copy_to(self, BytesBatch batch, uint64_t count) noexcept
