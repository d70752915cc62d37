# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps out members nobody asked for; mypy.stubtest compares the rest.)
"""How entries come into a ring: `enqueue`, in C from the caller down to the slot.

One number, `stop`, stands for everything that can keep an enqueue from simply storing:
a full or closed ring, a window not yet open, a batch that is full. Below it an enqueue
is a store and an increment; at it, `admit` sorts out why.
"""

from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint64_t

from ringdispatch._ring cimport (
    Core,
    FastCall,
    Item,
    LOOK_ROUND,
    Py_INCREF,
    Py_XDECREF,
    Ring,
    move_head,
    ring_lock,
    ring_unlock,
    set_check,
    set_stop,
)

from types import GenericAlias

cdef extern from "Python.h":
    ctypedef struct PyMethodDef:
        const char *ml_name
        void *ml_meth
        int ml_flags
        const char *ml_doc
    PyObject *Py_None
    PyObject *Py_True
    void PyBuffer_Release(Py_buffer *)
    int METH_FASTCALL
    int METH_KEYWORDS
    object PyDescr_NewMethod(PyTypeObject *, PyMethodDef *)

cdef enum:
    DROP_NEWEST
    DROP_OLDEST
    RAISE
    WAIT

# Given where it is not the fields of a row that come in.
cdef enum:
    ONE_ENTRY = -1

# What came of an entry, as bits.
cdef enum:
    REFUSED = 0
    STORED = 1
    OPENING = 2  # it opened a window
    REACHED = 4  # it filled a batch, or it is time to look round
    FIRST_DROP = 8  # it is the first drop since ring.told()
    NO_ROOM = 16  # refused where the caller wants to know that it is for want of room
    UNTIMED = 32  # nothing done: it would open a window, and the time is not known
    ADMISSIBLE = 64  # nothing done: there seems to be room

POLICIES = {"drop_newest": DROP_NEWEST, "drop_oldest": DROP_OLDEST, "raise": RAISE}


class Full(Exception):
    """The ring is full and `on_full="raise"`: the entry was not accepted."""


cdef Core unattached  # closed and empty, so that enqueue needs no test for NULL


cdef class Producer:
    """What every dispatcher is to those who enqueue; policy is the subclass's.

    The subclass gives `_now()`, and three hooks that `enqueue` calls after the entry is
    in the ring and the lock is free: `_opened(position, context)` when a window opens,
    `_reached()` when a batch is full and every 4 096 entries, `_dropped()` at the first
    drop since `ring.told()`. They may be entered again from a signal handler or a
    finalizer.
    """

    cdef Ring _ring
    cdef Core *core
    cdef int on_full

    def __cinit__(self, *args, **kwargs):
        self.core = &unattached

    __class_getitem__ = classmethod(GenericAlias)

    @property
    def attached(self):
        """Whether the constructor came as far as making a ring."""
        return self._ring is not None

    @property
    def ring(self):
        """Where entries wait."""
        if self._ring is None:
            raise RuntimeError(f"{type(self).__name__}.__init__ was not called")
        return self._ring

    def _attach(self, Ring ring not None, on_full):
        if self._ring is not None:
            raise RuntimeError(f"{type(self).__name__}.__init__ was called twice")
        self._ring = ring
        self.on_full = POLICIES[on_full]
        self.core = &ring.core
        self.core.otherwise = enqueue_slowly if self.core.slots else enqueue_plain

    def _offer(self, entry, context):
        """Enqueue what ring.encoded() gave: None, and nothing counted, when full."""
        cdef PyObject *given = <PyObject *> entry
        return admit(self, &given, ONE_ENTRY, context, WAIT)

    cdef int store_timed(self, Item *item, int on_full) except -1:
        """Store what would open a window: only that needs the time."""
        try:
            item.now = self._now()
        except BaseException:
            if item.viewed:
                PyBuffer_Release(&item.view)
            raise
        item.timed = True
        return store_locked(self._ring, item, on_full)

    def _reject_full(self):
        """Count an entry that waited for room in vain."""
        ring_lock(&self.core.mutex)
        self.core.rejected_full += 1
        cdef bint tell = not self.core.telling
        self.core.telling = True
        ring_unlock(&self.core.mutex)
        if tell:
            self._dropped()


cdef PyObject *enqueue(
    PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
) noexcept:
    cdef Core *core = (<Producer> self).core
    cdef uint64_t tail
    if kwnames is NULL and (nargs == 1 or nargs == 2):
        ring_lock(&core.mutex)
        tail = core.tail
        if tail < core.own_stop:
            Py_INCREF(args[0])
            core.slots[tail & core.mask] = args[0]
            core.tail = tail + 1
            ring_unlock(&core.mutex)
            Py_INCREF(Py_True)
            return Py_True
        ring_unlock(&core.mutex)
    return core.otherwise(self, args, nargs, kwnames)


