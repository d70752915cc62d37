"""C16: dispatchers that nobody closed."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import weakref
from contextvars import Context, copy_context
from typing import Any

import pytest

from loops import LOOPS, Place, eventually
from ringdispatch import BackgroundDispatcher
from ringdispatch._batcher import Batcher
from subprocesses import run_snippet
from support import Sink, SteppedLoop


def test_f35_open_window_still_goes_out_then_the_object_is_freed(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C16
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        gone = weakref.ref(dispatcher)
        engine_gone = weakref.ref(dispatcher._batcher)
        dispatcher.enqueue("a")
        await stepped.settle()
        del dispatcher
        await stepped.settle()
        assert engine_gone() is not None
        await stepped.advance(0.2)
        assert sink.batches == [["a"]]
        gc.collect()
        assert gone() is None
        assert engine_gone() is None

    stepped.run_until_complete(main())


def test_f35_with_a_cached_enqueue_it_goes_with_the_next_collection(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    class Caching(dispatcher_class):
        """Has an instance dict, to keep its own bound method in."""

    async def main() -> None:
        dispatcher = Caching(sink, ms_delay=100)
        gone = weakref.ref(dispatcher)
        dispatcher.enqueue_cached = dispatcher.enqueue  # type: ignore[attr-defined]
        dispatcher.enqueue("a")
        del dispatcher
        await stepped.advance(0.2)
        assert sink.batches == [["a"]]
        gc.collect()
        assert gone() is None

    stepped.run_until_complete(main())


@pytest.mark.parametrize("loop_name", LOOPS)
def test_f35_dispatcher_dropped_with_its_loop_loses_nothing(
    loop_name: str, layout: str
) -> None:
    outcome = run_snippet(
        """
        async def send(batch): say(batch)
        async def main():
            BackgroundDispatcher(send, ms_delay=60_000, name="n1").enqueue("a")
        loop = new_loop()
        loop.run_until_complete(main())
        loop.close()
        gc.collect()
        """,
        loop=loop_name,
        layout=layout,
    )
    assert outcome.lines == ["['a']"]  # at exit, on the background thread


def test_f28_finalizer_waits_for_nobody(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    dispatcher_class: type,
) -> None:
    """A collector that finds an unclosed dispatcher goes on at once."""
    # As if no loop ever ran.
    monkeypatch.setattr(Batcher, "wake_home", lambda self, home: False)
    dispatcher = dispatcher_class(Place(), ms_delay=1, name="n1")
    dispatcher.enqueue("a")
    gone = weakref.ref(dispatcher)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        del dispatcher
        gc.collect()
    took = time.monotonic() - began
    assert took < 4  # a close would wait for five seconds
    assert gone() is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("ringdispatch[n1]: collected without close: ")
    assert "1 entry pending" in line


def test_f35_window_on_the_background_thread_still_goes_out(
    dispatcher_class: type,
) -> None:
    sink = Place()
    dispatcher = dispatcher_class(sink, ms_delay=5)
    gone = weakref.ref(dispatcher)
    dispatcher.enqueue("a")
    del dispatcher
    eventually(lambda: sink.batches == [["a"]])
    eventually(lambda: gc.collect() >= 0 and gone() is None)


def test_worker_thread_keeps_no_dispatcher_alive(dispatcher_class: type) -> None:  # C7
    """From 3.14 on threads may inherit the context they are started in."""
    received: list[Any] = []
    dispatcher = dispatcher_class(received.extend, ms_delay=1, home="thread")
    for _ in range(10):  # as many worker threads as the pool will ever start
        dispatcher.enqueue("a")
        assert dispatcher.flush()
    assert dispatcher.close()
    gone = weakref.ref(dispatcher)
    del dispatcher
    eventually(lambda: gc.collect() >= 0 and gone() is None)


def test_context_that_outlives_its_call_keeps_no_dispatcher_alive(
    dispatcher_class: type,
) -> None:  # C7
    """As that of a cancelled timer, which an idle loop may keep."""
    contexts: list[Context] = []

    async def send(batch: list[Any]) -> None:
        contexts.append(copy_context())

    dispatcher = dispatcher_class(send, ms_delay=1, home="thread")
    dispatcher.enqueue("a")
    assert dispatcher.close()
    gone = weakref.ref(dispatcher)
    del dispatcher
    eventually(lambda: gc.collect() >= 0 and gone() is None)
    assert contexts


def test_background_thread_keeps_no_request_alive(layout: str) -> None:  # C7, C19
    outcome = run_snippet(
        """
        import contextvars, weakref
        class Request: pass
        async def send(batch): pass
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        request = contextvars.ContextVar("request")
        def handle():
            mine = Request()
            request.set(mine)
            assert dispatcher.enqueue("a")
            return weakref.ref(mine)
        gone = contextvars.copy_context().run(handle)
        assert dispatcher.close()
        eventually(lambda: gc.collect() >= 0 and gone() is None)
        """,
        layout=layout,
    )
    assert outcome.lines == []


# Objects only: who is alive.
def test_what_the_dispatch_function_leaves_behind_keeps_no_batch_alive() -> None:
    """C7: a cancelled timeout stays in the loop's heap, and with it its context."""

    class Entry:
        pass

    async def send(batch: list[Entry]) -> None:
        async with asyncio.timeout(3600):
            await asyncio.sleep(0)

    async def main() -> None:
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        alive: list[weakref.ref[Entry]] = []
        for _ in range(20):
            entry = Entry()
            alive.append(weakref.ref(entry))
            dispatcher.enqueue(entry)
            del entry
            assert await dispatcher.aflush()
        await asyncio.sleep(0)
        assert [ref for ref in alive if ref() is not None] == []
        assert await dispatcher.aclose()

    asyncio.run(main())
