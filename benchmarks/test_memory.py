"""Memory under more load than the sink takes: ours is bounded, a queue is not."""

from dataclasses import replace
from typing import Any

import pytest

import plan
from ringdispatch._tune._memory import grow_apart
from suite import Suite


@pytest.mark.duration(plan.OVERLOAD.seconds + 1.5)
@pytest.mark.parametrize("by_hand", [False, True], ids=["ringdispatch", "by hand"])
def test_memory(by_hand: bool, benchmark: Any, suite: Suite) -> None:
    # By hand it is over when memory is, which a slow machine takes longer to fill.
    seconds = plan.OVERLOAD.seconds * (2 if by_hand else 1)
    found = benchmark.pedantic(
        grow_apart,
        args=(replace(plan.OVERLOAD, seconds=seconds),),
        kwargs={"seed": plan.SEED, "by_hand": by_hand, "limit": plan.BOX},
    )
    benchmark.group = "memory"
    benchmark.extra_info["verdict"] = found.verdict
    suite.memory.append(found)
    suite.said = found.verdict
    assert found.died == (by_hand and found.limit is not None)
