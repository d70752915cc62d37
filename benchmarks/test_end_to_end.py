"""Make the entry, enqueue, batch, dispatch, free: with 1, 2 and 4 producers."""

from importlib.util import find_spec
from typing import Any

import pytest

import plan
from suite import Suite


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if find_spec("orjson") is None:  # which the cases need
        metafunc.parametrize(("case", "delay", "producers"), [])
        return
    from end_to_end import cases

    chosen = [
        pytest.param(
            case,
            delay,
            producers,
            id=f"{case}, {delay} ms, {producers} producer{'s' * (producers > 1)}",
        )
        for case, delay, producers in cases(plan.mode(metafunc.config))
    ]
    metafunc.parametrize(("case", "delay", "producers"), chosen)


@pytest.mark.duration(1.5)
def test_end_to_end(
    case: str, delay: int, producers: int, benchmark: Any, suite: Suite
) -> None:
    from end_to_end import measure

    benchmark.group = "end to end"
    seen = benchmark.pedantic(measure, args=("rate", case, delay, producers))
    clock, processor = seen["million_per_second"], seen["million_per_cpu_second"]
    benchmark.extra_info["million entries a second"] = clock
    benchmark.extra_info["million entries a second of processor time"] = processor
    suite.end_to_end.append(
        {
            "name": case,
            "delay": delay,
            "producers": producers,
            "million_per_second": round(clock, 3),
            "million_per_cpu_second": round(processor, 3),
        }
    )
    suite.said = f"million entries a second: {clock:.2f}, by CPU {processor:.2f}"
