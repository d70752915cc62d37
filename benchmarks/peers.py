"""What is compared: the call that puts an entry, ours and others', each as it is used.

Each peer says how it is called, and how it is emptied while no clock runs. Whatever
would consume its entries is kept asleep, so that the call alone is timed. A
peer that is not installed raises ImportError when it is made.
"""

import asyncio
import collections
import threading
from collections.abc import Callable
from typing import Any

from others import (
    HOUR,
    Aiochannel,
    Aiologic,
    AiologicBounded,
    AsyncioQueue,
    Culsans,
    Flushq,
    Janus,
    Loguru,
    OpenTelemetry,
    Picologging,
    Posthog,
    Segment,
    Sentry,
    SimpleQueue,
    StandardHandler,
    ThreadQueue,
)
from peer import Peer, quiet
from ringdispatch import BackgroundDispatcher, Bytes, Objects, Records

ROW = (1.75e9, 512, 0.25, 200)
LINE = b'{"time":1750000000.0,"size":512,"seconds":0.25,"status":200}'
DTYPE = [("time", "f8"), ("size", "i4"), ("seconds", "f4"), ("status", "u2")]


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
        """Return at once; while there is to be no room, when asked to."""
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
