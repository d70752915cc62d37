# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""Encoded entries, back to back with their separators in one arena."""

from cpython.buffer cimport PyBUF_SIMPLE, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.number cimport PyNumber_AsSsize_t
from cpython.object cimport PyObject
from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ringdispatch._ring cimport Ring
from ringdispatch._spool_map cimport FileMap, put_bytes, put_cell
from ringdispatch._state cimport Item, RingState, ring_lock, ring_unlock

from ringdispatch._ring import short_repr

cdef extern from "Python.h":
    bint PyBytes_CheckExact(PyObject *) noexcept
    void Py_SET_SIZE(PyObject *, Py_ssize_t) noexcept


cdef class BytesBatch:
    """Encoded entries, one after the other.

    `len(batch)` entries; iterating and indexing give each as `bytes`, without its
    separator.

    Attributes:
        payload: All of them, each followed by its separator.
        nbytes: The length of `payload`.
    """

    def __cinit__(self):
        self.payload = b""

    def __dealloc__(self):
        PyMem_RawFree(self.ends)

    @property
    def nbytes(self):
        return len(self.payload)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self.entry(i) for i in range(*index.indices(self.count))]
        cdef Py_ssize_t which = PyNumber_AsSsize_t(index, IndexError)
        if which < 0:
            which += self.count
        if not 0 <= which < <Py_ssize_t> self.count:
            raise IndexError(f"{index}: the length of the batch is {self.count}")
        return self.entry(which)

    def __iter__(self):
        return BatchIterator(self)

    def __repr__(self):
        return f"<BytesBatch of length {self.count}, {self.nbytes} B>"

    def __reduce__(self):
        sizes = [self.size_of(which) for which in range(self.count)]
        return restore_batch, (self.payload, sizes, self.separator_size)

    def json_array(self):
        """The entries as one JSON array; each must be a JSON value.

        Returns:
            `bytes`: `[`, the entries with `,` between them, `]`.
        """
        cdef uint64_t content = len(self.payload) - self.count * self.separator_size
        array = PyBytes_FromStringAndSize(NULL, content + max(self.count, 1) + 1)
        cdef char *to = PyBytes_AS_STRING(array)
        cdef uint64_t which, size
        to[0] = b"["
        for which in range(self.count):
            size = self.size_of(which)
            to += 1
            memcpy(to, PyBytes_AS_STRING(self.payload) + self.offset_of(which), size)
            to += size
            to[0] = b","
        (to if self.count else to + 1)[0] = b"]"
        return array

    cdef bytes entry(self, uint64_t which):
        return PyBytes_FromStringAndSize(
            PyBytes_AS_STRING(self.payload) + self.offset_of(which),
            self.size_of(which),
        )

    cdef uint32_t offset_of(self, uint64_t which) noexcept:
        return self.ends[which - 1] - self.start if which else 0

    cdef uint32_t size_of(self, uint64_t which) noexcept:
        cdef uint32_t end = self.ends[which] - self.start
        return end - self.offset_of(which) - <uint32_t> self.separator_size


def restore_batch(bytes payload not None, list sizes not None, uint64_t separator_size):
    """Make a batch of what another process pickled: the sizes of its entries."""
    cdef BytesBatch batch = BytesBatch.__new__(BytesBatch)
    cdef uint64_t size, end = 0, left = len(payload)
    batch.ends = <uint32_t *> PyMem_RawMalloc(len(sizes) * sizeof(uint32_t))
    if batch.ends is NULL:
        raise MemoryError(f"no memory for a batch of {len(sizes)} entries")
    for size in sizes:
        if size > left or separator_size > left - size:
            break
        end += size + separator_size
        left -= size + separator_size
        batch.ends[batch.count] = <uint32_t> end
        batch.count += 1
    if batch.count < <uint64_t> len(sizes) or left or end > UINT32_MAX:
        raise ValueError("the sizes of a pickled BytesBatch do not fit its payload")
    batch.payload = payload
    batch.separator_size = separator_size
    return batch


