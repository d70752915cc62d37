"""What a relay needs of an engine: messages that stay there until acknowledged."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol


class SourceError(Exception):
    """The engine can't be used as it is: one line says why, and the way out."""


class NothingParkedError(SourceError):
    """A stream of dead letters is not there: nothing to replay, which is no failure."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where}: is not there: no message was parked")


class AwayError(Exception):
    """The engine is not there now; it may be again."""


class Held:
    """A message that was fetched, until it is acknowledged, parked or given back.

    Attributes:
        handle: What the source answers it by; another one where it was fetched again.
        name: As people find it in the engine, such as `orders/17`.
        headers: Of the message.
        body: Of the message.
        deliveries: How often it was fetched, by any relay, this time included.
        time: When the engine took it, in seconds since 1970.
    """

    __slots__ = ("body", "deliveries", "handle", "headers", "name", "time")

    @property
    def key(self) -> tuple[str, float]:
        """Of this message only: a stream that is made anew has the same names."""
        return self.name, self.time

    def __init__(
        self,
        handle: Any,
        name: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        deliveries: int,
        time: float,
    ) -> None:
        self.handle = handle
        self.name = name
        self.headers = headers
        self.body = body
        self.deliveries = deliveries
        self.time = time


def in_line(reason: str) -> str:
    """A reason as a header: one line, that any text may be in."""
    line = " ".join(reason.split())[:500]
    return line.encode("utf-8", "backslashreplace").decode()


class Opened(NamedTuple):
    """An engine that can be used."""

    largest: int  # bytes that a message may have there
    warnings: list[str]


class Backlog(NamedTuple):
    """What is in an engine for the relays that share it."""

    waiting: int  # messages that none has fetched
    held: int  # that one has fetched, and not yet acknowledged


class Source(Protocol):
    """Where messages come from; its methods run on the relay's loop.

    Each raises `AwayError` where the engine is not there, if nothing else is said.
    """

    @property
    def hold_seconds(self) -> float:
        """After this time without `extend` the engine hands a message out again."""

    async def open(self) -> Opened:
        """Connect, and see that all is as it has to be.

        Raises:
            AwayError: the engine is not there.
            SourceError: something is not.
        """

    async def fetch(self, count: int, nbytes: int, seconds: float) -> list[Held]:
        """Wait so long for messages; return those that are there.

        Raises:
            AwayError: the engine is not there.
            SourceError: it is, and will never hand out a message any more.
        """

    async def arrived(self) -> list[Held]:
        """What `fetch` asked for, and is here by now; it asks for nothing."""

    async def stop_fetching(self) -> None:
        """Have no more handed out here; give back what is on its way."""

    async def extend(self, held: Iterable[Held]) -> None:
        """Tell the engine that they are still worked on."""

    async def acknowledge(self, held: Iterable[Held]) -> int:
        """Have the engine forget them; returns how many it has not confirmed.

        It does not raise: those come again.
        """

    async def give_back(self, held: Iterable[Held], seconds: float = 0.0) -> None:
        """Have the engine hand them out again; after `seconds`, if it can wait."""

    async def park(self, held: Held, reason: str) -> None:
        """Put it among the dead letters, and then acknowledge it."""

    async def backlog(self) -> Backlog:
        """How much is there."""

    async def close(self) -> None:
        """Close the connection; it does not raise."""
