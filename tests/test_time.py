"""C1 to C4: when batches go out."""

from __future__ import annotations

import time

from ringdispatch import BackgroundDispatcher
from support import Sink, SteppedLoop


def test_window_is_due_one_delay_after_it_opened(
    stepped: SteppedLoop, sink: Sink
) -> None:  # C1
    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=100)
        dispatcher.enqueue("a")
        await stepped.advance(0.06)
        dispatcher.enqueue("b")
        await stepped.advance(0.0399)
        assert sink.batches == []
        await stepped.advance(0.0002)
        assert sink.batches == [["a", "b"]]

    stepped.run_until_complete(main())


def test_steady_trickle_never_postpones_the_window(
    stepped: SteppedLoop, sink: Sink
) -> None:  # C1, F25
    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=100)
        for number in range(100):
            dispatcher.enqueue(number)
            await stepped.advance(0.01)
        gaps = [b - a for a, b in zip(sink.times, sink.times[1:], strict=False)]
        assert len(sink.batches) in {9, 10}
        assert all(gap >= 0.1 - 1e-4 for gap in gaps), gaps  # C2

    stepped.run_until_complete(main())


def test_idle_dispatcher_has_no_timer_and_no_task(
    stepped: SteppedLoop, sink: Sink
) -> None:  # C3
    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=100)
        assert stepped.timers() == []
        dispatcher.enqueue("a")
        await stepped.advance(10)
        assert sink.batches == [["a"]]
        assert stepped.timers() == []

    stepped.run_until_complete(main())


def test_wall_clock_does_not_matter(
    stepped: SteppedLoop, sink: Sink, monkeypatch: object
) -> None:  # C4
    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=100)
        dispatcher.enqueue("a")
        monkeypatch.setattr(time, "time", lambda: 0.0)  # type: ignore[attr-defined]
        await stepped.advance(0.11)
        assert sink.batches == [["a"]]

    stepped.run_until_complete(main())
