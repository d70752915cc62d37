# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""What making and finding a spool's files asks of the file system."""

from libc.stdint cimport uint64_t

import os

cdef extern from "_spool_system.h":
    int spool_allocate(int, uint64_t) noexcept nogil
    int spool_filesystem(const char *, uint64_t *) noexcept nogil
    int spool_without_copies(int) noexcept nogil
    int spool_is_locked(int, int *) noexcept nogil
    int spool_set_lock(int, int) noexcept nogil


cdef int check(int error, object path=None) except -1:
    if error:
        raise OSError(error, os.strerror(error), path)
    return 0


def allocate(int fd, uint64_t size):
    """Reserve blocks for a new file, so that no later store finds the disk full."""
    check(spool_allocate(fd, size))


def filesystem(path):
    """The number of the file system that the path is on, of statfs(2)."""
    cdef uint64_t kind = 0
    check(spool_filesystem(os.fsencode(path), &kind), path)
    return kind


def write_in_place(int fd):
    """Have btrfs overwrite an empty file's blocks, where else a store needs new ones."""
    check(spool_without_copies(fd))


def is_locked(path):
    """Whether a process has attached to the file; takes no lock itself."""
    cdef int locked = 0
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        check(spool_is_locked(fd, &locked), path)
    finally:
        os.close(fd)
    return bool(locked)


def lock(int fd):
    """Lock an open file; BlockingIOError where it is locked by another opening."""
    check(spool_set_lock(fd, 1))


def unlock(int fd):
    """Unlock an open file, also where a forked child has inherited it."""
    check(spool_set_lock(fd, 0))
