"""What one `dispatcher.enqueue(entry)` costs, beside `collections.deque.append`.

    python benchmarks/enqueue_price.py [--check] [--json FILE]

Counts instructions with callgrind (instructions.py), the empty loop's own taken off;
without valgrind or a C compiler it says so and gives ratios of nanoseconds. `--check`
exits with 1 where a ratio is above its limit.

The entry stays referenced elsewhere, so that freeing it is not charged to anyone.
"""

import asyncio
import collections
import queue
import sys
import time

from instructions import CALLS, Cases, Limit, Loop, calling, compare

ENTRY = {"message": "new request", "id": 1}
CONTEXT = object()


def dispatcher(**options: object):
    """A dispatcher with its window open and an hour until it is due."""
    from ringdispatch import BackgroundDispatcher

    async def send(entries: list[object]) -> None:
        pass

    made = BackgroundDispatcher(
        send, ms_delay=3_600_000, **{"capacity": 4 * CALLS, **options}
    )
    made.enqueue(ENTRY)
    return made


def full(**options: object):
    """A dispatcher whose ring is full; a batch of its size is never reached again."""
    from ringdispatch._pthread import immortalize

    made = dispatcher(capacity=1024, **options)
    # The only slot is taken for good, so nothing leaves the ring.
    immortalize(made._batcher.ring.acquire_slot(1))
    while made.pending < 1024:
        made.enqueue(ENTRY)
    for _ in range(64):  # the first drops announce themselves
        made.enqueue(ENTRY)
    time.sleep(0.1)
    return made


def subclassed(*, slots: bool) -> Loop:
    from ringdispatch import BackgroundDispatcher

    class Slim(BackgroundDispatcher):
        __slots__ = ()

    class Usual(BackgroundDispatcher):
        pass

    Own = Slim if slots else Usual  # noqa: N806

    async def send(entries: list[object]) -> None:
        pass

    sink = Own(send, ms_delay=3_600_000, capacity=4 * CALLS)
    sink.enqueue(ENTRY)
    return appending(sink, "enqueue")


def appending(sink: object, method: str) -> Loop:
    """A loop of `sink.method(entry)`, the look-up included."""
    return calling(f"sink.{method}(entry)", sink=sink, entry=ENTRY)


def with_context(argument: str) -> Loop:
    """A loop of `enqueue(entry, ...)` with a context."""
    return calling(
        f"sink.enqueue(entry, {argument})",
        sink=dispatcher(),
        entry=ENTRY,
        context=CONTEXT,
    )


CASES: Cases = {
    "deque.append": lambda: appending(collections.deque(), "append"),
    "SimpleQueue.put": lambda: appending(queue.SimpleQueue(), "put"),
    "asyncio.Queue.put_nowait": lambda: appending(asyncio.Queue(), "put_nowait"),
    "enqueue(entry)": lambda: appending(dispatcher(), "enqueue"),
    "enqueue(entry), own subclass": lambda: subclassed(slots=True),
    "enqueue(entry), subclass with dict": lambda: subclassed(slots=False),
    "enqueue(entry, context)": lambda: with_context("context"),
    "enqueue(entry, context=context)": lambda: with_context("context=context"),
    "full, drop_newest": lambda: appending(full(on_full="drop_newest"), "enqueue"),
    "full, drop_oldest": lambda: appending(full(on_full="drop_oldest"), "enqueue"),
}

LIMITS: list[Limit] = [
    ("enqueue(entry)", "deque.append", 1.1, 1.1),
    ("enqueue(entry), own subclass", "deque.append", 1.1, 1.1),
    ("enqueue(entry, context)", "deque.append", 1.75, 2.0),
    ("full, drop_newest", "enqueue(entry)", 1.5, 1.5),
    ("full, drop_oldest", "enqueue(entry)", 2.0, 2.0),
]


if __name__ == "__main__":
    sys.exit(compare(__doc__, CASES, "deque.append", LIMITS))
