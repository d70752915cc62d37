"""The counters of a dispatcher, as one frozen snapshot."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statistics:
    """One consistent snapshot of a dispatcher's books.

    `accepted == dispatched + failed + evicted + abandoned + left + pending + in_flight`
    holds in every snapshot, taken from any thread.

    Attributes:
        accepted: Entries that went into the ring.
        dispatched: Entries whose dispatch returned.
        failed: Entries whose dispatch raised, timed out or was cancelled.
        evicted: Entries displaced by newer ones (`on_full="drop_oldest"`).
        abandoned: Entries not yet taken when close or exit ran out of time.
        pending: Entries in the ring.
        in_flight: Entries handed to the dispatch function and not yet settled.
        rejected_full: Entries refused because the ring was full.
        rejected_closed: Entries refused because the dispatcher was closed.
        rejected_oversized: Entries refused because they are larger than a batch may be.
        batches: Batches handed to the dispatch function.
        dispatched_batches: Batches whose dispatch returned.
        failed_batches: Batches that failed.
        peak_pending: Most entries that were ever pending at once.
        capacity: Most entries that can be pending at once.
        dispatch_seconds_total: Seconds from the start of a dispatch until its batch was
            settled, summed over all settled batches.
        oldest_age_seconds: Upper bound of the oldest pending entry's age: seconds since
            its window opened; 0.0 when nothing is pending.
        max_batch: Most entries in a batch.
        pending_bytes: Bytes of the pending entries. This and the next two are None
            where the layout does not count bytes.
        max_bytes: Most bytes that can be pending at once.
        max_batch_bytes: Most bytes in a batch.
        left: Entries left in a spool for the next process: what a close or exit cut
            short, pending or in flight. 0 without a spool.
        recovered: Entries that other processes, or a close before it was opened again,
            left in the spool, and whose dispatch here returned. This and the next count
            in no other number.
        recovered_failed: The same, whose dispatch raised, timed out or was cancelled.
        kept: Entries of failed batches, recovered ones too, that were kept in the spool
            as dead letters.
        kept_dropped: Entries in dead letters, of any process, that were removed to keep
            the newest within their limit.
    """

    accepted: int
    dispatched: int
    failed: int
    evicted: int
    abandoned: int
    pending: int
    in_flight: int
    rejected_full: int
    rejected_closed: int
    rejected_oversized: int
    batches: int
    dispatched_batches: int
    failed_batches: int
    peak_pending: int
    capacity: int
    dispatch_seconds_total: float
    oldest_age_seconds: float
    max_batch: int
    pending_bytes: int | None
    max_bytes: int | None
    max_batch_bytes: int | None
    left: int
    recovered: int
    recovered_failed: int
    kept: int
    kept_dropped: int
