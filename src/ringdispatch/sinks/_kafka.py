"""Batches as records of a Kafka topic."""

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import Coroutine, Iterable
from typing import Any

import aiokafka  # type: ignore[import-untyped]
import aiokafka.errors  # type: ignore[import-untyped]

from ._attempts import Failure
from ._engine import EngineSink
from ._messages import Message
from ._types import Batch

_START_SECONDS = 5.0
_STOP_SECONDS = 2.0
_HEADER_BYTES = 2_048  # of a record, more than its headers take

# From the environment, where no argument has credentials.
_ENVIRONMENT = {"username": "KAFKA_USERNAME", "password": "KAFKA_PASSWORD"}
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_MECHANISMS = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}

_REFUSED = (
    aiokafka.errors.AuthenticationFailedError,
    aiokafka.errors.IllegalSaslStateError,
    aiokafka.errors.UnsupportedSaslMechanismError,
    aiokafka.errors.TopicAuthorizationFailedError,
    aiokafka.errors.ClusterAuthorizationFailedError,
    aiokafka.errors.InvalidTopicError,
)


class KafkaSink(EngineSink[Batch]):
    """Sends each batch as one record to a Kafka topic.

    A batch counts as dispatched when all in-sync replicas have it (`acks=all`). Until
    then it is sent again, until `dispatch_timeout`; with None, for ever. The producer
    is idempotent: what it repeats within a session is there once. A batch that is
    larger than `max_bytes` or than the broker takes goes in pieces.

    Entries are sent as by `JetStreamSink`, with the same headers; consumers are yours.

    Args:
        servers: Some of the cluster, as `host:port`.
        topic: The topic.
        username: With `password`, for SASL; else from KAFKA_USERNAME and
            KAFKA_PASSWORD.
        password: The password.
        mechanism: Of SASL: "PLAIN", "SCRAM-SHA-256" or "SCRAM-SHA-512".
        tls: An SSLContext, or True for one that trusts the system's certificates.
        max_bytes: Of one record; the brokers' own default is 1 MiB.
        timeout: Seconds to wait for one acknowledgement, > 0.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    def __init__(
        self,
        servers: str | Iterable[str],
        topic: str,
        *,
        username: str | None = None,
        password: str | None = None,
        mechanism: str = "PLAIN",
        tls: ssl.SSLContext | bool = False,
        max_bytes: int = 1_000_000,
        timeout: float = 5.0,
    ) -> None:
        super().__init__(timeout)
        self._servers = _check_servers(servers)
        self._topic = _check_topic(topic)
        self._largest = _check_bytes(max_bytes) - _HEADER_BYTES
        if not isinstance(tls, ssl.SSLContext | bool):
            raise TypeError(f"tls={tls!r}: must be an ssl.SSLContext, True or False")
        if mechanism not in _MECHANISMS:
            raise ValueError(f"mechanism={mechanism!r}: must be one of {_MECHANISMS}")
        given = {"username": username, "password": password}
        if not any(given.values()):
            given = {name: os.environ.get(of) for name, of in _ENVIRONMENT.items()}
        for name, value in given.items():
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name}: must be a string, not {type(value).__name__}")
        if bool(given["username"]) != bool(given["password"]):
            lacks = "password" if given["username"] else "username"
            raise ValueError(
                f"{lacks}: must be given, too, or {_ENVIRONMENT[lacks]} be set"
            )
        has_login, has_tls = bool(given["username"]), bool(tls)
        self._options: dict[str, Any] = {
            "bootstrap_servers": self._servers,
            "acks": "all",
            "enable_idempotence": True,
            "max_request_size": max_bytes,
            "request_timeout_ms": int(timeout * 1_000),
            "security_protocol": ("SASL_" if has_login else "")
            + ("SSL" if has_tls else "PLAINTEXT"),
        }
        if has_tls:
            own = isinstance(tls, ssl.SSLContext)
            self._options["ssl_context"] = tls if own else ssl.create_default_context()
        if has_login:
            self._options |= {
                "sasl_mechanism": mechanism,
                "sasl_plain_username": given["username"],
                "sasl_plain_password": given["password"],
            }

    def __repr__(self) -> str:
        return f"KafkaSink({','.join(self._servers)!r}, {self._topic!r})"

    async def _connect(self) -> "_Publisher":
        producer = aiokafka.AIOKafkaProducer(**self._options)
        publisher = _Publisher(producer, repr(self), self._topic, self._largest)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await producer.start()
        except BaseException as error:
            await publisher.close()
            if isinstance(error, aiokafka.errors.KafkaError | OSError | TimeoutError):
                raise publisher.failure(error) from None
            raise
        return publisher


class _Publisher:
    """Sends records by one producer; after a failure, by another."""

    def __init__(
        self,
        producer: aiokafka.AIOKafkaProducer,
        where: str,
        topic: str,
        largest: int,
    ) -> None:
        self._producer = producer
        self._where = where
        self._topic = topic
        self._largest = largest
        self.usable = True

    async def send(self, message: Message, seconds: float) -> None:
        """Send a record, and wait so long until it is acknowledged.

        Raises:
            Failure: it was not.
        """
        size = len(message.body)
        if size > self._largest:
            raise self._too_large(message, f"{self._largest:,} B of a record")
        headers = [(name, value.encode()) for name, value in message.headers.items()]
        try:
            async with asyncio.timeout(seconds):
                await self._producer.send_and_wait(
                    self._topic, message.body, headers=headers
                )
        except aiokafka.errors.MessageSizeTooLargeError:
            raise self._too_large(message, "what the broker takes") from None
        except (aiokafka.errors.KafkaError, OSError, TimeoutError) as error:
            # It might still send the record; under another session it comes again.
            self.usable = False
            raise self.failure(error) from None

    def _too_large(self, message: Message, than: str) -> Failure:
        return Failure(
            f"{self._where}: {len(message.body):,} B of entry {message.id} are more "
            f"than the {than}",
            retryable=False,
            too_large=True,
        )

    def failure(self, error: BaseException) -> Failure:
        """What an error of aiokafka means for another attempt."""
        words = str(error) or type(error).__name__
        if isinstance(error, _REFUSED):
            return Failure(f"{self._where}: refused: {words}", retryable=False)
        if isinstance(error, TimeoutError):
            words = "no answer in time"
        return Failure(f"{self._where}: {words}", retryable=True)

    async def close(self) -> None:
        """Close its connections, in whatever state they are."""
        self.usable = False
        # Not by `stop()`: it waits until every record is acknowledged, and cut short it
        # leaves its tasks and connections for ever.
        producer, self._producer._closed = self._producer, True
        try:
            await _briefly(producer.flush())
            if producer._sender is not None:
                await _briefly(producer._sender.close())
        finally:
            await _briefly(producer.client.close())


async def _briefly(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run it, for some time; it does not raise."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_STOP_SECONDS):
            await coroutine


def _check_servers(servers: Any) -> list[str]:
    if isinstance(servers, str):
        servers = servers.split(",")
    if not isinstance(servers, Iterable):
        raise TypeError(f"servers: must be host:port, not {type(servers).__name__}")
    found = []
    for each in servers:
        if not isinstance(each, str):
            raise TypeError(f"servers: must be strings, not {type(each).__name__}")
        host, colon, port = each.strip().rpartition(":")
        if "/" in each or "@" in each or not (colon and host and port.isdecimal()):
            shown = each.rpartition("@")[2].partition("?")[0]
            raise ValueError(f"servers: {shown!r}: must be host:port")
        found.append(each.strip())
    if not found:
        raise ValueError("servers: must have one host:port at least")
    return found


def _check_topic(topic: Any) -> str:
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic):
        raise ValueError(
            f"topic={topic!r}: must be a string of 1 to 249 letters, digits, '.', '_' "
            "and '-'"
        )
    return topic


def _check_bytes(count: Any) -> int:
    if not isinstance(count, int) or count < 2 * _HEADER_BYTES:
        raise ValueError(
            f"max_bytes={count!r}: must be an integer >= {2 * _HEADER_BYTES}"
        )
    return count
