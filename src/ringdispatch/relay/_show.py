"""What the relay's command prints: a live view on a terminal, else plain lines."""

import asyncio
import contextlib
import logging
import sys
import time
from dataclasses import replace
from typing import Any, Self

from ._relay import Counts, Relay
from ._source import AwayError

_LOOK_SECONDS = 1.0
_LINE_SECONDS = 10.0


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print a line to where errors go."""
    sys.stderr.write(f"ringdispatch relay: {line}\n")
    sys.stderr.flush()


class LogLines(logging.Handler):
    """Log lines, above a live view where there is one: that takes over sys.stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        sys.stderr.write(f"{self.format(record)}\n")
        sys.stderr.flush()


class View:
    """Shows what a relay does, from the block's start to its end.

    Args:
        relay: The one that runs.
        quiet: Whether to show nothing.
    """

    def __init__(self, relay: Relay, *, quiet: bool) -> None:
        self._relay = relay
        self._quiet = quiet
        self._live = None if quiet else _make_live()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    def started(self) -> None:
        """Begin: the engine is as it has to be."""
        if self._quiet:
            return
        end = "nothing is left" if self._relay.replay else "Ctrl-C"
        say(f"relaying from {self._relay.origin} until {end}")
        self._task = asyncio.create_task(self._show())

    async def __aexit__(self, *_: object) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._live is not None:
            self._live.stop()
        say(f"relayed {self._in_words(self._relay.counts)}")

    async def _show(self) -> None:
        if self._live is not None:
            self._live.start()
        seconds = _LINE_SECONDS if self._live is None else _LOOK_SECONDS
        before, since = replace(self._relay.counts), time.monotonic()
        while True:
            await asyncio.sleep(seconds)
            lag: int | None = None
            with contextlib.suppress(AwayError):
                lag = sum(await self._relay.backlog())
            now, counts = time.monotonic(), replace(self._relay.counts)
            took = now - since
            age = self._relay.take_oldest_age()
            if self._live is not None:
                self._live.update(_table(counts, before, took, age, lag), refresh=True)
            elif counts != before:
                words = self._in_words(_difference(counts, before))
                clock = time.strftime("%H:%M:%S")
                say(f"{clock} in {took:.0f} s: {words}{_state(age, lag)}")
            before, since = counts, now

    def _in_words(self, counts: Counts) -> str:
        words = f"{_counted(counts.records, 'record')} in "
        words += _counted(counts.messages, "message")
        parked = "parked"
        if self._relay.replay:  # what fails was parked before
            parked = "stays parked" if counts.parked == 1 else "stay parked"
        named = {
            "redelivered": counts.redelivered,
            parked: counts.parked,
            "failed calls": counts.failed_calls,
        }
        return words + "".join(
            f", {each:,} {name}" for name, each in named.items() if each
        )


def _difference(counts: Counts, before: Counts) -> Counts:
    names = Counts.__slots__
    return Counts(*(getattr(counts, name) - getattr(before, name) for name in names))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _state(age: float | None, lag: int | None) -> str:
    words = "" if age is None else f", {age:.1f} s old at most"
    return words + ("" if lag is None else f"; lag {_counted(lag, 'message')}")


def _make_live() -> Any:
    """A display of rich's, if that is installed and prints to a terminal; else None."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console  # noqa: PLC0415, an extra
        from rich.live import Live  # noqa: PLC0415
    except ImportError:
        return None
    return Live(console=Console(highlight=False, markup=False), auto_refresh=False)


def _table(
    counts: Counts, before: Counts, took: float, age: float | None, lag: int | None
) -> Any:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("")
    table.add_column("a second", justify="right")
    table.add_column("in all", justify="right")
    new = _difference(counts, before)
    for name in Counts.__slots__:
        rate = f"{getattr(new, name) / took:,.0f}"
        table.add_row(name.replace("_", " "), rate, f"{getattr(counts, name):,}")
    table.add_row("oldest age", "" if age is None else f"{age:.1f} s", "")
    table.add_row("lag", "", "?" if lag is None else f"{lag:,}")
    return table
