# cython: language_level=3, freethreading_compatible=True
"""The notice of forks, declared for the rings."""

from ringdispatch._state cimport RingState

cdef bint forked  # this process is a child whose dispatchers are yet to be reset

ctypedef struct Forkable:
    RingState *state
    Forkable *before
    Forkable *after

cdef void watch(Forkable *ring) noexcept
cdef void unwatch(Forkable *ring) noexcept
cdef int after_fork() except -1
