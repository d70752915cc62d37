"""10 ms against 100 ms, and more, under load that arrives on a schedule."""

from typing import Any

import pytest

import plan
from figures import words
from ringdispatch._tune._advice import figure
from ringdispatch._tune._cell import measure_apart
from ringdispatch._tune._results import Measured, Setting
from suite import Suite


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize(
        ("setting", "run"),
        [
            pytest.param(
                setting,
                run,
                id=words(setting) + (f", run {run + 1}" if run else ""),
                marks=pytest.mark.duration(setting.seconds + plan.CELL_OVERHEAD),
            )
            for setting, run in plan.runs(plan.mode(metafunc.config))
        ],
    )


def test_cell(setting: Setting, run: int, benchmark: Any, suite: Suite) -> None:
    def measure() -> Measured:
        return measure_apart(setting, seed=plan.SEED + run)

    benchmark.group = "cells"
    seen = benchmark.pedantic(measure)
    suite.add_cell(setting, seen)
    benchmark.extra_info |= {
        "entries per batch": seen.entries_per_batch,
        "calls per second": seen.calls_per_second,
        "age p99, ms": seen.age_p99,
    }
    suite.said = (
        f"{seen.entries_per_batch:,.1f} a batch, {seen.calls_per_second:,.1f} calls/s, "
        f"age p99 {figure(seen.age_p99)} ms"
        + ("" if seen.held else f"; rate not held: {seen.rate:,.0f}/s")
    )