cdef class BatchIterator:
    """Iterates over a batch; Cython's generators leak references to their type."""

    cdef BytesBatch batch
    cdef uint64_t next

    def __cinit__(self, BytesBatch batch not None):
        self.batch = batch

    def __iter__(self):
        return self

    def __next__(self):
        # Read once: threads that share it may repeat an entry, but never pass the end.
        cdef uint64_t which = self.next
        if which >= self.batch.count:
            raise StopIteration
        self.next = which + 1
        return self.batch.entry(which)


cdef inline uint64_t in_steps(uint64_t size) noexcept nogil:
    """Rounded up to a power of two, or one and a half of it."""
    cdef uint64_t step = 1
    while 2 * step < size:
        step *= 2
    return step + step // 2 if size <= step + step // 2 else 2 * step


cdef class ByteRing(Ring):
    """Entries as bytes in an arena; a BytesBatch as batch.

    Args:
        capacity: Most entries pending.
        max_batch: Most entries in a batch.
        encode: Converts an entry to bytes; None: entries are bytes.
        separator: What follows each entry.
        max_bytes: Most bytes pending, separators included; the size of the arena.
        max_batch_bytes: Most bytes in a batch.
        file: Not None: entries are kept nowhere until a subclass has a place for them.
        files: For that subclass.
    """

    def __cinit__(
        self,
        uint64_t capacity,
        uint64_t max_batch,
        object encode,
        bytes separator not None,
        uint64_t max_bytes,
        uint64_t max_batch_bytes,
        object file=None,
        object files=None,
    ):
        self.bound = "capacity or max_bytes"
        self.encode = encode
        self.separator = separator
        self.separator_data = PyBytes_AS_STRING(separator)
        self.separator_size = PyBytes_GET_SIZE(separator)
        self.max_bytes = max_bytes
        self.max_batch_bytes = max_batch_bytes
        self.state.most_bytes = max_batch_bytes
        self.arena_bytes = max_bytes
        self.byte_room = UINT64_MAX
        if file is not None:
            self.state.mask = 2 * self.state.mask + 1
            self.state.room = self.byte_room = 0
        cdef uint64_t table = (self.state.mask + 1) * sizeof(uint32_t)
        self.ends = <uint32_t *> PyMem_RawMalloc(table)
        if file is None:
            self.arena = <char *> PyMem_RawMalloc(max_bytes)
        if self.ends is NULL or file is None and self.arena is NULL:
            raise MemoryError(
                f"max_bytes={max_bytes}, capacity={capacity}: no memory for a ring of "
                f"{max_bytes + table:,} bytes; choose smaller ones"
            )
        # touch the pages now, not in a request
        memset(self.ends, 0, table)
        if file is None:
            memset(self.arena, 0, max_bytes)

    def __dealloc__(self):
        if self.byte_room == UINT64_MAX:  # else it is in a file
            PyMem_RawFree(self.arena)
        PyMem_RawFree(self.ends)

    # ---- in

    cpdef object encoded(self, object entry):
        encoded = entry if self.encode is None else self.encode(entry)
        if isinstance(encoded, memoryview) and not encoded.c_contiguous:
            raise self.refusal(entry, encoded)
        # Its owner may change it while the entry waits.
        mutable = isinstance(encoded, (bytearray, memoryview))
        return bytes(encoded) if mutable else encoded

    cdef bint store_plain(self, PyObject *const *given, Py_ssize_t fields) noexcept:
        cdef RingState *state = &self.state
        if fields >= 0 or self.encode is not None or not PyBytes_CheckExact(given[0]):
            return False
        cdef Item item
        item.data = PyBytes_AS_STRING(<object> given[0])
        item.size = PyBytes_GET_SIZE(<object> given[0]) + self.separator_size
        ring_lock(&state.mutex)
        cdef uint64_t pending = self.byte_tail + item.size - self.byte_head
        cdef bint stored = (
            state.tail < state.stop
            and pending <= self.max_bytes
            and self.byte_tail + item.size <= self.byte_room
            and item.size <= state.most_bytes
            and (self.bytes_notified or pending < self.full_batch(item.size))
        )
        if stored:
            self.store(&item)
            state.tail += 1
        ring_unlock(&state.mutex)
        return stored

    cdef int prepare(
        self, PyObject *const *given, Py_ssize_t fields, Item *item
    ) except -1:
        if fields >= 0:
            Ring.prepare(self, given, fields, item)
        entry = <object> given[0]
        encoded = entry
        if self.encode is not None and not item.encoded:
            encoded = self.encode(entry)
        # Other types offer their memory too, such as numpy's numbers and text.
        if not isinstance(encoded, (bytes, bytearray, memoryview)):
            raise self.refusal(entry, encoded)
        try:
            PyObject_GetBuffer(encoded, &item.view, PyBUF_SIMPLE)
        except BufferError as error:
            raise self.refusal(entry, encoded) from error
        item.viewed = True
        item.data = <char *> item.view.buf
        item.size = item.view.len + self.separator_size
        return 0

    cdef object refusal(self, object entry, object encoded):
        if self.encode is None and isinstance(encoded, memoryview):
            return ValueError(
                f"entry={short_repr(entry)}: must be contiguous: pass bytes(entry)"
            )
        if self.encode is None:
            return TypeError(
                f"entry={short_repr(entry)}: must be bytes, bytearray or memoryview; "
                "encode it, or give Bytes(encode=...)"
            )
        return TypeError(
            f"encode={short_repr(self.encode)}: returned {short_repr(encoded)}: "
            "must return bytes or contiguous memory"
        )

    cdef bint fits(self, Item *item) noexcept nogil:
        if self.byte_tail + item.size > self.byte_room:
            # a file frees bytes as it settles
            self.byte_room = self.state.file.byte_released + self.arena_bytes
            if self.byte_tail + item.size > self.byte_room:
                return False
        return self.byte_tail - self.byte_head + item.size <= self.max_bytes

    cdef bint store(self, Item *item) noexcept nogil:
        cdef FileMap *file = self.state.file
        if file is NULL:
            self.put(item.data, item.size - self.separator_size)
            self.put(self.separator_data, self.separator_size)
        else:
            put_bytes(file, item.data, item.size - self.separator_size)
            put_bytes(file, self.separator_data, self.separator_size)
            put_cell(file, item.size)
            self.byte_tail = file.byte_tail
        self.ends[self.state.tail & self.state.mask] = <uint32_t> self.byte_tail
        if item.size > self.largest:
            self.largest = item.size
        if self.bytes_notified or self.byte_tail - self.byte_head < self.full_batch(0):
            return False
        self.bytes_notified = True
        return True

    cdef void put(self, const char *data, uint64_t size) noexcept nogil:
        cdef uint64_t at = self.byte_tail % self.arena_bytes
        cdef uint64_t until_end = min(size, self.arena_bytes - at)
        memcpy(self.arena + at, data, until_end)
        memcpy(self.arena, data + until_end, size - until_end)
        self.byte_tail += size

    cdef uint64_t full_batch(self, uint64_t size) noexcept nogil:
        """Bytes that fill a batch: the limit, or so many that no more entries fit."""
        return min(self.max_batch_bytes, self.max_bytes - max(self.largest, size) + 1)

    cdef PyObject *evict(self) noexcept nogil:
        self.byte_head = self.start_of(self.state.head + 1)
        return NULL

    # ---- out

    cdef uint64_t start_of(self, uint64_t position) noexcept nogil:
        """The byte position at which that entry begins, and the one before ends."""
        if position == self.state.head:
            return self.byte_head
        cdef uint32_t start = self.ends[(position - 1) & self.state.mask]
        return self.byte_head + <uint32_t> (start - <uint32_t> self.byte_head)

    cdef bint is_full(self, uint64_t first) noexcept nogil:
        if self.state.tail - first >= self.state.max_batch:
            return True
        return self.byte_tail - self.start_of(first) >= self.full_batch(0)

    cdef uint64_t batch_end(self, uint64_t first, uint64_t most) noexcept nogil:
        return self.last_before(
            self.start_of(first) + self.max_batch_bytes,
            first,
            first + min(self.state.tail - first, most),
        )

    cdef uint64_t last_before(
        self, uint64_t end, uint64_t low, uint64_t high
    ) noexcept nogil:
        """The last position, of `low` to `high`, at which no byte lies beyond `end`."""
        cdef uint64_t middle
        while low < high:
            middle = (low + high + 1) // 2
            if self.start_of(middle) <= end:
                low = middle
            else:
                high = middle - 1
        return low

    cdef object allocate_batch(self, uint64_t count):
        cdef BytesBatch batch = BytesBatch.__new__(BytesBatch)
        batch.ends = <uint32_t *> PyMem_RawMalloc(count * sizeof(uint32_t))
        if batch.ends is NULL:
            raise MemoryError(f"no memory for a batch of length {count}")
        ring_lock(&self.state.mutex)
        # On a free-threaded build other entries may be the oldest by now.
        cdef uint64_t end = self.state.head
        end += min(self.state.tail - self.state.head, count)
        cdef uint64_t size = self.start_of(end) - self.byte_head
        ring_unlock(&self.state.mutex)
        # glibc reuses memory up to the largest size freed so far. Anything larger is
        # mapped anew, page by page while the batch is copied: 15 MB in 10 ms instead of
        # 2.5. With sizes in steps, a batch is seldom the largest so far.
        size = min(in_steps(size), self.max_batch_bytes)
        batch.payload = PyBytes_FromStringAndSize(NULL, size)
        batch.separator_size = self.separator_size
        return batch

    cdef uint64_t copy_out(self, uint64_t count, object storage) noexcept:
        cdef uint64_t head = self.state.head
        cdef uint64_t end
        end = self.byte_head + PyBytes_GET_SIZE((<BytesBatch> storage).payload)
        count = self.last_before(end, head, head + count) - head
        if self.arena is NULL or self.state.file is not NULL and not self.state.file.base:
            return 0  # the file was left, or this is a forked child
        self.copy_to(<BytesBatch> storage, count)
        self.byte_head = self.start_of(head + count)
        return count

    cdef void entries_left(self) noexcept nogil:
        if self.state.head == self.state.tail:
            self.largest = 0
        self.bytes_notified = False

    cdef void copy_to(self, BytesBatch batch, uint64_t count) noexcept:
        cdef uint64_t first = self.state.head & self.state.mask
        cdef uint64_t until_end = min(count, self.state.mask + 1 - first)
        memcpy(batch.ends, self.ends + first, until_end * sizeof(uint32_t))
        memcpy(
            batch.ends + until_end, self.ends, (count - until_end) * sizeof(uint32_t)
        )
        batch.start = <uint32_t> self.byte_head
        batch.count = count
        cdef char *payload = PyBytes_AS_STRING(batch.payload)
        cdef uint64_t size = self.start_of(self.state.head + count) - self.byte_head
        first = self.byte_head % self.arena_bytes
        until_end = min(size, self.arena_bytes - first)
        memcpy(payload, self.arena + first, until_end)
        memcpy(payload + until_end, self.arena, size - until_end)
        if size < <uint64_t> PyBytes_GET_SIZE(batch.payload):
            payload[size] = 0  # as every bytes object ends
            Py_SET_SIZE(<PyObject *> batch.payload, size)

    cdef void reset_layout(self) noexcept:
        self.byte_head = self.byte_tail = self.largest = 0
        self.bytes_notified = False

    cdef uint64_t count_bytes(self) noexcept nogil:
        return self.byte_tail - self.byte_head

    cdef tuple bounds(self, uint64_t pending_bytes):
        return pending_bytes, self.max_bytes, self.max_batch_bytes
