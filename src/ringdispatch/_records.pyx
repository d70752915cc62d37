# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""Rows of numbers, packed as numpy lays them out.

Pending rows lie in one buffer. A batch gets the buffer itself, and the ring goes on in
another; a buffer is used again once its batch is freed. numpy is not needed here: it
reads the buffers through the buffer protocol.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from libc.stdint cimport INT64_MAX, uint64_t
from libc.string cimport memcpy, memset

from ringdispatch._pack cimport (
    BYTES,
    FLOAT32,
    FLOAT64,
    INTEGER8,
    INTEGER16,
    INTEGER32,
    INTEGER64,
    Field,
    pack,
    pack_extreme,
)
from ringdispatch._ring cimport Ring
from ringdispatch._state cimport (
    Item,
    ROW_BYTES,
    RingState,
    ring_lock,
    ring_mutex,
    ring_renew,
    ring_unlock,
)

from ringdispatch._ring import short_repr

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    # on borrowed pointers
    bint PyTuple_Check(PyObject *) noexcept
    Py_ssize_t PyTuple_GET_SIZE(PyObject *) noexcept
    ctypedef struct PyTupleObject:
        PyObject **ob_item

# By numpy's letter and the size; bools are 0 and 1, times integers of their unit. Any
# other type is kept as bytes.
KINDS = {
    ("f", 8): FLOAT64,
    ("f", 4): FLOAT32,
    ("i", 8): INTEGER64,
    ("u", 8): INTEGER64,
    ("M", 8): INTEGER64,
    ("m", 8): INTEGER64,
    ("i", 4): INTEGER32,
    ("u", 4): INTEGER32,
    ("i", 2): INTEGER16,
    ("u", 2): INTEGER16,
    ("i", 1): INTEGER8,
    ("u", 1): INTEGER8,
    ("b", 1): INTEGER8,
}


cdef class Buffers:
    """A pool of buffers of one size."""

    # never changed
    cdef uint64_t size
    cdef uint64_t most_free
    # under `mutex`: batches are freed in any thread
    cdef ring_mutex mutex
    cdef char **free
    cdef uint64_t free_count
    cdef uint64_t generation  # of the process: raised in each forked child

    def __cinit__(self, uint64_t size, uint64_t count):
        if count > <uint64_t> PY_SSIZE_T_MAX // sizeof(char *):
            raise MemoryError()
        self.size = size
        self.most_free = count
        self.free = <char **> PyMem_RawMalloc(count * sizeof(char *))
        if self.free is NULL:
            raise MemoryError()
        cdef char *memory
        while self.free_count < count:
            memory = self.get_new()
            memset(memory, 0, size)  # touch the pages now, not in a request
            self.free[self.free_count] = memory
            self.free_count += 1

    def __dealloc__(self):
        while self.free_count:
            self.free_count -= 1
            PyMem_RawFree(self.free[self.free_count])
        PyMem_RawFree(self.free)

    cdef char *get_new(self) except NULL:
        cdef char *memory = <char *> PyMem_RawMalloc(self.size)
        if memory is NULL:
            raise MemoryError(f"no {self.size:,} bytes for a batch of records")
        return memory

    cdef char *get(self) except NULL:
        """Take a buffer from the pool; allocate one if the pool is empty."""
        cdef char *memory = NULL
        ring_lock(&self.mutex)
        if self.free_count:
            self.free_count -= 1
            memory = self.free[self.free_count]
        ring_unlock(&self.mutex)
        return self.get_new() if memory is NULL else memory

    cdef void put(self, char *memory, uint64_t generation) noexcept:
        """Return a buffer to the pool, or free it if the pool is full."""
        ring_lock(&self.mutex)
        if generation != self.generation:
            memory = NULL  # of the process before the fork: it may be in use there
        elif self.free_count < self.most_free:
            self.free[self.free_count] = memory
            self.free_count += 1
            memory = NULL
        ring_unlock(&self.mutex)
        PyMem_RawFree(memory)

    cdef void reset(self) noexcept:
        """Start empty in a forked child: another thread may have held the lock."""
        ring_renew(&self.mutex)
        self.free_count = 0
        self.generation += 1