cdef PyObject *enqueue_plain(
    PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
) noexcept:
    """The fast path of layouts that keep no references."""
    if kwnames is NULL and (nargs == 1 or nargs == 2):
        if (<Producer> self)._ring.store_plain(args, ONE_ENTRY):
            Py_INCREF(Py_True)
            return Py_True
    return enqueue_slowly(self, args, nargs, kwnames)


cdef PyObject *enqueue_slowly(
    PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
) noexcept:
    """What the fast path could not do; nearly always with the entry alone."""
    if kwnames is NULL and nargs == 1:
        return admit_entry(self, args, ONE_ENTRY, Py_None, (<Producer> self).on_full)
    return sort_out(self, args, nargs, kwnames)


cdef object enqueue_anyhow(
    Producer self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
):
    """Sort out the arguments as `def enqueue(self, entry, context=None)` would."""
    if nargs == 2 and kwnames is NULL or (
        nargs == 1 and <object> kwnames == ("context",)
    ):
        return admit(self, args, ONE_ENTRY, <object> args[1], self.on_full)
    given = [<object> args[i] for i in range(nargs)]
    named = {}
    if kwnames is not NULL:
        for i, name in enumerate(<tuple> kwnames):
            named[name] = <object> args[nargs + i]
    entry, context = Arguments.enqueue(*given, **named)
    cdef PyObject *only = <PyObject *> entry
    return admit(self, &only, ONE_ENTRY, context, self.on_full)


# Called through pointers, so that the compiler neither inlines the slow paths into the
# fast one nor saves registers for them there.
ctypedef PyObject *(*Admission)(
    PyObject *, PyObject *const *, Py_ssize_t, PyObject *, int
) noexcept
cdef FastCall sort_out = <FastCall> enqueue_anyhow
cdef FastCall sort_out_row = <FastCall> enqueue_row_anyhow
cdef Admission admit_entry = <Admission> admit
unattached.otherwise = enqueue_slowly


cdef PyObject *enqueue_row(
    PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
) noexcept:
    if kwnames is NULL and (<Producer> self).core is not &unattached:
        if (<Producer> self)._ring.store_plain(args, nargs):
            Py_INCREF(Py_True)
            return Py_True
    return sort_out_row(self, args, nargs, kwnames)


cdef object enqueue_row_anyhow(
    Producer self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
):
    """Sort out the arguments as def enqueue_row(self, *fields, context=None) would."""
    context = None
    if kwnames is not NULL:
        if <object> kwnames != ("context",):
            raise TypeError("enqueue_row() takes the fields of a row, and context=")
        context = <object> args[nargs]
    return admit(self, args, nargs, context, self.on_full)


class Arguments:
    """Python's own complaint about wrong arguments, under the name of the method."""

    @staticmethod
    def enqueue(entry, context=None):
        return entry, context


cdef object admit(
    Producer self,
    PyObject *const *given,
    Py_ssize_t fields,
    object context,
    int on_full,
):
    """Enqueue whatever the fast path could not, then tell those who must know of it."""
    cdef Core *core = self.core
    cdef Item item
    if core is &unattached:
        raise RuntimeError(f"{type(self).__name__}.__init__ was not called")
    # What will be refused is not prepared first: a full ring costs no encoding.
    ring_lock(&core.mutex)
    cdef int outcome = refuse(core, on_full)
    ring_unlock(&core.mutex)
    if outcome == REFUSED:
        return False
    if outcome == ADMISSIBLE:
        item.size = 0
        item.encoded = on_full == WAIT
        item.viewed = item.timed = False
        item.displaced = NULL
        self._ring.prepare(given, fields, &item)
        outcome = store_locked(self._ring, &item, on_full)
        if outcome == UNTIMED:
            outcome = self.store_timed(&item, on_full)
        if item.viewed:
            PyBuffer_Release(&item.view)
        Py_XDECREF(item.displaced)
        if outcome == STORED:
            return True
    return announce(self, context, on_full, outcome, item.position)


cdef inline int refuse(Core *core, int on_full) noexcept nogil:
    """Count an entry that can't come in, whatever its size; called under the lock."""
    if core.tail - core.head < core.limit:
        return ADMISSIBLE
    if core.limit == 0:
        core.rejected_closed += 1
        return REFUSED | first_drop(core)
    if on_full == DROP_OLDEST:
        return ADMISSIBLE
    return refuse_full(core, on_full)


