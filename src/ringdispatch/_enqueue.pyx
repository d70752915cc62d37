# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""How entries enter a ring: `enqueue`, in C from the caller to the cell.

One number, `stop`, stands for every reason not to store at once: a full or closed ring,
an unclaimed window, a full batch. Below it an enqueue is a store and an increment; at
it, `enqueue_slow` finds the reason.
"""

from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint64_t

from ringdispatch cimport _pthread
from ringdispatch._ring cimport Ring
from ringdispatch._state cimport (
    CHECK_EVERY, FastCall, Item, Py_INCREF, Py_XDECREF, RingState,
    has_cell, move_head, ring_lock, ring_unlock, set_notify_at, set_stop,
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
    int Py_GetRecursionLimit()
    void Py_SetRecursionLimit(int)
    int METH_FASTCALL
    int METH_KEYWORDS
    object PyDescr_NewMethod(PyTypeObject *, PyMethodDef *)

cdef enum:
    DROP_NEWEST
    DROP_OLDEST
    RAISE
    WAIT

# The number of fields where an entry is given, not the fields of a row.
cdef enum:
    ONE_ENTRY = -1

# The outcome of an enqueue, as bits.
cdef enum:
    REFUSED = 0
    STORED = 1
    OPENING = 2  # it went into an empty ring
    UNCLAIMED = 4  # no pump() is promised for it yet
    BATCH_FULL = 8  # it filled a batch, or a check of the home is due
    FIRST_DROP = 16  # it is the first drop since ring.rearm_drop_notice()
    NO_ROOM = 32  # refused for lack of room, to a caller that reports it
    UNTIMED = 64  # nothing done: the window is unclaimed, so the time is needed
    ADMISSIBLE = 128  # nothing done: there seems to be room

POLICIES = {"drop_newest": DROP_NEWEST, "drop_oldest": DROP_OLDEST, "raise": RAISE}


class Full(Exception):
    """The ring is full and `on_full="raise"`: the entry was not accepted."""


cdef RingState unattached  # closed and empty, so that enqueue needs no test for NULL


cdef class EnqueueBase:
    """The base class of every dispatcher: `enqueue`, and the calls of its listener.

    The cold path notifies a *listener*, after the entry is stored and the lock is free.
    A signal handler or a finalizer may enter the listener's methods again:

    - `now()`: the time, in seconds; before an entry is stored that may open a window.
    - `window_opened(position, context)`: the entry there found the window unclaimed.
      Returns whether a pump() will run; if so, the window is claimed. `context` is the
      opener's, and None for any other entry.
    - `batch_full()`: a batch is full, or 4,096 entries have come since the last call.
    - `entries_dropped()`: the first drop since `Ring.rearm_drop_notice()`.

    Without a listener (None) every window counts as claimed.
    """

    cdef Ring _ring
    cdef object _listener
    cdef RingState *state
    cdef int on_full

    def __cinit__(self, *args, **kwargs):
        self.state = &unattached

    __class_getitem__ = classmethod(GenericAlias)

    def _attach(self, Ring ring not None, on_full, listener=None):
        if self._ring is not None:
            raise RuntimeError(f"{type(self).__name__}.__init__ was called twice")
        self._ring = ring
        self._listener = listener
        self.on_full = POLICIES[on_full]
        self.state = &ring.state
        self.state.slow_path = enqueue_cold if self.state.cells else enqueue_plain

    def _offer(self, entry, context):
        """Enqueue a result of ring.encoded(); None, and not counted, when full."""
        cdef PyObject *given = <PyObject *> entry
        return enqueue_slow(self, &given, ONE_ENTRY, context, WAIT)

    cdef int store_timed(self, Item *item, int on_full) except -1:
        """Store an entry that finds the window unclaimed: only that needs the time."""
        try:
            item.now = 0.0 if self._listener is None else self._listener.now()
        except BaseException:
            if item.viewed:
                PyBuffer_Release(&item.view)
            raise
        item.timed = True
        return store_locked(self._ring, item, on_full)

    def _reject_full(self):
        """Count an entry whose wait for room timed out."""
        ring_lock(&self.state.mutex)
        self.state.rejected_full += 1
        cdef bint first = not self.state.drop_announced
        self.state.drop_announced = True
        ring_unlock(&self.state.mutex)
        if first and self._listener is not None:
            self._listener.entries_dropped()


cdef PyObject *enqueue(
    PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
) noexcept:
    cdef RingState *state = (<EnqueueBase> self).state
    cdef uint64_t tail
    if kwnames is NULL and (nargs == 1 or nargs == 2):
        ring_lock(&state.mutex)
        tail = state.tail
        if tail < state.object_stop:
            Py_INCREF(args[0])
            state.cells[tail & state.mask] = args[0]
            state.tail = tail + 1
            ring_unlock(&state.mutex)
            Py_INCREF(Py_True)
            return Py_True
        ring_unlock(&state.mutex)
    return state.slow_path(self, args, nargs, kwnames)


cdef PyObject *enqueue_plain(
    PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
) noexcept:
    """The fast path of layouts that keep no references."""
    if kwnames is NULL and (nargs == 1 or nargs == 2):
        if (<EnqueueBase> self)._ring.store_plain(args, ONE_ENTRY):
            Py_INCREF(Py_True)
            return Py_True
    return enqueue_cold(self, args, nargs, kwnames)


cdef PyObject *enqueue_cold(
    PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
) noexcept:
    """Enqueue where the fast path could not; nearly always with the entry alone."""
    if kwnames is NULL and nargs == 1:
        return enqueue_entry(self, args, ONE_ENTRY, Py_None, (<EnqueueBase> self).on_full)
    return parse(self, args, nargs, kwnames)


cdef object enqueue_parsed(
    EnqueueBase self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
):
    """Parse the arguments as `def enqueue(self, entry, context=None)` would."""
    if nargs == 2 and kwnames is NULL or (
        nargs == 1 and <object> kwnames == ("context",)
    ):
        return enqueue_slow(self, args, ONE_ENTRY, <object> args[1], self.on_full)
    given = [<object> args[i] for i in range(nargs)]
    named = {}
    if kwnames is not NULL:
        for i, name in enumerate(<tuple> kwnames):
            named[name] = <object> args[nargs + i]
    entry, context = Arguments.enqueue(*given, **named)
    cdef PyObject *only = <PyObject *> entry
    return enqueue_slow(self, &only, ONE_ENTRY, context, self.on_full)


# Called through pointers, so that the compiler neither inlines the slow paths into the
# fast one nor saves registers for them there.
ctypedef PyObject *(*Admission)(
    PyObject *, PyObject *const *, Py_ssize_t, PyObject *, int
) noexcept
cdef FastCall parse = <FastCall> enqueue_parsed
cdef FastCall parse_row = <FastCall> enqueue_row_parsed
cdef Admission enqueue_entry = <Admission> enqueue_slow
unattached.slow_path = enqueue_cold


cdef PyObject *enqueue_row(
    PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
) noexcept:
    if kwnames is NULL and (<EnqueueBase> self).state is not &unattached:
        if (<EnqueueBase> self)._ring.store_plain(args, nargs):
            Py_INCREF(Py_True)
            return Py_True
    return parse_row(self, args, nargs, kwnames)


cdef object enqueue_row_parsed(
    EnqueueBase self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames
):
    """Parse the arguments as `def enqueue_row(self, *fields, context=None)` would."""
    context = None
    if kwnames is not NULL:
        if <object> kwnames != ("context",):
            raise TypeError("enqueue_row() takes the fields of a row, and context=")
        context = <object> args[nargs]
    return enqueue_slow(self, args, nargs, context, self.on_full)


class Arguments:
    """Raises Python's own TypeError for wrong arguments, under the method's name."""

    @staticmethod
    def enqueue(entry, context=None):
        return entry, context


cdef object enqueue_slow(
    EnqueueBase self,
    PyObject *const *given,
    Py_ssize_t fields,
    object context,
    int on_full,
):
    """Enqueue an entry that the fast path could not, then notify the listener."""
    cdef RingState *state = self.state
    cdef Item item
    if state is &unattached:
        raise RuntimeError(f"{type(self).__name__}.__init__ was not called")
    if _pthread.forked:
        _pthread.after_fork()
    # Refuse before preparing: where the ring is full, nothing is encoded.
    ring_lock(&state.mutex)
    if state.room == 0 and state.limit:  # it lies in a file, and has none
        ring_unlock(&state.mutex)
        self._ring.make_room()
        ring_lock(&state.mutex)
    cdef int outcome = reject_reason(state, on_full)
    ring_unlock(&state.mutex)
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
    return notify(self, context, on_full, outcome, &item)


cdef inline int reject_reason(RingState *state, int on_full) noexcept nogil:
    """Count an entry that is refused whatever its size; called under the lock."""
    if state.tail - state.head < state.limit and has_cell(state):
        return ADMISSIBLE
    if state.limit == 0:
        state.rejected_closed += 1
        return REFUSED | first_drop(state)
    if on_full == DROP_OLDEST:
        return ADMISSIBLE
    return reject_full(state, on_full)


cdef inline int reject_full(RingState *state, int on_full) noexcept nogil:
    if on_full == WAIT:
        return NO_ROOM
    state.rejected_full += 1
    cdef int outcome = NO_ROOM if on_full == RAISE else REFUSED
    if state.rejected_full % CHECK_EVERY == 0:
        outcome |= BATCH_FULL
    return outcome | first_drop(state)


cdef inline int first_drop(RingState *state) noexcept nogil:
    if state.drop_announced:
        return 0
    state.drop_announced = True
    return FIRST_DROP


cdef inline int store_locked(Ring ring, Item *item, int on_full) noexcept nogil:
    """Store or refuse the entry in one critical section; returns the outcome."""
    ring_lock(&ring.state.mutex)
    cdef int outcome = store_or_refuse(ring, item, on_full)
    ring_unlock(&ring.state.mutex)
    return outcome


cdef inline int store_or_refuse(Ring ring, Item *item, int on_full) noexcept nogil:
    cdef RingState *state = &ring.state
    if not (state.claimed or item.timed) and state.limit:
        return UNTIMED
    cdef int outcome = reject_reason(state, on_full)
    if outcome != ADMISSIBLE:
        return outcome
    if item.size > state.most_bytes:
        state.rejected_oversized += 1
        return REFUSED | first_drop(state)
    outcome = STORED
    while state.tail - state.head == state.limit or item.size and not ring.fits(item):
        if on_full != DROP_OLDEST:
            return reject_full(state, on_full)
        item.displaced = ring.evict()
        move_head(state, 1)
        state.evicted += 1
        outcome |= first_drop(state)
    cdef bint reached = ring.store(item) or state.tail >= state.notify_at
    state.tail += 1
    if not state.claimed:
        item.position = state.tail - 1
        item.pumps = state.pumps
        if state.tail - state.head == 1:
            state.opened = state.oldest_at = item.now
            outcome |= OPENING
        outcome |= UNCLAIMED
        set_notify_at(state)
    elif reached:
        outcome |= BATCH_FULL
        set_notify_at(state)
    set_stop(state)
    return outcome


cdef inline void claim(RingState *state, Item *item) noexcept nogil:
    """Claim the window, unless a pump() began since the entry was stored.

    That pump() has seen the entry, and has claimed what it left pending.
    """
    ring_lock(&state.mutex)
    if state.pumps == item.pumps and state.head <= item.position < state.tail:
        state.claimed = True
        set_stop(state)
    ring_unlock(&state.mutex)


cdef bint announce(object listener, uint64_t position, object context) except -1:
    """Call `window_opened`; if it raises, again, or the entry would go out too late."""
    try:
        return listener.window_opened(position, context)
    except BaseException as error:
        limit = Py_GetRecursionLimit()
        if isinstance(error, RecursionError):
            Py_SetRecursionLimit(limit + 100)
        try:  # without the context, which may have been notified already
            listener.window_opened(position, None)
        finally:
            if isinstance(error, RecursionError):
                Py_SetRecursionLimit(limit)
        raise


cdef object notify(
    EnqueueBase self, object context, int on_full, int outcome, Item *item
):
    """Make the calls of the listener that the outcome requires; the lock is free."""
    listener = self._listener
    if outcome & UNCLAIMED:
        opener = context if outcome & OPENING else None
        if listener is None or announce(listener, item.position, opener):
            claim(self.state, item)
    if listener is not None:
        if outcome & BATCH_FULL:
            listener.batch_full()
        if outcome & FIRST_DROP:
            listener.entries_dropped()
    if outcome & STORED:
        return True
    if not outcome & NO_ROOM:
        return False
    if on_full == WAIT:
        return None
    raise Full(
        f"the ring is full ({self._ring.pending} pending): raise {self._ring.bound}, "
        "shorten ms_delay, or choose another on_full"
    )


def install_enqueue(type cls):
    """Put the enqueue methods into the class's own `__dict__`, unless overridden.

    The interpreter's fast call needs them there: an inherited method takes twice the
    instructions (benchmarks/enqueue_price.py).
    """
    install(cls, "enqueue", &enqueue_method)
    install(cls, "enqueue_row", &enqueue_row_method)
    return cls


cdef int install(type cls, str name, PyMethodDef *method) except -1:
    inherited = getattr(cls, name, None)
    owner = getattr(inherited, "__objclass__", object)
    if inherited is None or issubclass(owner, EnqueueBase):
        setattr(cls, name, PyDescr_NewMethod(<PyTypeObject *> cls, method))
    return 0


cdef PyMethodDef enqueue_method, enqueue_row_method
enqueue_method.ml_name = "enqueue"
enqueue_method.ml_meth = <void *> enqueue
enqueue_method.ml_flags = METH_FASTCALL | METH_KEYWORDS
enqueue_method.ml_doc = b"""enqueue($self, entry, context=None)
--

Add one entry to the next batch. Returns True if it was accepted.

Never waits, never logs. May be called from any thread, any event loop, a signal handler
or a finalizer. `context` is used only if this entry opens a window: its
`wait_until(awaitable)`, or `waitUntil`, is called with an awaitable that ends when the
entry is settled, its `log` with the report of a failed dispatch.

Raises:
    ringdispatch.Full: the ring is full and `on_full="raise"`.
    TypeError, ValueError, OverflowError: the layout can't hold the entry. What
        its `encode` raises, `enqueue` raises unchanged."""
enqueue_row_method.ml_name = "enqueue_row"
enqueue_row_method.ml_meth = <void *> enqueue_row
enqueue_row_method.ml_flags = METH_FASTCALL | METH_KEYWORDS
enqueue_row_method.ml_doc = b"""enqueue_row($self, *fields, context=None)
--

As `enqueue`, with the fields of the row as arguments; for `layout=Records(...)`.

Raises:
    TypeError: the layout is not Records.
    ValueError: the number of fields is wrong; and all that `enqueue` raises."""
