"""`python -m ringdispatch relay`: its options, and how it is stopped."""

import argparse
import asyncio
import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ringdispatch._load import NotLoadedError, load

from ._calls import check_function
from ._relay import MAX_BATCH_BYTES, MAX_BYTES, Relay
from ._show import LogLines, View, complain, say
from ._source import NothingParkedError, Source, SourceError

DESCRIPTION = """\
Hand what gateways sent to an engine, by JetStreamSink or RedisStreamSink, to one
function, in larger batches. A message stays in the engine until the function has
returned. Several relays may take from one stream."""
EPILOG = """\
Credentials come from the environment: NATS_USER and NATS_PASSWORD, NATS_TOKEN, or
NATS_CREDS, the path of a .creds file; REDIS_USERNAME and REDIS_PASSWORD.

example: python -m ringdispatch relay --from nats://127.0.0.1:4222 --stream ORDERS \\
    --to shop.orders:store
docs/scale.md says how to run it."""

_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
]
# A second signal so soon is the first one, that a process group and its parent were
# sent, as by coreutils' timeout.
_SAME_SECONDS = 0.5


class UsageError(Exception):
    """The options can't be used; one line says why, and the way out."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise UsageError(f"{message}; --help lists the options")


def _amount(what: str, *, least: float = 0.0) -> Callable[[str], float]:
    """A type for argparse: a number of something, above or equal to the least."""

    def parse(words: str) -> float:
        try:
            if least <= (value := float(words)) < math.inf:
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(
            f"{words!r}: must be a number of {what} >= {least:g}"
        )

    return parse


def _count(words: str, what: str = "an integer >= 1") -> int:
    if words.isascii() and words.isdigit() and len(words) < 13 and int(words) > 0:
        return int(words)
    raise argparse.ArgumentTypeError(f"{words!r}: must be {what}")


def _bytes(words: str) -> int:
    return _count(words, f"a number of bytes, such as {MAX_BYTES}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ringdispatch relay",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("the engine").add_argument
    add(
        "--from",
        dest="urls",
        required=True,
        metavar="URL",
        help="nats://host:port, tls://, several of one cluster with commas between; or "
        "redis://host:port/database, rediss://",
    )
    add("--stream", required=True, metavar="S", help="its stream")
    add(
        "--consumer",
        default="ringdispatch",
        metavar="NAME",
        help="relays of the same name share the messages; it is made if it is not "
        "there (default: %(default)s)",
    )
    add(
        "--create",
        metavar="SUBJECT",
        help="make the stream if it is not there, for what is sent to this subject",
    )
    add(
        "--create-bytes",
        type=_count,
        metavar="N",
        help="of the stream that is made, at most, for what is not yet relayed; where "
        "it is full, gateways wait (default: 1 GiB)",
    )
    add(
        "--replicas",
        type=_count,
        metavar="N",
        help="servers that keep the stream that is made (default: 1)",
    )
    add(
        "--replay-dead-letters",
        action="store_true",
        help="call for the messages that were parked in S-dead, then end",
    )
    add = parser.add_argument_group("the function").add_argument
    add(
        "--to",
        required=True,
        metavar="package.module:function",
        help="called with (records, ids): async, or ordinary and then in a thread",
    )
    add(
        "--ms-delay",
        type=_amount("milliseconds", least=1),
        default=1_000.0,
        metavar="MS",
        help="from a message to its call (default: %(default)g)",
    )
    add(
        "--max-batch",
        type=_count,
        default=1_000,
        metavar="N",
        help="messages in one call (default: %(default)s)",
    )
    add(
        "--max-bytes",
        type=_bytes,
        default=MAX_BYTES,
        metavar="N",
        help="of all messages that it holds (default: %(default)s)",
    )
    add(
        "--max-batch-bytes",
        type=_bytes,
        default=MAX_BATCH_BYTES,
        metavar="N",
        help="of the messages in one call (default: %(default)s)",
    )
    add(
        "--timeout",
        type=_amount("seconds", least=0.001),
        default=60.0,
        metavar="S",
        help="for one call of an async function (default: %(default)g)",
    )
    add(
        "--attempts",
        type=_count,
        default=3,
        metavar="N",
        help="how often a message fails alone, while others succeed, until it is "
        "parked (default: %(default)s)",
    )
    add(
        "--grace",
        type=_amount("seconds"),
        default=10.0,
        metavar="S",
        help="when it is stopped, for what it holds (default: %(default)g)",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print errors and warnings only"
    )
    return parser


def _source(options: argparse.Namespace) -> Source:
    """Make the source that the options name.

    Raises:
        UsageError: there is no such engine, or an option does not suit it.
    """
    urls = [url.strip() for url in options.urls.split(",")]
    schemes = {url.partition("://")[0] for url in urls}
    try:
        if schemes <= {"nats", "tls"}:
            return _jetstream(options, urls)
        if schemes <= {"redis", "rediss"}:
            return _redis_stream(options, urls)
    except (ImportError, TypeError, ValueError) as error:
        raise UsageError(_of_option(str(error))) from None
    given = "/".join(sorted(schemes))
    raise UsageError(
        f"--from: must be nats://host:port, tls://, redis://host:port/database or "
        f"rediss://, not {given}"
    )


def _jetstream(options: argparse.Namespace, urls: list[str]) -> Source:
    from . import JetStreamSource  # noqa: PLC0415, an extra

    return JetStreamSource(
        urls,
        options.stream,
        consumer=options.consumer,
        create=options.create,
        replicas=options.replicas or 1,
        create_bytes=options.create_bytes,
        dead_letters=options.replay_dead_letters,
    )


def _redis_stream(options: argparse.Namespace, urls: list[str]) -> Source:
    from . import RedisStreamSource  # noqa: PLC0415, an extra

    if len(urls) > 1:
        raise UsageError("--from: must be one url of Redis")
    for name in ("create", "create_bytes", "replicas"):
        if getattr(options, name) is not None:
            raise UsageError(
                f"{_NAMES[name]}: is for NATS; Redis makes a stream by itself"
            )
    return RedisStreamSource(
        urls[0],
        options.stream,
        consumer=options.consumer,
        dead_letters=options.replay_dead_letters,
    )


_OF_ARGUMENTS = (
    "stream consumer create create_bytes replicas max_batch max_bytes ms_delay timeout"
)
_NAMES = {"servers": "--from", "url": "--from"} | {
    name: f"--{name.replace('_', '-')}" for name in _OF_ARGUMENTS.split()
}


def _of_option(words: str) -> str:
    """An argument's error, with the option that the argument comes from."""
    name = re.split("[=:]", words, maxsplit=1)[0]
    return words.replace(name, _NAMES.get(name, name), 1)


