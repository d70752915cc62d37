# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""Steps that belong together: no exception comes between them.

Python raises what a signal's handler raises, such as KeyboardInterrupt, between two
steps of its own code. Compiled code it can only interrupt where that calls Python's.
"""

import queue
import threading
from collections import deque
from contextvars import Context

from cpython.pythread cimport PyThread_get_thread_ident

from ringdispatch._state cimport RingState, ring_lock, ring_mutex, ring_unlock, unclaim

# How long a worker thread waits for its next job.
cdef double IDLE_SECONDS = 10.0

# After this long a call that was cancelled and did not end is reported.
cdef double GRACE_SECONDS = 1.0


cdef class Wake:
    """A callback for an event loop: unclaims the window, then runs `pump`, once.

    Nothing comes between the two: after an exception in `pump` the next entry finds the
    window unclaimed.

    Made by `Ring.make_wake`. The arguments of `pump` are `home` and the number that
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
        """Make the call do nothing, and hold nothing; from any thread."""
        if not self.end():
            self.pump = None

    def __call__(self):
        if not self.end():
            pump, self.pump = self.pump, None
            pump(self.home, unclaim(self.state))

    cdef bint end(self) noexcept:
        """Returns whether it had ended before; else `pump` is the caller's to drop."""
        ring_lock(&self.state.mutex)
        cdef bint done = self.done
        self.done = True
        ring_unlock(&self.state.mutex)
        return done


cdef class Finalizer:
    """Calls `function(*arguments)` at finish(), or else when it is freed.

    If that call is interrupted, it is repeated. Without the GIL, an object that another
    thread drops may be freed later, so a holder that is done calls finish(). A
    RuntimeError is ignored: the event loop that is to be called is closed.
    """

    # never changed
    cdef object function
    cdef tuple arguments
    # by its last holder
    cdef bint done

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


cdef class WorkerThreads:
    """The threads of one dispatcher; one that has ended its job serves the next.

    A job is a function, and the Finalizer that is finished after it. Nothing comes
    between two jobs, or between finding a thread and handing it the job: a job that was
    handed over is run.
    """

    # any thread, by single operations
    cdef object idle  # the queues of the threads that wait for a job
    # any thread, under the lock
    cdef ring_mutex mutex
    cdef bint ended

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


def call_once(set threads, function, argument):
    """Call the function, unless this thread is within such a call already: then None.

    A signal handler or finalizer in there that called it as well could be interrupted
    by the next one, without end. By the thread of the system: a greenlet is within the
    call of another one, which goes on.
    """
    cdef object thread = PyThread_get_thread_ident()
    if thread in threads:
        return None
    threads.add(thread)
    try:
        return function(argument)
    finally:
        threads.discard(thread)


def resolve(future):
    """End the wait for a future, unless it has ended."""
    if not future.done():
        future.set_result(None)


def cancel(call):
    """Ask the task of a call to end, if it has one."""
    task = call.task  # freed meanwhile by another thread, there is none
    if task is not None:
        task.cancel()


def watch(call, loop, task):
    """See to a call whose first step is over."""
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
