# cython: language_level=3, freethreading_compatible=True
"""A spool's file in memory, for the ring that lies in it and for its reader.

The offsets of the header's changing words, of the cells and of the arena; how an entry
is stored, a batch marked, and room released. `_spool_header` has the fixed header.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "_crc32c.h":
    ctypedef uint32_t (*crc32c_way)(uint32_t, const char *, size_t) noexcept nogil
    crc32c_way crc32c

cdef extern from *:
    """
    /* Also a barrier for the compiler: what is written before is stored before. A killed
       process has done all of its stores up to some instruction, and none after it. */
    #ifdef __GNUC__
      #define publish(word, value) __atomic_store_n(word, value, __ATOMIC_RELEASE)
    #else
      #define publish(word, value) (*(volatile uint64_t *) (word) = (value))
    #endif
    """
    void publish(uint64_t *, uint64_t) noexcept nogil

cdef enum:
    FIXED_SIZE = 1024  # of the fixed header
    UUID_AT = 16
    TAIL_AT = 1024
    RELEASED_AT = 1088
    CELLS_AT = 4096

# The word of a mark.
cdef extern from *:
    """
    #define COUNT_MASK 0xFFFFFFFu
    #define ATTEMPTS_SHIFT 28
    #define MOST_ATTEMPTS 7u
    #define SETTLED 0x80000000u
    """
    const uint32_t COUNT_MASK
    const int ATTEMPTS_SHIFT
    const uint32_t MOST_ATTEMPTS
    const uint32_t SETTLED

# Positions only grow, and cell `position & mask` holds the entry's.
ctypedef struct FileCell:
    uint64_t position
    uint32_t start  # of its bytes in the arena, where they may wrap around
    uint32_t size
    uint32_t crc  # over the three above and the bytes
    uint32_t unused
    # Where a batch begins that was taken: its count, the calls made for it and whether
    # it is settled, and a crc32c over the position and these, which what is left of an
    # earlier lap fails. One word, so that no kill leaves half of it.
    uint64_t mark

# Read and written under one lock only, of the ring or of the SpoolFile. `base` is NULL
# once the file is left, and in a forked child; nothing may be called then.
ctypedef struct FileMap:
    char *base
    uint64_t mask
    uint64_t cells  # that there are; fewer where the file was cut
    uint64_t arena_at
    uint64_t arena_bytes
    uint32_t seed
    uint64_t tail
    uint64_t byte_tail  # of all bytes accepted; modulo the arena's size, where the next go
    uint64_t released  # every batch below it is settled
    uint64_t byte_released


cdef inline FileCell *cell_of(FileMap *map, uint64_t position) noexcept nogil:
    return <FileCell *> (map.base + CELLS_AT) + (position & map.mask)


cdef inline void store_twice(FileMap *map, uint64_t at, uint64_t value) noexcept nogil:
    """Store the word, then its complement: a zeroed page is not an empty file."""
    publish(<uint64_t *> (map.base + at), value)
    publish(<uint64_t *> (map.base + at + 8), ~value)


cdef inline uint32_t crc_of(FileMap *map, FileCell *cell) noexcept nogil:
    cdef uint64_t first = min(cell.size, map.arena_bytes - cell.start)
    cdef uint32_t crc = crc32c(map.seed, <const char *> cell, 16)
    crc = crc32c(crc, map.base + map.arena_at + cell.start, first)
    if first < cell.size:
        crc = crc32c(crc, map.base + map.arena_at, cell.size - first)
    return crc


cdef inline bint has_room(FileMap *map, uint64_t size) noexcept nogil:
    """Whether an entry of that size can be accepted."""
    return (
        map.tail - map.released <= map.mask
        and map.byte_tail - map.byte_released + size <= map.arena_bytes
    )


cdef inline void put_bytes(FileMap *map, const char *data, uint64_t size) noexcept nogil:
    """Write bytes of the next entry, after those that are there."""
    cdef char *arena = map.base + map.arena_at
    cdef uint64_t at = map.byte_tail % map.arena_bytes
    cdef uint64_t until_end = min(size, map.arena_bytes - at)
    memcpy(arena + at, data, until_end)
    memcpy(arena, data + until_end, size - until_end)
    map.byte_tail += size


cdef inline void put_cell(FileMap *map, uint64_t size) noexcept nogil:
    """Accept the entry of which so many bytes were written, at position `tail`."""
    cdef FileCell *cell = cell_of(map, map.tail)
    cell.position = map.tail
    cell.start = <uint32_t> ((map.byte_tail - size) % map.arena_bytes)
    cell.size = <uint32_t> size
    cell.crc = crc_of(map, cell)
    map.tail += 1
    store_twice(map, TAIL_AT, map.tail)


cdef inline uint64_t mark_of(FileMap *map, uint64_t position, uint32_t word) noexcept nogil:
    cdef char data[12]
    memcpy(data, &position, 8)
    memcpy(data + 8, &word, 4)
    return <uint64_t> crc32c(map.seed, data, 12) << 32 | word


cdef inline void mark_taken(
    FileMap *map, uint64_t position, uint64_t count, uint32_t attempts
) noexcept nogil:
    """Note where the batch ends that begins there, before its call."""
    cdef uint32_t word = <uint32_t> count | attempts << ATTEMPTS_SHIFT
    publish(&cell_of(map, position).mark, mark_of(map, position, word))


cdef inline uint32_t read_mark(FileMap *map, uint64_t position) noexcept nogil:
    """The word of the batch that begins there; 0 where none does, or its mark is bad."""
    if position & map.mask >= map.cells:
        return 0
    cdef uint64_t mark = cell_of(map, position).mark
    cdef uint32_t word = <uint32_t> mark
    cdef uint64_t most = min(map.tail - position, map.cells)
    if mark != mark_of(map, position, word) or not 1 <= word & COUNT_MASK <= most:
        return 0
    return word


cdef inline void release_bytes(FileMap *map, uint64_t last) noexcept nogil:
    """Release the bytes up to the end of that entry's; a batch has not all there are."""
    if last & map.mask >= map.cells:
        return
    cdef FileCell *cell = cell_of(map, last)
    cdef uint64_t end = <uint64_t> cell.start + cell.size
    cdef uint64_t begin = map.byte_released % map.arena_bytes
    map.byte_released += (end + map.arena_bytes - begin) % map.arena_bytes


cdef inline void settle_mark(
    FileMap *map, uint64_t position, uint64_t count
) noexcept nogil:
    """Settle the batch that begins there, and release the settled prefix."""
    cdef uint32_t word = <uint32_t> count | SETTLED
    cdef uint64_t released = map.released
    publish(&cell_of(map, position).mark, mark_of(map, position, word))
    while released < map.tail and read_mark(map, released) & SETTLED:
        released += read_mark(map, released) & COUNT_MASK
        release_bytes(map, released - 1)
    if released > map.released:
        map.released = released
        store_twice(map, RELEASED_AT, released)
