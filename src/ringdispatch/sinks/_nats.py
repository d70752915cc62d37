"""Connections to NATS, of the sink and of the relay."""

import asyncio
import contextlib
import ipaddress
import os
import random
import re
import ssl
from collections.abc import Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import nats
from nats.aio.client import Client

from ._attempts import Failure

_CONNECT_SECONDS = 2
_CLOSE_SECONDS = 0.5  # it may wait for the end of a TLS that never began
_PING_SECONDS = 5  # two without an answer end a connection

# From the environment, where no argument has credentials; as the command `nats` does.
_ENVIRONMENT = {
    "user": "NATS_USER",
    "password": "NATS_PASSWORD",
    "token": "NATS_TOKEN",
    "credentials": "NATS_CREDS",
}
_WHO_WE_ARE = "set NATS_USER and NATS_PASSWORD, NATS_TOKEN or NATS_CREDS"
_CREDENTIALS = ("NATS USER JWT", "USER NKEY SEED")  # the parts of a .creds file
_NAME = re.compile(r"[^\s.*>]+")  # one word of a subject


T = TypeVar("T")


class Servers:
    """The servers of a cluster, and how to connect to one of them.

    Args:
        urls: One, or several of one cluster: `nats://` or `tls://`, without credentials
            in them.
        user: With `password`.
        password: With `user`.
        token: Instead of both.
        credentials: The path of a `.creds` file, instead of them.
        tls: For certificates of your own. None: the system's are trusted.

    Raises:
        TypeError, ValueError: an argument of the wrong type, or no such url.
    """

    def __init__(
        self,
        urls: str | Iterable[str],
        *,
        user: str | None,
        password: str | None,
        token: str | None,
        credentials: "str | os.PathLike[str] | None",
        tls: ssl.SSLContext | None,
    ) -> None:
        self._urls = _check_urls(urls)
        given = {"user": user, "password": password, "token": token}
        given["credentials"] = None if credentials is None else os.fspath(credentials)
        if not any(given.values()):
            given = {name: os.environ.get(of) for name, of in _ENVIRONMENT.items()}
        for name, value in given.items():
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name}: must be a string, not {type(value).__name__}")
        if bool(given["user"]) != bool(given["password"]):
            lacks = "password" if given["user"] else "user"
            raise ValueError(
                f"{lacks}: must be given, too, or {_ENVIRONMENT[lacks]} be set"
            )
        if tls is not None and not isinstance(tls, ssl.SSLContext):
            raise TypeError(f"tls={tls!r}: must be an ssl.SSLContext")
        self._tls = tls
        given["user_credentials"] = given.pop("credentials")
        self._options: dict[str, Any] = {}
        self._options |= {name: value for name, value in given.items() if value}
        # Of the cluster, by its own word, with the name in the certificate of each.
        self._found: dict[str, str | None] = {}

    def __str__(self) -> str:
        return ",".join(self._urls)

    async def connect(self) -> "NatsConnection":
        """Connect to one of them, on the running loop.

        Raises:
            Failure: none is there, or all that were given refuse.
        """
        failures: dict[str, Failure] = {}
        found = [url for url in self._found if url not in self._urls]
        # The given ones first: from here, the others may have no such addresses.
        for url in [*_shuffled(self._urls), *_shuffled(found)]:
            try:
                connection = await self._connect_to(url)
            except Failure as failure:
                failures[url] = failure
            else:
                self._note_found(url, connection)
                return connection
        refusals = [each for each in failures.values() if not each.retryable]
        # It says more than that another server is not there.
        shown = (refusals or list(failures.values()))[0]
        final = all(not failures[url].retryable for url in self._urls)
        raise Failure(str(shown), retryable=not final)

    async def _connect_to(self, url: str) -> "NatsConnection":
        if "user_credentials" in self._options:
            _check_credentials(self._options["user_credentials"])
        needs_tls = self._tls is not None or url.startswith("tls:")
        client = _Client(needs_tls=needs_tls)
        closed = asyncio.get_running_loop().create_future()
        connection = NatsConnection(client, url, closed)
        try:
            await client.connect(
                [url],
                # The next attempt takes another connection, of any server.
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=_CONNECT_SECONDS,
                ping_interval=_PING_SECONDS,
                error_cb=connection.note,
                closed_cb=connection.note_end,
                name="ringdispatch",
                tls=self._tls,
                tls_hostname=self._found.get(url),
                **self._options,
            )
        except asyncio.CancelledError:
            connection.discard()
            raise
        except Exception as error:
            why = error
            if isinstance(error, nats.errors.NoServersError) and connection.error:
                why = connection.error
            await connection.close()  # it is half made
            raise self._no_connection(url, why) from None
        return connection

    def _note_found(self, url: str, connection: "NatsConnection") -> None:
        """Note the cluster's other servers, which may have no other name than this."""
        name = self._found.get(url) or urlsplit(url).hostname
        self._found = {
            each.geturl(): name if _is_address(each.hostname) else None
            for each in connection.client.discovered_servers
        }

    def _no_connection(self, url: str, error: Exception) -> Failure:
        words, retryable = str(error) or type(error).__name__, True
        if isinstance(error, TimeoutError):
            words = f"no answer within {_CONNECT_SECONDS} s"
        elif "authorization violation" in words.lower():
            words, retryable = "the credentials are refused", False
            if not self._options:
                words = f"it asks for credentials, and none were given: {_WHO_WE_ARE}"
        elif isinstance(error, ssl.SSLCertVerificationError):
            words, retryable = f"its certificate is not trusted: {error}", False
        elif isinstance(error, _NoTlsError):
            words, retryable = "it has no TLS: give nats:// if that is meant", False
        elif isinstance(error, OSError):
            words = f"could not connect: {error}"
        elif "user_credentials" in self._options and not isinstance(
            error, nats.errors.Error
        ):
            words, retryable = f"credentials: {words}", False  # of the file's keys
        return Failure(f"{url}: {words}", retryable=retryable)