cdef inline int refuse_full(Core *core, int on_full) noexcept nogil:
    if on_full == WAIT:
        return NO_ROOM
    core.rejected_full += 1
    cdef int outcome = NO_ROOM if on_full == RAISE else REFUSED
    if core.rejected_full % LOOK_ROUND == 0:
        outcome |= REACHED
    return outcome | first_drop(core)


cdef inline int first_drop(Core *core) noexcept nogil:
    if core.telling:
        return 0
    core.telling = True
    return FIRST_DROP


cdef inline int store_locked(Ring ring, Item *item, int on_full) noexcept nogil:
    """Store the entry or refuse it, in one critical section; the outcome."""
    ring_lock(&ring.core.mutex)
    cdef int outcome = store_or_refuse(ring, item, on_full)
    ring_unlock(&ring.core.mutex)
    return outcome


cdef inline int store_or_refuse(Ring ring, Item *item, int on_full) noexcept nogil:
    cdef Core *core = &ring.core
    if not (core.window or item.timed) and core.limit:
        return UNTIMED
    cdef int outcome = refuse(core, on_full)
    if outcome != ADMISSIBLE:
        return outcome
    if item.size > core.most_bytes:
        core.rejected_oversized += 1
        return REFUSED | first_drop(core)
    outcome = STORED
    while core.tail - core.head == core.limit or item.size and not ring.fits(item):
        if on_full != DROP_OLDEST:
            return refuse_full(core, on_full)
        if core.tail - core.head > core.peak_pending:
            core.peak_pending = core.tail - core.head
        item.displaced = ring.evict()
        move_head(core, 1)
        core.evicted += 1
        outcome |= first_drop(core)
    cdef bint reached = ring.store(item) or core.tail >= core.check
    core.tail += 1
    if not core.window:
        core.window = True
        item.position = core.tail - 1
        if core.tail - core.head == 1:  # else it opens again what was forsaken
            core.opened = core.oldest = item.now
        outcome |= OPENING
        set_check(core)
    elif reached:
        outcome |= REACHED
        set_check(core)
    set_stop(core)
    return outcome


cdef object announce(
    Producer self, object context, int on_full, int outcome, uint64_t position
):
    """Call the hooks that the outcome asks for; the lock is free."""
    if outcome & OPENING:
        try:
            self._opened(position, context)
        except BaseException:
            self._ring.forsake()
            raise
    if outcome & REACHED:
        self._reached()
    if outcome & FIRST_DROP:
        self._dropped()
    if outcome & STORED:
        return True
    if not outcome & NO_ROOM:
        return False
    if on_full == WAIT:
        return None
    raise Full(
        f"{self._ring.pending} entries pending: raise {self._ring.bound}, "
        "shorten ms_delay, or choose another on_full"
    )


def give_enqueue(type cls):
    """Put what enqueues into the class's own `__dict__`, unless the class overrides it.

    The interpreter's fast call wants it there: an inherited method takes twice the
    instructions (benchmarks/enqueue_price.py).
    """
    give(cls, "enqueue", &enqueue_method)
    give(cls, "enqueue_row", &enqueue_row_method)
    return cls


cdef int give(type cls, str name, PyMethodDef *method) except -1:
    inherited = getattr(cls, name, None)
    owner = getattr(inherited, "__objclass__", object)
    if inherited is None or issubclass(owner, Producer):
        setattr(cls, name, PyDescr_NewMethod(<PyTypeObject *> cls, method))
    return 0


cdef PyMethodDef enqueue_method, enqueue_row_method
enqueue_method.ml_name = "enqueue"
enqueue_method.ml_meth = <void *> enqueue
enqueue_method.ml_flags = METH_FASTCALL | METH_KEYWORDS
enqueue_method.ml_doc = b"""enqueue($self, entry, context=None)
--

Hand in one entry; it goes out with the next batch. Returns True if it was accepted.

Never waits, never logs. May be called from any thread, any event loop, a signal handler
or a finalizer. `context` is looked at only if this entry opens a window: its
`wait_until(awaitable)` is handed an awaitable that ends when the entry is settled, its
`log` is told of a failed dispatch.

Raises:
    ringdispatch.Full: the ring is full and `on_full="raise"`.
    TypeError, ValueError, OverflowError: the layout can't take the entry. What
        its `encode` raises comes as it is."""
enqueue_row_method.ml_name = "enqueue_row"
enqueue_row_method.ml_meth = <void *> enqueue_row
enqueue_row_method.ml_flags = METH_FASTCALL | METH_KEYWORDS
enqueue_row_method.ml_doc = b"""enqueue_row($self, *fields, context=None)
--

As enqueue, of an entry given as its fields; for `layout=Records(...)`.

Raises:
    TypeError: another layout, which knows no fields.
    ValueError: another number of fields; and all that enqueue raises."""
