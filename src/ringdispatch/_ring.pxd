# cython: language_level=3, freethreading_compatible=True
"""Rings, declared for the modules that store entries in them."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from ringdispatch._batch cimport Batch
from ringdispatch._pthread cimport Forkable
from ringdispatch._state cimport Item, RingState


cdef class Ring:
    cdef RingState state
    cdef Forkable forkable
    cdef readonly uint64_t capacity
    cdef readonly str bound  # the option to raise where the ring is full
    cdef object as_value  # wraps a batch's data for the function; None: it needs none

    # ---- in: before the lock is taken, where user code may run
    cdef int make_room(self) except -1
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
    cdef object allocate_batch(self, uint64_t count)
    # ---- out: under the lock
    cdef bint is_full(self, uint64_t first) noexcept nogil
    cdef uint64_t batch_end(self, uint64_t first, uint64_t most) noexcept nogil
    cdef uint64_t copy_out(self, uint64_t count, object storage) noexcept
    cdef void entries_left(self) noexcept nogil
    cdef void reset_layout(self) noexcept
    cdef uint64_t count_bytes(self) noexcept nogil
    cdef tuple bounds(self, uint64_t pending_bytes)

    cdef uint64_t next_end(self, uint64_t most, uint64_t due) noexcept nogil
