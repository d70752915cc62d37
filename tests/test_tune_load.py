"""The load: entries that arrive on a schedule, and whether it was held."""

from __future__ import annotations

import asyncio
import time

from ringdispatch._tune._load import Load, schedule

SEED = 7


def test_a_schedule_is_drawn_from_its_seed() -> None:
    times = schedule(1_000.0, 2.0, SEED)
    assert len(times) == 2_000
    assert list(times) == sorted(times)
    assert times[0] > 0
    assert times[-1] < 2.0
    assert times == schedule(1_000.0, 2.0, SEED)
    assert times != schedule(1_000.0, 2.0, SEED + 1)
    # Of a Poisson process, the variance of what falls in equal times is its mean.
    counts = [0] * 100
    for at in times:
        counts[int(at * 50)] += 1
    spread = sum((count - 20) ** 2 for count in counts) / 100 / 20
    assert 0.6 < spread < 1.5


def test_entries_arrive_when_they_are_due_not_when_they_are_enqueued() -> None:
    load = Load(1_000.0, 0.1, SEED)
    due = schedule(1_000.0, 0.1, SEED)
    taken: list[int] = []

    def put(entry: int) -> bool:
        taken.append(entry)
        return True

    asyncio.run(load.offer(put, iter(range(1_000))))
    # On a busy machine the producer may fall behind, and gives up then.
    assert taken == [*range(load.offered)]
    assert load.arrivals() == due[: load.offered]
    assert load.accepted == load.offered > 0


def test_a_producer_that_cannot_keep_up_stops_when_its_time_is_over() -> None:
    load = Load(100_000.0, 0.05, SEED)

    def put(entry: int) -> None:
        time.sleep(0.001)

    asyncio.run(load.offer(put, iter(range(5_000))))
    assert 0 < load.offered < 5_000
    assert load.elapsed >= 0.05
    assert not load.held(mean_age=1.0)


def test_a_load_of_no_whole_number_of_entries_is_held_at_its_rate() -> None:
    load = Load(34.9, 0.1, SEED)
    due = schedule(34.9, 0.1, SEED)
    assert len(due) == 3
    load.offered, load.elapsed = 3, due[-1]
    assert load.held(mean_age=0.01)
    assert load.reached == 34.9
    load.offered = 2
    assert not load.held(mean_age=0.01)


def test_arrivals_are_those_of_accepted_entries() -> None:
    load = Load(None, 0.01, SEED)
    asyncio.run(load.offer(lambda entry: entry % 500 < 3, iter(range(10**9))))
    chunks = load.offered // 500
    assert load.accepted == 3 * chunks
    assert len(load.arrivals()) == 3 * chunks
    assert len(set(load.arrivals())) == chunks
