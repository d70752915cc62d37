"""Closing, and opening again: what is not settled in time is given up and reported."""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

from ._atomic import WorkerThreads
from ._flush import begin_flush
from ._reports import counted
from ._residence import leave_unused
from ._waiting import FlushWaiter

if TYPE_CHECKING:
    from ._batcher import Batcher
    from ._call import Call


def begin_close(
    batcher: "Batcher", timeout: float | None, *, blocking: bool = False
) -> FlushWaiter:
    """Refuse new entries, and flush; returns what to wait for."""
    reopenings = batcher.ring.close()
    if batcher.sink is not None:
        batcher.sink.limit(timeout)
    batcher.room.wake_all()
    last = tuple(each for each in (batcher.sink, batcher.recovery) if each is not None)
    waiter = begin_flush(batcher, blocking=blocking, last=last)
    waiter.reopenings = reopenings
    return waiter


def finish_close(
    batcher: "Batcher", settled: bool, waiter: FlushWaiter, timeout: float | None
) -> bool:
    """Give up what is not settled in time; returns whether all was."""
    if waiter.settled is False:
        # The calling batch holds the only slot. What is pending goes out when it ends,
        # and has the same time for it.
        waiter.settled = None
        if timeout is not None:
            batcher.post(partial(_finish_later, batcher, waiter, timeout))
        return False
    workers = batcher.workers
    if not batcher.ring.closed or batcher.ring.reopenings != waiter.reopenings:
        return settled  # opened again meanwhile: what is left goes out in time
    recovers = batcher.recovery is not None and batcher.recovery.is_open
    if not settled or recovers:
        why = f"close timed out after {timeout} s"
        if not give_up(batcher, waiter.excused, why):
            return settled
    _close_books(batcher, workers)
    leave_unused(batcher)
    return settled and batcher.gave_up_after != waiter.reopenings


def reopen(batcher: "Batcher") -> None:
    """Accept entries again after a close; the counters go on."""
    if batcher.ring.closed:
        batcher.workers = WorkerThreads()
        batcher.home = batcher.bound_home = None  # bind() or the next window takes one
        batcher.ring.close(reopen=True)
        batcher.settlement.finish()  # no close waits for the sink any more


def _finish_later(batcher: "Batcher", waiter: FlushWaiter, timeout: float) -> None:
    def finish() -> None:
        settled = batcher.settlement.is_settled(waiter)
        finish_close(batcher, settled, waiter, timeout)

    asyncio.get_running_loop().call_later(timeout, finish, context=Context())


def give_up(
    batcher: "Batcher", excused: "Call | None", why: str, *, anyway: bool = False
) -> bool:
    """Cancel what is in flight, abandon what is pending, log it once.

    Where the entries lie in a file, they are left there. Nothing is given up, and False
    returned, where another thread has opened the batcher again; unless `anyway`.
    """
    reopenings = batcher.ring.reopenings
    calls = list(batcher.calls)
    place = batcher.ring.place  # the home may leave it as soon as all calls have failed
    abandoned = batcher.ring.abandon(if_closed=not anyway)
    if abandoned is None:
        return False
    later = list(batcher.calls)
    if batcher.ring.closed:
        calls = later  # else one may have begun that is not ours
    calls = [call for call in calls if call is not excused]
    # First: a close that ends now is to know.
    if abandoned or any(each.is_unsettled for each in calls):
        batcher.gave_up_after = reopenings
    if batcher.recovery is not None:
        batcher.recovery.stop()
        if not (batcher.ring.closed or anyway):
            batcher.recovery.resume()
    failed, batcher.cut_short = batcher.cut_short, [0, 0]
    unwritten = 0
    for call in calls:
        count = call.fail(TimeoutError(why), quiet=True)
        if call.batch is not None:
            failed[call.batch.recovered] += count
            unwritten += call.batch.count if call.batch.owes_letter else 0
        call.stop()
    if abandoned or any(failed) or unwritten:
        batcher.gave_up_after = reopenings
        counts = failed[0], abandoned, unwritten
        if lost := "; ".join(_describe(batcher, place, *counts)):
            batcher.reports.log(logging.WARNING, f"{why}: {lost}")
    batcher.room.wake_all()
    batcher.settlement.finish()
    return True


def _describe(
    batcher: "Batcher", place: str | None, failed: int, abandoned: int, unwritten: int
) -> Iterator[str]:
    """What was not settled in time, and where it is."""
    if failed or abandoned:
        counts = counted(failed, "entry"), counted(abandoned, "entry")
        if place is None:
            yield "{} in flight failed, {} pending abandoned".format(*counts)
        else:
            gone = ", which another program has removed or moved"
            gone = "" if os.path.exists(place) else gone  # noqa: PTH110, it raises nothing
            yield "{} in flight and {} pending left in ".format(*counts) + place + gone
    if unwritten:
        yield f"dead letters of {counted(unwritten, 'entry')} still being written"
    if batcher.ring.files is not None:
        yield from batcher.ring.files.others_left()


def end(batcher: "Batcher") -> None:
    """Report what could not be delivered before the process ends."""
    batcher.ring.close()
    give_up(batcher, None, "the process ended", anyway=True)
    _close_books(batcher, batcher.workers)


def end_files(batcher: "Batcher") -> None:
    """Remove the files in which all is settled; leave the others."""
    batcher.ring.end_file()
    if batcher.recovery is not None:
        batcher.recovery.end()
    for level, note in batcher.ring.take_notes():
        batcher.reports.log(level, note)


def _close_books(batcher: "Batcher", workers: WorkerThreads) -> None:
    end_files(batcher)
    batcher.drops.report_now(last=True)
    batcher.reports.closing()
    workers.end()
