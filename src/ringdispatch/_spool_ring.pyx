# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""A ring of bytes in a spool's file."""

cimport cython
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from ringdispatch._bytes cimport ByteRing
from ringdispatch._ring cimport Ring
from ringdispatch._spool_file cimport SpoolFile
from ringdispatch._spool_map cimport UUID_AT, FileMap
from ringdispatch._state cimport RingState, Unsettled, has_cell, ring_lock, ring_unlock, set_stop

BOUND = "capacity or max_bytes"


@cython.no_gc_clear  # batches freed after it was cleared need its file
cdef class SpoolRing(ByteRing):
    """A ByteRing whose entries lie in a file, until they are settled.

    Takes what ByteRing takes; the file, which has twice as many cells and bytes; and
    what makes others (`RingFiles`). In a forked child, and once it has left its file,
    the first entry has another made; until that succeeds it is full.
    """

    # never changed
    cdef readonly object files
    cdef readonly object letters
    # under the ring's lock
    cdef SpoolFile file
    cdef uint64_t left_before  # entries, in the files before this one
    cdef bint untouched  # its pages

    def __cinit__(self, *options):
        self.files = options[-1]
        self.letters = None if self.files is None else self.files.letters
        self.state.keeps_letters = self.letters is not None
        cdef SpoolFile file = options[-2]
        if not self.use(file):
            raise ValueError(f"file={file.path}: not made for this ring")

    cdef bint use(self, SpoolFile file):
        """Keep the entries in a new file from now on; False where it can't be."""
        cdef FileMap *map = &file.map
        cdef SpoolFile before = None  # freed on return, when the lock is free
        ring_lock(&self.state.mutex)
        cdef bint usable = (
            map.base is not NULL
            and map.mask == self.state.mask
            and map.arena_bytes >= self.max_bytes
            and self.state.head == self.state.tail == map.tail
            and self.state.room == 0  # else another thread was quicker
            and self.state.limit > 0  # else it was closed meanwhile
        )
        if usable:
            before, self.file = self.file, file
            self.arena = map.base + map.arena_at
            self.arena_bytes = map.arena_bytes
            self.byte_head = self.byte_tail = map.byte_tail
            self.byte_room = 0
            self.state.file = map
            self.state.leaving = False
            self.left_before = self.state.left
            self.untouched = True
            memcpy(self.state.origin, map.base + UUID_AT, 16)
            has_cell(&self.state)
        ring_unlock(&self.state.mutex)
        return usable

    cdef int make_room(self) except -1:
        cdef SpoolFile file = self.files.another(self.tail)
        if file is not None and not self.use(file):
            self.files.discard(file)
            self.end_file()
        return 0

    cdef SpoolFile detach(self):
        """Store no more in the file that is returned; called under the lock.

        Several threads may get the same one: each ends it, and none is early.
        """
        cdef RingState *state = &self.state
        if state.file is NULL:
            return self.file
        if state.file.base is NULL or state.abandoning or state.head < state.tail:
            return None  # the first is a forked child's
        self.arena = NULL
        state.file = NULL
        state.room = 0
        set_stop(state)
        return self.file

    cdef int end(self, SpoolFile file) except -1:
        """End a file that was detached."""
        if file is None:
            return 0
        self.files.end(file)
        ring_lock(&self.state.mutex)
        if self.file is file:
            self.file = None  # freed on return, when the lock is free
        ring_unlock(&self.state.mutex)
        return 0

    @property
    def bound(self):
        """What to raise where it is full; and the call behind which its file is."""
        cdef RingState *state = &self.state
        cdef bint full = False
        cdef uint64_t start = 0, end = 0
        ring_lock(&state.mutex)
        cdef FileMap *file = state.file
        cdef Unsettled *oldest = state.oldest
        if file is not NULL and oldest is not NULL and oldest.start == file.released:
            full = state.tail - file.released > state.mask
            end = self.byte_tail - file.byte_released
            full |= end + max(self.largest, 1) > self.arena_bytes
            start, end = oldest.start, oldest.end
        ring_unlock(&state.mutex)
        if not full:
            return BOUND
        return (
            f"{BOUND} (its file is full behind the call that has entries "
            f"{start} to {end - 1}, with what was settled since)"
        )

    @property
    def place(self):
        ring_lock(&self.state.mutex)
        cdef SpoolFile file = self.file
        cdef bint mapped = file is not None and file.map.base is not NULL
        ring_unlock(&self.state.mutex)
        return file.path if mapped else None

    def populate(self, workers):
        """Have a worker thread touch the pages of a new file, before entries do."""
        ring_lock(&self.state.mutex)
        cdef SpoolFile file = self.file if self.untouched else None
        self.untouched = False
        ring_unlock(&self.state.mutex)
        if file is not None:
            self.files.populate(file, workers)

    def make_recovery(self, calls, now):
        return None if self.files is None else self.files.make_recovery(self, calls, now)

    def take_notes(self):
        return self.files.take_notes()

    def end_file(self):
        cdef SpoolFile file = None
        cdef bint none = False
        ring_lock(&self.state.mutex)
        if self.state.limit == 0 and self.state.oldest is NULL:
            file = self.detach()
            none = self.state.file is NULL or self.state.file.base is NULL
        ring_unlock(&self.state.mutex)
        if file is None and none and self.files is not None:
            self.files.end(None)  # a child's that had no entry: its name is free, too
        self.end(file)

    def close(self, bint reopen=False):
        cdef SpoolFile file = None
        cdef RingState *state = &self.state
        ring_lock(&state.mutex)
        cdef uint64_t ended = state.dispatched + state.failed + state.abandoned + state.left
        if reopen and state.leaving:
            if state.left > self.left_before or ended < state.head:
                file = self.detach()  # a call may go on with what was left in it
            else:
                state.leaving = False  # nothing was: a dead letter is still written
        ring_unlock(&self.state.mutex)
        cdef uint64_t reopenings = Ring.close(self, reopen)
        self.end(file)
        return reopenings
