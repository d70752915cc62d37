"""What is compared: the call that puts an entry, ours and others', each as it is used.

Each peer says how it is called, and how it is emptied while no clock runs. Whatever
would consume its entries is kept asleep, so that the call alone is timed. A
peer that is not installed raises ImportError when it is made.
"""

import asyncio
import collections
import logging
import logging.handlers
import queue
import threading
from collections.abc import Callable
from typing import Any

from peer import Peer, quiet
from ringdispatch import BackgroundDispatcher, Bytes, Objects, Records

ROW = (1.75e9, 512, 0.25, 200)
LINE = b'{"time":1750000000.0,"size":512,"seconds":0.25,"status":200}'
DTYPE = [("time", "f8"), ("size", "i4"), ("seconds", "f4"), ("status", "u2")]
HOUR = 3600.0
NEVER = 1 << 30  # entries that never come together


class EmptyLoop(Peer):
    name = "empty loop"
    call = "pass"
    bounded = False

    def __init__(self, _: int) -> None:
        self.sink = None

    def drain(self) -> None: ...


class Deque(Peer):
    name = "deque.append"
    call = "sink.append(entry)"

    def __init__(self, room: int) -> None:
        self.sink = collections.deque(maxlen=room)

    def drain(self) -> None:
        self.sink.clear()


# ---- ours


class Ours(Peer):
    """A dispatcher whose window is open for an hour, or whose call never ends."""

    call = "sink.enqueue(entry)"
    layout: Callable[[], Any]

    def __init__(self, room: int) -> None:
        self.hold = threading.Event()
        self.release: Callable[[], object] = lambda: None
        self.sink = BackgroundDispatcher(
            self.send,
            ms_delay=HOUR * 1000,
            capacity=room,
            dispatch_timeout=None,
            layout=type(self).layout(),
            home="thread",
        )
        self.sink.enqueue(self.entry)

    async def send(self, _: Any) -> None:
        """Return at once; while there is to be no room, when told to."""
        if self.hold.is_set():
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            self.release = lambda: loop.call_soon_threadsafe(ended.set)
            await ended.wait()

    def fill(self, room: int) -> None:
        """Have a call hang, and no room behind it."""
        quiet("ringdispatch")
        self.hold.set()
        self.sink.flush(timeout=0.2)
        super().fill(room)

    def drain(self) -> None:
        self.sink.flush(timeout=HOUR)
        self.sink.enqueue(self.entry)  # opens the next window

    def close(self) -> None:
        self.hold.clear()
        self.release()
        self.sink.close()


class OurObjects(Ours):
    name = "ringdispatch, Objects"
    layout = Objects


class OurTuples(Ours):
    name = "ringdispatch, Records, a tuple"
    entry = ROW

    @staticmethod
    def layout() -> Records:
        return Records(DTYPE)


class OurRows(OurTuples):
    name = "ringdispatch, Records, enqueue_row"
    call = "sink.enqueue_row(1.75e9, 512, 0.25, 200)"


class OurBytes(Ours):
    name = "ringdispatch, Bytes, encoded before"
    entry = LINE

    @staticmethod
    def layout() -> Bytes:
        return Bytes(max_bytes=32 << 20)


class OurEncoded(Ours):
    name = "ringdispatch, Bytes, orjson in enqueue"
    package = "orjson"

    @staticmethod
    def layout() -> Bytes:
        import orjson

        return Bytes(encode=orjson.dumps, max_bytes=32 << 20)


# ---- the standard library


class SimpleQueue(Peer):
    name = "SimpleQueue.put"
    call = "sink.put(entry)"
    bounded = False

    def __init__(self, _: int) -> None:
        self.sink = queue.SimpleQueue()


class ThreadQueue(Peer):
    name = "queue.Queue.put_nowait"
    refusal = queue.Full

    def __init__(self, room: int) -> None:
        self.sink = queue.Queue(room)


class AsyncioQueue(Peer):
    name = "asyncio.Queue.put_nowait"
    threads = False
    refusal = asyncio.QueueFull

    def __init__(self, room: int) -> None:
        self.sink = asyncio.Queue(room)


class StandardHandler(Peer):
    name = "logging QueueHandler.emit"
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
    package = "janus"

    def __init__(self, room: int) -> None:
        import janus

        self.refusal = janus.SyncQueueFull
        self.sink = janus.Queue(room).sync_q


class Culsans(Peer):
    name = "culsans, sync_q.put_nowait"
    package = "culsans"

    def __init__(self, room: int) -> None:
        import culsans

        self.refusal = culsans.SyncQueueFull
        self.sink = culsans.Queue(room).sync_q


class Aiologic(Peer):
    name = "aiologic SimpleQueue.put"
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
    package = "aiochannel"
    threads = False

    def __init__(self, room: int) -> None:
        import aiochannel

        self.refusal = aiochannel.ChannelFull
        self.sink = aiochannel.Channel(room)


class Picologging(StandardHandler):
    name = "picologging QueueHandler.emit"
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
    package = "segment-analytics-python"
    call = "sink.track('1', 'new request', entry)"

    def __init__(self, room: int) -> None:
        from segment.analytics import Client

        quiet("segment")
        self.sink = Client(
            "key", host="http://127.0.0.1:9", max_queue_size=room, thread=0
        )
        self.sink.consumers = []


PEERS: list[type[Peer]] = [
    EmptyLoop,
    Deque,
    OurObjects,
    OurTuples,
    OurRows,
    OurBytes,
    OurEncoded,
    SimpleQueue,
    AsyncioQueue,
    ThreadQueue,
    StandardHandler,
    OpenTelemetry,
    Sentry,
    Janus,
    Culsans,
    Aiologic,
    AiologicBounded,
    Aiochannel,
    Picologging,
    Flushq,
    Segment,
    Posthog,
    Loguru,
]
