"""A sink that takes as long as a recorded one, also for batches of another size."""

import math
from collections.abc import Sequence
from statistics import fmean, median

from ._recording import Calls

# A slope counts as far as it is beyond this many standard errors.
_ERRORS = 2.0
# A recorded call so many robust standard deviations off the line does not shape it.
_OUTLIER = 3.0
_ROUNDS = 3
_ROUNDING = 1e-6  # milliseconds: calls that are alike differ by as much on the line


class Sink:
    """Takes the times of calls from recorded calls, in their order.

    In their order, because slow calls often follow each other. Growth with the batch is
    a line (`Line`); a recorded call of another size takes as many times as long as the
    line says.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._time = Line(calls.sizes, calls.times)
        self._blocked = Line(calls.sizes, calls.blocked)
        self._next = 0

    def begin(self, share: float) -> None:
        """Go on with the call at that share of the recording."""
        self._next = int(share * len(self._calls.sizes))

    def call(self, size: int) -> tuple[float, float]:
        """How long the next call takes, and for how long it blocks the loop."""
        calls, one = self._calls, self._next
        known = calls.sizes[one]
        self._next = (one + 1) % len(calls.sizes)
        blocked = calls.blocked[one] * self._blocked.ratio(size, known)
        return max(calls.times[one] * self._time.ratio(size, known), blocked), blocked


class Line:
    """Time against size: a line by least squares, without outliers.

    Neither its slope nor its start is below 0: of k times the size it says once to k
    times the time, however far that is from any recorded size. The slope is taken as
    far as the calls show it: shrunk by its standard error, to 0 where that is large.
    """

    def __init__(self, sizes: Sequence[int], times: Sequence[float]) -> None:
        keep: Sequence[int] = range(len(sizes))
        for _ in range(_ROUNDS):
            self._fit([sizes[i] for i in keep], [times[i] for i in keep])
            off = {i: times[i] - self.at(sizes[i]) for i in keep}
            middle = median(off.values())
            usual = 1.4826 * median(abs(one - middle) for one in off.values())
            most = _OUTLIER * usual + _ROUNDING
            keep = [i for i in keep if abs(off[i] - middle) <= most]

    def _fit(self, sizes: Sequence[int], times: Sequence[float]) -> None:
        size, time = fmean(sizes), fmean(times)
        spread = sum((one - size) ** 2 for one in sizes)
        both = sum((x - size) * (y - time) for x, y in zip(sizes, times, strict=True))
        slope = max(0.0, min(both / spread, time / size)) if spread else 0.0
        left = sum(
            (y - time - slope * (x - size)) ** 2
            for x, y in zip(sizes, times, strict=True)
        )
        if slope:
            error = math.sqrt(left / max(1, len(sizes) - 2) / spread)
            slope *= max(0.0, 1 - (_ERRORS * error / slope) ** 2)
        self.slope, self.start = slope, time - slope * size

    def at(self, size: int) -> float:
        """The time of a call of that size."""
        return self.start + self.slope * size

    def ratio(self, size: int, known: int) -> float:
        """How many times as long a call of that size takes as a known one."""
        return self.at(size) / self.at(known) if self.slope else 1.0
