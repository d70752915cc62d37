# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""A spool's file in memory: attaching to it, and what an orphan still holds.

What a file says is data: whatever is in it, nothing here reads beyond the mapping, and
nothing but an entry with its own crc32c counts as one.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ringdispatch cimport _pthread
from ringdispatch._spool_map cimport (
    ATTEMPTS_SHIFT, COUNT_MASK, FIXED_SIZE, MOST_ATTEMPTS, RELEASED_AT, SETTLED, CELLS_AT,
    TAIL_AT, FileMap, FileCell, crc32c, crc32c_way, crc_of, has_room, mark_taken, put_bytes,
    put_cell, read_mark, settle_mark, cell_of, store_twice,
)
from ringdispatch._state cimport ring_lock, ring_unlock

import errno
import os

cdef extern from "_crc32c.h":
    const char *CRC32C_NAME
    uint32_t crc32c_by_table(uint32_t, const char *, size_t) noexcept nogil
    uint32_t crc32c_by_instruction(uint32_t, const char *, size_t) noexcept nogil
    bint crc32c_has_instruction() noexcept nogil
    void crc32c_choose() noexcept nogil

cdef extern from "_spool_system.h":
    const int SPOOL_SUPPORTED
    int NOT_PLAIN, NOT_OURS, LINKED, MOVED, TOO_SHORT
    int spool_attach(const char *, char **, uint64_t *) noexcept nogil
    int spool_populate(char *, uint64_t) noexcept nogil
    void spool_unmap(char *, uint64_t) noexcept nogil

SUPPORTED = bool(SPOOL_SUPPORTED)  # on this system

crc32c_choose()
CRC32C_WAYS = ("table",)  # of this processor
if crc32c_has_instruction():
    CRC32C_WAYS += ((<bytes> CRC32C_NAME).decode(),)


class NotASpoolError(Exception):
    """The path leads to something that no process of this user has made as a spool."""


def crc32c_of(data, uint32_t crc=0, str way=None):
    """The crc32c of `data`, by the best way; begun from that of what goes before.

    Args:
        data: Contiguous memory.
        crc: Of the bytes before; 0 if there are none.
        way: One of CRC32C_WAYS.
    """
    cdef Py_buffer view
    cdef crc32c_way function = crc32c
    if way is not None:
        function = crc32c_by_table if CRC32C_WAYS.index(way) == 0 else crc32c_by_instruction
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    crc = function(crc, <char *> view.buf, view.len)
    PyBuffer_Release(&view)
    return crc


cdef int check(int error, object path=None) except -1:
    if error:
        raise OSError(error, os.strerror(error), path)
    return 0


