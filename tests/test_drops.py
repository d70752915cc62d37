"""C10: nothing is lost in silence, and enqueue itself says nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import threading

import pytest

from layouts import in_file, is_cut_short
from lines import Line
from loops import Place, eventually
from ringdispatch import BackgroundDispatcher, Full, Objects, _reports
from ringdispatch._reports import HOOK_SECONDS, REPORT_SECONDS
from support import Sink, SteppedLoop


class Drops:
    """An on_drop that adds up its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, reason: str, count: int) -> None:
        self.calls.append((reason, count))

    def total(self, reason: str) -> int:
        return sum(count for reported, count in self.calls if reported == reason)


def lines(caplog: pytest.LogCaptureFixture, reason: str) -> list[int]:
    """The number in each log line that gives the reason."""
    pattern = re.compile(rf"ringdispatch\[audit\]: (\d+) entr(?:y|ies) {reason};? ")
    found = [pattern.match(record.getMessage()) for record in caplog.records]
    return [int(match[1]) for match in found if match is not None]


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="ringdispatch")


def test_full_says_how_full_and_what_to_do(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, capacity=2, on_full="raise")
        assert dispatcher.enqueue(1)
        assert dispatcher.enqueue(2)
        with pytest.raises(Full, match=r"full \(2 pending\): raise capacity"):
            dispatcher.enqueue(3)
        assert dispatcher.statistics().rejected_full == 1
        assert await dispatcher.aclose()
        assert dispatcher.enqueue(4) is False  # closed is not full
        assert dispatcher.statistics().rejected_closed == 1

    stepped.run_until_complete(main())


