"""Messages from a JetStream consumer, asked for by one request after the other."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

import nats.errors

from ringdispatch.sinks._nats import NatsConnection

from ._source import Held

SURE = 10  # silences in a row: a cluster that starts may not know a consumer so long
_EXPIRY_SECONDS = 0.5  # that the end of a request may take to arrive

# Statuses after which a request gets nothing more, and those of these after which no
# other will: there is no such consumer any more, it has a limit, or no JetStream.
_ENDED = {"404", "408", "409", "503"}
_REFUSED = [("503", ""), ("409", "consumer deleted"), ("409", "exceeded max")]


class Pull:
    """A subscription to what the server is asked for, one request after the other."""

    def __init__(self, connection: NatsConnection, subject: str) -> None:
        self.connection = connection
        self.refused = ""  # why the last request gets nothing
        # How many requests before it, in a row, were not even told that they are over:
        # so it is where there is no consumer any more, and now and then where one is.
        self.unanswered = 0
        self._subject = subject  # where requests go
        self._inbox = connection.client.new_inbox()
        self._subscription: Any = None
        self._number = 0
        self._left = 0  # messages that the request may still bring
        self._ends_at = 0.0
        self._error: Exception | None = None  # the connection's, before the request

    @classmethod
    async def start(
        cls, connection: NatsConnection, stream: str, consumer: str
    ) -> "Pull":
        """Subscribe to the answers."""
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        pull = cls(connection, subject)
        pull._subscription = await connection.client.subscribe(f"{pull._inbox}.*")
        return pull

    async def messages(self, count: int, nbytes: int, seconds: float) -> list[Held]:
        """Wait so long for messages; return those that are there."""
        now = asyncio.get_running_loop().time
        until = now() + seconds
        late = now() >= self._ends_at + _EXPIRY_SECONDS
        # What came by the last request is within the room that this one had.
        if (self._left <= 0 or late) and not self._subscription.pending_msgs:
            self.unanswered += self._left > 0
            await self._ask(count, nbytes, seconds)
        found: list[Held] = []
        while (left := until - now()) > 0 and not found:
            try:
                message = await self._subscription.next_msg(timeout=left)
            except nats.errors.TimeoutError:
                break
            self._take(message, found)
            found += await self.arrived()
            if self._left <= 0:
                break
        error = self.connection.error
        if not found and error is not None and error is not self._error:
            self.refused = str(error)  # we may not ask
        return found

    async def arrived(self) -> list[Held]:
        """What is here already; it does not ask for more."""
        found: list[Held] = []
        while self._subscription.pending_msgs:
            self._take(await self._subscription.next_msg(timeout=1), found)
        return found

    async def stop(self) -> list[str]:
        """Ask for no more; returns where to answer what still came."""
        now = asyncio.get_running_loop().time
        found: list[Held] = []
        # The request can't be taken back: it ends within a second, and says so.
        until = self._ends_at + _EXPIRY_SECONDS
        with contextlib.suppress(nats.errors.TimeoutError):
            while self._left > 0 and (left := until - now()) > 0:
                self._take(await self._subscription.next_msg(timeout=left), found)
        await self._subscription.unsubscribe()
        return [held.handle for held in found]

    async def _ask(self, count: int, nbytes: int, seconds: float) -> None:
        self._number += 1
        self._left = count
        self.refused = ""
        self._error = self.connection.error
        self._ends_at = asyncio.get_running_loop().time() + seconds
        request = {
            "batch": count,
            "max_bytes": nbytes,
            "expires": int(seconds * 1e9),
        }
        await self.connection.client.publish(
            self._subject,
            json.dumps(request).encode(),
            reply=f"{self._inbox}.{self._number}",
        )

    def _take(self, message: Any, found: list[Held]) -> None:
        headers: Mapping[str, str] = message.headers or {}
        self.unanswered = 0
        if message.subject.startswith(self._inbox):
            self._note_status(message, headers)
            return
        self._left -= 1
        metadata = message.metadata
        found.append(
            Held(
                message.reply,
                f"{metadata.stream}/{metadata.sequence.stream}",
                headers,
                message.data,
                deliveries=metadata.num_delivered,
                time=metadata.timestamp.timestamp(),
            )
        )

    def _note_status(self, message: Any, headers: Mapping[str, str]) -> None:
        status, words = headers.get("Status", ""), headers.get("Description", "")
        if status not in _ENDED or not message.subject.endswith(f".{self._number}"):
            return
        self._left = 0
        if any(status == each and what in words.lower() for each, what in _REFUSED):
            self.refused = words or "no JetStream answers there"
            self.unanswered = SURE  # as good as silence
