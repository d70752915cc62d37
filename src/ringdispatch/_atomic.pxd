# cython: language_level=3, freethreading_compatible=True
"""The wake-up, declared for the ring."""

from ringdispatch._state cimport RingState


cdef class Wake:
    # never changed
    cdef object ring  # keeps `state`
    cdef RingState *state
    cdef readonly object home
    # by who ends it
    cdef object pump
    # under the ring's lock
    cdef bint done
    cdef bint end(self) noexcept
