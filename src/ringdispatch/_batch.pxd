# cython: language_level=3, freethreading_compatible=True
"""Batches and slots, declared for the ring."""

from libc.stdint cimport uint64_t

from ringdispatch._state cimport RingState, Unsettled


cdef class Batch:
    # never changed once it is handed out
    cdef object ring  # keeps `state`
    cdef RingState *state
    cdef uint64_t generation
    cdef object as_value  # wraps `_data` for the function; None: it needs no wrapping
    cdef readonly uint64_t start
    cdef readonly uint64_t end
    # under the ring's lock: a close in one thread reads what the home releases
    cdef object _data  # the entries' storage; once wrapped, the function's argument
    cdef bint wrapped
    cdef Unsettled node
    cdef bint linked  # into the ring's list, until a flush may pass
    cdef bint unsettled
    cdef bint owes_letter  # it has failed, and is not settled in its file
    cdef bint leaving  # failed, it is left in its file for the next process
    cdef char origin[16]  # the uuid in its id; zeros: not known yet

    cdef void link(self) noexcept
    cdef bint settle_once(self, bint failed, double seconds) noexcept nogil
    cdef bint unlink_once(self) noexcept nogil
    cdef void settle_file(self) noexcept nogil
    cdef void return_to_file(self) noexcept nogil


cdef class Slot:
    # never changed once it is handed out
    cdef object ring  # keeps `state`
    cdef RingState *state
    cdef uint64_t generation
    # under the ring's lock
    cdef bint _held
    cdef uint64_t waits  # how often its call waits in a flush or a close
