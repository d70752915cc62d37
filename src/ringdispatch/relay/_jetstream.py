"""Messages of a JetStream stream, by a durable consumer that several relays share."""

import asyncio
import json
import os
import re
import ssl
from collections.abc import Coroutine, Iterable
from typing import Any

import nats.errors
import nats.js.errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    ReplayPolicy,
    RetentionPolicy,
    StreamConfig,
)

from ringdispatch.sinks._attempts import Failure
from ringdispatch.sinks._connections import Connections
from ringdispatch.sinks._nats import NatsConnection, Servers, check_subject, size_of

from ._jetstream_answers import (
    ANSWER_SECONDS,
    Answer,
    NotAllowedError,
    OneConsumerError,
    ask,
    in_words,
    refused,
    with_way_out,
)
from ._jetstream_checks import (
    check_bytes,
    check_consumer,
    check_takes,
    in_units,
    warnings_of,
)
from ._parked import DEAD, marks, parked_words
from ._pull import SURE, Pull
from ._source import AwayError, Backlog, Held, NothingParkedError, Opened, SourceError

_HOLD_SECONDS = 10.0
_MOST_HELD = 10_000  # messages, by all relays together
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


class JetStreamSource:
    """Takes what is in a stream, by a durable consumer, made if it is not there.

    Args:
        servers: Urls of one cluster: `nats://host:port` or `tls://`, without
            credentials in them.
        stream: The stream's name.
        consumer: The consumer's. Relays with the same one share the messages.
        create: Make the stream, for what is sent to this subject, if it is not there.
        replicas: Servers that are to have the stream that is made, 1 to 5.
        create_bytes: At most so many are in the stream that is made; None: 1 GiB.
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
        create_bytes: int | None = None,
        dead_letters: bool = False,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        credentials: "str | os.PathLike[str] | None" = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        stream = check_subject("stream", stream, words=False)
        self.stream = f"{stream}{DEAD}" if dead_letters else stream
        self._is_dead = dead_letters
        self._create = None if create is None else check_subject("create", create)
        if replicas not in range(1, 6):
            raise ValueError(f"replicas={replicas!r}: must be an integer from 1 to 5")
        self._replicas = replicas
        if create_bytes is not None:
            check_bytes(create_bytes, create)
        self._bytes = create_bytes or _CREATED_BYTES
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
        jetstream = connection.client.jetstream(timeout=ANSWER_SECONDS)
        where = f"{connection}: stream {self.stream!r}"
        with in_words(where):
            try:
                config = await self._stream(connection, jetstream, where)
                await self._ensure_consumer(connection, jetstream, where)
                if self._is_dead:
                    return Opened(connection.client.max_payload + _AROUND, [])
                parked = await self._look_for_parked(connection, jetstream)
            except nats.js.errors.ServiceUnavailableError as error:
                if error.err_code == _NO_LEADER:
                    raise
                raise SourceError(f"{where}: there is no JetStream") from None
            except NotAllowedError as error:
                raise SourceError(str(error)) from None
        warnings = [*parked, *warnings_of(where, config, self._replicas)]
        return Opened(connection.client.max_payload + _AROUND, warnings)

    async def _stream(
        self, connection: NatsConnection, jetstream: Any, where: str
    ) -> StreamConfig:
        """The stream's settings; it is made where that was asked for."""
        try:
            info = await self._ask(connection, jetstream.stream_info(self.stream))
        except nats.js.errors.NotFoundError:
            pass
        else:
            self._made = info.created
            found: StreamConfig = info.config
            if self._create is not None and not self._is_dead:
                check_takes(where, found, self._create)
            return found
        if self._is_dead:
            raise NothingParkedError(where)
        if self._create is None:
            raise SourceError(f"{where}: is not there: make it, or --create SUBJECT")
        config = StreamConfig(
            name=self.stream,
            subjects=[self._create],
            num_replicas=self._replicas,
            # What was relayed is gone; where it is full, gateways keep the rest.
            retention=RetentionPolicy.WORK_QUEUE,
            discard=DiscardPolicy.NEW,
            max_bytes=self._bytes,
        )
        size = in_units(self._bytes)
        with refused(
            f"{where}: can't be made for {self._create!r}, with {size}", self._create
        ):
            info = await self._ask(connection, jetstream.add_stream(config))
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
            info = await self._ask(connection, asked)
        except nats.js.errors.NotFoundError:
            made = jetstream.add_consumer(self.stream, config)
            try:
                with refused(f"{where}: can't be made"):
                    info = await self._ask(connection, made)
            except OneConsumerError as error:
                listed = jetstream.consumers_info(self.stream)
                names = [each.name for each in await self._ask(connection, listed)]
                raise SourceError(
                    f"{error}, and it has {', '.join(map(repr, names))}: name that by "
                    "--consumer, or remove it"
                ) from None
        check_consumer(where, info.config, _CONSUMER)

    async def _look_for_parked(
        self, connection: NatsConnection, jetstream: Any
    ) -> list[str]:
        """What there is to say of the stream of dead letters."""
        name = f"{self.stream}{DEAD}"
        try:
            info = await self._ask(connection, jetstream.stream_info(name))
        except (nats.js.errors.NotFoundError, nats.js.errors.ServiceUnavailableError):
            return []
        except AwayError as error:
            return [str(error)]  # so long as nothing has to be parked, it relays
        return parked_words(f"{connection}: stream {name!r}", info.state.messages)

    # ---- messages

    async def fetch(self, count: int, nbytes: int, seconds: float) -> list[Held]:
        """Wait so long for messages; return those that are there.

        Raises:
            AwayError: no server is there.
            SourceError: there is no such consumer any more.
        """
        with in_words(""):
            connection = await self._connections.get()
            if self._pull is None or self._pull.connection is not connection:
                self._pull = await Pull.start(connection, self.stream, self._consumer)
            found = await self._pull.messages(count, nbytes, seconds)
            if self._pull.refused or (self._pull.unanswered and not found):
                await self._look_for_consumer(connection, self._pull)
            return found

    async def _look_for_consumer(self, connection: NatsConnection, pull: Pull) -> None:
        """Say why requests get no messages, once the server can say it."""
        jetstream = connection.client.jetstream(timeout=ANSWER_SECONDS)
        try:
            await self._ask(
                connection, jetstream.consumer_info(self.stream, self._consumer)
            )
        except nats.js.errors.NotFoundError:
            if pull.unanswered < SURE:
                raise
            raise SourceError(
                f"{connection}: stream {self.stream!r}: consumer {self._consumer!r} is "
                "not there any more: was it removed? Start the relay again to make it"
            ) from None
        if pull.refused:
            why = self._explained(pull.refused)
            raise AwayError(f"{connection}: stream {self.stream!r}: {why}")

    def _explained(self, why: object) -> str:
        names = self.stream, f"{self.stream}{DEAD}", self._consumer
        return with_way_out(str(why), *names)

    async def _look_for_stream(self) -> None:
        """See that it is the one that was opened.

        Raises:
            SourceError: it is not. To answer what an earlier one handed out would
                settle other messages, which have the same numbers in this one.
        """
        with in_words(""):
            connection = await self._connections.get()
            jetstream = connection.client.jetstream(timeout=ANSWER_SECONDS)
            made = (
                await self._ask(connection, jetstream.stream_info(self.stream))
            ).created
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
        with in_words(""):
            return await self._pull.arrived()

    async def stop_fetching(self) -> None:
        """Have no more handed out here; give back what is on its way."""
        pull, self._pull = self._pull, None
        if pull is not None and pull.connection.usable:
            with in_words(""):
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
                held.handle, b"+ACK", timeout=ANSWER_SECONDS
            )
            await connection.request(request, ANSWER_SECONDS)
        except (Failure, nats.errors.Error):
            return False
        return True

    async def backlog(self) -> Backlog:
        """How much is there."""
        with in_words(""):
            connection = await self._connections.get()
            jetstream = connection.client.jetstream(timeout=ANSWER_SECONDS)
            asked = jetstream.consumer_info(self.stream, self._consumer)
            info = await self._ask(connection, asked)
        return Backlog(int(info.num_pending or 0), int(info.num_ack_pending or 0))

    async def close(self) -> None:
        """Close the connection."""
        await self._connections.close()

    # ---- dead letters

    async def park(self, held: Held, reason: str) -> None:
        """Publish it to the stream of dead letters, and acknowledge it."""
        with in_words(f"{held.name} can't be parked"):
            connection = await self._connections.get()
            jetstream = connection.client.jetstream(timeout=ANSWER_SECONDS)
            name = f"{self.stream}{DEAD}"
            if not self._has_dead_letters:
                await self._make_dead_letters(connection, jetstream, name)
                self._has_dead_letters = True
            headers = _parked_headers(held, reason)
            room = connection.client.max_payload - len(held.body)
            # A body that leaves no room for headers is not from our sinks. It is parked
            # without them; the log has the reason.
            given = headers if size_of(headers) <= room else None
            publish = jetstream.publish(name, held.body, headers=given)
            try:
                await self._ask(connection, publish)
            except nats.js.errors.NoStreamResponseError:
                self._has_dead_letters = False  # somebody removed it
                raise
        await self.acknowledge([held])

    async def _make_dead_letters(
        self, connection: NatsConnection, jetstream: Any, name: str
    ) -> None:
        try:
            await self._ask(connection, jetstream.stream_info(name))
        except nats.js.errors.NotFoundError:
            info = await self._ask(connection, jetstream.stream_info(self.stream))
            config = StreamConfig(
                name=name,
                subjects=[name],
                retention=RetentionPolicy.WORK_QUEUE,
                num_replicas=info.config.num_replicas,
                storage=info.config.storage,
            )
            await self._ask(connection, jetstream.add_stream(config))

    async def _ask(
        self, connection: NatsConnection, request: Coroutine[Any, Any, Answer]
    ) -> Answer:
        """Wait for the answer of the server.

        Raises:
            NotAllowedError: it refuses to be asked.
            AwayError: it gives none.
        """
        try:
            return await ask(connection, request)
        except NotAllowedError as error:
            where = f"{connection}: stream {self.stream!r}"
            raise NotAllowedError(f"{where}: {self._explained(error)}") from None

    async def _tell(self, held: Iterable[Held], what: bytes) -> None:
        if self._is_another:
            return
        with in_words(""):
            connection = await self._connections.get()
            for each in held:
                await connection.client.publish(each.handle, what)


def _parked_headers(held: Held, reason: str) -> dict[str, str]:
    # Those of the server are of no use there: some would have it refused.
    headers = {
        each: value
        for each, value in held.headers.items()
        if _HEADER.fullmatch(each) and not each.lower().startswith("nats-")
    }
    return headers | {
        "Nats-Msg-Id": f"{held.name}@{held.time}",
        **marks(held, reason),
    }
