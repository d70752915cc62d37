"""A batch that goes in attempts, and in halves where the other side asks for less."""

import asyncio
import logging
import math
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from ringdispatch._call import id_of_own

from ._error import SinkError

_FIRST_PAUSE, _LONGEST_DOUBLINGS = 0.2, 5  # seconds: up to 6.4
_LONGEST_PAUSE = 3_600.0  # whatever the other side asks for
_REPORT_SECONDS = 10.0  # at least between two outages that are logged

_logger = logging.getLogger("ringdispatch")


class Failure(SinkError):
    """What became of one attempt."""

    def __init__(
        self,
        message: str,
        *,
        retryable: bool,
        retry_after: float | None = None,
        too_large: bool = False,
        unanswered: bool = False,
        arrived: int = 0,
    ) -> None:
        super().__init__(message, retryable=retryable, retry_after=retry_after)
        self.too_large = too_large  # fewer entries may pass
        self.unanswered = unanswered  # no byte of an answer came
        self.arrived = arrived  # of its entries


class Outage:
    """Tells the log that attempts fail and are repeated, and when one succeeds."""

    def __init__(self) -> None:
        self._since: float | None = None  # None: attempts succeed
        self._is_logged = False
        self._logged_at = -math.inf

    def note(self, sink: object, failure: Failure | None) -> None:
        """Note what became of a sink's attempt, which is repeated if it failed."""
        if failure is not None and not failure.retryable:
            return  # it says nothing of the next one
        now = time.monotonic()
        if failure is not None:
            self._since = self._since or now
            if not self._is_logged and now >= self._logged_at + _REPORT_SECONDS:
                self._is_logged, self._logged_at = True, now
                _logger.warning("ringdispatch: %s; it is tried again", failure)
        elif self._since is not None:
            seconds, self._since = now - self._since, None
            if self._is_logged:
                self._is_logged = False
                text = "ringdispatch: %r works again, after %.3g s"
                _logger.info(text, sink, seconds)


def key_of(batch: Any) -> str:
    """The id of the running call's batch, if it is that one itself; else a random key.

    Another list may have the same entries in other words, or a part of them: under the
    id of the batch a service would drop the second.
    """
    return id_of_own(batch) or uuid.uuid4().hex


async def send_in_parts(
    send: Callable[[str, int, int], Awaitable[Failure | None]], key: str, count: int
) -> None:
    """Send entries 0 to `count`, in halves where they are too large.

    Args:
        send: Called with a key, and the first and the last entry, exclusive.
        key: Of the whole batch; its halves have `<key>.0` and `<key>.1`, and so on.
        count: How many entries there are.

    Raises:
        SinkError: not all of it arrived.
    """
    failures: list[Failure] = []
    arrived = 0
    parts = [(key, 0, count)]  # yet to be sent, the next one last
    while parts:
        key, start, end = parts.pop()
        failure = await send(key, start, end)
        if failure is None:
            arrived += end - start
        elif failure.too_large and end - start > 1:
            middle = (start + end) // 2
            parts += [(f"{key}.1", middle, end), (f"{key}.0", start, middle)]
        else:
            arrived += failure.arrived
            failures.append(failure)
            if failure.retryable:
                break  # the other side is not there: it has no use for the rest now
    if failures:
        raise _all_in_one(failures, arrived, count)


def _all_in_one(failures: list[Failure], arrived: int, count: int) -> SinkError:
    """The one error of a batch of which some parts failed."""
    message = str(failures[0])
    if len(failures) > 1:
        message += f" (and {len(failures) - 1} more)"
    if arrived:
        message += f"; {arrived} of {count} entries arrived"
    retryable = all(failure.retryable for failure in failures)
    return SinkError(message, retryable=retryable, retry_after=failures[-1].retry_after)


async def repeat(
    attempt: Callable[[], Awaitable[Failure | None]], deadline: float
) -> Failure | None:
    """Repeat an attempt until it succeeds, fails for good, or `deadline` has passed.

    The deadline is one of `time.monotonic()`.
    """
    doublings = 0
    while True:
        failure = await attempt()
        if failure is None or not failure.retryable:
            return failure
        left, asked = deadline - time.monotonic(), failure.retry_after or 0.0
        if left <= 0 or asked > left:
            return failure
        pause = random.uniform(0.5, 1) * _FIRST_PAUSE * 2**doublings
        doublings = min(doublings + 1, _LONGEST_DOUBLINGS)
        await asyncio.sleep(min(max(pause, asked), left, _LONGEST_PAUSE))
