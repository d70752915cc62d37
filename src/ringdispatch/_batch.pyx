# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""Batches and slots, which settle and release themselves when they are freed.

And what else must not be interrupted between two steps: wake-ups, worker threads.
"""

import queue
import threading
from collections import deque
from contextvars import Context

cimport cython
from libc.stdint cimport uint64_t

from ringdispatch._state cimport RingState, Unsettled, ring_lock, ring_unlock, unclaim

# How long a worker thread waits for its next job.
cdef double IDLE_SECONDS = 10.0

# After this long a call that was cancelled and did not end is reported.
cdef double GRACE_SECONDS = 1.0


cdef inline void unlink(RingState *state, Unsettled *node) noexcept nogil:
    if node.before is NULL:
        state.oldest = node.after
    else:
        node.before.after = node.after
    if node.after is NULL:
        state.newest = node.before
    else:
        node.after.before = node.before


@cython.no_gc_clear  # freed unsettled, it needs its ring
cdef class Batch:
    """Entries that have left the ring, and whether they are settled.

    A batch freed unsettled counts as failed: whatever is raised between taking and
    settling it, the books agree.
    """

    def __dealloc__(self):
        if self.unsettled:
            self.settle_once(True, 0.0)

    cdef void link(self) noexcept:
        """Append it to the ring's unsettled batches; called under the lock."""
        cdef RingState *state = self.state
        self.unsettled = True
        self.node.start, self.node.end = self.start, self.end
        self.node.before = state.newest
        if state.newest is NULL:
            state.oldest = &self.node
        else:
            state.newest.after = &self.node
        state.newest = &self.node

    @property
    def value(self):
        """The dispatch function's argument; None once the entries are released."""
        ring_lock(&self.state.mutex)
        cdef object data = self._data
        cdef bint wrapped = self.wrapped
        ring_unlock(&self.state.mutex)
        if data is None or wrapped:
            return data
        cdef object value = data if self.as_value is None else self.as_value(data)
        cdef object theirs = None  # set if another thread wrapped it first
        ring_lock(&self.state.mutex)
        if self.wrapped:
            theirs = self._data
        elif self._data is not None:
            self._data = value
            self.wrapped = True
        ring_unlock(&self.state.mutex)
        return value if theirs is None else theirs

    @property
    def raw(self):
        """The entries' storage, wrapped or not."""
        ring_lock(&self.state.mutex)
        cdef object data = self._data
        ring_unlock(&self.state.mutex)
        return data

    @property
    def settled(self):
        """Whether the outcome is entered in the books."""
        ring_lock(&self.state.mutex)
        cdef bint unsettled = self.unsettled
        ring_unlock(&self.state.mutex)
        return not unsettled

    def excuse(self, int waits):
        """Count a wait that its own call began (1) or ended (-1)."""
        ring_lock(&self.state.mutex)
        self.node.excused += waits
        ring_unlock(&self.state.mutex)

    def release(self):
        """Drop the entries: a reference to their call does not keep them alive."""
        ring_lock(&self.state.mutex)
        cdef object data = self._data  # freed on return, when the lock is free
        self._data = None
        ring_unlock(&self.state.mutex)

    def settle(self, bint failed, double seconds):
        """Enter the outcome in the books; False if that was done before."""
        return self.settle_once(failed, seconds)

    cdef bint settle_once(self, bint failed, double seconds) noexcept nogil:
        cdef RingState *state = self.state
        cdef uint64_t count = self.end - self.start
        ring_lock(&state.mutex)
        cdef bint first = self.unsettled and self.generation == state.generation
        self.unsettled = False
        if first:
            unlink(state, &self.node)
            state.dispatch_seconds += seconds
            state.failed_batches += failed
            if failed:
                state.failed += count
            else:
                state.dispatched += count
        ring_unlock(&state.mutex)
        return first


@cython.no_gc_clear  # freed unreleased, it needs its ring
cdef class Slot:
    """One of `max_in_flight`; freed before it is released, it releases itself."""

    def __dealloc__(self):
        if self._held:
            self.release()

    @property
    def held(self):
        """Whether it counts as busy."""
        ring_lock(&self.state.mutex)
        cdef bint held = self._held
        ring_unlock(&self.state.mutex)
        return held

    def release(self):
        """Free the slot; False if that was done before."""
        cdef RingState *state = self.state
        ring_lock(&state.mutex)
        cdef bint held = self._held and self.generation == state.generation
        self._held = False
        state.busy_slots -= held
        ring_unlock(&state.mutex)
        return held


