"""Logs, calls the user's hooks, and contains their exceptions."""

import contextlib
import logging
import math
import sys
import traceback
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any

from ._home import Home
from ._options import LINE, Options
from ._ring import DROP_REASONS, Ring

logger = logging.getLogger("ringdispatch")

OnError = Callable[[BaseException, Any], object]
OnDrop = Callable[[str, int], object]

# At most one log line per reason in this many seconds; and how late on_drop may be.
REPORT_SECONDS = 10.0
HOOK_SECONDS = 1.0

# {bound} is the option to raise. give_up() logs abandoned entries.
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
    plural = {"entry": "entries", "batch": "batches", "file": "files"}[noun]
    return f"{count} {noun if count == 1 else plural}"


class Periods:
    """Says of what may come again and again whether it is to be logged now."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began_at: dict[str, float] = {}

    def begin(self, what: str) -> bool:
        """Begin a period for it; False while one runs."""
        now = self._now()
        if now < self._began_at.get(what, -math.inf) + REPORT_SECONDS:
            return False
        self._began_at[what] = now
        return True

    def end(self, what: str) -> None:
        """End its period: the next time is the first again."""
        self._began_at.pop(what, None)


class Reports:
    """Reports to the log and to the user's hooks, whatever these raise.

    Failures: the first of an outage is logged at once, with its traceback; later ones
    are counted and logged every 10 s, with a traceback for each new type of exception;
    recovery and close log the totals.
    """

    def __init__(self, options: Options, name: str, now: Callable[[], float]) -> None:
        self.name = name
        self.on_drop: OnDrop | None = options.on_drop
        self._on_error: OnError | None = options.on_error
        self._now = now  # the dispatcher's clock, in seconds
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

        `contexts` are the openers'; `quiet`: the failure is logged elsewhere.
        """
        try:
            what = repr(error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as unprintable:
            what = f"{type(error).__name__} ({type(unprintable).__name__} in its repr)"
        message = f"dispatch failed ({counted(count, 'entry')}): {what}"
        if not quiet:
            self._log_failure(error, count, message, what)
        for context in contexts:
            self.call_hook("context.log", _log_to, context, LINE % (self.name, message))
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
            self.log(logging.DEBUG, message)
            return
        if now >= self._failure_logged_at + 2 * REPORT_SECONDS:
            self._types.clear()
        if self._unlogged[0] > 1:
            message = f"{_counts(self._unlogged)}, the last with {what}"
        self._unlogged = [0, 0]
        self._failure_logged_at = now
        new = type(error) not in self._types
        self._types.add(type(error))
        self.log(logging.WARNING, message, error if new else None)

    def succeeded(self) -> None:
        """Note that a dispatch succeeded: after failures, report the recovery."""
        now = self._now()
        if now < self._recovery_logged_at + REPORT_SECONDS:
            return  # every second one fails: the line with the counts says so
        self._recovery_logged_at = now
        self._log_totals(logging.INFO, "dispatches succeed again")

    def closing(self) -> None:
        """Report failures that no line has counted yet."""
        if self._unlogged[0]:
            self._log_totals(logging.WARNING, "closed")

    def _log_totals(self, level: int, event: str) -> None:
        failed = self._failed
        self.failing = False
        self._failed, self._unlogged = [0, 0], [0, 0]
        self.log(level, f"{event}; before that {_counts(failed)}")

    # ---- the rest

    def log(self, level: int, message: str, error: BaseException | None = None) -> None:
        """Log one line under the dispatcher's name, with the error's traceback."""
        try:
            logger.log(level, LINE, self.name, message, exc_info=error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a handler's: what is being reported goes on
            with contextlib.suppress(Exception):  # stderr may be closed, or None
                sys.stderr.write(traceback.format_exc())

    def call_hook(
        self, what: str, hook: Callable[..., object] | None, *values: Any
    ) -> None:
        """Call what the user gave, in an empty context; an error in it is logged."""
        if hook is None:
            return
        try:
            Context().run(hook, *values)
        except BaseException as error:
            self.log(logging.ERROR, f"{what} raised", error)


def _counts(failed: list[int]) -> str:
    batches, entries = failed
    return f"{counted(batches, 'batch')} failed ({counted(entries, 'entry')})"


def _log_to(context: Any, message: str) -> None:
    log = getattr(context, "log", None)
    if log is not None:
        getattr(log, "error", log)(message)


class Drops:
    """Reports drops to `on_drop` and to the log, at a limited rate.

    The ring announces the first; a timer reports the rest, while there are any. Nothing
    here refers to the batcher, which may be collected while the timer runs.
    """

    def __init__(
        self,
        ring: Ring,
        reports: Reports,
        now: Callable[[], float],
        settle: Callable[[], object],
    ) -> None:
        # never changed
        self._ring = ring
        self._reports = reports
        self._now = now
        self._settle = settle  # ends waits for what was evicted
        # home's thread only
        self._home: Home | None = None  # where a timer is awaited
        self._due_at = -math.inf  # until then, by that loop's clock
        self._logged_at: dict[str, float] = {}

    def report(self, home: Home) -> None:
        """Report now, and again after a second while there are drops; on the home."""
        try:
            self.report_now()
            self._settle()
        except BaseException:
            self.loop_closed()
            raise
        loop = home.loop
        if loop is None or loop.is_closed():
            self._ring.rearm_drop_notice()
            return
        now = loop.time()  # first: the timer may be made late
        if self._home is home and self._due_at > now:
            return
        if self._ring.has_drops:
            loop.call_later(HOOK_SECONDS, self.report, home, context=Context())
            self._home, self._due_at = home, now + 0.9 * HOOK_SECONDS  # it may be early
        else:
            self._ring.rearm_drop_notice()
            self.report_now()  # dropped before the notice was armed again

    def loop_closed(self) -> None:
        """Have the next batch, or the next drop, report what the timer will not."""
        self._home, self._due_at = None, -math.inf
        self._ring.rearm_drop_notice()

    def report_now(self, *, last: bool = False) -> None:
        """Report what was dropped since; the `last` time, also within the period."""
        if last:
            self._ring.rearm_drop_notice()
        for level, note in self._ring.take_notes():
            self._reports.log(level, note)
        now = self._now()
        for reason in DROP_REASONS:
            if count := self._ring.take_drops(reason):
                self._reports.call_hook("on_drop", self._reports.on_drop, reason, count)
            remedy = REMEDIES.get(reason)
            logged_at = self._logged_at.get(reason, -math.inf)
            if remedy is None or not (last or now >= logged_at + REPORT_SECONDS):
                continue
            if count := self._ring.take_drops(reason, to_log=True):
                self._logged_at[reason] = now
                remedy = remedy.format(bound=self._ring.bound)
                what = f"{counted(count, 'entry')} {reason}"
                self._reports.log(logging.WARNING, f"{what}; {remedy}")
