"""C15: flush waits for what came before it, and loses nothing."""

from __future__ import annotations

import asyncio
import threading
import time

from loops import Place
from support import Sink, SteppedLoop, books_agree


def test_f18_flush_waits_only_for_what_came_before_it(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C15
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=1000, max_batch=2, max_in_flight=2)
        dispatcher.enqueue("before")
        flushing = asyncio.ensure_future(dispatcher.aflush())
        await stepped.settle()
        sink.hold()
        dispatcher.enqueue("after")
        await stepped.advance(1.1)
        assert flushing.result() is True
        assert sink.running == 1
        assert await dispatcher.aflush(timeout=0) is False
        sink.release()
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_flush_times_out_and_loses_nothing(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:  # C15
        dispatcher = dispatcher_class(sink, ms_delay=100)
        sink.hold()
        dispatcher.enqueue("a")
        flushing = asyncio.ensure_future(dispatcher.aflush(timeout=3))
        await stepped.advance(3.1)
        assert flushing.result() is False
        assert sink.running == 1
        sink.release()
        assert await dispatcher.aflush()
        assert dispatcher.statistics().dispatched == 1
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_f18_entries_during_flush_and_close_go_out_once_or_are_refused(
    dispatcher_class: type,
) -> None:
    sink = Place()  # C15
    dispatcher = dispatcher_class(sink, ms_delay=1, max_batch=64, home="thread")
    accepted: list[list[int]] = [[], []]
    started = threading.Barrier(3)

    def produce(mine: list[int], first: int) -> None:
        started.wait()
        number = first
        while dispatcher.enqueue(number):
            mine.append(number)
            number += 2
            if number % 128 < 2:
                time.sleep(0.0005)

    threads = [
        threading.Thread(target=produce, args=(accepted[first], first))
        for first in range(2)
    ]
    for thread in threads:
        thread.start()
    started.wait()
    for _ in range(20):
        assert dispatcher.flush(20)
    assert dispatcher.close(20)
    for thread in threads:
        thread.join()
    for first in range(2):
        assert [n for n in sink.entries if n % 2 == first] == accepted[first]
    books_agree(dispatcher)
