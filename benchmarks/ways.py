"""What end-to-end runs are made of: who makes entries, and who ships them."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from ringdispatch import BackgroundDispatcher, Bytes, Objects, Records

DTYPE = [("time", "f8"), ("size", "i4"), ("seconds", "f4"), ("status", "u2")]
MILLION = 1_000_000
CAPACITY = 2 * MILLION  # of each that has one: all entries of a run, so none is dropped
LINE_BYTES = 96  # more than any line takes
NOW = 1.75e9

Produce = Callable[[int], None]


class Counter:
    """A dispatch function; `encodes` as a sink for JSON lines would."""

    def __init__(self, *, encodes: bool = False) -> None:
        self.entries = 0
        self.encodes = encodes
        self.expected = 0
        self.on_all: Callable[[], object] = lambda: None

    async def __call__(self, batch: Any) -> None:
        """Count the entries of a batch."""
        self.take(batch)

    def take(self, batch: Any) -> None:
        """Count the entries of a batch, in a thread that has no event loop."""
        if self.encodes:
            orjson.dumps(batch)
        self.count(len(batch))

    def count(self, entries: int) -> None:
        """Count entries, and notify of the last one that is expected."""
        self.entries += entries
        if self.entries == self.expected:
            self.on_all()

    def expect(self, entries: int) -> asyncio.Event:
        """Start counting anew; the event is set when so many entries have come."""
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        self.entries, self.expected = 0, entries
        self.on_all = lambda: loop.call_soon_threadsafe(came.set)
        return came


# ---- what produces: each loop stands in the open, as a caller would write it


def dicts(put: Callable[[Any], object]) -> Produce:
    """Dicts of four fields."""

    def produce(count: int) -> None:
        for size in range(count):
            put(
                {
                    "time": NOW + size,
                    "size": size,
                    "seconds": 1e-6 * size,
                    "status": 200,
                }
            )

    return produce


def tuples(put: Callable[[Any], object]) -> Produce:
    """Tuples of four fields."""

    def produce(count: int) -> None:
        for size in range(count):
            put((NOW + size, size, 1e-6 * size, 200))

    return produce


def rows(put: Callable[..., object]) -> Produce:
    """Four arguments."""

    def produce(count: int) -> None:
        for size in range(count):
            put(NOW + size, size, 1e-6 * size, 200)

    return produce


def make_dicts(_: float, sink: Counter) -> Produce:
    """The floor for dicts: made, and freed."""

    def produce(count: int) -> None:
        for size in range(count):
            entry = {
                "time": NOW + size,
                "size": size,
                "seconds": 1e-6 * size,
                "status": 200,
            }
        del entry
        sink.count(count)

    return produce


def make_tuples(_: float, sink: Counter) -> Produce:
    """The floor for tuples: made, and freed."""

    def produce(count: int) -> None:
        for size in range(count):
            entry = (NOW + size, size, 1e-6 * size, 200)
        del entry
        sink.count(count)

    return produce


# ---- what ships


def ringdispatch(
    delay: float, sink: Counter, layout: Objects | Records | Bytes
) -> BackgroundDispatcher[Any]:
    """Ours."""
    made: BackgroundDispatcher[Any] = BackgroundDispatcher(
        sink, ms_delay=delay, capacity=CAPACITY, layout=layout
    )
    made.bind()
    return made


def naive_list(delay: float, sink: Counter) -> Callable[[Any], None]:
    """Ten lines by hand: a list, and a timer set by the first entry."""
    loop = asyncio.get_running_loop()
    pending: list[Any] = []

    def flush() -> None:
        nonlocal pending
        batch, pending = pending, []
        tasks.add(task := loop.create_task(sink(batch)))
        task.add_done_callback(tasks.discard)

    def put(entry: Any) -> None:
        if not pending:
            loop.call_later(delay / 1000, flush)
        pending.append(entry)

    tasks: set[asyncio.Task[None]] = set()
    return put


def asyncio_queue(delay: float, sink: Counter) -> Callable[[Any], None]:
    """A queue, and a task that empties it after each delay."""
    waiting: asyncio.Queue[Any] = asyncio.Queue(CAPACITY)

    async def ship() -> None:
        while True:
            batch = [await waiting.get()]
            await asyncio.sleep(delay / 1000)
            batch += [waiting.get_nowait() for _ in range(waiting.qsize())]
            await sink(batch)
            del batch  # or it would live until the next one

    kept.append(asyncio.get_running_loop().create_task(ship()))
    return waiting.put_nowait


def opentelemetry(delay: float, sink: Counter) -> Callable[[Any], None]:
    """OpenTelemetry's BatchProcessor, whose thread exports 512 at a time."""
    from opentelemetry.sdk._shared_internal import BatchProcessor

    class Metrics:
        def register_queue_size(self, _: object) -> None: ...
        def finish_items(self, _: int) -> None: ...
        def drop_items(self, *_: object) -> None: ...

    class Exporter:
        def export(self, batch: list[Any]) -> None:
            sink.take(batch)

        def shutdown(self) -> None: ...

    processor = BatchProcessor(Exporter(), delay, 512, 30_000, CAPACITY, "", Metrics())
    kept.append(processor)
    return processor.emit


def lines() -> Bytes:
    """Lines of JSON, with as much room as the other layouts have."""
    return Bytes(encode=orjson.dumps, max_bytes=LINE_BYTES * CAPACITY)


kept: list[object] = []  # for as long as the process lives


def ours(
    entries: Callable[..., Produce], layout: Callable[[], Any], method: str = "enqueue"
) -> Callable[[float, Counter], Produce]:
    """A case of ours."""
    return lambda delay, sink: entries(
        getattr(ringdispatch(delay, sink, layout()), method)
    )


Case = tuple[Callable[[float, Counter], Produce], bool]  # and whether the sink encodes
OPENTELEMETRY = "OpenTelemetry BatchProcessor, dict"
DICT = "Objects, dict"
TUPLE = "Objects, tuple"
RECORD = "Records, enqueue(tuple)"
ROW = "Records, enqueue_row"
BYTES = "Bytes, orjson in enqueue"
ENCODED = "Objects, orjson in the dispatch function"
FLOOR = "make a tuple and drop it"
CASES: dict[str, Case] = {
    "make a dict and drop it": (make_dicts, False),
    "a list and call_later, dict": (lambda d, s: dicts(naive_list(d, s)), False),
    "asyncio.Queue and a task, dict": (lambda d, s: dicts(asyncio_queue(d, s)), False),
    OPENTELEMETRY: (
        lambda d, s: dicts(opentelemetry(d, s)),
        False,
    ),
    DICT: (ours(dicts, Objects), False),
    FLOOR: (make_tuples, False),
    TUPLE: (ours(tuples, Objects), False),
    RECORD: (ours(tuples, lambda: Records(DTYPE)), False),
    ROW: (ours(rows, lambda: Records(DTYPE), "enqueue_row"), False),
    "a list and call_later, orjson in the flush": (
        lambda d, s: dicts(naive_list(d, s)),
        True,
    ),
    ENCODED: (ours(dicts, Objects), True),
    BYTES: (ours(dicts, lines), False),
}
AT_ONCE: dict[str, tuple[Callable[[], Any], Callable[..., Produce], bool]] = {
    DICT: (Objects, dicts, False),
    ENCODED: (Objects, dicts, True),
    TUPLE: (Objects, tuples, False),
    RECORD: (lambda: Records(DTYPE), tuples, False),
    BYTES: (lines, dicts, False),
}
