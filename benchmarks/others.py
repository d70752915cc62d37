"""Other packages' calls that put an entry, and the standard library's.

A package that is not installed raises ImportError when its peer is made.
"""

import asyncio
import logging
import logging.handlers
import queue
from typing import Any

from peer import Peer, quiet

HOUR = 3600.0
NEVER = 1 << 30  # entries that never come together

# ---- the standard library


class SimpleQueue(Peer):
    name = "SimpleQueue.put"
    more = "wakes a thread that waits for an entry"
    call = "sink.put(entry)"
    bounded = False

    def __init__(self, _: int) -> None:
        self.sink = queue.SimpleQueue()


class ThreadQueue(Peer):
    name = "queue.Queue.put_nowait"
    more = (
        "locks; wakes a thread that waits for an entry; counts unfinished tasks "
        "for `join`"
    )
    refusal = queue.Full

    def __init__(self, room: int) -> None:
        self.sink = queue.Queue(room)


class AsyncioQueue(Peer):
    name = "asyncio.Queue.put_nowait"
    more = "wakes a task that waits for an entry; counts unfinished tasks for `join`"
    threads = False
    refusal = asyncio.QueueFull

    def __init__(self, room: int) -> None:
        self.sink = asyncio.Queue(room)


class StandardHandler(Peer):
    name = "logging QueueHandler.emit"
    more = (
        "formats the message and a traceback into the record, and copies the "
        "record, so that another process could read it"
    )
    call = "sink.emit(entry)"
    bounded = False

    def __init__(self, _: int) -> None:
        self.waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.sink = logging.handlers.QueueHandler(self.waiting)
        self.entry = logging.makeLogRecord({"msg": "new request", "levelno": 20})

    def drain(self) -> None:
        while not self.waiting.empty():
            self.waiting.get_nowait()


# ---- packages


class OpenTelemetry(Peer):
    name = "OpenTelemetry BatchProcessor.emit"
    more = (
        "drops the oldest entry where it is full, counts it and logs a warning; "
        "later, exports in a thread of its own, 512 at a time, with "
        "instrumentation suppressed. Making a span or a log record with its "
        "context is not in the figure"
    )
    package = "opentelemetry-sdk"
    call = "sink.emit(entry)"

    def __init__(self, room: int) -> None:
        from opentelemetry.sdk._shared_internal import BatchProcessor

        class Nothing:
            def register_queue_size(self, _: object) -> None: ...
            def finish_items(self, _: int) -> None: ...
            def drop_items(self, *_: object) -> None: ...
            def export(self, _: object) -> None: ...
            def shutdown(self) -> None: ...

        quiet("opentelemetry.sdk._shared_internal")
        nothing = Nothing()
        self.sink = BatchProcessor(
            nothing, HOUR * 1000, NEVER, 30_000, room, "", nothing
        )

    def drain(self) -> None:
        self.sink._queue.clear()

    def close(self) -> None:
        self.sink.shutdown()


class Sentry(Peer):
    name = "Sentry Batcher.add"
    more = (
        "locks; keeps entries out that its own flush causes; where it is full, "
        "serializes the entry to report its loss to Sentry; later, turns "
        "entries into the items of an envelope"
    )
    package = "sentry-sdk"
    call = "sink.add(entry)"

    def __init__(self, room: int) -> None:
        from sentry_sdk._batcher import Batcher

        class Entries(Batcher[dict[str, Any]]):
            MAX_BEFORE_FLUSH = NEVER
            MAX_BEFORE_DROP = room
            FLUSH_WAIT_TIME = HOUR

            @staticmethod
            def _to_transport_format(item: Any) -> Any:
                return item

        self.sink = Entries(lambda _: None, lambda **_: None)

    def drain(self) -> None:
        self.sink._buffer.clear()

    def close(self) -> None:
        self.sink.kill()


class Janus(Peer):
    name = "janus, sync_q.put_nowait"
    more = (
        "locks; wakes a thread or a task that waits for an entry; counts "
        "unfinished tasks for `join`"
    )
    package = "janus"

    def __init__(self, room: int) -> None:
        import janus

        self.refusal = janus.SyncQueueFull
        self.sink = janus.Queue(room).sync_q


class Culsans(Peer):
    name = "culsans, sync_q.put_nowait"
    more = (
        "locks; wakes a thread, a task or a greenlet that waits for an entry; "
        "counts unfinished tasks for `join`"
    )
    package = "culsans"

    def __init__(self, room: int) -> None:
        import culsans

        self.refusal = culsans.SyncQueueFull
        self.sink = culsans.Queue(room).sync_q


