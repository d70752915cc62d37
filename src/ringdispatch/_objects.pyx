# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""References to objects of any type; a batch is a list."""

from cpython.list cimport PyList_New
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from ringdispatch._ring cimport Ring
from ringdispatch._state cimport Item, Py_DECREF, Py_INCREF, RingState

cdef extern from "Python.h":
    ctypedef struct PyListObject:
        PyObject **ob_item
    void Py_SET_SIZE(PyObject *, Py_ssize_t) noexcept


cdef class ObjectRing(Ring):
    """Keeps the references in an array."""

    def __cinit__(self, uint64_t capacity, uint64_t max_batch):
        cdef size_t size = (self.state.mask + 1) * sizeof(PyObject *)
        self.state.cells = <PyObject **> PyMem_RawMalloc(size)
        if self.state.cells is NULL:
            raise MemoryError(
                f"capacity={capacity}: no memory for a ring of {size:,} bytes; "
                "choose a smaller capacity"
            )
        memset(self.state.cells, 0, size)  # touch the pages now, not in a request

    def __dealloc__(self):
        cdef RingState *state = &self.state
        while state.head < state.tail:
            state.head += 1
            Py_DECREF(state.cells[(state.head - 1) & state.mask])
        PyMem_RawFree(state.cells)

    cdef PyObject *evict(self) noexcept nogil:
        return self.state.cells[self.state.head & self.state.mask]

    cdef bint store(self, Item *item) noexcept nogil:
        Py_INCREF(item.entry)
        self.state.cells[self.state.tail & self.state.mask] = item.entry
        return False

    cdef object allocate_batch(self, uint64_t count):
        return PyList_New(count)

    cdef uint64_t copy_out(self, uint64_t count, object storage) noexcept:
        Py_SET_SIZE(<PyObject *> storage, count)
        cdef PyObject **items = (<PyListObject *> storage).ob_item
        cdef uint64_t first = self.state.head & self.state.mask
        cdef uint64_t until_end = min(count, self.state.mask + 1 - first)
        memcpy(items, self.state.cells + first, until_end * sizeof(PyObject *))
        cdef uint64_t rest = count - until_end
        memcpy(items + until_end, self.state.cells, rest * sizeof(PyObject *))
        return count
