"""Options that a dispatcher refuses, and what it raises."""

from __future__ import annotations

import math
from typing import Any


async def async_hook(*values: Any) -> None:
    pass


class AsyncHook:
    async def __call__(self, *values: Any) -> None:
        pass


NAN, INF = math.nan, math.inf
REFUSED: list[tuple[str, Any, type[Exception]]] = [
    *(("ms_delay", value, ValueError) for value in (0, 0.0, -1, NAN, INF, -INF)),
    *(("ms_delay", value, TypeError) for value in (True, False, "10", None, [1], 1j)),
    *(
        (name, value, error)
        for name in ("capacity", "max_batch", "max_in_flight")
        for value, error in (
            (0, ValueError),
            (-1, ValueError),
            (1.0, TypeError),
            (2.5, TypeError),
            (NAN, TypeError),
            (True, TypeError),
            ("5", TypeError),
        )
    ),
    ("capacity", None, TypeError),
    ("max_in_flight", None, TypeError),
    ("max_batch", 65_537, ValueError),
    *(("dispatch_timeout", value, ValueError) for value in (0, 0.0, -0.5, NAN)),
    *(("dispatch_timeout", value, TypeError) for value in (True, False, "1")),
    *(("on_full", value, ValueError) for value in ("drop", "", None, 1)),
    *(("home", value, ValueError) for value in ("loop", "", None, True)),
    *(("dispatch_function", value, TypeError) for value in (None, 1, "send", [])),
    *(
        (hook, value, TypeError)
        for hook in ("on_error", "on_drop")
        for value in (1, "hook", [], async_hook, AsyncHook())
    ),
    ("name", 1, TypeError),
]
