"""C1 to C4: when batches go out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from freezegun import freeze_time

from loops import LOOPS, Place, comes_true, eventually, run_on
from support import Sink, SteppedLoop
from watching import WatchedRing

# When a window ends, whatever its entries lie in.
pytestmark = pytest.mark.usefixtures("in_memory")

on_each_loop = pytest.mark.parametrize("loop_name", LOOPS)


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


# ---- C1


def test_window_is_due_one_delay_after_it_opened(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C1
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        dispatcher.enqueue("a")
        await stepped.advance(0.06)
        dispatcher.enqueue("b")
        await stepped.advance(0.0399)
        assert sink.batches == []
        await stepped.advance(0.0002)
        assert sink.batches == [["a", "b"]]

    stepped.run_until_complete(main())


def test_f25_steady_trickle_never_postpones_the_window(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C1
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        for number in range(100):
            dispatcher.enqueue(number)
            await stepped.advance(0.01)
        assert len(sink.batches) in {9, 10}
        assert all(gap >= 0.1 - 1e-4 for gap in gaps(sink.times)), sink.times  # C2

    stepped.run_until_complete(main())


def test_no_entry_waits_longer_than_the_delay(
    stepped: SteppedLoop, dispatcher_class: type
) -> None:  # C1
    ages: list[float] = []

    async def sink(batch: list[float]) -> None:
        ages.extend(stepped.time() - born for born in batch)

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        for step in range(300):
            dispatcher.enqueue(stepped.time())
            await stepped.advance(0.001 * (step * 7919 % 131))
        assert await dispatcher.aclose()
        assert len(ages) == 300
        assert max(ages) <= 0.1001, max(ages)

    stepped.run_until_complete(main())


def test_oldest_age_runs_from_the_windows_opening(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C1
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        assert dispatcher.statistics().oldest_age_seconds == 0.0
        dispatcher.enqueue("a")
        await stepped.advance(0.06)
        dispatcher.enqueue("b")
        await stepped.advance(0.02)
        assert dispatcher.statistics().oldest_age_seconds == pytest.approx(0.08)
        await stepped.advance(0.1)
        assert dispatcher.statistics().oldest_age_seconds == 0.0

    stepped.run_until_complete(main())


@pytest.mark.parametrize("ms_delay", [0.001, 0.25, 0.5, 1.5, 12.75, 3_600_000])
def test_delays_may_have_fractions(
    stepped: SteppedLoop, sink: Sink, ms_delay: float, dispatcher_class: type
) -> None:  # C1
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=ms_delay)
        began = stepped.time()
        for _ in range(3):
            dispatcher.enqueue("a")
            await stepped.advance(2 * ms_delay / 1000)
        late = [at - began - 2 * n * ms_delay / 1000 for n, at in enumerate(sink.times)]
        assert len(late) == 3
        assert late == pytest.approx([ms_delay / 1000] * 3, abs=1.1e-4)

    stepped.run_until_complete(main())


# ---- C2


@pytest.mark.parametrize("early", ["flush", "max_batch"])
def test_early_batch_does_not_bring_the_delay_out_of_step(
    stepped: SteppedLoop, sink: Sink, early: str, dispatcher_class: type
) -> None:  # C2
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=3)
        began = stepped.time()
        dispatcher.enqueue("a")
        await stepped.advance(0.05)
        if early == "flush":
            assert await dispatcher.aflush()
        else:
            dispatcher.enqueue("b")
            dispatcher.enqueue("c")
            await stepped.settle()
        assert len(sink.batches) == 1
        await stepped.advance(0.02)
        dispatcher.enqueue("opens the next window")
        await stepped.advance(0.0999)
        assert len(sink.batches) == 1
        await stepped.advance(0.0002)
        assert sink.times[1] - began == pytest.approx(0.17, abs=2e-4)
        # The one after it is the delay apart again, however it is fed.
        for _ in range(30):
            dispatcher.enqueue("d")
            if len(sink.batches) >= 3:
                break
            await stepped.advance(0.05)
            if dispatcher.pending == 2:
                await stepped.advance(0.06)
        assert gaps(sink.times)[1] >= 0.0999

    stepped.run_until_complete(main())


def test_delays_windows_keep_their_distance_under_any_traffic(
    stepped: SteppedLoop,
    dispatcher_class: type,
) -> None:  # C2: also with flushes and full batches in between
    due: list[float] = []

    async def sink(batch: list[Any]) -> None:
        if len(batch) < 5 and not flushing:
            due.append(stepped.time())

    flushing = False

    async def main() -> None:
        nonlocal flushing
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=5)
        for step in range(500):
            for _ in range(step * 7919 % 3):
                dispatcher.enqueue(step)
            if step % 17 == 0:
                flushing = True
                assert await dispatcher.aflush()
                flushing = False
            await stepped.advance(0.001 * (step * 104_729 % 70))
        assert len(due) > 20
        assert min(gaps(due)) >= 0.0999, min(gaps(due))
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


class Slow(WatchedRing):
    """Lets something happen between deciding that a window is over and taking it."""

    meanwhile: Callable[[], object] = int

    def take(self, *bounds: int) -> Any:
        meanwhile, self.meanwhile = self.meanwhile, int
        meanwhile()
        return self.ring.take(*bounds)


def test_what_comes_after_a_window_is_due_waits_for_the_next(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C1
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=3)
        ring = Slow(dispatcher)
        dispatcher.enqueue("a")
        ring.meanwhile = lambda: dispatcher.enqueue("b")
        await stepped.advance(0.1)
        assert sink.batches == [["a"]]
        await stepped.advance(0.0999)
        assert sink.batches == [["a"]]
        await stepped.advance(0.0001)
        assert sink.batches == [["a"], ["b"]]
        dispatcher.enqueue("c")
        ring.meanwhile = lambda: [dispatcher.enqueue(late) for late in "def"]
        await stepped.advance(0.1)
        # A full batch goes out at once in any case.
        assert sink.batches[2:] == [["c", "d", "e"]]
        await stepped.advance(0.1)
        assert sink.batches[3:] == [["f"]]

    stepped.run_until_complete(main())


def test_window_after_a_take_that_came_late_lasts_its_full_delay(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C2
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        began = stepped.time()

        def stand_still() -> None:
            stepped.block(0.07)
            dispatcher.enqueue("b")

        dispatcher.enqueue("a")
        Slow(dispatcher).meanwhile = stand_still
        await stepped.advance(0.5)
        assert sink.batches == [["a"], ["b"]]
        assert sink.times == pytest.approx([began + 0.17, began + 0.27])

    stepped.run_until_complete(main())


@pytest.mark.parametrize("busy", [0.02, 0.06, 0.1])
def test_late_backlog_does_not_put_off_the_next_window(
    stepped: SteppedLoop, busy: float, dispatcher_class: type
) -> None:  # C1
    """Due while every slot was busy, its batch comes late: the next is on time."""
    ages: dict[Any, float] = {}

    async def sink(batch: list[Any]) -> None:
        for entry in batch:
            ages[entry] = stepped.time() - came[entry]
        if len(batch) == 10:
            await asyncio.sleep(busy)

    came: dict[Any, float] = {}

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=10)

        def put(entry: Any) -> None:
            came[entry] = stepped.time()
            dispatcher.enqueue(entry)

        put("first")
        await stepped.advance(0.09)
        for number in range(10):
            put(number)
        await stepped.advance(0.015)
        put("next")
        await stepped.advance(0.4)
        assert ages["next"] <= 0.1 + 1e-6

    stepped.run_until_complete(main())


class Taking(WatchedRing):
    """Notes the moments before and after each take: a busy machine may lie between."""

    def __init__(self, dispatcher: Any) -> None:
        super().__init__(dispatcher)
        self.takes: list[tuple[float, float]] = []
        self.pumps = 0

    def claim_window(self, pumps: int) -> None:
        self.pumps += 1  # each ends with it
        self.ring.claim_window(pumps)

    def take(self, *bounds: int) -> Any:
        before = time.monotonic()
        taken = self.ring.take(*bounds)
        self.takes.append((before, time.monotonic()))
        return taken


@on_each_loop
@pytest.mark.parametrize("home", ["auto", "thread"])
@pytest.mark.parametrize("ms_delay", [3, 10, 12.7])
def test_windows_are_apart_in_real_time(
    loop_name: str, home: str, ms_delay: float, dispatcher_class: type
) -> None:  # C2: within the timer's resolution, 1 ms on uvloop
    sink = Place()

    async def main() -> None:
        async with dispatcher_class(sink, ms_delay=ms_delay, home=home) as dispatcher:
            ring = Taking(dispatcher)
            while len(sink.batches) < 25:
                dispatcher.enqueue(time.monotonic())
                await asyncio.sleep(0)
        takes = ring.takes[:25]  # what comes after them is the close
        apart = [after - before for (before, _), (_, after) in pairwise(takes)]
        assert min(apart) >= ms_delay / 1000 - 0.0002, apart
        firsts = [batch[0] for batch in sink.batches[:25]]
        ages = [at - first for (_, at), first in zip(takes, firsts, strict=True)]
        assert min(ages) >= ms_delay / 1000 - 0.0002, ages
        # A busy machine may be late now and then, never always.
        assert min(ages) <= ms_delay / 1000 + 0.01, ages

    run_on(loop_name, main())


@on_each_loop
def test_timer_that_fires_early_waits_for_one_more_and_does_not_spin(
    loop_name: str, dispatcher_class: type
) -> None:
    sink = Place()

    async def main() -> None:
        async with dispatcher_class(sink, ms_delay=10) as dispatcher:
            ring = Taking(dispatcher)
            for number in range(25):
                dispatcher.enqueue(number)
                await comes_true(lambda: len(sink.batches) > number)  # noqa: B023
            assert 25 <= len(ring.takes) < ring.pumps <= 8 * len(ring.takes)

    run_on(loop_name, main())


# ---- C3


def test_idle_dispatcher_has_no_timer_and_no_task(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C3
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        assert stepped.timers() == []
        dispatcher.enqueue("a")
        await stepped.advance(10)
        assert sink.batches == [["a"]]
        assert stepped.timers() == []
        assert len(asyncio.all_tasks()) == 1
        await dispatcher.aflush()
        assert sink.batches == [["a"]]
        assert stepped.timers() == []

    stepped.run_until_complete(main())


def test_dispatch_function_is_never_called_with_nothing(
    stepped: SteppedLoop, sink: Sink, dispatcher_class: type
) -> None:  # C3: whatever took the entries before the timer fired
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, max_batch=2, max_in_flight=3)
        for _ in range(5):
            dispatcher.enqueue("a")
            assert await dispatcher.aflush()
            assert await dispatcher.aflush()
            dispatcher.enqueue("a")
            dispatcher.enqueue("b")
            await stepped.advance(0.3)
        assert await dispatcher.aclose()
        assert await dispatcher.aclose()
        await stepped.advance(1)
        assert all(sink.batches)
        assert len(sink.batches) == 10

    stepped.run_until_complete(main())


# ---- C4


def test_wall_clock_does_not_matter(
    stepped: SteppedLoop,
    sink: Sink,
    monkeypatch: pytest.MonkeyPatch,
    dispatcher_class: type,
) -> None:  # C4, F24
    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100)
        dispatcher.enqueue("a")
        monkeypatch.setattr(time, "time", lambda: 0.0)
        await stepped.advance(0.11)
        assert sink.batches == [["a"]]

    stepped.run_until_complete(main())


@on_each_loop
@pytest.mark.parametrize("home", ["auto", "thread"])
def test_f24_frozen_and_jumping_clocks_change_nothing(
    loop_name: str, home: str, dispatcher_class: type
) -> None:  # C4
    sink = Place()
    clock = time.perf_counter

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=20, home=home)
        with freeze_time("2001-01-01", real_asyncio=True) as frozen:
            for jump in (0, 1_000_000, -2_000_000):
                frozen.tick(jump)
                began = clock()
                dispatcher.enqueue("a")
                while dispatcher.pending:
                    assert clock() < began + 10
                    await asyncio.sleep(0.001)
                assert clock() - began >= 0.0185
                assert dispatcher.statistics().oldest_age_seconds == 0.0
            assert await dispatcher.aclose()
        assert sink.batches == [["a"]] * 3

    run_on(loop_name, main())


def test_f24_dispatcher_made_under_frozen_time(dispatcher_class: type) -> None:  # C4
    sink = Place()
    with freeze_time("2001-01-01", real_asyncio=True):
        dispatcher = dispatcher_class(sink, ms_delay=5, home="thread")
        dispatcher.enqueue("a")
    eventually(lambda: sink.batches == [["a"]])
    assert dispatcher.close()


@on_each_loop
def test_real_window_goes_out_with_nothing_else_happening(
    loop_name: str, dispatcher_class: type
) -> None:
    sink = Place()  # C1, F23: a wake-up is never lost

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=0.1)
        for number in range(1, 201):
            dispatcher.enqueue(number)
            await comes_true(lambda: len(sink.batches) >= number)  # noqa: B023
        assert await dispatcher.aclose()

    run_on(loop_name, main())
