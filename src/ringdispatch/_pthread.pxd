# cython: language_level=3, freethreading_compatible=True
"""The notice of forks, declared for the rings."""

from ringdispatch._state cimport RingState, ring_mutex

cdef bint forked  # this process is a child whose dispatchers are yet to be reset

ctypedef struct Forkable:
    ring_mutex *mutex
    RingState *state  # or NULL, of what is no ring
    char **mapping  # or NULL, of what maps no file
    Forkable *before
    Forkable *after

cdef void watch(Forkable *ring) noexcept
cdef void unwatch(Forkable *ring) noexcept
cdef void hold_forks() noexcept nogil
cdef void release_forks() noexcept nogil
cdef int after_fork() except -1
