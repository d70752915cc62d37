"""Checks the replay, by which the tuner predicts, against the real dispatcher.

    python benchmarks/replay_check.py [--check] [--quick] [--function http]

Five dispatch functions (sinks.py) at three rates, with five delays and up to
four calls at once, below saturation. Each is predicted from the calls of one other run:
of 50 ms and one call at a time at that rate. `--check` exits with 1 where a figure is
off by more than its limit. All of it takes half an hour, `--quick` three minutes.
"""

import argparse
import os
import sys
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from math import sqrt
from pathlib import Path

from ringdispatch._tune._cell import measure_apart
from ringdispatch._tune._load import schedule
from ringdispatch._tune._recording import Calls
from ringdispatch._tune._replay import Replayed, replay
from ringdispatch._tune._results import Measured, Setting

FUNCTIONS = ("http", "tail", "encoded", "database", "growing")
RATES = (500.0, 2_000.0, 10_000.0)
DELAYS = (5.0, 20.0, 50.0, 97.0, 200.0)
SLOTS = (1, 2, 4)
QUICK = ((2_000.0,), (5.0, 97.0), (1, 2))

# What is off by no more is within the limit.
LIMIT = 0.1
# Milliseconds: a timer fires up to so much late, which another run has otherwise.
AGE_FLOOR = 1.0
# So many standard deviations of a Poisson count: the most that come in any window, and
# what comes in the slow calls and finds no room, hang on the moment when each begins.
SPREAD = 2.0

RECORDED = Setting(RATES[0], 50.0, None, seconds=16.5)
CALLS = 300  # of `tail`, three slow ones
SEED = 20_261_126
# A run that other work on the machine disturbed gets another try.
TRIES = 3


@dataclass(frozen=True)
class Miss:
    """A figure that was predicted, and how far off it is."""

    name: str
    measured: float
    predicted: float
    floor: float = 0.0

    @property
    def share(self) -> float:
        """By how much of the measured it is off."""
        return (self.predicted - self.measured) / (self.measured or 1.0)

    @property
    def met(self) -> bool:
        """Whether it is within the limit, or the floor."""
        off = abs(self.predicted - self.measured)
        return off <= max(LIMIT * self.measured, self.floor)


def misses(seen: Measured, said: Replayed) -> list[Miss]:
    """Each figure that is predicted, beside what was measured."""
    most, slow = seen.peak_pending, max(1, seen.slow_calls)
    return [
        Miss("batch", seen.entries_per_batch, said.entries_per_batch),
        Miss("calls/s", seen.calls_per_second, said.calls_per_second),
        Miss("age p99", seen.age_p99, said.age_p99, AGE_FLOOR),
        Miss("peak", most, said.peak_pending, SPREAD * sqrt(most)),
        Miss("dropped", seen.dropped, said.dropped, SPREAD * sqrt(most * slow)),
    ]


def settings(function: str, *, quick: bool) -> Iterator[Setting]:
    """The settings of a function that are predicted."""
    rates, delays, slots = QUICK if quick else (RATES, DELAYS, SLOTS)
    tail = function == "tail"
    # 34 windows; of a call in a hundred that is slow, three.
    windows = 300 if tail else 34
    for rate, delay, count in product(rates, delays, slots):
        yield Setting(
            rate,
            delay,
            None,
            # So small that a call of 300 ms drops entries.
            capacity=round(0.25 * rate) if tail else RECORDED.capacity,
            max_in_flight=count,
            seconds=max(3.0, windows * (delay + 3.0) / 1000),
        )


def measured(function: str, setting: Setting, seed: int) -> Measured:
    """Measure a setting."""
    return measure_apart(setting, seed=seed, target=f"sinks:{function}")


def recorded(function: str, rate: float) -> Calls:
    """The calls that predictions are made of."""
    seen = measured(function, replace(RECORDED, rate=rate), SEED)
    assert seen.recorded is not None
    calls = seen.recorded.calls
    return Calls(calls.sizes[:CALLS], calls.times[:CALLS], calls.blocked[:CALLS])


def compared(function: str, setting: Setting, calls: Calls) -> tuple[list[Miss], int]:
    """Measure and predict a setting, with the same arrivals; how often it took."""
    assert setting.rate is not None
    best: list[Miss] = []
    for tried in range(1, TRIES + 1):
        seed = SEED + tried
        arrivals = schedule(setting.rate, setting.seconds, seed)
        said = replay(setting, calls, arrivals=array("d", (1e3 * t for t in arrivals)))
        found = misses(measured(function, setting, seed), said)
        if not best or off(found) < off(best):
            best = found
        if not off(best):
            break
    return best, tried


def off(found: list[Miss]) -> int:
    """How many of them are beyond their limit."""
    return sum(not one.met for one in found)


def line(function: str, setting: Setting, found: list[Miss]) -> str:
    """A row of the table."""
    cells = [
        f"{one.measured:9,.1f} {one.predicted:9,.1f} {one.share:+5.0%}"
        + ("  " if one.met else " !")
        for one in found
        if one.name != "dropped"
    ]
    drops = found[-1]
    cells.append(
        f"{drops.measured:6,.0f} {drops.predicted:8,.1f}{'' if drops.met else ' !'}"
    )
    return (
        f"{function:<9}{setting.rate:>7,.0f}{setting.delay:>5g}"
        f"{setting.max_in_flight:>3} " + "".join(cells)
    )


def main() -> int:
    """Measure, print, and check the limits where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail above a limit")
    parser.add_argument("--quick", action="store_true", help="a few settings only")
    parser.add_argument("--function", choices=FUNCTIONS, help="this one only")
    options = parser.parse_args()

    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    # Ahead of other work on the machine, where that is allowed: it is no subject here.
    with suppress(AttributeError, PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    heads = "".join(f"{name:>9}{'predicted':>10}{'off':>6}  " for name in FIGURES)
    print(f"{'':<9}{'rate':>7}{'ms':>5}{'at':>3} {heads}dropped predicted")
    every: list[Miss] = []
    for function in [options.function] if options.function else FUNCTIONS:
        calls: dict[float, Calls] = {}
        for setting in settings(function, quick=options.quick):
            rate = setting.rate or 0.0
            if rate not in calls:
                calls[rate] = recorded(function, rate)
            found, tried = compared(function, setting, calls[rate])
            again = f"  tried {tried} times" if tried > 1 else ""
            print(line(function, setting, found) + again, flush=True)
            every += found
    for name in [*FIGURES, "dropped"]:
        alike = [one for one in every if one.name == name]
        beyond = [one for one in alike if not one.met]
        worst = max(alike, key=lambda one: abs(one.share) * (one.measured > 0))
        print(
            f"{name}: {len(alike) - len(beyond)} of {len(alike)} within {LIMIT:.0%} or "
            f"the floor; the worst {worst.share:+.0%} ({worst.predicted:,.1f} for "
            f"{worst.measured:,.1f})"
        )
    return 1 if options.check and off(every) else 0


FIGURES = ("batch", "calls/s", "age p99", "peak")

if __name__ == "__main__":
    sys.exit(main())
