# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""A ring of bytes in a spool's file."""

from libc.stdint cimport uint64_t

from ringdispatch._bytes cimport ByteRing
from ringdispatch._spool_file cimport SpoolFile
from ringdispatch._spool_map cimport FileMap
from ringdispatch._state cimport has_cell, ring_lock, ring_unlock, set_stop


cdef class SpoolRing(ByteRing):
    """A ByteRing whose entries lie in a file, until they are settled.

    Takes what ByteRing takes, and the file, which has twice as many cells and bytes. In
    a forked child, and after leave(), it is full until use() gives it a new file.
    """

    cdef SpoolFile file

    def __cinit__(self, *options):
        self.use(options[-1])

    def use(self, SpoolFile file not None):
        """Keep the entries in a new file from now on, while there are none."""
        cdef FileMap *map = &file.map
        cdef SpoolFile before = self.file  # freed on return, when the lock is free
        ring_lock(&self.state.mutex)
        cdef bint usable = (
            map.base is not NULL
            and map.mask == self.state.mask
            and map.arena_bytes >= self.max_bytes
            and self.state.head == self.state.tail == map.tail
        )
        if usable:
            self.file = file
            self.arena = map.base + map.arena_at
            self.arena_bytes = map.arena_bytes
            self.byte_head = self.byte_tail = map.byte_tail
            self.byte_room = 0
            self.state.file = map
            self.state.room = 0
            has_cell(&self.state)
        ring_unlock(&self.state.mutex)
        if not usable:
            raise ValueError(f"file={file.path}: not made for this ring")

    def leave(self):
        """Leave the file to another process, with what is not settled."""
        ring_lock(&self.state.mutex)
        self.state.file = NULL
        self.state.room = 0
        self.arena = NULL
        set_stop(&self.state)
        ring_unlock(&self.state.mutex)
        self.file.leave()
