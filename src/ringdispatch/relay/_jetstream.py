"""Messages of a JetStream stream, by a durable consumer that several relays share."""

import asyncio
import json
import os
import re
import ssl
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    ReplayPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from ringdispatch.sinks._attempts import Failure
from ringdispatch.sinks._connections import Connections
from ringdispatch.sinks._nats import NatsConnection, Servers, check_subject, size_of

from ._pull import Pull
from ._source import AwayError, Backlog, Held, Opened, SourceError, in_line

_HOLD_SECONDS = 10.0
_MOST_HELD = 10_000  # messages, by all relays together
_ANSWER_SECONDS = 5.0
_REASON, _ORIGIN = "Ringdispatch-Reason", "Ringdispatch-Origin"
_DELIVERIES = "Ringdispatch-Deliveries"
_DEAD = "-dead"
_CREATED_BYTES = 2**30
_AROUND = 1024  # bytes that a request's limit counts beside a message: its subjects
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a name that nats-py sends
_NO_LEADER = 10008  # JetStream's number of the error: soon there may be one

# What a consumer of ours has, and what another's may not have.
_CONSUMER: dict[str, Any] = {
    "ack_policy": AckPolicy.EXPLICIT,
    "ack_wait": _HOLD_SECONDS,
    "backoff": None,
    "deliver_policy": DeliverPolicy.ALL,
    "deliver_subject": None,
    "filter_subject": None,
    "filter_subjects": None,
    "headers_only": None,
    "max_deliver": -1,
    "replay_policy": ReplayPolicy.INSTANT,
}

Answer = TypeVar("Answer")