class _NoTlsError(nats.errors.Error):
    """A server has no TLS, and was not told any credentials."""


class _Client(Client):
    """Tells a server nothing in clear text where TLS is asked for."""

    def __init__(self, *, needs_tls: bool) -> None:
        super().__init__()
        self._needs_tls = needs_tls

    def _connect_command(self) -> bytes:
        if self._needs_tls and not self._server_info.get("tls_required"):
            raise _NoTlsError
        return super()._connect_command()


class NatsConnection:
    """A connection of one event loop to one server; broken, it is not used again."""

    def __init__(
        self, client: Client, url: str, closed: "asyncio.Future[None]"
    ) -> None:
        self.client = client
        self._url = url
        self._closed = closed
        self._discarded = False
        self.error: Exception | None = None  # the last beside its answers

    async def note(self, error: Exception) -> None:
        """Note what came beside the answers."""
        self.error = error

    async def note_end(self) -> None:
        """Note that it was closed."""
        if not self._closed.done():
            self._closed.set_result(None)

    @property
    def usable(self) -> bool:
        """Whether it is open, takes data, and nothing has cancelled what reads."""
        reader = self.client._reading_task
        return (
            not self._discarded
            and self.client.is_connected
            and reader is not None
            and not reader.done()
        )

    async def request(self, coroutine: Coroutine[Any, Any, T], seconds: float) -> T:
        """Wait for an answer; not if the connection ends before.

        Args:
            coroutine: Sends the request, and ends by itself after `seconds`, if it was
                sent.
            seconds: After them, and a little, the connection is given up.

        Raises:
            Failure: it has ended, or takes no data any more.
        """
        task = asyncio.ensure_future(coroutine)
        try:
            ends: set[asyncio.Future[Any]] = {task, self._closed}
            await asyncio.wait(
                ends,
                timeout=seconds + _CLOSE_SECONDS,
                return_when="FIRST_COMPLETED",
            )
            if task.done():
                return task.result()
        finally:
            task.cancel()
            task.add_done_callback(_forget)  # nats-py may not heed it
        if self._closed.done():
            raise Failure(f"{self}: the connection broke", retryable=True)
        self.discard()
        raise Failure(f"{self}: takes no data for {seconds:.3g} s", retryable=True)

    def __str__(self) -> str:
        return self._url

    def discard(self) -> None:
        """Close its socket, where there is no time to wait, or no use."""
        self._discarded = True
        transport: Any = self.client._transport
        writer = None if transport is None else transport._io_writer
        if writer is not None:
            writer.transport.abort()

    async def close(self) -> None:
        """Close it, in whatever state it is."""
        try:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self.client.close()
        finally:
            self.discard()


