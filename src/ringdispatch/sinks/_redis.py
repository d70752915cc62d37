"""Connections to Redis, of the sink and of the relay."""

import asyncio
import contextlib
import os
import re
import ssl
from typing import Any
from urllib.parse import urlsplit

import redis.exceptions
from redis.asyncio import Connection, ConnectionPool, Redis

from ._attempts import Failure

BODY = "body"  # the field with the message's body; its headers are fields, too
LARGEST = 16 * 2**20  # bytes of one message; Redis itself takes 512 MiB

_CONNECT_SECONDS = 2
_ANSWER_SECONDS = 5
_PORT = 6379
_MOST_SHOWN = 60  # characters of an answer that is none of Redis's

# From the environment, where no argument has credentials.
_ENVIRONMENT = {"username": "REDIS_USERNAME", "password": "REDIS_PASSWORD"}

# Answers that are the same however often one asks; any other is tried again, such as
# that the memory is full, that a replica has no master, or that a disk has no room.
_NO_DATABASE = "DB index is out of range"
_FINAL = ("WRONGTYPE", "unknown command", _NO_DATABASE)
_FINAL_KINDS = (redis.exceptions.NoPermissionError, redis.exceptions.MovedError)


class RedisServer:
    """One server, and how to connect to it.

    Args:
        url: `redis://host:port/database` or `rediss://`, without credentials in it.
        username: With `password`; none is Redis's user `default`.
        password: Its password.
        tls: For certificates of your own. None: the system's are trusted.
        timeout: Seconds for an answer.

    Raises:
        TypeError, ValueError: an argument of the wrong type, or no such url.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str | None,
        password: str | None,
        tls: ssl.SSLContext | None,
        timeout: float,
    ) -> None:
        self._options = _check_url(url, tls)
        self._options |= {"socket_timeout": timeout}
        given = {"username": username, "password": password}
        if not any(given.values()):
            given = {name: os.environ.get(of) for name, of in _ENVIRONMENT.items()}
        for name, value in given.items():
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name}: must be a string, not {type(value).__name__}")
        if given["username"] and not given["password"]:
            raise ValueError("password: must be given, too, or REDIS_PASSWORD be set")
        if tls is not None and not isinstance(tls, ssl.SSLContext):
            raise TypeError(f"tls={tls!r}: must be an ssl.SSLContext")
        self._options |= {name: value for name, value in given.items() if value}
        if url.startswith("rediss:"):
            self._options["connection_class"] = _TlsConnection
            self._options["context"] = tls or ssl.create_default_context()
        self._shown = url

    def __str__(self) -> str:
        return self._shown

    async def connect(self) -> "RedisConnection":
        """Connect, on the running loop.

        Raises:
            Failure: it is not there, or refuses.
        """
        pool = ConnectionPool(
            socket_connect_timeout=_CONNECT_SECONDS,
            retry=None,  # the next attempt is ours
            max_connections=2**31 - 1,  # the dispatcher bounds calls at once
            protocol=2,
            **self._options,
        )
        connection = RedisConnection(Redis.from_pool(pool), self._shown)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await connection.client.ping()
        except (redis.exceptions.RedisError, OSError) as error:
            await connection.close()
            raise self._no_connection(error) from None
        except BaseException:
            await connection.close()
            raise
        return connection

    def _no_connection(self, error: Exception) -> Failure:
        failure = failure_of(self._shown, error)
        if "password" not in self._options and "Authentication required" in str(error):
            return Failure(
                f"{self._shown}: it asks for credentials, and none were given: set "
                "REDIS_PASSWORD, and REDIS_USERNAME where it has users",
                retryable=False,
            )
        # Redis itself does not refuse TLS: it waits for the end of a command.
        silent = isinstance(error, redis.exceptions.TimeoutError | TimeoutError)
        has_no_tls = failure.retryable and (silent or "SSL" in str(error))
        if "context" in self._options and has_no_tls:
            return Failure(
                f"{failure} (it may have no TLS: give redis:// if that is meant)",
                retryable=True,
            )
        return failure


class _TlsConnection(Connection):
    """One with an SSLContext, where redis-py takes paths only."""

    def __init__(self, *, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self._context = context

    def _connection_arguments(self) -> dict[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._context}


class RedisConnection:
    """Connections of one event loop; one that breaks is replaced by redis-py."""

    usable = True

    def __init__(self, client: Redis, shown: str) -> None:
        self.client = client
        self._shown = shown

    def __str__(self) -> str:
        return self._shown

    async def close(self) -> None:
        """Close them; it does not raise."""
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            await self.client.aclose()


def failure_of(where: str, error: Exception) -> Failure:
    """What an error of redis-py means for another attempt."""
    words = str(error) or type(error).__name__
    final = isinstance(error, _FINAL_KINDS)
    if isinstance(error, redis.exceptions.ResponseError):
        final |= words.startswith(_FINAL)
    if isinstance(error, redis.exceptions.TimeoutError | TimeoutError):
        words = "no answer in time"
    elif isinstance(error, redis.exceptions.InvalidResponse):
        shown = words if len(words) <= _MOST_SHOWN else f"{words[:_MOST_SHOWN]}..."
        words = f"no Redis answers there: {shown}"
    elif words.startswith(_NO_DATABASE):
        words += ": give the number of one that it has at the url's end"
    elif isinstance(error, redis.exceptions.MovedError):
        words = f"it is one of a cluster, which is not supported: moved to {words}"
    elif isinstance(
        error,
        redis.exceptions.AuthenticationError | redis.exceptions.AuthorizationError,
    ):
        words, final = f"the credentials are refused: {words}", True
    elif "CERTIFICATE_VERIFY_FAILED" in words:
        words, final = f"its certificate is not trusted: {words}", True
    elif isinstance(error, redis.exceptions.ConnectionError | OSError):
        words = f"could not connect: {words}"
    return Failure(f"{where}: {words}", retryable=not final)


def check_key(name: str, key: Any) -> str:
    """Check a stream's key.

    Raises:
        TypeError: it is no string.
        ValueError: it is empty.
    """
    if not isinstance(key, str):
        raise TypeError(f"{name}={key!r}: must be a string")
    if not key:
        raise ValueError(f"{name}={key!r}: must not be empty")
    return key


def _check_url(url: Any, tls: object) -> dict[str, Any]:
    if not isinstance(url, str):
        raise TypeError(f"url: must be a string, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        port = parts.port or _PORT
    except ValueError:  # which quotes what may be a part of a password
        found = re.match("[a-z]*://[^/?#]*", url)  # behind it may be a secret, too
        shown = f"{found[0]!r}: " if found and "@" not in url else ""
        raise ValueError(f"url: {shown}its host or port is not valid") from None
    # A password may have "/", "?" or "#" in it, and then is not in the netloc.
    shown = f"{parts.scheme}://{url.rpartition('@')[2].rpartition('://')[2]}"
    shown = shown.partition("?")[0].partition("#")[0]
    if "@" in url or "password" in parts.query.lower():
        raise ValueError(
            f"url: {shown!r} has credentials in it, which would show in logs: set "
            "REDIS_USERNAME and REDIS_PASSWORD, or in code give them as arguments of "
            "their own"
        )
    database = parts.path.strip("/") or "0"
    if (
        parts.scheme not in {"redis", "rediss"}
        or not parts.hostname
        or parts.query
        or parts.fragment
        or not database.isdecimal()
    ):
        raise ValueError(
            f"url: {shown!r}: must be redis://host:port/database, or rediss://"
        )
    if tls is not None and parts.scheme == "redis":
        raise ValueError(f"tls: is for rediss://, and url is {shown!r}")
    return {"host": parts.hostname, "port": port, "db": int(database)}