cdef class SpoolFile:
    """A file that this process has locked and mapped.

    It stays locked until leave(), whatever else opens and closes it, and in no other
    process: not after an exec, not in a forked child.

    Raises:
        BlockingIOError: it is locked, by this process or another.
        FileNotFoundError: there is none, or it was removed or renamed meanwhile.
        NotASpoolError: it isn't a regular file of our own with one name.
        EOFError: it is shorter than its header.
        OSError: what else the system says.
    """

    def __cinit__(self, path):
        cdef char *base = NULL
        cdef bytes name = os.fsencode(path)
        cdef const char *name_data = name
        self.path = os.fsdecode(path)
        _pthread.hold_forks()
        cdef int error = spool_attach(name_data, &base, &self.size)
        _pthread.release_forks()
        if error == TOO_SHORT:
            raise EOFError(f"{self.path}: shorter than the header of a spool")
        if error == MOVED:
            check(errno.ENOENT, self.path)
        if error < 0:
            why = "a regular file" if error == NOT_PLAIN else "a file with one name"
            if error == NOT_OURS:
                why = f"a file of user {os.geteuid()}"
            raise NotASpoolError(f"{self.path}: must be {why}")
        check(error, self.path)
        self.map.base = base
        self.forkable.mutex = &self.mutex
        self.forkable.mapping = &self.map.base
        _pthread.watch(&self.forkable)

    def __dealloc__(self):
        if self.forkable.mapping is not NULL:
            _pthread.unwatch(&self.forkable)
            self.leave()

    @property
    def fixed_header(self):
        """The header's part that never changes; empty once the file is left."""
        ring_lock(&self.mutex)
        cdef char data[FIXED_SIZE]
        cdef uint64_t size = 0
        if self.map.base is not NULL:
            size = FIXED_SIZE
            memcpy(data, self.map.base, size)
        ring_unlock(&self.mutex)
        return PyBytes_FromStringAndSize(data, size)

    cdef uint64_t read(self, uint64_t *word) noexcept nogil:
        ring_lock(&self.mutex)
        cdef uint64_t value = word[0]
        ring_unlock(&self.mutex)
        return value

    @property
    def tail(self):
        return self.read(&self.map.tail)

    @property
    def released(self):
        return self.read(&self.map.released)

    @property
    def is_done(self):
        """Whether all that was in it is settled."""
        ring_lock(&self.mutex)
        cdef bint is_done = self.next == self.map.tail and self.in_flight == 0
        ring_unlock(&self.mutex)
        return is_done

    @property
    def poisoned(self):
        """How many entries stay in it, as each process that took them died."""
        return self.read(&self.poisoned)

    @property
    def is_damaged(self):
        """Whether something that a kill can't explain was found so far."""
        ring_lock(&self.mutex)
        cdef bint is_damaged = self.words_differ or self.skipped
        ring_unlock(&self.mutex)
        return is_damaged

    def begin(
        self,
        uint64_t cells,
        uint64_t arena_bytes,
        uint32_t seed,
        uint64_t separator_size,
        position=None,
    ):
        """Begin to use the file, with what its checked header says.

        Args:
            cells: How many; a power of two.
            arena_bytes: The size of the arena.
            seed: Of each crc32c.
            separator_size: How many bytes end each entry.
            position: Of the first entry in a new file; None: read what is there.
        """
        if cells == 0 or cells & (cells - 1) or cells > COUNT_MASK:
            raise ValueError(f"cells={cells}: must be a power of two, <= {COUNT_MASK}")
        if not 0 < arena_bytes <= UINT32_MAX:
            raise ValueError(f"arena_bytes={arena_bytes}: must be 1 to {UINT32_MAX}")
        cdef uint64_t first = 0 if position is None else position
        cdef uint64_t arena_at = CELLS_AT + cells * sizeof(FileCell)
        if position is not None and self.size < arena_at + arena_bytes:
            raise ValueError(f"size={self.size}: too small for a new file")
        ring_lock(&self.mutex)
        self.map.mask = cells - 1
        self.map.cells = min((self.size - CELLS_AT) // sizeof(FileCell), cells)
        self.map.arena_bytes = arena_bytes
        self.map.arena_at = arena_at
        self.map.seed = seed
        self.map.byte_tail = self.map.byte_released = 0
        self.separator_size = separator_size
        if self.map.base is NULL:
            pass
        elif position is not None:
            self.map.tail = self.map.released = first
            store_twice(&self.map, TAIL_AT, first)
            store_twice(&self.map, RELEASED_AT, first)
        elif not self.words_make_sense():
            self.words_differ = True
            self.map.tail = self.newest()
            self.map.released = self.map.tail - min(self.map.tail, cells)
        self.next = self.map.released
        ring_unlock(&self.mutex)

    cdef bint words_make_sense(self) noexcept nogil:
        """Read `tail` and `released`; whether a kill can have left them so."""
        cdef uint64_t *tail = <uint64_t *> (self.map.base + TAIL_AT)
        cdef uint64_t *released = <uint64_t *> (self.map.base + RELEASED_AT)
        # Killed between the two stores, it has stored the first.
        self.map.tail = tail[0]
        self.map.released = ~released[1]
        return (
            tail[0] >= ~tail[1]
            and tail[0] - ~tail[1] <= 1
            and self.map.released <= released[0] <= self.map.tail
            and self.map.tail - self.map.released <= self.map.mask + 1
        )

    cdef uint64_t newest(self) noexcept nogil:
        """One more than the last position at which any cell has an intact entry."""
        cdef uint64_t i, position, newest = 0
        cdef Piece piece
        for i in range(self.map.cells):
            position = cell_of(&self.map, i).position
            if position >= newest and self.read_cell(position, &piece):
                newest = position + 1
        return newest

    cdef bint read_cell(self, uint64_t position, Piece *piece) noexcept nogil:
        """Find the entry of that position; False unless it is there, whole."""
        cdef FileMap *map = &self.map
        cdef FileCell cell
        if position & map.mask >= map.cells:
            return False
        cell = cell_of(map, position)[0]
        if cell.position != position or cell.start >= map.arena_bytes:
            return False
        if cell.size > map.arena_bytes or cell.size < self.separator_size:
            return False
        cdef uint64_t end = min(<uint64_t> cell.start + cell.size, map.arena_bytes)
        if map.arena_at + end > self.size or cell.crc != crc_of(map, &cell):
            return False
        piece.start, piece.size = cell.start, cell.size
        return True

    cdef bint find(self, uint64_t most, uint64_t most_bytes, Found *found) noexcept nogil:
        """Find the next batch; False if there is no memory for its pieces."""
        cdef uint64_t position = self.next, end
        cdef uint32_t word = 0
        cdef Piece piece
        while position < self.map.tail:
            word = read_mark(&self.map, position)
            if word & SETTLED:
                position += word & COUNT_MASK
            elif word or self.read_cell(position, &piece):
                break
            else:
                position += 1
                found.skipped += 1
        found.start = found.end = position
        if position >= self.map.tail:
            return True
        end = position + (word & COUNT_MASK or min(most, self.map.tail - position))
        if word:
            most_bytes = self.map.arena_bytes
            found.attempts = word >> ATTEMPTS_SHIFT & MOST_ATTEMPTS
        found.pieces = <Piece *> PyMem_RawMalloc((end - position) * sizeof(Piece))
        if found.pieces is NULL:
            return False
        while found.end < end:
            if word == 0 and found.end > position and read_mark(&self.map, found.end):
                break  # there begins one that was taken
            if not self.read_cell(found.end, &piece):
                found.skipped += 1
            elif found.size + piece.size <= most_bytes or found.count == 0:
                found.pieces[found.count] = piece
                found.count += 1
                found.size += piece.size
            elif word == 0:
                break
            else:
                found.skipped += 1  # the batch claims more bytes than there are
            found.end += 1
        return True

    cdef void copy(self, Found *found, char *to) noexcept nogil:
        cdef char *arena = self.map.base + self.map.arena_at
        cdef uint64_t i, first
        cdef Piece piece
        for i in range(found.count):
            piece = found.pieces[i]
            first = min(piece.size, self.map.arena_bytes - piece.start)
            memcpy(to, arena + piece.start, first)
            memcpy(to + first, arena, piece.size - first)
            to += piece.size

    def take(self, uint64_t most, uint64_t most_bytes, uint32_t waiting=0):
        """Take the next batch that is not settled; None if there are no more.

        One that a process took has the same ends again, whatever the limits are.

        Args:
            most: Entries at most; at least 1.
            most_bytes: Bytes at most; an entry that is larger goes alone.
            waiting: Bit n: a batch for which n calls count is not taken, but n returned.

        Returns:
            The positions of its first entry and past its last, how many calls were made
            for it, its bytes, and the size of each entry without its separator.
        """
        cdef Found found
        cdef uint64_t before, i
        cdef bint done, enough
        while True:
            memset(&found, 0, sizeof(Found))
            ring_lock(&self.mutex)
            before = self.next
            enough = self.map.base is NULL or self.find(max(most, 1), most_bytes, &found)
            done = enough and found.count == 0
            if done:
                self.next = max(found.end, before)
                self.skipped += found.skipped
                done = self.next >= self.map.tail or self.map.base is NULL
            ring_unlock(&self.mutex)
            try:
                if done:
                    return None
                if not enough:
                    raise MemoryError("no memory for a batch of a spool's file")
                if found.count and waiting >> found.attempts & 1:
                    return found.attempts
                if found.count:
                    # Nothing is allocated while the lock is held.
                    payload = PyBytes_FromStringAndSize(NULL, found.size)
                    if self.commit(&found, before, PyBytes_AS_STRING(payload)):
                        sizes = []
                        for i in range(found.count):
                            sizes.append(found.pieces[i].size - self.separator_size)
                        return found.start, found.end, found.attempts, payload, sizes
            finally:
                PyMem_RawFree(found.pieces)

    cdef bint commit(self, Found *found, uint64_t before, char *to) noexcept nogil:
        """Take the batch, unless another thread was quicker."""
        ring_lock(&self.mutex)
        cdef bint current = self.map.base is not NULL and self.next == before
        if current:
            self.copy(found, to)
            mark_taken(
                &self.map,
                found.start,
                found.end - found.start,
                min(found.attempts + 1, MOST_ATTEMPTS),
            )
            self.next = found.end
            self.in_flight += 1
            self.skipped += found.skipped
        ring_unlock(&self.mutex)
        return current

    def settle(self, uint64_t start, uint64_t end):
        """Settle a batch that was taken: no process dispatches it again."""
        self.settle_batch(start, end)

    cdef void settle_batch(self, uint64_t start, uint64_t end) noexcept nogil:
        ring_lock(&self.mutex)
        self.in_flight -= 1
        if self.map.base is not NULL:
            settle_mark(&self.map, start, end - start)
        ring_unlock(&self.mutex)

    cdef void count_attempts(
        self, uint64_t start, uint64_t end, uint32_t attempts
    ) noexcept nogil:
        """Have so many calls count for a batch that was taken, unless it is settled."""
        ring_lock(&self.mutex)
        if self.map.base is not NULL and not read_mark(&self.map, start) & SETTLED:
            mark_taken(&self.map, start, end - start, attempts)
        ring_unlock(&self.mutex)

    cdef void give_back(
        self, uint64_t start, uint64_t end, uint32_t attempts, bint again
    ) noexcept nogil:
        """Have a batch that was taken as it was; `again`: the next take may have it."""
        ring_lock(&self.mutex)
        self.in_flight -= 1
        if self.map.base is not NULL:
            mark_taken(&self.map, start, end - start, attempts)
        if again and self.next == end:
            self.next = start
        ring_unlock(&self.mutex)

    def keep(self, uint64_t start, uint64_t end, uint32_t attempts):
        """Have a batch that was taken as it was before; the next take has the one after it."""
        self.give_back(start, end, attempts, False)

    def append(self, bytes entry not None):
        """Accept an entry with its separator; False if there is no room."""
        cdef uint64_t size = len(entry)
        cdef const char *data = entry
        ring_lock(&self.mutex)
        cdef bint room = self.map.base is not NULL and has_room(&self.map, size)
        if room:
            put_bytes(&self.map, data, size)
            put_cell(&self.map, size)
        ring_unlock(&self.mutex)
        return room

    def finish(self):
        """Release everything: the last store before the file is removed."""
        ring_lock(&self.mutex)
        if self.map.base is not NULL:
            self.map.released = self.map.tail
            store_twice(&self.map, RELEASED_AT, self.map.tail)
        ring_unlock(&self.mutex)

    def populate(self):
        """Take the page faults of all stores to come, in a thread that has the time.

        Returns whether it could: older kernels leave each to the store.
        """
        ring_lock(&self.mutex)
        cdef char *base = NULL if self.populating else self.map.base
        self.populating = self.populating or base is not NULL
        ring_unlock(&self.mutex)
        if base is NULL:
            return False
        cdef int error
        with nogil:
            error = spool_populate(base, self.size)
        ring_lock(&self.mutex)
        self.populating = False
        cdef bint is_left = self.map.base is NULL
        ring_unlock(&self.mutex)
        if is_left:  # leave() has left the rest to this
            spool_unmap(base, self.size)
        return error == 0

    def leave(self):
        """Unmap and unlock the file; what is settled from now on is dispatched again."""
        ring_lock(&self.mutex)
        cdef char *base = NULL if self.populating else self.map.base
        self.map.base = NULL
        ring_unlock(&self.mutex)
        if base is not NULL:
            spool_unmap(base, self.size)
