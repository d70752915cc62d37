"""`python -m ringdispatch collector`: its options, and what it prints."""

import argparse
import errno
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from ._server import ADDRESS, Server
from ._store import Totals

PORT = 8780
POLL_SECONDS = 0.5
MOST_LINES = 10  # of refusals, a second

DESCRIPTION = f"""\
Receive what your dispatch function posts, at http://{ADDRESS}:{PORT}/ or any path below
it, and show it on a live page at the same address. It takes JSON arrays and lines of
JSON, packed by gzip, deflate or zstd, from programs of this machine only. It keeps the
last 100,000 entries, in memory."""


class UsageError(Exception):
    """The options can't be used; one line says why, and the way out."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise UsageError(f"{message}; --help lists the options")


def _port(words: str) -> int:
    if words.isascii() and words.isdigit() and len(words) < 6 and int(words) < 65_536:
        return int(words)
    raise argparse.ArgumentTypeError(f"{words!r}: must be an integer from 0 to 65535")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m ringdispatch collector", description=DESCRIPTION)
    parser.add_argument(
        "--port",
        type=_port,
        default=PORT,
        metavar="N",
        help=f"where to listen; 0 is any free one (default: {PORT})",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print the address, and nothing after it"
    )
    return parser


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _in_words(came: Totals) -> str:
    entries = "entry" if came.entries == 1 else "entries"
    posts = "post" if came.posts == 1 else "posts"
    return f"{came.entries:,} {entries} in {came.posts:,} {posts}"


class _Lines:
    """Prints, once a second, what came and what was refused."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = Totals(0, 0)
        self._next = 0.0

    def print(self) -> None:
        """Print what came since the last lines, if those are a second old."""
        if time.monotonic() >= self._next:
            self.print_now()

    def print_now(self) -> None:
        """Print what came since the last lines."""
        totals, before = self._server.store.totals, self._before
        if totals != before or self._server.refusals:
            self._next = time.monotonic() + 1.0
        if totals != before:
            new = Totals(totals.entries - before.entries, totals.posts - before.posts)
            self._before = totals
            _print(f"{time.strftime('%H:%M:%S')} {_in_words(new)}")
        waiting = self._server.refusals
        refusals = [waiting.popleft() for _ in range(len(waiting))]
        for refusal in refusals[:MOST_LINES]:
            _print(refusal)
        if (more := len(refusals) - MOST_LINES) > 0:
            _print(f"refused {more:,} more")


def _listen(port: int) -> Server:
    try:
        return Server(port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "is taken"
        else:
            reason = f"can't be had: {error.strerror}"
        raise UsageError(f"port {port} {reason}; name another by --port") from None


def _collect(options: argparse.Namespace) -> None:
    with _listen(options.port) as server:
        lines = _Lines(server)
        if not options.quiet:
            server.on_tick = lines.print
        _print(f"collecting at http://{ADDRESS}:{server.port}/ until Ctrl-C")
        try:
            server.serve_forever(POLL_SECONDS)
        except KeyboardInterrupt:
            if not options.quiet:
                lines.print_now()
                _print(f"collected {_in_words(server.store.totals)}")


def main(arguments: Sequence[str]) -> int:
    """Run the collector until Ctrl-C; returns the exit status."""
    try:
        _collect(_parser().parse_args(arguments))
    except UsageError as error:
        sys.stderr.write(f"ringdispatch collector: {error}\n")
        return 2
    except KeyboardInterrupt:  # before it served, or a second one
        return 0
    except BrokenPipeError:
        # What read our lines has ended; nor can the exit's own flush be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
