"""Recorded arrivals: how a file is read, which part is played, and what is refused."""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections.abc import Iterable
from pathlib import Path

import pytest

from ringdispatch._tune._arrivals import guess_unit, load_arrivals, most_within
from ringdispatch._tune._cell import measure
from ringdispatch._tune._load import Load, moments
from ringdispatch._tune._results import Setting

NOW = 1_750_000_000
# In milliseconds: a burst of 40 in the third second.
TIMES = [*range(0, 5_000, 100), *range(2_005, 2_045)]
TIMES.sort()


def lines(values: Iterable[object]) -> str:
    return "".join(f"{value}\n" for value in values)


def table(separator: str) -> str:
    rows = (
        separator.join((f'"{i}"', f"{NOW + t / 1000:.3f}", "/")) for i, t in counted
    )
    return lines([separator.join(("id", "time", "path")), *rows])


counted = [*enumerate(TIMES)]
FORMS = {
    "seconds": lines(NOW + one / 1000 for one in TIMES),
    "since the start": lines(one / 1000 for one in TIMES),
    "milliseconds": lines(NOW * 1000 + one for one in TIMES),
    "microseconds": lines((NOW * 1000 + one) * 1000 for one in TIMES),
    "nanoseconds": lines((NOW * 1000 + one) * 1_000_000 for one in TIMES),
    "dates": lines(f"2025-06-15 15:06:{one / 1000:06.3f}" for one in TIMES),
    "zones": lines(f"2025-06-15T15:06:{one / 1000:06.3f}+02:00" for one in TIMES),
    "blank": lines(f"\n  {one / 1000}\r" for one in TIMES),
    "commas": table(","),
    "semicolons": table(";"),
    "tabs": table("\t"),
    "objects": lines(json.dumps({"time": NOW + one / 1000}) for one in TIMES),
    "texts": lines(json.dumps({"time": f"{one / 1000}"}) for one in TIMES),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", FORMS)
def test_times_are_read_in_every_form(form: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "times"
    path.write_text(FORMS[form], encoding=encoding)
    has_column = form in {"commas", "semicolons", "tabs", "objects", "texts"}
    found = load_arrivals(path, seconds=10, column="time" if has_column else None)
    assert list(found.times) == pytest.approx([one / 1000 for one in TIMES], abs=1e-5)
    assert found.seconds == pytest.approx(4.9)
    assert found.rate == pytest.approx(90 / 4.9)
    assert "90 times in 4.9 s" in found.read
    assert "all are played: 90 entries, 18.4/s, at most 4" in found.played


@pytest.mark.parametrize(
    ("first", "span", "unit", "why"),
    [
        (1.75e9, 3_000, "s", "size"),
        (1.75e9, 86_400, "s", "size"),
        (1.75e12, 3_000_000, "ms", "size"),
        (1.75e15, 1e9, "us", "size"),
        (1.75e18, 1e12, "ns", "size"),
        (0, 60, "s", "span"),
        (123.4, 3_600, "s", "span"),
        (0, 60_000, "ms", "span"),
        (5e8, 60_000_000, "us", "span"),
        (5e11, 60e9, "ns", "span"),
        (0, 1e15, "ns", "span"),
        # A clock of nanoseconds that has run for half an hour: no recording of a year.
        (1.75e12, 10e9, "ns", "span"),
    ],
)
def test_the_unit_is_guessed_by_size_or_span(
    first: float, span: float, unit: str, why: str
) -> None:
    assert guess_unit(first, span) == (unit, why)


def test_the_unit_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "times"
    path.write_text(lines(range(0, 5_000, 100)))
    guessed, given = (load_arrivals(path, seconds=1e4, unit=one) for one in (None, "s"))
    assert guessed.seconds == pytest.approx(4.9)
    assert "taken for milliseconds by their span" in guessed.read
    assert given.seconds == 4_900
    assert "seconds by --unit" in given.read


def test_the_busiest_stretch_is_played_as_fast_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "times"
    path.write_text(lines(one / 1000 for one in TIMES))
    found = load_arrivals(path, seconds=0.5, speed=2)
    assert found.times[0] == 0
    assert len(found.times) == 50  # the burst, and ten in the second around it
    assert found.times[-1] <= 0.5
    assert found.rate == 100
    assert "the busiest 0.5 s are played, from 0.55" in found.played
    assert "2 times as fast: 50 entries, 100.0/s" in found.played


def test_of_equal_stretches_the_first_is_the_busiest() -> None:
    assert most_within(array("d", [0, 0.1, 5, 5.1, 9]), 1.0) == (0, 2)


def test_times_out_of_order_are_sorted_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "times"
    path.write_text(lines(one / 1000 for one in reversed(TIMES)))
    found = load_arrivals(path, seconds=10, sort=True)
    assert list(found.times) == pytest.approx([one / 1000 for one in TIMES])


def test_whole_seconds_make_no_bursts_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "times"
    path.write_text(lines(NOW + one // 100 for one in range(1_000)))
    found = load_arrivals(path, seconds=30, seed=1)
    assert "so each second's are spread over it" in found.read
    assert len(found.times) == 1_000
    assert found.times == array("d", sorted(found.times))
    assert most_within(found.times, 0.1)[1] < 40
    assert found.times == load_arrivals(path, seconds=30, seed=1).times
    assert found.times != load_arrivals(path, seconds=30, seed=2).times


# ---- playing


def test_recorded_arrivals_are_offered_when_they_are_due() -> None:
    recorded = array("d", [0.0, 0.001, 0.001, 0.02])
    load = Load(200.0, 0.02, 7, recorded)
    taken: list[int] = []
    asyncio.run(load.offer(taken.append, iter(range(9))))
    assert taken == [0, 1, 2, 3]
    assert load.arrivals() == recorded
    assert load.reached == 200.0
    assert load.elapsed >= 0.02
    assert load.held(mean_age=1.0)


def test_a_short_load_outlasts_a_loop_that_stands_still() -> None:
    load = Load(200.0, 0.02, 7, array("d", [0.0, 0.001, 0.001, 0.02]))
    taken: list[int] = []

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.005, time.sleep, 0.1)
        await load.offer(taken.append, iter(range(9)))

    asyncio.run(main())
    assert taken == [0, 1, 2, 3]


def test_moments_have_the_arrivals_and_the_oldest_of_each() -> None:
    load = Load(40.0, 0.1, 7, array("d", [0.0, 0.01, 0.06, 0.09]))
    asyncio.run(load.offer(lambda entry: entry != 3, iter(range(9))))
    load.began = 50.0
    seen = moments(load, [(50.05, 2), (50.1, 1)], 0.04)
    assert seen == [
        pytest.approx((0.025, 40.0, 50.0)),
        pytest.approx((0.075, 40.0, 40.0)),
    ]
    assert len(moments(load, [], 1e-9)) == 120
    assert len(moments(load, [], 9.0)) == 1


def test_a_cell_plays_recorded_arrivals() -> None:
    recorded = array("d", [0.0005 * one for one in range(200)] + [0.2])
    setting = Setting(201 / 0.2, 10.0, 0.0, seconds=0.2)
    seen = measure(setting, seed=7, arrivals=recorded)
    assert seen.rate <= setting.rate  # type: ignore[operator]
    assert seen.batches * seen.entries_per_batch == pytest.approx(201)
    assert sum(one.rate for one in seen.moments) * 0.02 == pytest.approx(201)
    assert max(one.age for one in seen.moments) == pytest.approx(seen.age_max)
    assert [one.rate for one in seen.moments[6:9]] == [0, 0, 0]
