"""What is told of entries that were dropped: at once, once a period, and at the end."""

import logging
import math
import threading
from collections.abc import Callable
from contextvars import Context
from functools import partial

from ._home import Errand, Home, Timer
from ._reports import Reports
from ._ring import Ring
from ._waiters import Waiters

# At most one log line per reason, and one timer, in this many seconds.
REPORT_SECONDS = 10.0

# A reason is the counter in Statistics that counts it; {bound} the option to raise.
REMEDIES = {
    "rejected_full": "the ring is full: raise {bound}, shorten ms_delay, "
    "or speed up the dispatch function",
    "evicted": "the ring was full and newer entries took their place: raise {bound}, "
    "shorten ms_delay, or speed up the dispatch function",
    "rejected_closed": "the dispatcher is closed: close it after the last request",
    "rejected_oversized": "larger than a batch may be: raise max_batch_bytes or "
    "max_bytes",
}


class Drops:
    """Tells `on_drop` and the log of drops.

    The ring announces the first drop; from then on a timer looks once a period, for as
    long as there is news. Nothing here refers to the dispatcher, which may be let go
    while the timer runs.

    Args:
        ring: Whose drops are told.
        reports: Where to tell them.
        waiters: Those who may be waiting for an entry that was evicted.
        now: The dispatcher's clock, in seconds.
        context: The one the timer runs in a copy of.
    """

    def __init__(
        self,
        ring: Ring,
        reports: Reports,
        waiters: Waiters,
        now: Callable[[], float],
        context: Context,
    ) -> None:
        self._ring = ring
        self._reports = reports
        self._waiters = waiters
        self._now = now
        self._context = context
        self._timer: Timer | None = None
        self.overdue = False  # what was to tell went down with its loop
        self._told = dict.fromkeys(ring.drops(), 0)
        self._logged = dict.fromkeys(REMEDIES, 0)
        self._logged_at: dict[str, float] = {}
        self._telling = threading.Lock()
        self._teller: int | None = None  # the thread that holds it
        self._last_wanted = False  # whether another thread has asked for the last one

    def report(self, home: Home) -> None:
        """Tell of drops, and again after a period while there are any; on the home."""
        self.overdue = False
        self._waiters.finish()
        news = self.tell()
        if self._timer is not None:
            return
        loop = home.loop
        if news and loop is not None and not loop.is_closed():
            errand = Errand(partial(self._report_again, home), self.lost)
            self._timer = Timer(loop, REPORT_SECONDS, errand, self._context.copy())
        else:
            self._ring.told()
            self.tell()  # what came before the announcement was renewed

    def _report_again(self, home: Home) -> None:
        self._timer = None
        self.report(home)

    def lost(self) -> None:
        """Let the next batch, or the next drop, tell what a closed loop will not."""
        self._timer = None
        self.overdue = True
        self._ring.told()

    def tell(self, *, last: bool = False) -> bool:
        """Tell what was dropped since the last time; returns whether there was any.

        Args:
            last: Nothing more will come: log even within the period.
        """
        me = threading.get_ident()
        if last:
            self._ring.told()
            # Before the lock is tried: whoever holds it looks here when it is free. A
            # hook that came back could ask for ever.
            self._last_wanted = self._last_wanted or self._teller != me
        while True:
            if not self._telling.acquire(blocking=False):
                return True  # a hook that came back, or another thread: it tells
            self._teller = me
            last, self._last_wanted = last or self._last_wanted, False
            try:
                news = self._tell(last)
            finally:
                self._teller = None
                self._telling.release()
            if not self._last_wanted:
                return news

    def _tell(self, last: bool) -> bool:
        now = self._now()
        news = False
        for reason, total in self._ring.drops().items():
            count = total - self._told[reason]
            if count:
                news = True
                self._told[reason] = total
                self._reports.dropped(reason, count)
            if reason not in REMEDIES:
                continue  # abandoned: logged where it is, with what was in flight
            unlogged = total - self._logged[reason]
            logged_at = self._logged_at.get(reason, -math.inf)
            if unlogged and (last or now >= logged_at + REPORT_SECONDS):
                self._logged[reason] = total
                self._logged_at[reason] = now
                self._reports.say(
                    logging.WARNING,
                    "%d entries %s; %s",
                    unlogged,
                    reason,
                    REMEDIES[reason].format(bound=self._ring.bound),
                )
            news = news or total != self._logged[reason]
        return news
