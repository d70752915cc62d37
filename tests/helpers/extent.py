"""How much of what repeats, is drawn or combined a run of the suite does.

`make test` does some of it each time. With RINGDISPATCH_TEST_WHOLE=1, which
`make test WHOLE=1` sets, it does all, as `make nightly` does under every interpreter.
"""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

WHOLE = os.environ.get("RINGDISPATCH_TEST_WHOLE", "") == "1"


def extent(some: T, whole: T) -> T:
    """`some`, or in a whole run `whole`."""
    return whole if WHOLE else some
