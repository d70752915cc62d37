"""Messages of a Redis stream, by a consumer group that several relays share."""

import os
import socket
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import redis.exceptions
from redis.asyncio import Redis

from ringdispatch.sinks._attempts import Failure
from ringdispatch.sinks._connections import Connections
from ringdispatch.sinks._redis import (
    BODY,
    LARGEST,
    RedisServer,
    check_key,
    failure_of,
)

from ._parked import DEAD, marks, parked_words
from ._source import AwayError, Backlog, Held, NothingParkedError, Opened, SourceError

_HOLD_SECONDS = 10.0
_ANSWER_SECONDS = 5.0
_CLAIM_SECONDS = 1.0  # between two looks for what others held
_LEAST_GUESS = 64 * 1024  # bytes of the next message, before larger ones were seen
_FIRST_COUNT = 4  # messages in the first answer: of LARGEST each, 64 MiB
_ANY = "surrogateescape"  # what is none of ours is parked byte by byte


class RedisStreamSource:
    """Takes what is in a stream, by a group, made with the stream if it is not there.

    A message is removed once it was taken, unless the stream has other groups.

    Args:
        url: `redis://host:port/database` or `rediss://`, without credentials in it.
        stream: The stream's key.
        consumer: The group's name. Relays with the same one share the messages.
        dead_letters: Take what was parked instead, from the stream `<stream>-dead`.
        username: With `password`; else from REDIS_USERNAME and REDIS_PASSWORD.
        password: The password.
        tls: For certificates of your own. None: the system's are trusted.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    hold_seconds = _HOLD_SECONDS

    def __init__(
        self,
        url: str,
        stream: str,
        *,
        consumer: str = "ringdispatch",
        dead_letters: bool = False,
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        stream = check_key("stream", stream)
        self.stream = f"{stream}{DEAD}" if dead_letters else stream
        self._is_dead = dead_letters
        self._group = check_key("consumer", consumer)
        # Each has its own, so that what another one holds is told apart. It is never
        # removed: what it holds would be gone with it.
        self._consumer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._server = RedisServer(
            url, username=username, password=password, tls=tls, timeout=_ANSWER_SECONDS
        )
        self._connections = Connections(self._server.connect)
        self._claim_from: Any = "0-0"
        self._claim_at = 0.0
        self._guess = _LEAST_GUESS
        self._most = _FIRST_COUNT  # until it is known how large they are

    def __repr__(self) -> str:
        return f"RedisStreamSource({str(self._server)!r}, {self.stream!r})"

    def __str__(self) -> str:
        return f"{self._server}, stream {self.stream}"

    # ---- at the start

    async def open(self) -> Opened:
        """Connect, and make the group if it is not there.

        Raises:
            AwayError: the server is not there.
            SourceError: it refuses, or the key is no stream.
        """
        where = f"{self._server}: stream {self.stream!r}"
        try:
            client = (await self._connections.get()).client
            is_there = await client.exists(self.stream)
            if self._is_dead and not is_there:
                raise NothingParkedError(where)
            try:
                await client.xgroup_create(self.stream, self._group, "0", mkstream=True)
            except redis.exceptions.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            settings = await _settings(client)
            parked = [] if self._is_dead else await self._look_for_parked(client)
        except (redis.exceptions.RedisError, OSError) as error:
            failure = failure_of(where, error)
            kind = AwayError if failure.retryable else SourceError
            raise kind(str(failure)) from None
        except Failure as failure:
            kind = AwayError if failure.retryable else SourceError
            raise kind(str(failure)) from None
        if self._is_dead:
            return Opened(LARGEST, [])
        warnings = [*parked, *_warnings(where, settings)]
        if not is_there:
            # Gateways make it, too: its name may be misspelt here, or there.
            warnings.append(
                f"{where} was not there: it is made, and gateways must send to this "
                "name"
            )
        return Opened(LARGEST, warnings)

    async def _look_for_parked(self, client: Redis) -> list[str]:
        """What there is to say of the stream of dead letters."""
        name = f"{self.stream}{DEAD}"
        where = f"{self._server}: stream {name!r}"
        try:
            return parked_words(where, await client.xlen(name))
        except redis.exceptions.ResponseError as error:
            # So long as nothing has to be parked, it relays.
            return [str(failure_of(where, error))]

    # ---- messages

    async def fetch(self, count: int, nbytes: int, seconds: float) -> list[Held]:
        """Wait so long for messages; return those that are there.

        Raises:
            AwayError: the server is not there.
            SourceError: stream or group is not there any more.
        """
        # Redis does not say how large they are.
        count = max(1, min(count, nbytes // self._guess, self._most))
        async with self._asked() as client:
            found: list[Held] = []
            if time.monotonic() >= self._claim_at:
                self._claim_at = time.monotonic() + _CLAIM_SECONDS
                found = await self._claim(client, count)
            if not found:
                answer: Any = await client.xreadgroup(
                    self._group,
                    self._consumer,
                    {self.stream: ">"},
                    count=count,
                    block=max(1, int(seconds * 1_000)),
                )
                found = [self._held(each, 1) for _, those in answer for each in those]
        for held in found:
            self._guess = max(self._guess, len(held.body))
        self._most = 2 * max(len(found), self._most // 4, _FIRST_COUNT // 2)
        return found

    async def _claim(self, client: Redis, count: int) -> list[Held]:
        """Take over what another relay held, and did not extend."""
        idle = int(_HOLD_SECONDS * 1_000)
        claimed: Any = await client.xautoclaim(
            self.stream,
            self._group,
            self._consumer,
            idle,
            self._claim_from,
            count=count,
        )
        self._claim_from, messages = claimed[:2]
        messages = [each for each in messages if each[0] is not None]  # Redis 6.2
        if not messages:
            return []
        self._claim_at = 0.0  # there may be more
        first, last = messages[0][0], messages[-1][0]
        pending = await client.xpending_range(
            self.stream, self._group, first, last, len(messages), self._consumer
        )
        times: dict[Any, Any]
        times = {each["message_id"]: each["times_delivered"] for each in pending}
        return [self._held(each, times.get(each[0], 2)) for each in messages]

    def _held(self, message: Any, deliveries: int) -> Held:
        number, fields = message
        body = fields.pop(BODY.encode(), b"")
        headers = {
            name.decode(errors=_ANY): value.decode(errors=_ANY)
            for name, value in fields.items()
        }
        name = number.decode()
        return Held(
            name,
            f"{self.stream}/{name}",
            headers,
            body,
            deliveries=deliveries,
            time=int(name.partition("-")[0]) / 1_000,
        )

    async def arrived(self) -> list[Held]:
        """Nothing is on its way: a request is waited for."""
        return []

    async def stop_fetching(self) -> None:
        """Nothing is on its way: a request is waited for."""

    async def extend(self, held: Iterable[Held]) -> None:
        """Begin the time anew after which another relay may claim them."""
        await self._set_idle(held, 0.0)

    async def give_back(self, held: Iterable[Held], seconds: float = 0.0) -> None:
        """Have them claimed by another relay, after `hold_seconds` at the latest."""
        await self._set_idle(held, max(0.0, _HOLD_SECONDS - seconds))

    async def _set_idle(self, held: Iterable[Held], seconds: float) -> None:
        numbers = [each.handle for each in held]
        if not numbers:
            return
        async with self._asked() as client:
            await client.xclaim(
                self.stream,
                self._group,
                self._consumer,
                0,
                numbers,
                idle=int(seconds * 1_000),
                justid=True,  # which is no delivery
            )

    async def acknowledge(self, held: Iterable[Held]) -> int:
        """Have the server forget them; returns how many it has not confirmed."""
        numbers = [each.handle for each in held]
        try:
            async with self._asked() as client:
                only = len(await client.xinfo_groups(self.stream)) == 1
                # Both or none: nobody comes again to remove what is acknowledged.
                async with client.pipeline(transaction=True) as both:
                    both.xack(self.stream, self._group, *numbers)
                    if only:
                        both.xdel(self.stream, *numbers)
                    await both.execute()
        except (AwayError, SourceError):
            return len(numbers)
        return 0

    async def park(self, held: Held, reason: str) -> None:
        """Add it to the stream of dead letters, and acknowledge it."""
        fields: dict[Any, Any] = {
            **{_bytes(name): _bytes(each) for name, each in held.headers.items()},
            **marks(held, reason),
            BODY: held.body,
        }
        async with self._asked() as client:
            await client.xadd(f"{self.stream}{DEAD}", fields)
        await self.acknowledge([held])

    async def backlog(self) -> Backlog:
        """How much is there."""
        async with self._asked() as client:
            groups = await client.xinfo_groups(self.stream)
            for group in groups:
                if group["name"] == self._group.encode():
                    held = int(group["pending"])
                    waiting = group.get("lag")  # unknown once messages were removed
                    if waiting is None:
                        waiting = max(0, await client.xlen(self.stream) - held)
                    return Backlog(int(waiting), held)
        raise AwayError(f"{self}: has no group {self._group!r}")

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    @asynccontextmanager
    async def _asked(self) -> AsyncIterator[Redis]:
        """Errors of redis-py as the relay's own.

        Raises:
            AwayError, SourceError: instead of them.
        """
        try:
            yield (await self._connections.get()).client
        except Failure as failure:
            raise AwayError(str(failure)) from None
        except (redis.exceptions.RedisError, OSError) as error:
            where = f"{self._server}: stream {self.stream!r}"
            if "NOGROUP" in str(error):
                raise SourceError(
                    f"{where}: group {self._group!r} is not there any more: was it "
                    "removed? Start the relay again to make it"
                ) from None
            raise AwayError(str(failure_of(where, error))) from None


async def _settings(client: Redis) -> dict[str, str]:
    """What the server says of itself, as far as it does."""
    try:
        found = await client.config_get("appendonly", "maxmemory-policy", "maxmemory")
    except redis.exceptions.ResponseError:  # a managed one
        return {}
    return {_text(name): _text(value) for name, value in found.items()}


def _bytes(value: str) -> bytes:
    return value.encode(errors=_ANY)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _warnings(where: str, settings: dict[str, str]) -> Iterator[str]:
    """What the server's settings may do to messages."""
    if settings.get("appendonly") == "no":
        yield (
            f"{where}: appendonly is no: what came since its last snapshot is lost if "
            "the server is killed"
        )
    policy = settings.get("maxmemory-policy", "noeviction")
    if settings.get("maxmemory", "0") != "0" and policy != "noeviction":
        yield (
            f"{where}: maxmemory-policy is {policy}: the server may remove the stream; "
            "with noeviction gateways keep what does not fit"
        )