def _relay(options: argparse.Namespace) -> Relay:
    try:
        function: Any = load("--to", options.to)
    except NotLoadedError as error:
        raise UsageError(str(error)) from None
    try:
        check_function(f"--to {options.to!r}", function)
    except TypeError as error:
        raise UsageError(str(error)) from None
    try:
        return Relay(
            _source(options),
            function,
            ms_delay=options.ms_delay,
            max_batch=options.max_batch,
            max_bytes=options.max_bytes,
            max_batch_bytes=options.max_batch_bytes,
            timeout=options.timeout,
            attempts=options.attempts,
            grace=options.grace,
            replay=options.replay_dead_letters,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(_of_option(str(error))) from None


async def _run(options: argparse.Namespace) -> int:
    relay = _relay(options)
    _Stop(relay, options).listen()
    try:
        async with View(relay, quiet=options.quiet) as view:
            await relay.run(ready=view.started)
    except NothingParkedError as error:
        if not options.quiet:
            say(f"nothing to replay: {error}")
    if options.replay_dead_letters and relay.counts.parked:
        return 1
    return 0


class _Stop:
    """Stops a relay by a first signal in order, and by a later one at once."""

    def __init__(self, relay: Relay, options: argparse.Namespace) -> None:
        self._relay = relay
        self._options = options
        self._stopped_at: float | None = None
        self._numbers: list[int] = []

    def listen(self) -> None:
        """Have the loop tell of signals."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                loop.add_signal_handler(number, self._stop, number)
                self._numbers.append(number)

    def _stop(self, number: int) -> None:
        if self._stopped_at is not None:
            return
        self._stopped_at = time.monotonic()
        for each in self._numbers:  # the loop may be blocked when the next one comes
            signal.signal(each, self._leave)
        self._relay.stop()
        if self._options.quiet:
            return
        words = "ending"
        if self._relay.held:
            words = (
                f"finishing what is held, for {self._options.grace:g} s at most; once "
                "more leaves at once"
            )
        say(f"{signal.Signals(number).name}: {words}")

    def _leave(self, number: int, _: object) -> None:
        assert self._stopped_at is not None
        if time.monotonic() - self._stopped_at >= _SAME_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    try:
        options = _parser().parse_args(arguments)
        logging.basicConfig(
            handlers=[LogLines()],
            level=logging.WARNING if options.quiet else logging.INFO,
            format="%(asctime)s %(message)s",
            datefmt="%H:%M:%S",
        )
        return asyncio.run(_run(options))
    except (UsageError, SourceError) as error:
        complain(_of_option(str(error)))
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What read our lines has ended; nor can the exit's own flush be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