@cython.no_gc  # it refers to nothing that could refer to it
cdef class RecordBuffer:
    """The buffer of a batch of records; freed, it returns its memory to the pool."""

    cdef Buffers buffers
    cdef uint64_t generation
    cdef char *memory
    cdef uint64_t offset
    cdef uint64_t size

    def __dealloc__(self):
        if self.memory is not NULL:
            self.buffers.put(self.memory, self.generation)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.memory + self.offset, self.size, 0, flags)


cdef class RecordRing(Ring):
    """Keeps rows of a fixed size; `as_batch` makes a batch of a buffer.

    Args:
        capacity: Most rows pending.
        max_batch: Most rows in a batch.
        max_in_flight: Most batches in flight at once.
        itemsize: Bytes of a row.
        rules: For each field its `kind`, its `offset` and `size` in bytes, and the
            integers that it holds, from `low` to `high`; `plain(value)` turns a number
            of any type into a bool, int or float, or returns None; `refusal(value)`
            returns the error to raise; `str` describes the field.
        as_batch: Makes a batch of an object that offers its rows as a buffer.
    """

    # never changed
    cdef Field *fields
    cdef Py_ssize_t field_count
    cdef uint64_t itemsize
    cdef bint padded  # between its fields
    cdef list rules
    cdef Buffers buffers
    # under the ring's lock
    cdef char *memory
    cdef uint64_t first  # row of the oldest pending entry

    def __cinit__(
        self,
        uint64_t capacity,
        uint64_t max_batch,
        uint64_t max_in_flight,
        uint64_t itemsize,
        list rules,
        object as_batch,
    ):
        self.rules = rules
        self.as_value = as_batch
        self.itemsize = itemsize
        self.field_count = len(rules)
        self.fields = <Field *> PyMem_RawMalloc(self.field_count * sizeof(Field))
        if self.fields is NULL:
            raise MemoryError()
        cdef Field *field = self.fields
        cdef uint64_t used = 0
        for rule in rules:
            field.offset, field.size = rule.offset, rule.size
            field.kind = KINDS.get((rule.kind, rule.size), BYTES)
            used += field.size
            if field.kind in (INTEGER64, INTEGER32, INTEGER16, INTEGER8):
                field.low, field.high = rule.low, min(rule.high, INT64_MAX)
            field += 1
        self.padded = used < itemsize
        size = <object> capacity * itemsize  # a Python int, which does not overflow
        try:
            self.buffers = Buffers(size, max_in_flight + 1)
        except (MemoryError, OverflowError):
            raise MemoryError(
                f"capacity={capacity}, max_in_flight={max_in_flight}: no memory for "
                f"{max_in_flight + 1} times {size:,} bytes; choose smaller ones"
            ) from None
        self.memory = self.buffers.get()

    def __dealloc__(self):
        PyMem_RawFree(self.memory)
        PyMem_RawFree(self.fields)

    # ---- in

    cdef bint store_plain(self, PyObject *const *given, Py_ssize_t fields) noexcept:
        cdef RingState *state = &self.state
        if fields < 0:
            if not PyTuple_Check(given[0]):
                return False
            fields = PyTuple_GET_SIZE(given[0])
            given = (<PyTupleObject *> given[0]).ob_item
        if fields != self.field_count or self.padded:
            return False
        cdef Field *field = self.fields
        cdef Field *end = field + fields
        ring_lock(&state.mutex)
        cdef bint stored = state.tail < state.stop
        cdef char *row = self.next_row()
        while stored and field < end:
            stored = pack(field, given[0], row)
            field += 1
            given += 1
        state.tail += stored
        ring_unlock(&state.mutex)
        return stored

    cdef inline char *next_row(self) noexcept nogil:
        cdef uint64_t row = self.first + (self.state.tail - self.state.head)
        return self.memory + self.itemsize * (
            row if row < self.capacity else row - self.capacity
        )

    cdef int prepare(
        self, PyObject *const *given, Py_ssize_t fields, Item *item
    ) except -1:
        if fields < 0:
            if not PyTuple_Check(given[0]):
                raise TypeError(
                    f"entry={short_repr(<object> given[0])}: must be a tuple of "
                    f"{self.describe()}"
                )
            fields = PyTuple_GET_SIZE(given[0])
            given = (<PyTupleObject *> given[0]).ob_item
        if fields != self.field_count:
            row = tuple([<object> given[i] for i in range(fields)])
            raise ValueError(
                f"entry={short_repr(row)}: has {fields}, "
                f"must have {self.describe()}"
            )
        cdef char *row_data = item.row
        if self.itemsize > ROW_BYTES:
            room = PyBytes_FromStringAndSize(NULL, self.itemsize)
            PyObject_GetBuffer(room, &item.view, PyBUF_SIMPLE)
            item.viewed = True
            row_data = <char *> item.view.buf
        if self.padded:
            memset(row_data, 0, self.itemsize)
        item.data = row_data
        cdef Py_ssize_t i
        for i in range(fields):
            if not pack(&self.fields[i], given[i], row_data):
                self.convert(i, <object> given[i], item)
        return 0

    cdef int convert(self, Py_ssize_t which, object value, Item *item) except -1:
        """Pack a value that is no plain number, or refuse it; user code may run."""
        rule = self.rules[which]
        try:
            plain = rule.plain(value)
            if plain is not None:
                if pack_extreme(
                    &self.fields[which], <PyObject *> plain, <char *> item.data
                ):
                    return 0
            raise rule.refusal(value)
        except BaseException:
            if item.viewed:
                PyBuffer_Release(&item.view)
            raise

    def describe(self):
        """The fields in words, for messages."""
        noun = "field" if self.field_count == 1 else "fields"
        return f"{self.field_count} {noun}: " + ", ".join(map(str, self.rules))

    cdef bint store(self, Item *item) noexcept nogil:
        memcpy(self.next_row(), item.data, self.itemsize)
        return False

    cdef PyObject *evict(self) noexcept nogil:
        self.advance(1)
        return NULL

    # ---- out

    cdef object allocate_batch(self, uint64_t count):
        cdef RecordBuffer buffer = RecordBuffer.__new__(RecordBuffer)
        buffer.buffers = self.buffers
        buffer.generation = self.buffers.generation
        buffer.memory = self.buffers.get()
        return buffer

    cdef uint64_t copy_out(self, uint64_t count, object storage) noexcept:
        cdef RecordBuffer buffer = storage
        cdef char *memory
        cdef uint64_t left = self.state.tail - self.state.head - count
        buffer.size = count * self.itemsize
        if left <= count <= self.capacity - self.first:
            # The batch gets the buffer itself; the rows that stay are fewer, and are
            # copied to the new one.
            self.copy_rows(buffer.memory, self.first + count, left)
            memory, self.memory = self.memory, buffer.memory
            buffer.memory, buffer.offset = memory, self.first * self.itemsize
            self.first = 0
        else:
            self.copy_rows(buffer.memory, self.first, count)
            buffer.offset = 0
            self.advance(count)
        return count

    cdef void copy_rows(self, char *to, uint64_t first, uint64_t count) noexcept nogil:
        if first >= self.capacity:
            first -= self.capacity
        cdef uint64_t until_end = min(count, self.capacity - first)
        cdef uint64_t size = until_end * self.itemsize
        memcpy(to, self.memory + first * self.itemsize, size)
        memcpy(to + size, self.memory, (count - until_end) * self.itemsize)

    cdef void advance(self, uint64_t count) noexcept nogil:
        self.first += count
        if self.first >= self.capacity:
            self.first -= self.capacity

    cdef void reset_layout(self) noexcept:
        self.buffers.reset()
        self.first = 0

    cdef uint64_t count_bytes(self) noexcept nogil:
        return (self.state.tail - self.state.head) * self.itemsize

    cdef tuple bounds(self, uint64_t pending_bytes):
        return (
            pending_bytes,
            self.capacity * self.itemsize,
            self.state.max_batch * self.itemsize,
        )
