"""What other delays would do with the options that are recommended: by replay."""

from collections.abc import Sequence
from dataclasses import replace

from ._model import calls_of, predict
from ._recommend import Recommendation
from ._recording import Calls
from ._results import Cell, Expected

DELAYS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)  # milliseconds


def outlook(
    found: Recommendation,
    cells: Sequence[Cell],
    entry_bytes: float,
    arrivals: Sequence[float] | None,
) -> list[Expected]:
    """Predict usual delays, at each rate, with the calls of all runs.

    Args:
        found: Whose options to take; of none there is no outlook.
        cells: What was measured.
        entry_bytes: Bytes of a pending entry.
        arrivals: When entries arrive, milliseconds; None: by chance, at each rate.
    """
    calls = Calls.pooled(calls_of(one.measured) for one in cells)
    loads = {
        one.setting.rate: one.setting
        for one in cells
        if one.setting.delay == found.delay
        and one.setting.max_in_flight == found.max_in_flight
        and one.setting.max_batch == found.max_batch
    }
    settings = [replace(one, delay=at) for one in loads.values() for at in DELAYS]
    return [
        Expected(
            one, predict(one, calls=calls, entry_bytes=entry_bytes, arrivals=arrivals)
        )
        for one in settings
    ]
