# cython: language_level=3, freethreading_compatible=True
# cython: autotestdict=False, auto_pickle=False
# (The second line keeps Cython's extra members out; mypy.stubtest compares the rest.)
"""Batches of a file that another process left."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from ringdispatch._batch cimport Batch
from ringdispatch._bytes cimport ByteRing
from ringdispatch._spool_file cimport SpoolFile
from ringdispatch._spool_map cimport UUID_AT
from ringdispatch._state cimport RingState, ring_lock, ring_unlock

from ringdispatch._bytes import restore_batch

# So often a process may die in the call of a batch; then no other calls for it.
MOST_DEATHS = 5


def condemn(data):
    """Make no batch for the dispatch function: its call fails, without it."""
    raise ProcessDiedError("its process died five times")


class ProcessDiedError(Exception):
    """Each process that called the function with this batch died in that call."""


@cython.no_gc_clear  # not inherited; freed unsettled, it needs its file
cdef class RecoveredBatch(Batch):
    """A batch that lies in another file than the ring of its dispatcher.

    `start` and `end` are the ring's head, both: no flush waits for it.
    """

    cdef SpoolFile file
    cdef uint64_t at  # its positions in the file
    cdef uint64_t until
    cdef uint64_t intact  # entries; the others were damaged
    cdef uint32_t deaths  # in calls for it
    cdef readonly bint returned  # it failed, and no memory was left for its letter

    recovered = True

    def __dealloc__(self):
        if self.unsettled:
            self.settle_once(True, 0.0)
        if self.owes_letter:  # there is none to write it
            self.return_to_file()

    @property
    def first(self):
        return self.at

    @property
    def count(self):
        return self.until - self.at

    @property
    def attempts(self):
        return min(self.deaths + 1, MOST_DEATHS)

    def outlive(self):
        """Count its call no more: the process has lived on, and dies of something else."""
        self.file.count_attempts(self.at, self.until, self.deaths)

    cdef bint settle_once(self, bint failed, double seconds) noexcept nogil:
        cdef RingState *state = self.state
        ring_lock(&state.mutex)
        cdef bint first = self.unsettled and self.generation == state.generation
        cdef bint given_back = failed and (self.file.leaving or self.leaving)
        self.unsettled = False
        cdef bint owes = first and failed and not given_back and state.keeps_letters
        self.owes_letter = self.owes_letter or owes
        if first and failed and not given_back:
            state.recovered_failed += self.intact
        elif first and not failed:
            state.recovered += self.intact
        ring_unlock(&state.mutex)
        if first and given_back:  # its process did not die of it
            self.file.give_back(self.at, self.until, self.deaths, True)
        elif first and not owes:
            self.settle_file()
        return first

    cdef void settle_file(self) noexcept nogil:
        self.file.settle_batch(self.at, self.until)

    cdef void return_to_file(self) noexcept nogil:
        self.returned = True
        self.file.give_back(self.at, self.until, self.deaths, True)


def take_recovered(ByteRing ring not None, SpoolFile file not None, waiting=0):
    """Take the next batch of a file; None if there are no more.

    For `waiting` see SpoolFile.take: it may return a number.

    It has as many entries and bytes as one of the ring's, but where it was taken
    before: then it has the same ends again.
    """
    cdef RecoveredBatch batch
    cdef uint64_t start, end
    cdef uint32_t attempts
    while True:
        taken = file.take(ring.state.max_batch, ring.max_batch_bytes, waiting)
        if type(taken) is not tuple:
            return taken
        start, end, attempts = taken[:3]
        try:
            if attempts >= MOST_DEATHS and not ring.state.keeps_letters:
                file.give_back(start, end, attempts, False)
                file.poisoned += end - start
                continue
            batch = RecoveredBatch.__new__(RecoveredBatch)
            batch._data = restore_batch(*taken[3:], ring.separator_size)
        except BaseException:
            file.give_back(start, end, attempts, True)
            raise
        batch.ring, batch.state, batch.file = ring, &ring.state, file
        batch.at, batch.until = start, end
        batch.intact, batch.deaths = len(taken[4]), attempts
        if attempts >= MOST_DEATHS:
            batch.as_value = condemn
        ring_lock(&ring.state.mutex)
        batch.start = batch.end = ring.state.head
        batch.generation = ring.state.generation
        batch.unsettled = True
        ring_unlock(&ring.state.mutex)
        ring_lock(&file.mutex)
        if file.map.base is not NULL:
            memcpy(batch.origin, file.map.base + UUID_AT, 16)
        ring_unlock(&file.mutex)
        return batch