class Aiologic(Peer):
    name = "aiologic SimpleQueue.put"
    more = "wakes a waiting thread, greenlet, or task of any async library"
    package = "aiologic"
    call = "sink.put(entry)"
    bounded = False

    def __init__(self, _: int) -> None:
        import aiologic

        self.sink = aiologic.SimpleQueue()

    def drain(self) -> None:
        while self.sink:
            self.sink.green_get(blocking=False)


class AiologicBounded(Peer):
    name = "aiologic Queue.green_put"
    more = "the same, and locks; a full one can be waited for"
    package = "aiologic"
    call = "sink.green_put(entry, blocking=False)"

    def __init__(self, room: int) -> None:
        import aiologic

        self.refusal = aiologic.QueueFull
        self.sink = aiologic.Queue(room)

    def drain(self) -> None:
        while self.sink:
            self.sink.green_get(blocking=False)


class Aiochannel(Peer):
    name = "aiochannel.put_nowait"
    more = "wakes a task that waits for an entry"
    package = "aiochannel"
    threads = False

    def __init__(self, room: int) -> None:
        import aiochannel

        self.refusal = aiochannel.ChannelFull
        self.sink = aiochannel.Channel(room)


class Picologging(StandardHandler):
    name = "picologging QueueHandler.emit"
    more = (
        "formats the message into a new record, so that another process could read it"
    )
    package = "picologging"

    def __init__(self, _: int) -> None:
        import picologging
        from picologging.handlers import QueueHandler

        self.waiting = queue.SimpleQueue()
        self.sink = QueueHandler(self.waiting)
        self.entry = picologging.LogRecord("", 20, "", 1, "new request", (), None)


class Loguru(Peer):
    """Its own thread takes the entries off a pipe while calls are timed."""

    name = "loguru, enqueue=True, info"
    more = (
        "makes a record with the caller's file and line, time, process and "
        "thread, formats and pickles it, and writes it to a pipe"
    )
    package = "loguru"
    call = "sink.info(entry)"
    bounded = False
    entry = "new request"

    def __init__(self, _: int) -> None:
        from loguru import logger

        logger.remove()
        self.sink = logger
        self.number = logger.add(lambda _: None, enqueue=True)

    def drain(self) -> None:
        self.sink.complete()

    def close(self) -> None:
        self.sink.remove(self.number)


class Flushq(Peer):
    """A coroutine, which runs to its end at once while there is room."""

    name = "flushq, await enqueue"
    more = "a coroutine, which waits for room"
    package = "flushq"
    call = "sink.enqueue(entry).send(None)"
    bounded = False
    threads = False
    refusal = StopIteration

    def __init__(self, room: int) -> None:
        from flushq import FlushQueue, NaturalPolicy, flush_queue

        async def send(_: list[Any]) -> None: ...

        flush_queue.YIELD_EVERY_PUTS = NEVER  # no turn for others while it is timed
        self.sink = FlushQueue(send, NaturalPolicy(), max_queue_size=room)
        self.sink._started = True

    def drain(self) -> None:
        while not self.sink._queue.empty():
            self.sink._queue.get_nowait()


class Posthog(Peer):
    name = "PostHog capture"
    more = (
        "adds a UUID, the time and facts about the system and the library, and "
        "makes values fit for JSON; later, sends in a thread of its own and "
        "retries"
    )
    package = "posthog"
    call = "sink.capture('new request', distinct_id='1', properties=entry)"

    def __init__(self, room: int) -> None:
        import posthog

        quiet("posthog")
        self.sink = posthog.Posthog(
            "key", host="http://127.0.0.1:9", max_queue_size=room, thread=0
        )

    def drain(self) -> None:
        waiting = self.sink.queue
        while not waiting.empty():
            waiting.get_nowait()


class Segment(Posthog):
    name = "Segment track"
    more = (
        "adds a UUID and the time, makes values fit for JSON, and encodes the "
        "message to check its size; later, sends in a thread of its own and "
        "retries"
    )
    package = "segment-analytics-python"
    call = "sink.track('1', 'new request', entry)"

    def __init__(self, room: int) -> None:
        from segment.analytics import Client

        quiet("segment")
        self.sink = Client(
            "key", host="http://127.0.0.1:9", max_queue_size=room, thread=0
        )
        self.sink.consumers = []
