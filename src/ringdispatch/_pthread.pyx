# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""Notices every fork by pthread_atfork; `_process` has what a child starts with.

C code that forks runs no hook of Python's. In the child, only the thread that forked
exists, and only what is safe in a signal handler may be done. So that handler makes
each ring's next enqueue take the slow path, and what uses a ring in another way looks
at `forked`.
"""

cimport cython
from cpython.object cimport PyObject

from ringdispatch._state cimport Py_INCREF, RingState, ring_renew

cdef extern from *:
    """
    #ifdef _WIN32
      #define forks_lock()
      #define forks_unlock()
      #define forks_watch(child) ((void) child, 0)
    #else
      #include <pthread.h>
      static pthread_mutex_t forks_mutex = PTHREAD_MUTEX_INITIALIZER;
      static void (*forks_child)(void);
      static void forks_lock(void) { pthread_mutex_lock(&forks_mutex); }
      static void forks_unlock(void) { pthread_mutex_unlock(&forks_mutex); }
      static void forks_in_child(void) { forks_child(); forks_unlock(); }
      static int forks_watch(void (*child)(void)) {
        forks_child = child;
        return pthread_atfork(forks_lock, forks_unlock, forks_in_child);
      }
    #endif
    """
    void forks_lock() noexcept nogil
    void forks_unlock() noexcept nogil
    int forks_watch(void (*child)() noexcept nogil) noexcept nogil

# under forks_lock(), which a fork holds: the child finds the list whole
cdef Forkable *rings = NULL

cdef object hook = None


cdef void watch(Forkable *ring) noexcept:
    """Mark the ring in a forked child."""
    global rings
    forks_lock()
    ring.before, ring.after = NULL, rings
    if rings is not NULL:
        rings.before = ring
    rings = ring
    forks_unlock()


cdef void unwatch(Forkable *ring) noexcept:
    """Forget a ring that is freed."""
    global rings
    forks_lock()
    if ring.before is NULL:
        rings = ring.after
    else:
        ring.before.after = ring.after
    if ring.after is not NULL:
        ring.after.before = ring.before
    forks_unlock()


cdef void hold_forks() noexcept nogil:
    """Let no thread fork until release_forks()."""
    forks_lock()


cdef void release_forks() noexcept nogil:
    forks_unlock()


@cython.linetrace(False)  # no tracer may run here
@cython.profile(False)
cdef void mark() noexcept nogil:
    """Have the next use of each ring find out; async-signal-safe."""
    global forked
    cdef Forkable *ring = rings
    forked = True
    while ring is not NULL:
        ring_renew(ring.mutex)  # another thread may have held it
        if ring.mapping is not NULL:
            ring.mapping[0] = NULL  # it stayed in the parent
        if ring.state is not NULL:
            ring.state.claimed = False
            ring.state.stop = ring.state.object_stop = 0
        ring = ring.after


cdef int after_fork() except -1:
    """Reset every dispatcher: this is a child, and the first use of a ring in it."""
    if hook is not None:
        hook()
    return 0


def set_hook(function):
    """Set what is called at the first use of a ring in a forked child."""
    global hook
    hook = function


def is_forked():
    """Whether this is a forked child in which `handled` was not called yet."""
    return forked


def handled():
    """Note that everything is reset."""
    global forked
    forked = False


def immortalize(object thing):
    """Never free `thing`: in a forked child finalizers would act on the parent's."""
    Py_INCREF(<PyObject *> thing)


if forks_watch(mark):
    raise MemoryError("no memory for a fork handler")
