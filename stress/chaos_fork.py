"""Forks in the middle of a chaos round, and what the child must find."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
import traceback
from dataclasses import asdict
from random import Random

from chaos_record import Entry, Record, Violation, differences
from ringdispatch import BackgroundDispatcher

CHILD_SECONDS = 30.0
FINE = b"fine"


def fork(dispatcher: BackgroundDispatcher[Entry], record: Record, rng: Random) -> None:
    """Fork; the child uses the dispatcher, and reports to the parent how it went."""
    count, on_a_loop = rng.randint(0, 50), rng.random() < 0.5
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        _live(dispatcher, record, count, on_a_loop, writable)
    os.close(writable)
    record.forks += 1
    try:
        said = _read(readable, child)
    finally:
        os.close(readable)
        status = os.waitpid(child, 0)[1]
    if said != FINE or status:
        raise Violation(f"a forked child, status {status}: {said.decode()}")


def _read(readable: int, child: int) -> bytes:
    deadline = time.monotonic() + CHILD_SECONDS
    said = b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([readable], [], [], left)[0]:
            if not (news := os.read(readable, 65_536)):
                return said
            said += news
    os.kill(child, signal.SIGABRT)  # faulthandler makes it say where it hangs
    return said + b" hung"


def _live(
    dispatcher: BackgroundDispatcher[Entry],
    record: Record,
    count: int,
    on_a_loop: bool,
    writable: int,
) -> None:
    code = 1
    try:
        record.start_anew()
        _use(dispatcher, record, count, on_a_loop)
        os.write(writable, FINE)
        code = 0
    except BaseException:
        os.write(writable, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _use(
    dispatcher: BackgroundDispatcher[Entry],
    record: Record,
    count: int,
    on_a_loop: bool,
) -> None:
    """Start empty, deliver what is the child's own, and close."""
    started = asdict(dispatcher.statistics())
    capacity = started.pop("capacity")
    for bound in ("max_batch", "max_bytes", "max_batch_bytes"):
        del started[bound]
    if any(started.values()):
        raise Violation(f"the child did not start empty: {started}")
    # A worker thread that starts late would get its batch after the close.
    dispatcher._batcher.options.dispatch_timeout = CHILD_SECONDS
    if on_a_loop:
        settled = asyncio.run(_deliver_here(dispatcher, record, count))
    else:
        _enqueue(dispatcher, record, count)
        settled = dispatcher.close(CHILD_SECONDS / 2)
    books = dispatcher.statistics()
    received = record.received()
    if not settled or record.accepted[-capacity:] != received[-capacity:]:
        raise Violation(f"received {received} of {record.accepted}: {books}")
    refused = len(record.full) + len(record.refused)
    wrong = differences(
        ("accepted", books.accepted, len(record.accepted)),
        ("dispatched", books.dispatched + books.failed, len(received)),
        ("failed_batches", books.failed_batches, len(record.failures)),
        ("evicted", books.evicted, len(record.accepted) - len(received)),
        ("rejected", books.rejected_full + books.rejected_closed, refused),
    )
    if differing := list(wrong):
        raise Violation(f"in the child: {differing}: {books}")


def _enqueue(
    dispatcher: BackgroundDispatcher[Entry], record: Record, count: int
) -> None:
    for number in range(count):
        record.put(dispatcher, ("child", number))


async def _deliver_here(
    dispatcher: BackgroundDispatcher[Entry], record: Record, count: int
) -> bool:
    _enqueue(dispatcher, record, count)
    return await dispatcher.aclose(CHILD_SECONDS / 2)
