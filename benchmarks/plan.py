"""What a run of the suite measures, and how long that takes.

The default run is to end within five minutes on two cores, the quick one in about one.
"""

from dataclasses import replace
from typing import Any

from ringdispatch._tune._results import Setting
from sinks import SINKS as SINKS_OF_SERVICES

MODES = ("default", "quick", "full")
SEED = 20_251_105  # of the arrivals

RATES = (100.0, 1_000.0, 10_000.0, 50_000.0, None)
SINKS = (0.0, 5.0, 50.0)
DELAYS = (10.0, 100.0)
MORE_DELAYS = (1.0, 5.0, 20.0, 50.0, 200.0, 500.0)
LAYOUTS = ("objects", "records", "bytes")
SMALL_BATCH = 2_000

# Dispatch functions as services have them, at two rates; the default run has one, which
# holds the loop for longer the larger its batches are.
FUNCTIONS = tuple(f"benchmarks.sinks:{name}" for name in SINKS_OF_SERVICES)
FUNCTION_RATES = (1_000.0, 10_000.0)
ENCODED = Setting(10_000.0, 100.0, None, function="benchmarks.sinks:encoded")

# The one rate and sink of what is not measured at all of them: where a batch of 100 ms
# is larger than SMALL_BATCH.
ONE = Setting(rate=50_000.0, delay=100.0, sink=5.0)

# How often it is measured with each delay up to its own: what differs between runs of
# the same setting is noise, and the recommendation must not mistake it for the delay's.
RUNS = 3

# Fewer batches make no percentile; some more, because arrivals are random.
BATCHES = 34
# Of a sink of which each hundredth call is slow: three such calls.
BATCHES_WITH_A_TAIL = 300

# More than the sink takes, which is 250 entries in 5 ms, so 50 000 a second.
OVERLOAD = Setting(rate=250_000.0, delay=10.0, sink=5.0, max_batch=250, seconds=4.0)
# Bytes that a process may take above what it has when the load begins.
BOX = 128 << 20

# What a cell takes beyond its load: the process, its warm-up, and its end.
CELL_OVERHEAD = 1.0


def cells(mode: str) -> list[Setting]:
    """The settings that a mode measures, each for as long as it needs."""
    if mode == "quick":
        few = [
            replace(ONE, rate=rate, delay=delay)
            for rate in (1_000.0, ONE.rate)
            for delay in DELAYS
        ]
        few += [replace(ONE, layout=layout) for layout in LAYOUTS[1:]]
        return [replace(setting, seconds=1.0) for setting in few]
    if mode == "full":
        delays = sorted({*DELAYS, *MORE_DELAYS})
        chosen = [
            *_grid(delays, LAYOUTS, (None, SMALL_BATCH)),
            *(
                Setting(rate, delay, None, function=function)
                for function in FUNCTIONS
                for rate in FUNCTION_RATES
                for delay in DELAYS
            ),
        ]
    else:
        chosen = [
            *_grid(DELAYS, LAYOUTS[:1], (None,)),
            *(replace(ONE, delay=delay) for delay in MORE_DELAYS),
            *(
                replace(ONE, layout=layout, delay=delay)
                for layout in LAYOUTS[1:]
                for delay in DELAYS
            ),
            replace(ONE, max_batch=SMALL_BATCH),
            *(replace(ENCODED, delay=delay) for delay in DELAYS),
        ]
    return [replace(setting, seconds=_seconds(setting)) for setting in chosen]


def runs(mode: str) -> list[tuple[Setting, int]]:
    """Each cell, and then the further runs of those that are repeated."""
    once = cells(mode)
    again = [setting for setting in once if is_repeated(setting)]
    return [
        *((setting, 0) for setting in once),
        *((setting, run) for run in range(1, RUNS) for setting in again),
    ]


def is_repeated(setting: Setting) -> bool:
    """Whether it is the one setting, but for a delay no longer than its own."""
    alike = replace(setting, delay=ONE.delay, seconds=ONE.seconds)
    return alike == ONE and setting.delay <= ONE.delay


def _grid(
    delays: "tuple[float, ...] | list[float]",
    layouts: tuple[str, ...],
    max_batches: tuple[int | None, ...],
) -> list[Setting]:
    return [
        Setting(rate, delay, sink, layout=layout, max_batch=max_batch)
        for layout in layouts
        for max_batch in max_batches
        for rate in RATES
        for sink in SINKS
        for delay in delays
    ]


def _seconds(setting: Setting) -> float:
    """Three seconds, or what enough batches take."""
    gap = 1000 / setting.rate if setting.rate else 0.0
    longest = max(setting.delay + gap, setting.sink or 0.0)
    has_tail = setting.function.endswith(":tail")
    return max(3.0, (BATCHES_WITH_A_TAIL if has_tail else BATCHES) * longest / 1000)


def mode(config: Any) -> str:
    """The mode that pytest was asked for."""
    for one in ("quick", "full"):
        if config.getoption(f"benchmark_{one}"):
            return one
    return "default"
