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
    PyObject *Py_True
    int METH_FASTCALL
    int METH_KEYWORDS
    object PyDescr_NewMethod(PyTypeObject *, PyMethodDef *)

cdef enum:
    DROP_NEWEST
    DROP_OLDEST
    RAISE
    WAIT

# What only the opener of a window needs: when, and where it lies.
ctypedef struct Opening:
    double now
    uint64_t position

# What came of an entry, as bits.
cdef enum:
    REFUSED = 0
    STORED = 1
    OPENING = 2  # it opened a window
    REACHED = 4  # it filled a batch, or it is time to look round
    FIRST_DROP = 8  # it is the first drop since ring.told()
    NO_ROOM = 16  # refused where the caller wants to know that it is for want of room
    UNTIMED = 32  # nothing done: it would open a window, and the time is not known

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

    def _attach(self, Ring ring not None, str on_full not None):
        if self._ring is not None:
            raise RuntimeError(f"{type(self).__name__}.__init__ was called twice")
        self._ring = ring
        self.on_full = POLICIES[on_full]
        self.core = &ring.core

    def _offer(self, entry, context):
        """Enqueue without the overflow policy: None, and nothing counted, when full."""
        return admit(self, <PyObject *> entry, context, WAIT)

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
        if tail < core.stop:
            Py_INCREF(args[0])
            core.slots[tail & core.mask] = args[0]
            core.tail = tail + 1
            ring_unlock(&core.mutex)
            Py_INCREF(Py_True)
            return Py_True
        ring_unlock(&core.mutex)
    return slow_path(self, args, nargs, kwnames)


cdef object enqueue_slowly(
    Producer self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
):
    """Sort out the arguments as `def enqueue(self, entry, context=None)` would."""
    if kwnames is NULL and nargs == 1:
        return admit(self, args[0], None, self.on_full)
    if nargs == 2 and kwnames is NULL or (
        nargs == 1 and <object> kwnames == ("context",)
    ):
        return admit(self, args[0], <object> args[1], self.on_full)
    given = [<object> args[i] for i in range(nargs)]
    named = {}
    if kwnames is not NULL:
        for i, name in enumerate(<tuple> kwnames):
            named[name] = <object> args[nargs + i]
    entry, context = Arguments.enqueue(*given, **named)
    return admit(self, <PyObject *> entry, context, self.on_full)


# Called through a pointer, so that the compiler neither inlines the slow path into the
# fast one nor saves registers for it there.
ctypedef PyObject *(*FastCall)(
    PyObject *, PyObject *const *, Py_ssize_t, PyObject *
) noexcept
cdef FastCall slow_path = <FastCall> enqueue_slowly


class Arguments:
    """Python's own complaint about wrong arguments, under the name of the method."""

    @staticmethod
    def enqueue(entry, context=None):
        return entry, context


cdef object admit(Producer self, PyObject *entry, object context, int on_full):
    """Enqueue whatever the fast path could not, then tell those who must know of it."""
    cdef Core *core = self.core
    cdef PyObject *displaced = NULL
    if core is &unattached:
        raise RuntimeError(f"{type(self).__name__}.__init__ was not called")
    cdef int outcome = place(core, entry, on_full, NULL, &displaced)
    if outcome == STORED:
        Py_XDECREF(displaced)
        return True
    if outcome == REFUSED:
        return False
    return announce(self, entry, context, on_full, outcome, displaced)


cdef int place(
    Core *core, PyObject *entry, int on_full, Opening *opening, PyObject **displaced
) noexcept nogil:
    """Store the entry or refuse it, in one critical section; returns the outcome."""
    cdef int outcome = STORED
    ring_lock(&core.mutex)
    if not core.window and opening is NULL and core.limit:
        ring_unlock(&core.mutex)
        return UNTIMED
    if core.tail - core.head >= core.limit:
        if core.limit == 0:
            core.rejected_closed += 1
            outcome = REFUSED
        elif on_full == DROP_OLDEST:
            displaced[0] = core.slots[core.head & core.mask]
            move_head(core, 1)
            core.evicted += 1
            core.peak_pending = core.limit
        elif on_full == WAIT:
            ring_unlock(&core.mutex)
            return NO_ROOM
        else:
            core.rejected_full += 1
            outcome = NO_ROOM if on_full == RAISE else REFUSED
            if core.rejected_full % LOOK_ROUND == 0:
                outcome |= REACHED
        if not core.telling:
            core.telling = True
            outcome |= FIRST_DROP
    if outcome & STORED:
        Py_INCREF(entry)
        core.slots[core.tail & core.mask] = entry
        core.tail += 1
        if not core.window:
            core.window = True
            opening.position = core.tail - 1
            if core.tail - core.head == 1:  # else it opens again what was forsaken
                core.opened = core.oldest = opening.now
            outcome |= OPENING
            set_check(core)
        elif core.tail > core.check:
            outcome |= REACHED
            set_check(core)
        set_stop(core)
    ring_unlock(&core.mutex)
    return outcome


cdef object announce(
    Producer self,
    PyObject *entry,
    object context,
    int on_full,
    int outcome,
    PyObject *displaced,
):
    """Call the hooks that the outcome asks for; the lock is free."""
    cdef Opening opening
    if outcome == UNTIMED:
        opening.now = self._now()
        outcome = place(self.core, entry, on_full, &opening, &displaced)
    Py_XDECREF(displaced)
    if outcome & OPENING:
        try:
            self._opened(opening.position, context)
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
        f"{self._ring.capacity} entries pending: raise capacity, shorten ms_delay, "
        "or choose another on_full"
    )


def give_enqueue(type cls):
    """Put `enqueue` into the class's own `__dict__`, unless the class overrides it.

    The interpreter's fast call wants it there: an inherited method takes twice the
    instructions (benchmarks/enqueue_price.py).
    """
    inherited = getattr(cls, "enqueue", None)
    owner = getattr(inherited, "__objclass__", object)
    if inherited is None or issubclass(owner, Producer):
        cls.enqueue = PyDescr_NewMethod(<PyTypeObject *> cls, &enqueue_method)
    return cls


cdef PyMethodDef enqueue_method
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
    ringdispatch.Full: the ring is full and `on_full="raise"`."""