cdef class Wake:
    """A callback for an event loop: unclaims the window, then runs `pump`, once.

    Compiled, so that nothing can be raised between the two: after an exception in
    `pump` the next entry finds the window unclaimed.

    Made by `Ring.wake`. The arguments of `pump` are `home` and the number that
    `Ring.claim_window` takes.
    """

    @property
    def pending(self):
        """Whether it has been neither called nor cancelled."""
        ring_lock(&self.state.mutex)
        cdef bint done = self.done
        ring_unlock(&self.state.mutex)
        return not done

    def cancel(self):
        """Make the call do nothing; from any thread."""
        ring_lock(&self.state.mutex)
        self.done = True
        ring_unlock(&self.state.mutex)

    def __call__(self):
        ring_lock(&self.state.mutex)
        cdef bint done = self.done
        self.done = True
        ring_unlock(&self.state.mutex)
        pump, self.pump = self.pump, None
        if not done:
            pump(self.home, unclaim(self.state))


cdef class Finalizer:
    """Calls `function(*arguments)` at finish(), or else when it is freed.

    If that call is interrupted, it is repeated. Without the GIL, an object that another
    thread drops may be freed later, so a holder that is done calls finish(). Compiled, so that nothing can be raised in between. A
    RuntimeError is ignored: the event loop that is to be called is closed.
    """

    def __cinit__(self, function, *arguments):
        self.function = function
        self.arguments = arguments

    def finish(self):
        """Call the function now, unless it was called before."""
        if self.done:
            return
        try:
            self.function(*self.arguments)
        except BaseException as error:
            if type(error) is not RuntimeError:
                self.function(*self.arguments)  # what interrupts does so once
                self.done = True
                raise
        self.done = True

    def __del__(self):
        self.finish()


cdef class Workers:
    """The threads of one dispatcher; one that has ended its job serves the next.

    A job is a function, and the Finalizer that is finished after it. Compiled, so that
    nothing can be raised between two jobs, or between finding a thread and handing it
    the job: a job that was handed over is run.
    """

    def __cinit__(self):
        self.idle = deque()

    def run(self, tuple job):
        """Run a job in a thread; RuntimeError where none can be started."""
        cdef object jobs = None
        try:
            jobs = self.idle.pop()
        except IndexError:
            pass
        if jobs is not None:
            try:
                jobs.put(job)
            except BaseException:  # no memory
                self.idle.append(jobs)
                raise
            return
        jobs = queue.SimpleQueue()
        jobs.put(job)
        name = "ringdispatch-worker"
        thread = threading.Thread(
            target=self.serve, args=(jobs,), name=name, daemon=True
        )
        # From 3.14 on it may inherit the context it is started in.
        Context().run(thread.start)

    def end(self):
        """End the threads; one that is in a job ends after it."""
        ring_lock(&self.mutex)
        self.ended = True
        ring_unlock(&self.mutex)
        try:
            while True:
                self.idle.pop().put(None)
        except IndexError:
            pass

    def serve(self, jobs):
        """Run the jobs of one thread, until it has been idle for long."""
        cdef object job = jobs.get()
        cdef object work, finalizer
        cdef bint ended
        while job is not None:
            work, finalizer = job
            try:
                work()
            finally:
                finalizer.finish()
            job = work = finalizer = None  # or they would keep the batch
            self.idle.append(jobs)
            # Looked at after that: end() has seen it there, or is seen here.
            ring_lock(&self.mutex)
            ended = self.ended
            ring_unlock(&self.mutex)
            try:
                job = jobs.get(timeout=0.0 if ended else IDLE_SECONDS)
            except BaseException:  # queue.Empty, or no memory
                try:
                    self.idle.remove(jobs)
                except ValueError:  # it was popped: a job is on its way
                    job = jobs.get()


def resolve(future):
    """End the wait for a future, unless it has ended; interrupted by nothing."""
    if not future.done():
        future.set_result(None)


def cancel(call):
    """Ask the task of a call to end, if it has one; interrupted by nothing."""
    task = call.task  # freed meanwhile by another thread, there is none
    if task is not None:
        task.cancel()


def watch(call, loop, task):
    """See to a call whose first step is over; interrupted by nothing."""
    if call._ended:
        if task.done() and not task.cancelled():
            task.exception()  # orphaned, it could take no step
        return
    # However the task ends, this callback frees its slot.
    task.add_done_callback(call._on_done, context=Context())
    timeout = call._batcher.options.dispatch_timeout
    if timeout is not None and not task.done():
        call.deadline = call._batcher.now() + timeout
        call._timer = loop.call_later(timeout, expire, call, loop, context=Context())


def expire(call, loop):
    """Expire a call, and again after the grace: the first time may be interrupted."""
    if call.deadline is not None:
        call._timer = loop.call_later(
            GRACE_SECONDS, expire, call, loop, context=Context()
        )
    call.expire()
