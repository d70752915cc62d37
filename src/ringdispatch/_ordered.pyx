# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""An insertion-ordered set, for queues served first come, first served."""

cimport cython
from cpython.ref cimport PyObject


cdef class Node:
    cdef object item
    # borrowed: the set's dict owns every node
    cdef PyObject *before
    cdef PyObject *after


@cython.final
@cython.no_gc_clear  # its pointers would lead to nodes that are gone
cdef class OrderedSet:
    """Objects compared by identity; from any thread, each call is one operation.

    Every call but `first_few` takes the same time however many there are. A dict that
    is emptied from its front does not, and an OrderedDict crashes where one thread
    without the GIL iterates while another changes it.
    """

    cdef dict nodes
    cdef PyObject *oldest
    cdef PyObject *newest

    def __cinit__(self):
        self.nodes = {}

    def __len__(self):
        return len(self.nodes)

    def __contains__(self, item):
        return item in self.nodes

    def __iter__(self):
        """Iterate over what it holds now, whatever is added or discarded meanwhile."""
        return iter(self.first_few(len(self.nodes)))

    def add(self, item):
        """Put the item last, unless it is there."""
        cdef Node node = Node.__new__(Node)
        node.item = item
        with cython.critical_section(self):
            if item not in self.nodes:
                self.append(node)

    def add_first(self, item):
        """Put the item first, wherever it was."""
        cdef Node node = Node.__new__(Node)
        cdef Node former
        node.item = item
        with cython.critical_section(self):
            former = self.nodes.get(item)
            if former is not None:
                self.unlink(former)
            self.nodes[item] = node
            node.after = self.oldest
            if self.oldest is NULL:
                self.newest = <PyObject *>node
            else:
                (<Node>self.oldest).before = <PyObject *>node
            self.oldest = <PyObject *>node

    def move(self, item, OrderedSet other):
        """Put the item last in the other set, if it is in this one."""
        cdef Node node = Node.__new__(Node)
        node.item = item
        with cython.critical_section(self, other):
            if item in self.nodes:
                if item not in other.nodes:
                    other.append(node)
                self.unlink(self.nodes.pop(item))

    def discard(self, item):
        """Take the item out; returns whether it was there."""
        cdef Node node
        with cython.critical_section(self):
            node = self.nodes.pop(item, None)
            if node is not None:
                self.unlink(node)
        return node is not None

    def first(self):
        """The first in order, or None."""
        cdef object item = None
        with cython.critical_section(self):
            if self.oldest is not NULL:
                item = (<Node>self.oldest).item
        return item

    def first_few(self, Py_ssize_t count):
        """A list of the first `count` in order, or of all where there are fewer."""
        cdef list found = []  # first: it may have the collector run, on 3.11
        cdef PyObject *each
        with cython.critical_section(self):
            each = self.oldest
            while each is not NULL and count > 0:
                found.append((<Node>each).item)
                each = (<Node>each).after
                count -= 1
        return found

    cdef int append(self, Node node) except -1:
        self.nodes[node.item] = node
        node.before = self.newest
        if self.newest is NULL:
            self.oldest = <PyObject *>node
        else:
            (<Node>self.newest).after = <PyObject *>node
        self.newest = <PyObject *>node
        return 0

    cdef void unlink(self, Node node) noexcept:
        if node.before is NULL:
            self.oldest = node.after
        else:
            (<Node>node.before).after = node.after
        if node.after is NULL:
            self.newest = node.before
        else:
            (<Node>node.after).before = node.before
