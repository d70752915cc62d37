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
    from producers import cases

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


@pytest.mark.duration(1.2)
def test_whole_way(
    case: str, delay: int, producers: int, benchmark: Any, suite: Suite
) -> None:
    from producers import measure

    seconds = 0.4 if suite.quick else 0.7
    benchmark.group = "end to end"
    million = benchmark.pedantic(measure, args=(case, delay, producers, seconds))
    benchmark.extra_info["million entries a second"] = million
    suite.whole_way.append(
        {
            "name": case,
            "delay": delay,
            "producers": producers,
            "million_per_second": round(million, 3),
        }
    )
    suite.said = f"{million:.2f} million entries a second"