class JetStreamSource:
    """Takes what is in a stream, by a durable consumer, made if it is not there.

    Args:
        servers: Urls of one cluster: `nats://host:port` or `tls://`, without
            credentials in them.
        stream: The stream's name.
        consumer: The consumer's. Relays with the same one share the messages.
        create: Make the stream, for what is sent to this subject, if it is not there.
        replicas: Servers that are to have the stream that is made, 1 to 5.
        dead_letters: Take what was parked instead, from the stream `<stream>-dead`.
        user: With `password`; else from NATS_USER and NATS_PASSWORD.
        password: With `user`.
        token: Instead of both; else from NATS_TOKEN.
        credentials: The path of a `.creds` file; else from NATS_CREDS.
        tls: For certificates of your own. None: the system's are trusted.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    hold_seconds = _HOLD_SECONDS

    def __init__(
        self,
        servers: str | Iterable[str],
        stream: str,
        *,
        consumer: str = "ringdispatch",
        create: str | None = None,
        replicas: int = 1,
        dead_letters: bool = False,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        credentials: "str | os.PathLike[str] | None" = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        stream = check_subject("stream", stream, words=False)
        self.stream = f"{stream}{_DEAD}" if dead_letters else stream
        self._is_dead = dead_letters
        self._create = None if create is None else check_subject("create", create)
        if replicas not in range(1, 6):
            raise ValueError(f"replicas={replicas!r}: must be an integer from 1 to 5")
        self._replicas = replicas
        self._consumer = check_subject("consumer", consumer, words=False)
        for what, given in (("stream", stream), ("consumer", consumer)):
            if "/" in given or "\\" in given:
                raise ValueError(f"{what}={given!r}: must have no slashes")
        self._servers = Servers(
            servers,
            user=user,
            password=password,
            token=token,
            credentials=credentials,
            tls=tls,
        )
        self._connections = Connections(self._servers.connect)
        self._pull: Pull | None = None
        self._has_dead_letters = False
        self._made: Any = None  # when the stream was
        self._is_another = False  # by now: nothing that is held is of it

    def __repr__(self) -> str:
        return f"JetStreamSource({str(self._servers)!r}, {self.stream!r})"

    def __str__(self) -> str:
        return f"{self._servers}, stream {self.stream}"

    # ---- at the start

    async def open(self) -> Opened:
        """Connect, and see that stream and consumer are as they have to be.

        Raises:
            AwayError: no server is there, or too few of a cluster.
            SourceError: one is not as it has to be, or all servers refuse.
        """
        try:
            connection = await self._connections.get()
        except Failure as failure:
            raise (AwayError if failure.retryable else SourceError)(
                str(failure)
            ) from None
        jetstream = connection.client.jetstream(timeout=_ANSWER_SECONDS)
        where = f"{connection}: stream {self.stream!r}"
        with _in_words(where):
            try:
                config = await self._stream(connection, jetstream, where)
                await self._ensure_consumer(connection, jetstream, where)
            except nats.js.errors.ServiceUnavailableError as error:
                if error.err_code == _NO_LEADER:
                    raise
                raise SourceError(f"{where}: there is no JetStream") from None
        warnings = [] if self._is_dead else list(_warnings(where, config))
        return Opened(connection.client.max_payload + _AROUND, warnings)

    async def _stream(
        self, connection: NatsConnection, jetstream: Any, where: str
    ) -> StreamConfig:
        """The stream's settings; it is made where that was asked for."""
        try:
            info = await _ask(connection, jetstream.stream_info(self.stream))
        except nats.js.errors.NotFoundError:
            pass
        else:
            self._made = info.created
            found: StreamConfig = info.config
            return found
        if self._is_dead:
            raise SourceError.nothing_parked(where)
        if self._create is None:
            raise SourceError(f"{where}: is not there: make it, or --create SUBJECT")
        config = StreamConfig(
            name=self.stream,
            subjects=[self._create],
            num_replicas=self._replicas,
            # What was relayed is gone; where it is full, gateways keep the rest.
            retention=RetentionPolicy.WORK_QUEUE,
            discard=DiscardPolicy.NEW,
            max_bytes=_CREATED_BYTES,
        )
        with _refused(f"{where}: can't be made, with 1 GiB"):
            info = await _ask(connection, jetstream.add_stream(config))
        self._made = info.created
        made: StreamConfig = info.config
        return made

    async def _ensure_consumer(
        self, connection: NatsConnection, jetstream: Any, where: str
    ) -> None:
        config = ConsumerConfig(
            durable_name=self._consumer,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_HOLD_SECONDS,
            deliver_policy=DeliverPolicy.ALL,
            max_deliver=-1,
            max_ack_pending=_MOST_HELD,
        )
        where = f"{where}: consumer {self._consumer!r}"
        try:
            asked = jetstream.consumer_info(self.stream, self._consumer)
            info = await _ask(connection, asked)
        except nats.js.errors.NotFoundError:
            with _refused(f"{where}: can't be made"):
                made = jetstream.add_consumer(self.stream, config)
                info = await _ask(connection, made)
        for name, wanted in _CONSUMER.items():
            found = getattr(info.config, name, None)
            if found != wanted and (found or wanted):
                raise SourceError(
                    f"{where} has {name}={_plain(found)}, and must have "
                    f"{_plain(wanted)}: remove it, or name another with --consumer"
                )

    # ---- messages

    async def fetch(self, count: int, nbytes: int, seconds: float) -> list[Held]:
        """Wait so long for messages; return those that are there.

        Raises:
            AwayError: no server is there.
            SourceError: there is no such consumer any more.
        """
        with _in_words(""):
            connection = await self._connections.get()
            if self._pull is None or self._pull.connection is not connection:
                self._pull = await Pull.start(connection, self.stream, self._consumer)
            found = await self._pull.messages(count, nbytes, seconds)
            if self._pull.refused or (self._pull.unanswered and not found):
                await self._look_for_consumer(connection, self._pull.refused)
            return found

    async def _look_for_consumer(self, connection: NatsConnection, why: str) -> None:
        """Say why requests get no messages, once the server can; '' is for silence."""
        jetstream = connection.client.jetstream(timeout=_ANSWER_SECONDS)
        try:
            await _ask(connection, jetstream.consumer_info(self.stream, self._consumer))
        except nats.js.errors.NotFoundError:
            raise SourceError(
                f"{connection}: stream {self.stream!r}: consumer {self._consumer!r} is "
                "not there any more: was it removed? Start the relay again to make it"
            ) from None
        if why:
            raise AwayError(f"{connection}: stream {self.stream!r}: {why}")

    async def _look_for_stream(self) -> None:
        """See that it is the one that was opened.

        Raises:
            SourceError: it is not. To answer what an earlier one handed out would
                settle other messages, which have the same numbers in this one.
        """
        with _in_words(""):
            connection = await self._connections.get()
            jetstream = connection.client.jetstream(timeout=_ANSWER_SECONDS)
            made = (await _ask(connection, jetstream.stream_info(self.stream))).created
        if made and self._made and abs((made - self._made).total_seconds()) > 1:
            self._is_another = True
            raise SourceError(
                f"{connection}: stream {self.stream!r} was removed, and made again: "
                "start the relay again to take from it"
            )

    async def arrived(self) -> list[Held]:
        """What `fetch` asked for, and is here by now; it asks for nothing."""
        if self._pull is None or not self._pull.connection.usable:
            return []
        with _in_words(""):
            return await self._pull.arrived()

    async def stop_fetching(self) -> None:
        """Have no more handed out here; give back what is on its way."""
        pull, self._pull = self._pull, None
        if pull is not None and pull.connection.usable:
            with _in_words(""):
                for reply in await pull.stop():
                    await pull.connection.client.publish(reply, b"-NAK")

    async def extend(self, held: Iterable[Held]) -> None:
        """Tell the server that they are still worked on."""
        await self._tell(held, b"+WPI")
        await self._look_for_stream()

    async def give_back(self, held: Iterable[Held], seconds: float = 0.0) -> None:
        """Have the server hand them out again, not before some time."""
        later = json.dumps({"delay": int(seconds * 1e9)}).encode() if seconds else b""
        await self._tell(held, b"-NAK " + later if later else b"-NAK")

    async def acknowledge(self, held: Iterable[Held]) -> int:
        """Have the server forget them; returns how many it has not confirmed."""
        confirmed = await asyncio.gather(*map(self._acknowledge_one, held))
        return confirmed.count(False)

    async def _acknowledge_one(self, held: Held) -> bool:
        if self._is_another:
            return False
        try:
            connection = await self._connections.get()
            request = connection.client.request(
                held.handle, b"+ACK", timeout=_ANSWER_SECONDS
            )
            await connection.request(request, _ANSWER_SECONDS)
        except (Failure, nats.errors.Error):
            return False
        return True

    async def backlog(self) -> Backlog:
        """How much is there."""
        with _in_words(""):
            connection = await self._connections.get()
            jetstream = connection.client.jetstream(timeout=_ANSWER_SECONDS)
            asked = jetstream.consumer_info(self.stream, self._consumer)
            info = await _ask(connection, asked)
        return Backlog(int(info.num_pending or 0), int(info.num_ack_pending or 0))

    async def close(self) -> None:
        """Close the connection."""
        await self._connections.close()

    # ---- dead letters

    async def park(self, held: Held, reason: str) -> None:
        """Publish it to the stream of dead letters, and acknowledge it."""
        with _in_words(f"{held.name} can't be parked"):
            connection = await self._connections.get()
            jetstream = connection.client.jetstream(timeout=_ANSWER_SECONDS)
            name = f"{self.stream}{_DEAD}"
            if not self._has_dead_letters:
                await self._make_dead_letters(connection, jetstream, name)
                self._has_dead_letters = True
            # Those of the server are of no use there: some would have it refused.
            headers = {
                each: value
                for each, value in held.headers.items()
                if _HEADER.fullmatch(each) and not each.lower().startswith("nats-")
            }
            headers |= {
                "Nats-Msg-Id": f"{held.name}@{held.time}",
                _REASON: in_line(reason),
                _ORIGIN: held.name,
                _DELIVERIES: str(held.deliveries),
            }
            room = connection.client.max_payload - len(held.body)
            # As large as can be, it is none of ours, and the log has the reason.
            given = headers if size_of(headers) <= room else None
            publish = jetstream.publish(name, held.body, headers=given)
            try:
                await _ask(connection, publish)
            except nats.js.errors.NoStreamResponseError:
                self._has_dead_letters = False  # somebody removed it
                raise
        await self.acknowledge([held])

    async def _make_dead_letters(
        self, connection: NatsConnection, jetstream: Any, name: str
    ) -> None:
        try:
            await _ask(connection, jetstream.stream_info(name))
        except nats.js.errors.NotFoundError:
            info = await _ask(connection, jetstream.stream_info(self.stream))
            config = StreamConfig(
                name=name,
                subjects=[name],
                retention=RetentionPolicy.WORK_QUEUE,
                num_replicas=info.config.num_replicas,
                storage=info.config.storage,
            )
            await _ask(connection, jetstream.add_stream(config))

    async def _tell(self, held: Iterable[Held], what: bytes) -> None:
        if self._is_another:
            return
        with _in_words(""):
            connection = await self._connections.get()
            for each in held:
                await connection.client.publish(each.handle, what)