def _forget(task: "asyncio.Future[Any]") -> None:
    """Take what it raised, which nobody waits for any more."""
    if not task.cancelled():
        task.exception()


def _check_credentials(path: str) -> None:
    """Look at the file, which may be replaced at any time.

    Raises:
        Failure: it is none.
    """
    try:
        words = Path(path).read_text(errors="replace")
    except OSError as error:
        why = error.strerror
    else:
        parts = [f"{each} {what}" for what in _CREDENTIALS for each in ("BEGIN", "END")]
        lacks = [part for part in parts if part not in words]
        if not lacks:
            return
        why = f"it has no line {lacks[0]!r}"
    raise Failure(f"credentials={path!r}: is no .creds file: {why}", retryable=False)


def size_of(headers: Mapping[str, str]) -> int:
    """How many bytes the headers take in a message."""
    lines = sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
    return len("NATS/1.0\r\n\r\n") + lines


def _shuffled(urls: list[str]) -> list[str]:
    return random.sample(urls, len(urls))


def _is_address(host: str | None) -> bool:
    try:
        ipaddress.ip_address(host or "")
    except ValueError:
        return False
    return True


def _check_urls(urls: Any) -> list[str]:
    if isinstance(urls, str):
        urls = [urls]
    if not isinstance(urls, Iterable):
        raise TypeError(f"servers: must be a url or several, not {type(urls).__name__}")
    found = []
    for url in urls:
        if not isinstance(url, str):
            raise TypeError(f"servers: must be strings, not {type(url).__name__}")
        _check_url(url)
        found.append(url)
    if not found:
        raise ValueError("servers: must have a url at least")
    return found


def _shown(url: str) -> str:
    """A url without what is behind the port, which may be a secret."""
    found = re.match("([a-z]*://)?[^/?#]*", url)
    return found[0] if found else ""


def _check_url(url: str) -> None:
    scheme, _, rest = url.partition("://")
    if "@" in url:  # a password may have "/", "?" or "#" in it
        scheme = scheme if scheme in {"nats", "tls"} else "nats"
        shown = f"{scheme}://{re.split('[/?#]', url.rpartition('@')[2])[0]}"
        raise ValueError(
            f"servers: {shown!r} has credentials in it, which would show in logs: "
            f"{_WHO_WE_ARE}, or in code give them as arguments of their own"
        )
    if "," in url:
        shown = f"{_shown(url.partition(',')[0])},..."
        raise ValueError(f"servers: {shown!r}: give a list, one url each")
    shown = _shown(url)
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
    except ValueError:
        raise ValueError(
            f"servers: {shown!r}: a host or port is not valid: must be nats://host:port"
        ) from None
    if parts.scheme not in {"nats", "tls"} or not parts.hostname or not rest:
        raise ValueError(f"servers: {shown!r}: must be nats://host:port, or tls://")
    if parts.path.strip("/"):
        shown += "/..."
        raise ValueError(f"servers: {shown!r} has a path: must be nats://host:port")
    if "?" in url or "#" in url:
        raise ValueError(
            f"servers: {shown!r} has more behind it: must be nats://host:port"
        )


def check_subject(name: str, subject: Any, *, words: bool = True) -> str:
    """Check a subject to publish to; `words`: it may have several, with dots.

    Raises:
        TypeError: it is no string.
        ValueError: it is no subject, or one with wildcards.
    """
    if not isinstance(subject, str):
        raise TypeError(f"{name}={subject!r}: must be a string")
    parts = subject.split(".") if words else [subject]
    if not all(_NAME.fullmatch(part) for part in parts):
        allowed = "" if words else ", dots"
        raise ValueError(f"{name}={subject!r}: must have no spaces, *, >{allowed}")
    return subject
