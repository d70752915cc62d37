"""Logs, calls the user's hooks, and contains their exceptions."""

import asyncio
import logging
import math
import traceback
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any

from ._home import Home
from ._ring import DROP_REASONS, Ring

logger = logging.getLogger("ringdispatch")

OnError = Callable[[BaseException, Any], object]
OnDrop = Callable[[str, int], object]

# At most one log line per reason in this many seconds; and how late on_drop may be.
REPORT_SECONDS = 10.0
HOOK_SECONDS = 1.0

# {bound} is the option to raise. What was abandoned is logged where it is, with what
# was in flight.
REMEDIES = {
    "rejected_full": "the ring is full: raise {bound}, shorten ms_delay, "
    "or speed up the dispatch function",
    "evicted": "the ring was full and newer entries took their place: raise {bound}, "
    "shorten ms_delay, or speed up the dispatch function",
    "rejected_closed": "the dispatcher is closed: close it after the last request",
    "rejected_oversized": "larger than a batch may be: raise max_batch_bytes or "
    "max_bytes",
}


def counted(count: int, noun: str) -> str:
    """The number with its noun: 1 entry, 2 entries, 3 batches."""
    if count == 1:
        return f"1 {noun}"
    plural = {"entry": "entries", "batch": "batches"}[noun]
    return f"{count} {plural}"


class Reports:
    """Reports to the log and to the user's hooks, whatever these raise.

    Failures: the first of an outage is logged at once, with its traceback; later ones
    are counted and logged every 10 s, with a traceback for each new type of exception;
    recovery and close log the totals.

    Args:
        name: Of the dispatcher.
        on_error: The user's hook, or None.
        on_drop: The user's hook, or None.
        now: The dispatcher's clock, in seconds.
    """

    def __init__(
        self,
        name: str,
        on_error: OnError | None,
        on_drop: OnDrop | None,
        now: Callable[[], float],
    ) -> None:
        self.name = name
        self._on_error = on_error
        self._on_drop = on_drop
        self._now = now
        self.reset()

    def reset(self) -> None:
        """Start with everything at zero, as in a forked child."""
        self.failing = False  # a failure was reported, and no recovery since
        self._failed = [0, 0]  # batches and entries, since the outage began
        self._unlogged = [0, 0]  # since the last line
        self._failure_logged_at = self._recovery_logged_at = -math.inf
        self._types: set[type[BaseException]] = set()  # with a traceback this period

    # ---- failures

    def failed(
        self,
        error: BaseException,
        batch: Any,
        count: int,
        contexts: Iterable[Any],
        *,
        quiet: bool,
    ) -> None:
        """Report a failed dispatch to the log, to contexts and to `on_error`.

        Args:
            error: What the dispatch function raised, or what ended it.
            batch: The batch, as the dispatch function got it.
            count: How many entries it holds.
            contexts: The openers' contexts; their `log` gets the message too.
            quiet: Whether the failure is logged elsewhere.
        """
        try:
            what = repr(error)
        except Exception as unprintable:
            what = f"{type(error).__name__} ({type(unprintable).__name__} in its repr)"
        message = f"{self.name}: dispatch failed ({counted(count, 'entry')}): {what}"
        if not quiet:
            self._log_failure(error, count, message, what)
        for context in contexts:
            self.call_hook("context.log", _log_to, context, message)
        if self._on_error is not None:
            self.call_hook("on_error", self._on_error, error, batch)

    def _log_failure(
        self, error: BaseException, count: int, message: str, what: str
    ) -> None:
        self.failing = True
        for counts in (self._failed, self._unlogged):
            counts[0] += 1
            counts[1] += count
        now = self._now()
        if now < self._failure_logged_at + REPORT_SECONDS:
            self._log(logging.DEBUG, message)
            return
        if now >= self._failure_logged_at + 2 * REPORT_SECONDS:
            self._types.clear()
        batches, entries = self._unlogged
        self._unlogged = [0, 0]
        self._failure_logged_at = now
        if batches > 1:
            message = (
                f"{self.name}: {counted(batches, 'batch')} failed "
                f"({counted(entries, 'entry')}), the last with {what}"
            )
        new = type(error) not in self._types
        self._types.add(type(error))
        self._log(logging.WARNING, message, exc_info=error if new else None)

    def succeeded(self) -> None:
        """Note that a dispatch succeeded: after failures, report the recovery."""
        now = self._now()
        if now < self._recovery_logged_at + REPORT_SECONDS:
            return  # every second one fails: the line with the counts says so
        self._recovery_logged_at = now
        self._log_totals(logging.INFO, "dispatches succeed again; before that ")

    def closing(self) -> None:
        """Report failures that no line has counted yet."""
        if self._unlogged[0]:
            self._log_totals(logging.WARNING, "closed; before that ")

    def _log_totals(self, level: int, introduction: str) -> None:
        batches, entries = self._failed
        self.failing = False
        self._failed, self._unlogged = [0, 0], [0, 0]
        self.log(
            level,
            "%s%s failed (%s)",
            introduction,
            counted(batches, "batch"),
            counted(entries, "entry"),
        )

    # ---- the rest

    def dropped(self, reason: str, count: int) -> None:
        """Call `on_drop`."""
        if self._on_drop is not None:
            self.call_hook("on_drop", self._on_drop, reason, count)

    def log(self, level: int, message: str, *values: object) -> None:
        """Log one line under the dispatcher's name."""
        self._log(level, "%s: %s", self.name, message % values)

    def hook_raised(self, what: str, error: BaseException) -> None:
        """Log what a hook raised elsewhere."""
        self._log(logging.ERROR, "%s: %s raised", self.name, what, exc_info=error)

    def call_hook(self, what: str, hook: Callable[..., object], *values: Any) -> None:
        """Call what the user gave, in an empty context; an error in it is logged."""
        try:
            Context().run(hook, *values)
        except BaseException as error:
            self.hook_raised(what, error)

    def _log(self, level: int, message: str, *values: object, **rest: Any) -> None:
        # A handler of the user's that raises must not end what is being reported.
        try:
            logger.log(level, message, *values, **rest)
        except Exception:
            traceback.print_exc()


