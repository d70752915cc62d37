"""What a dispatcher tells: failed dispatches, and entries that were dropped."""

import logging
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any

logger = logging.getLogger("ringdispatch")

# At most one log line per reason, and one timer, in this many seconds.
REPORT_SECONDS = 10.0

OnError = Callable[[BaseException, Any], object]
OnDrop = Callable[[str, int], object]

# A reason is the counter in Statistics that counts it.
REMEDIES = {
    "rejected_full": "the ring is full: raise capacity, shorten ms_delay, "
    "or speed up the dispatch function",
    "evicted": "the ring was full and newer entries took their place: raise capacity, "
    "shorten ms_delay, or speed up the dispatch function",
    "rejected_closed": "the dispatcher is closed: close it after the last request",
    "rejected_oversized": "larger than the whole ring: raise max_bytes",
}
# What was abandoned is logged where it is given up, with what was in flight.
REASONS = (*REMEDIES, "abandoned")


class Reports:
    """Tells hooks and the log, and stands between them and the dispatcher.

    Whatever a hook raises is logged and goes no further.
    """

    def __init__(
        self, name: str, on_error: OnError | None, on_drop: OnDrop | None
    ) -> None:
        self._name = name
        self._on_error = on_error
        self._on_drop = on_drop
        self._failing = False
        self._told = dict.fromkeys(REASONS, 0)
        self._logged = dict.fromkeys(REASONS, 0)
        self._logged_at: dict[str, float] = {}
        self._telling = threading.Lock()

    def renewed(self) -> "Reports":
        """The same, with everything at zero."""
        return Reports(self._name, self._on_error, self._on_drop)

    def failed(
        self,
        error: BaseException,
        batch: Any,
        count: int,
        contexts: Iterable[Any],
        *,
        quiet: bool,
    ) -> None:
        """Tell of a failed dispatch: the first with its traceback, repeats quietly.

        Args:
            error: What the dispatch function raised, or what ended it.
            batch: The batch, as the dispatch function got it.
            count: How many entries it holds.
            contexts: The openers' contexts; their `log` is told.
            quiet: Whether the log is told otherwise.
        """
        level = logging.DEBUG if self._failing or quiet else logging.WARNING
        self._failing = True
        try:
            what = repr(error)
        except Exception as unprintable:
            what = f"{type(error).__name__} ({type(unprintable).__name__} in its repr)"
        message = f"{self._name}: dispatch of {count} entries failed: {what}"
        self._log(level, message, exc_info=error if level > logging.DEBUG else None)
        for context in contexts:
            self.safely("context.log", _tell_context, context, message)
        if self._on_error is not None:
            self.safely("on_error", self._on_error, error, batch)

    def succeeded(self) -> None:
        """Note that dispatching works (again)."""
        if self._failing:
            self._failing = False
            self._log(logging.INFO, "%s: dispatches succeed again", self._name)

    def dropped(self, totals: dict[str, int], now: float, *, last: bool) -> bool:
        """Tell of entries dropped since the last call; returns whether there were any.

        Args:
            totals: The drop counters of Statistics.
            now: Seconds, of the dispatcher's clock.
            last: Nothing more will come: log even within the period.
        """
        if not self._telling.acquire(blocking=False):
            return True  # a hook that came back, or another thread: it tells
        try:
            return self._tell(totals, now, last)
        finally:
            self._telling.release()

    def _tell(self, totals: dict[str, int], now: float, last: bool) -> bool:
        news = False
        for reason, total in totals.items():
            count = total - self._told[reason]
            if count:
                news = True
                self._told[reason] = total
                if self._on_drop is not None:
                    self.safely("on_drop", self._on_drop, reason, count)
            if reason not in REMEDIES:
                continue
            unlogged = total - self._logged[reason]
            due = self._logged_at.get(reason, now - REPORT_SECONDS) + REPORT_SECONDS
            if unlogged and (last or now >= due):
                self._logged[reason] = total
                self._logged_at[reason] = now
                self._log(
                    logging.WARNING,
                    "%s: %d entries %s; %s",
                    self._name,
                    unlogged,
                    reason,
                    REMEDIES[reason],
                )
            news = news or total != self._logged[reason]
        return news

    def say(self, level: int, message: str, *values: object) -> None:
        """Log one line under the dispatcher's name."""
        self._log(level, "%s: %s", self._name, message % values)

    def hook_raised(self, what: str, error: BaseException) -> None:
        """Log what a hook raised elsewhere."""
        self._log(logging.ERROR, "%s: %s raised", self._name, what, exc_info=error)

    def safely(self, what: str, hook: Callable[..., object], *values: Any) -> None:
        """Call what the user gave; an error in it is logged, nothing else happens."""
        try:
            hook(*values)
        except Exception as error:
            self.hook_raised(what, error)

    def _log(self, level: int, message: str, *values: object, **rest: Any) -> None:
        # A handler of the user's that raises must not end what is being reported.
        try:
            logger.log(level, message, *values, **rest)
        except Exception:
            traceback.print_exc()


def _tell_context(context: Any, message: str) -> None:
    log = getattr(context, "log", None)
    if log is not None:
        getattr(log, "error", log)(message)
