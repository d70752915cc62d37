"""What a relay logs: one line for what happens once, few for what goes on."""

import logging
import time

from ._source import Held

_QUIET_SECONDS = 10.0  # after a line, for others like it
_SUSPECT = 10  # times fetched, after which a message has a line

_logger = logging.getLogger("ringdispatch")


class Log:
    """A relay's lines."""

    def __init__(self) -> None:
        self._fails_since: float | None = None  # the engine
        self._next: dict[str, float] = {}  # when a line of this kind may be logged
        self._left_out: dict[str, int] = {}

    def warn(self, words: object) -> None:
        """What was found at the start."""
        _logger.warning("ringdispatch: relay: %s", words)

    def outage(self, error: BaseException) -> None:
        """The engine is not there; told once, until it is back."""
        if self._fails_since is None:
            self._fails_since = time.monotonic()
            _logger.warning("ringdispatch: relay: %s; it is tried again", error)

    def end_of_outage(self) -> None:
        """The engine answers."""
        if self._fails_since is not None:
            seconds, self._fails_since = time.monotonic() - self._fails_since, None
            _logger.info("ringdispatch: relay: works again, after %.3g s", seconds)

    def failure(self, error: BaseException, messages: list[Held]) -> None:
        """A call failed."""
        what = messages[0].name if len(messages) == 1 else f"{len(messages)} messages"
        words = f"a call failed ({what}), and is repeated: {error!r}"
        self._sometimes(logging.WARNING, "failure", words)

    def unconfirmed(self, count: int, of: int) -> None:
        """Acknowledgements got no answer."""
        words = f"{count} of {of} messages are not acknowledged, and will come again"
        self._sometimes(logging.WARNING, "unconfirmed", words)

    def slow(self, seconds: float) -> None:
        """A call has not ended."""
        words = f"a call takes {seconds:.0f} s so far"
        self._sometimes(logging.WARNING, "slow", words)

    def suspect(self, held: Held) -> None:
        """A message comes again and again."""
        if held.deliveries >= _SUSPECT:
            words = (
                f"{held.name} was fetched {held.deliveries} times: it may be what ends "
                "relays; if so, remove it from the stream"
            )
            self._sometimes(logging.ERROR, "suspect", words)

    def parked(self, held: Held, reason: str) -> None:
        """A message is among the dead letters."""
        words = f"{held.name} is parked: {reason}"
        self._sometimes(logging.ERROR, "parked", words)

    def kept(self, held: Held, reason: str) -> None:
        """A dead letter failed again."""
        self._sometimes(logging.ERROR, "kept", f"{held.name} stays: {reason}")

    def _sometimes(self, level: int, kind: str, words: str) -> None:
        now = time.monotonic()
        if now < self._next.get(kind, 0.0):
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        self._next[kind] = now + _QUIET_SECONDS
        if count := self._left_out.pop(kind, 0):
            words += f" (and {count} more since the last such line)"
        _logger.log(level, "ringdispatch: relay: %s", words)
