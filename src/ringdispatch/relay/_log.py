"""What a relay logs: one line for what happens once, few for what goes on."""

import logging
import time
from dataclasses import dataclass

from ._source import Held

_QUIET_SECONDS = 10.0  # after a line, for others like it
_MANY = 20  # lines in that time, where each has a message of its own
_SLOW = "slow calls"
_SUSPECT = 10  # times fetched, after which a message has a line

_logger = logging.getLogger("ringdispatch")


@dataclass(slots=True)
class _Period:
    """A time with few lines of a kind."""

    level: int
    end: float
    lines: int = 0
    left_out: int = 0


class Log:
    """A relay's lines."""

    def __init__(self) -> None:
        self._fails_since: float | None = None  # the engine
        self._periods: dict[str, _Period] = {}  # by kind of line

    def warn(self, words: object) -> None:
        """What was found at the start."""
        _log(logging.WARNING, str(words))

    def outage(self, error: BaseException) -> None:
        """The engine is not there; told once, until it is back."""
        if self._fails_since is None:
            self._fails_since = time.monotonic()
            _log(logging.WARNING, f"{str(error).rstrip('.')}; it is tried again")

    def end_of_outage(self) -> None:
        """The engine answers."""
        if self._fails_since is not None:
            seconds, self._fails_since = time.monotonic() - self._fails_since, None
            _log(logging.INFO, f"works again, after {seconds:.3g} s")

    def failure(self, error: BaseException, messages: list[Held]) -> None:
        """A call failed."""
        what = messages[0].name if len(messages) == 1 else f"{len(messages)} messages"
        words = f"a call failed ({what}), and is repeated: {error!r}"
        self._sometimes(logging.WARNING, "failed calls", words)

    def unconfirmed(self, count: int, of: int) -> None:
        """Acknowledgements got no answer."""
        what = "1 message" if of == 1 else f"{count} of {of} messages"
        verb = "is" if count == 1 else "are"
        words = f"{what} {verb} not acknowledged, and will come again"
        self._sometimes(logging.WARNING, "calls not wholly acknowledged", words)

    def slow(self, seconds: float) -> None:
        """A call has not ended."""
        words = f"a call takes {seconds:.0f} s so far"
        self._sometimes(logging.WARNING, _SLOW, words)

    def suspect(self, held: Held) -> None:
        """A message comes again and again."""
        if held.deliveries >= _SUSPECT:
            words = (
                f"{held.name} was fetched {held.deliveries} times: it may be what ends "
                "relays; if so, remove it from the stream"
            )
            self._sometimes(logging.ERROR, "messages fetched often", words)

    def parked(self, held: Held, reason: str) -> None:
        """A message is among the dead letters."""
        words = f"{held.name} is parked: {reason}"
        self._sometimes(logging.ERROR, "parked messages", words, _MANY)

    def kept(self, held: Held, reason: str) -> None:
        """A dead letter failed again."""
        words = f"{held.name} stays: {reason}"
        self._sometimes(logging.ERROR, "messages that stay", words, _MANY)

    def grace_is_over(self, grace: float, call: str, held: int) -> None:
        """The relay ends before all is done; `call` says what becomes of one."""
        back = "1 message goes back" if held == 1 else f"{held:,} messages go back"
        words = f"the grace of {grace:g} s is over: {call}{back}"
        _log(logging.WARNING, words)

    def look(self) -> None:
        """Tell what had no line, where its time is over."""
        now = time.monotonic()
        for kind, period in [*self._periods.items()]:
            if period.end <= now:
                self._end(kind)

    def end(self) -> None:
        """Tell what had no line: there will be no other."""
        for kind in [*self._periods]:
            self._end(kind)

    def _sometimes(self, level: int, kind: str, words: str, most: int = 1) -> None:
        self.look()
        period = self._periods.get(kind)
        if period is None:
            end = time.monotonic() + _QUIET_SECONDS
            period = self._periods[kind] = _Period(level, end)
        if period.lines < most:
            period.lines += 1
            _log(level, words)
        else:
            period.left_out += 1

    def _end(self, kind: str) -> None:
        period = self._periods.pop(kind)
        if period.left_out and kind != _SLOW:  # that is one call, with many lines
            words = f"{kind}: {period.left_out:,} more since the last such line"
            _log(period.level, words)


def _log(level: int, words: str) -> None:
    _logger.log(level, "ringdispatch: relay: %s", words)