async def _ask(
    connection: NatsConnection, request: Coroutine[Any, Any, Answer]
) -> Answer:
    """Wait for the answer of the server.

    Raises:
        AwayError: none came, and what it refuses is told beside its answers; or one
            with nothing in it.
    """
    try:
        return await connection.request(request, _ANSWER_SECONDS)
    except TypeError:  # of nats-py: the answer has only the name of its kind
        raise AwayError(f"{connection}: its answer is empty: a removal?") from None
    except nats.errors.TimeoutError:
        why = connection.error or f"no answer within {_ANSWER_SECONDS:g} s"
        raise AwayError(f"{connection}: {why}") from None


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """What the server refuses to make; that it is away is no refusal.

    Raises:
        SourceError: instead of its error.
    """
    try:
        yield
    except nats.js.errors.ServiceUnavailableError:
        raise
    except nats.js.errors.APIError as error:
        raise SourceError(f"{what}: {error.description}") from None


@contextmanager
def _in_words(where: str) -> Iterator[None]:
    """What nats-py and the server say, as one line.

    Raises:
        AwayError: instead of theirs.
    """
    try:
        yield
    except nats.js.errors.ServiceUnavailableError:
        raise AwayError(_joined(where, "no JetStream answers there")) from None
    except (Failure, nats.errors.Error) as error:
        words = getattr(error, "description", None) or str(error)
        raise AwayError(_joined(where, words or type(error).__name__)) from None


def _joined(where: str, words: str) -> str:
    return f"{where}: {words}" if where else words


def _warnings(where: str, config: StreamConfig) -> Iterator[str]:
    """What a stream's settings may do to messages."""
    bounds = config.max_bytes, config.max_msgs, config.max_age
    bounded = any(bound and bound > 0 for bound in bounds)
    if not bounded:
        yield f"{where}: keeps all without a bound: set its max_bytes or max_age"
    elif config.discard != DiscardPolicy.NEW or (config.max_age or 0) > 0:
        yield (
            f"{where}: removes messages that were not relayed, by its bounds: with "
            "discard=new and no max_age gateways keep what does not fit"
        )
    if config.storage == StorageType.MEMORY:
        yield f"{where}: is in memory only: a server that ends takes it along"
    if config.no_ack:
        yield f"{where}: has no_ack: a gateway never knows that a batch arrived"


def _plain(value: object) -> object:
    return getattr(value, "value", value)