def test_enqueue_itself_reports_nothing(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C10
    async def main() -> None:
        for on_full in ("drop_newest", "drop_oldest", "raise"):
            drops = Drops()
            dispatcher = dispatcher_class(
                sink, ms_delay=100, capacity=2, on_full=on_full, on_drop=drops
            )
            for number in range(20):
                with contextlib.suppress(Full):
                    dispatcher.enqueue(number)
            assert drops.calls == []
            assert caplog.records == []
            assert await dispatcher.aclose()
            reported = len(drops.calls)
            caplog.clear()
            for number in range(20):
                assert dispatcher.enqueue(number) is False
            assert len(drops.calls) == reported
            assert caplog.records == []
            await stepped.settle()
            assert drops.total("rejected_closed") == 20
            caplog.clear()

    stepped.run_until_complete(main())


@pytest.mark.parametrize(
    ("on_full", "reason"),
    [
        ("drop_newest", "rejected_full"),
        ("raise", "rejected_full"),
        ("drop_oldest", "evicted"),
    ],
)
def test_drops_of_a_full_ring_are_reported_once_with_number_and_remedy(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    on_full: str,
    reason: str,
    dispatcher_class: type,
) -> None:  # C10
    async def main() -> None:
        drops = Drops()
        dispatcher = dispatcher_class(
            sink, ms_delay=100, capacity=2, on_full=on_full, on_drop=drops, name="audit"
        )
        for number in range(7):
            with contextlib.suppress(Full):
                dispatcher.enqueue(number)
        await stepped.advance(0.2)
        assert getattr(dispatcher.statistics(), reason) == 5
        assert drops.calls == [(reason, 5)]
        assert lines(caplog, reason) == [5]
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.name == "ringdispatch"
        remedy = f"raise {dispatcher._batcher.ring.bound}, shorten ms_delay"
        assert remedy in record.getMessage()
        await stepped.advance(5 * REPORT_SECONDS)
        assert drops.calls == [(reason, 5)]
        assert lines(caplog, reason) == [5]
        assert stepped.timers() == []  # C3

    stepped.run_until_complete(main())


def test_f30_lasting_overflow_makes_one_line_per_period(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C10
    async def main() -> None:
        drops = Drops()
        dispatcher = dispatcher_class(
            sink, ms_delay=100, capacity=2, on_drop=drops, name="audit"
        )
        seconds = 60
        for number in range(seconds * 20):
            for _ in range(3):
                dispatcher.enqueue(number)
            await stepped.advance(0.05)
        dropped = dispatcher.statistics().rejected_full
        assert dropped > 500
        periods = seconds / REPORT_SECONDS
        assert periods - 1 <= len(lines(caplog, "rejected_full")) <= periods + 1
        await stepped.advance(2 * REPORT_SECONDS)
        assert sum(lines(caplog, "rejected_full")) == dropped
        assert drops.total("rejected_full") == dropped
        assert len(lines(caplog, "rejected_full")) <= periods + 2
        assert stepped.timers() == []  # C3

    stepped.run_until_complete(main())


def test_drops_are_reported_by_a_timer_while_no_batch_goes_out(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C10
    async def main() -> None:
        drops = Drops()
        dispatcher = dispatcher_class(
            sink,
            ms_delay=100,
            capacity=2,
            dispatch_timeout=None,
            on_drop=drops,
            name="audit",
        )
        sink.hold()
        dispatcher.enqueue(0)
        await stepped.advance(0.2)  # stuck from here on
        for number in range(5):
            dispatcher.enqueue(number)
        await stepped.settle()
        assert drops.calls == [("rejected_full", 3)]
        dispatcher.enqueue(5)
        await stepped.advance(HOOK_SECONDS + 0.01)
        assert drops.calls == [("rejected_full", 3), ("rejected_full", 1)]
        await stepped.advance(REPORT_SECONDS - HOOK_SECONDS - 0.02)
        assert lines(caplog, "rejected_full") == [3]
        await stepped.advance(HOOK_SECONDS)
        assert lines(caplog, "rejected_full") == [3, 1]
        await stepped.advance(3 * REPORT_SECONDS)
        assert drops.calls == [("rejected_full", 3), ("rejected_full", 1)]
        assert stepped.timers() == []  # C3: nothing drops
        dispatcher.enqueue(6)
        await stepped.settle()
        assert drops.total("rejected_full") == 5
        assert lines(caplog, "rejected_full") == [3, 1, 1]
        sink.release()
        await dispatcher.aclose()

    stepped.run_until_complete(main())


def test_drops_are_reported_by_the_time_close_returns(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C10
    async def main() -> None:
        drops = Drops()
        dispatcher = dispatcher_class(
            sink, ms_delay=100, capacity=2, on_drop=drops, name="audit"
        )
        for number in range(3):
            dispatcher.enqueue(number)
        await stepped.advance(0.2)
        assert lines(caplog, "rejected_full") == [1]
        for number in range(6):
            dispatcher.enqueue(number)
        assert await dispatcher.aclose()
        assert drops.total("rejected_full") == 5
        assert lines(caplog, "rejected_full") == [1, 4]  # the period is not waited for

    stepped.run_until_complete(main())


def test_close_reports_drops_that_came_while_a_hook_was_running(
    dispatcher_class: type,
) -> None:  # C10
    gate, reporting, going_on, went_on = (threading.Event() for _ in range(4))
    reported: list[int] = []

    def on_drop(reason: str, count: int) -> None:
        if reason == "rejected_full":
            reported.append(count)
            if count == 1:  # on the home, which is held up
                reporting.set()
                assert going_on.wait(20)
                went_on.set()

    def held(batch: object) -> None:
        gate.wait(20)

    dispatcher = dispatcher_class(
        held, ms_delay=1, capacity=1, on_drop=on_drop, home="thread"
    )
    dispatcher.enqueue("in flight")
    eventually(lambda: dispatcher.statistics().in_flight)
    dispatcher.enqueue("pending")
    dispatcher.enqueue("dropped")
    assert reporting.wait(20)
    for _ in range(5):
        dispatcher.enqueue("dropped")
    assert dispatcher.close(0.01) is False
    assert reported == [1, 5]
    going_on.set()
    assert went_on.wait(20)
    gate.set()
    eventually(lambda: not dispatcher._batcher.calls)
    assert reported == [1, 5]  # once


@pytest.mark.parametrize("now", [0.0, 0.3, 0.9])
def test_the_first_drop_is_logged_however_early_it_is(
    now: float, caplog: pytest.LogCaptureFixture
) -> None:  # C10: the machine's clock may have begun just now
    line = Line(Objects(), 1)
    dispatcher = BackgroundDispatcher(print, ms_delay=1, name="audit")
    reports = dispatcher._batcher.reports
    drops = _reports.Drops(line.ring, reports, lambda: now, bool)
    line.enqueue(1)
    line.enqueue(2)
    drops.report_now()
    assert lines(caplog, "rejected_full") == [1]


def test_entries_refused_after_close_are_reported(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C10, C15
    async def main() -> None:
        drops = Drops()
        dispatcher = dispatcher_class(sink, ms_delay=100, on_drop=drops, name="audit")
        dispatcher.enqueue(0)
        assert await dispatcher.aclose()
        for number in range(4):
            assert dispatcher.enqueue(number) is False
        await stepped.settle()
        assert dispatcher.statistics().rejected_closed == 4
        assert drops.calls == [("rejected_closed", 4)]
        assert lines(caplog, "rejected_closed") == [4]
        assert "close it after the last request" in caplog.text
        await stepped.advance(3 * REPORT_SECONDS)
        assert stepped.timers() == []  # C3

    stepped.run_until_complete(main())


def test_entries_refused_by_a_dispatcher_that_never_had_one_are_reported(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C10: before the end of the process, which may be weeks away
    async def main() -> None:
        drops = Drops()
        dispatcher = dispatcher_class(sink, ms_delay=100, on_drop=drops, name="audit")
        assert await dispatcher.aclose()
        assert dispatcher.enqueue(0) is False
        await stepped.advance(REPORT_SECONDS + 1)
        assert drops.calls == [("rejected_closed", 1)]
        assert lines(caplog, "rejected_closed") == [1]

    stepped.run_until_complete(main())


def test_what_close_gives_up_is_logged_in_one_line(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C10, C15
    async def main() -> None:
        drops = Drops()
        dispatcher = dispatcher_class(
            sink, ms_delay=100, max_batch=2, on_drop=drops, name="audit"
        )
        sink.hold()
        for number in range(5):
            dispatcher.enqueue(number)
        closing = asyncio.create_task(dispatcher.aclose(timeout=1))
        await stepped.advance(1.1)
        assert await closing is False
        seen = dispatcher.statistics()
        assert sink.entries == [0, 1]
        assert is_cut_short(dispatcher, in_flight=2, pending=3)
        assert seen.pending == seen.in_flight == 0
        kept = in_file(dispatcher)
        assert drops.calls == ([] if kept else [("abandoned", 3)])
        warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
        (line,) = (record.getMessage() for record in warnings)
        what = "2 entries in flight failed, 3 entries pending abandoned"
        if kept:
            what = r"2 entries in flight and 3 entries pending left in /\S+\.spool"
        begin = r"ringdispatch\[audit\]: close timed out after 1\.0 s: "
        assert re.fullmatch(begin + what, line)

    stepped.run_until_complete(main())


def test_reasons_are_counted_apart(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C10
    async def main() -> None:
        drops = Drops()
        dispatcher = dispatcher_class(
            sink,
            ms_delay=100,
            capacity=2,
            on_full="drop_oldest",
            on_drop=drops,
            name="audit",
        )
        for number in range(5):
            dispatcher.enqueue(number)
        # It waits for room, displaces nothing, and has no time for either.
        assert await dispatcher.aenqueue(5, timeout=0) is False
        assert await dispatcher.aclose()
        dispatcher.enqueue(6)
        await stepped.settle()
        assert sorted(drops.calls) == [
            ("evicted", 3),
            ("rejected_closed", 1),
            ("rejected_full", 1),
        ]
        for reason, count in drops.calls:
            assert lines(caplog, reason) == [count]
            assert getattr(dispatcher.statistics(), reason) == count

    stepped.run_until_complete(main())


def test_hook_that_enqueues_and_drops_again_is_no_loop(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C10, F15
    async def main() -> None:
        reported: list[int] = []

        def on_drop(reason: str, count: int) -> None:
            reported.append(count)
            dispatcher.enqueue("from the hook")

        dispatcher = dispatcher_class(
            sink, ms_delay=100, capacity=1, on_drop=on_drop, name="audit"
        )
        sink.hold()
        dispatcher.enqueue(0)
        await stepped.advance(0.2)
        for number in range(3):
            dispatcher.enqueue(number)
        await stepped.advance(5 * REPORT_SECONDS)
        assert len(reported) <= 5 * REPORT_SECONDS / HOOK_SECONDS + 2
        assert len(lines(caplog, "rejected_full")) <= 7
        sink.release()
        assert await dispatcher.aclose()
        assert sum(reported) == sum(lines(caplog, "rejected_full"))
        refused = dispatcher.statistics()
        assert sum(reported) == refused.rejected_full

    stepped.run_until_complete(main())


@pytest.mark.parametrize("end", ["collected", "another batch"])
def test_drops_whose_report_went_down_with_its_loop_are_reported_in_the_end(
    end: str,
    dispatcher_class: type,
) -> None:  # C10
    drops = Drops()
    dispatcher = dispatcher_class(Place(), ms_delay=1, capacity=1, on_drop=drops)

    async def overflow(dispatcher: BackgroundDispatcher[str]) -> None:
        while drops.total("rejected_full") == 0:
            dispatcher.enqueue("a")
            dispatcher.enqueue("one too many")
            await asyncio.sleep(0)
        while dispatcher.enqueue("a"):  # the next report is due in ten seconds
            pass

    loop = asyncio.new_event_loop()
    loop.run_until_complete(overflow(dispatcher))
    loop.close()
    ring = dispatcher._batcher.ring
    eventually(lambda: ring.pending == 0)
    refused = dispatcher.statistics().rejected_full
    if end == "collected":
        del dispatcher
    else:
        assert dispatcher.enqueue("a")
    eventually(lambda: gc.collect() >= 0 and drops.total("rejected_full") == refused)