def _log_to(context: Any, message: str) -> None:
    log = getattr(context, "log", None)
    if log is not None:
        getattr(log, "error", log)(message)


class Drops:
    """Reports drops to `on_drop` and to the log, at a limited rate.

    The ring announces the first drop; from then on a timer reports the rest, for as
    long as there are any. Nothing here refers to the batcher, which may be collected
    while the timer runs.
    """

    def __init__(self, ring: Ring, reports: Reports, now: Callable[[], float]) -> None:
        self._ring = ring
        self._reports = reports
        self._now = now
        self._timer: asyncio.TimerHandle | None = None
        self._logged_at: dict[str, float] = {}

    def report(self, home: Home) -> None:
        """Report now, and again after a second while there are drops; on the home."""
        self.report_now()
        loop = home.loop
        if loop is None or loop.is_closed():
            self._ring.rearm_drop_notice()
            return
        timer = self._timer
        if timer is not None and timer.when() > loop.time():
            return
        if self._ring.has_drops:
            self._timer = loop.call_later(
                HOOK_SECONDS, self.report, home, context=Context()
            )
        else:
            self._timer = None
            self._ring.rearm_drop_notice()
            self.report_now()  # dropped before the notice was armed again

    def loop_closed(self) -> None:
        """Have the next batch, or the next drop, report what the timer will not."""
        self._timer = None
        self._ring.rearm_drop_notice()

    def report_now(self, *, last: bool = False) -> None:
        """Report what was dropped since the last time.

        Args:
            last: Nothing will report later: log even within the period.
        """
        if last:
            self._ring.rearm_drop_notice()
        now = self._now()
        for reason in DROP_REASONS:
            if count := self._ring.take_drops(reason):
                self._reports.dropped(reason, count)
            remedy = REMEDIES.get(reason)
            logged_at = self._logged_at.get(reason, -math.inf)
            if remedy is None or not (last or now >= logged_at + REPORT_SECONDS):
                continue
            if count := self._ring.take_drops(reason, to_log=True):
                self._logged_at[reason] = now
                self._reports.log(
                    logging.WARNING,
                    "%s %s; %s",
                    counted(count, "entry"),
                    reason,
                    remedy.format(bound=self._ring.bound),
                )
