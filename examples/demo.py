"""Drives the gateway under real HTTP load, and checks its books at the end.

The gateway and the collector run as processes of their own. Clients keep their
connections alive and send one request after the other. At the end the gateway gets a
SIGTERM in the middle of the traffic. Then every response that a client counted must
have all of its entries in the collector's database, once each, and nothing else may be
in it; the demo exits with 1 unless that is so.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
import uvloop
from rich.console import Console
from rich.live import Live
from rich.table import Table

from demo_view import LOSSES, SAMPLES_PER_SECOND, Sample, Statistics, View

HERE = Path(__file__).parent
START_SECONDS = 30.0
END_SECONDS = 30.0


class DemoError(Exception):
    """The demo could not run to its end."""


# ---------------------------------------------------------------------- the processes


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(count)
        ]
        return [each.getsockname()[1] for each in sockets]


@dataclass
class Server:
    """One of the two processes, and what it says on standard error."""

    process: Process
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace").strip()


@contextlib.asynccontextmanager
async def serve(
    script: str, directory: Path, **environment: object
) -> AsyncIterator[Server]:
    """Run a server; end it on leaving, whatever happened."""
    log = directory / f"{script}.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / script),
            env=os.environ | {name: str(value) for name, value in environment.items()},
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            # Ctrl-C is for the demo, which then ends the servers in their order.
            start_new_session=True,
        )
    try:
        yield Server(process, log)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), END_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


async def answering(server: Server, port: int) -> None:
    """Wait until a server that was just started takes connections."""
    deadline = time.monotonic() + START_SECONDS
    while server.process.returncode is None and time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            await writer.wait_closed()
            return
    raise DemoError(f"{server.log.stem} did not start:\n{server.said()}")


# ------------------------------------------------------------------------ the clients


@dataclass
class Tally:
    """What the clients saw."""

    answered: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    until: float = math.inf

    @property
    def ending(self) -> bool:
        return self.until < math.inf


async def ask(
    number: int, url: str, session: aiohttp.ClientSession, tally: Tally
) -> None:
    """Send one request after the other, until the gateway takes no more."""
    count = 0
    while time.monotonic() < tally.until:
        count += 1
        request = f"{number}-{count}"
        try:
            async with session.get(
                f"{url}/client/{number}", headers={"x-request-id": request}
            ) as response:
                body = await response.text()
        except (aiohttp.ClientError, TimeoutError):
            # A response that was cut off is no response.
            tally.unanswered.add(request)
            if tally.ending:
                return
            await asyncio.sleep(0.05)
            continue
        if response.status == 200 and body == "Hello World!":
            tally.answered.add(request)
        else:
            tally.wrong.append(f"request {request}: {response.status} {body[:80]!r}")


# -------------------------------------------------------------------------- the watch


async def watch(
    view: View, gateway: Server, url: str, tally: Tally, stop: asyncio.Event
) -> None:
    """Show the traffic until its time is over, or the gateway's."""
    process = psutil.Process(gateway.process.pid)
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        live = None
        if view.console.is_terminal:
            live = Live(console=view.console, auto_refresh=False)
            stack.enter_context(live)
        async with aiohttp.ClientSession() as session:
            while gateway.process.returncode is None and not stop.is_set():
                # A gateway that has died answers neither; the loop's condition sees it.
                with contextlib.suppress(aiohttp.ClientError, psutil.Error):
                    async with session.get(f"{url}/statistics") as response:
                        seen = await response.json()
                    memory = process.memory_info().rss
                    view.add(
                        Sample(time.monotonic(), len(tally.answered), memory, seen)
                    )
                elapsed = time.monotonic() - started
                view.show(elapsed, live)
                left = view.options.seconds - elapsed
                if left <= 0:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        stop.wait(), min(1 / SAMPLES_PER_SECOND, left)
                    )


# -------------------------------------------------------------------------- the books


@dataclass
class Books:
    """What the clients saw, what the gateway says, and what is in the store."""

    entries: int  # to a request
    tally: Tally
    after_sigterm: int
    statistics: Statistics | None
    rows: int
    distinct: int
    stored: dict[str, int]  # entries of each request

    @property
    def owed(self) -> int:
        return len(self.tally.answered) * self.entries

    def disagreements(self) -> list[str]:
        if self.statistics is None:
            return ["the gateway left no final statistics"]
        counts = {
            "accepted": self.statistics["accepted"],
            "dispatched": self.statistics["dispatched"],
            "rows": self.rows,
            "distinct rows": self.distinct,
        }
        found = [
            f"{owed:,} entries owed for the responses, but {count:,} {name}"
            for name, count in counts.items()
            if count != (owed := self.owed)
        ]
        incomplete = [
            request
            for request in self.tally.answered
            if self.stored.get(request) != self.entries
        ]
        if incomplete:
            found.append(f"{len(incomplete):,} responses without all their entries")
        uncounted = self.stored.keys() - self.tally.answered
        if uncounted:
            found.append(f"{len(uncounted):,} requests stored that no client counted")
        return found + self.tally.wrong[:10] + ([] if self.owed else ["no response"])

    def show(self, console: Console) -> None:
        tally, seen = self.tally, self.statistics or {}
        rows = {
            "responses counted by the clients": len(tally.answered),
            "  of these, after the SIGTERM": self.after_sigterm,
            "requests without a response": len(tally.unanswered),
            f"entries owed, {self.entries} to a response": self.owed,
            "entries accepted": seen.get("accepted"),
            "entries dispatched": seen.get("dispatched"),
            "rows in SQLite": self.rows,
            "distinct rows": self.distinct,
            "batches": seen.get("batches"),
            "failed, evicted, abandoned or rejected": sum(
                seen.get(name, 0) for name in LOSSES
            ),
        }
        table = Table(box=None, show_header=False)
        table.add_column()
        table.add_column(justify="right", style="bold")
        for name, count in rows.items():
            table.add_row(name, "unknown" if count is None else f"{count:,}")
        console.print(table)
        disagreements = self.disagreements()
        for disagreement in disagreements:
            console.print(disagreement, style="red")
        if disagreements:
            console.print("The books do not agree.", style="bold red")
        else:
            console.print("The books agree.", style="bold green")


def read_store(database: Path) -> tuple[int, int, dict[str, int]]:
    """Rows, distinct rows, and how many entries of each request are stored."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM entries").fetchone()
        stored = dict(
            connection.execute(
                "SELECT request_id, count(DISTINCT number) FROM entries GROUP BY 1"
            ).fetchall()
        )
    return rows, sum(stored.values()), stored


# ------------------------------------------------------------------------ the sequence


async def end_in_mid_traffic(
    gateway: Server, tally: Tally, clients: list[asyncio.Task[None]]
) -> Statistics | None:
    """Stop the gateway while the clients go on, and take its final statistics."""
    # Before the signal, so that no client takes its effect for a fault. A client whose
    # connection is served for longer than this stops by itself.
    tally.until = time.monotonic() + 5.0
    with contextlib.suppress(ProcessLookupError):
        gateway.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*clients)
    try:
        out, _ = await asyncio.wait_for(gateway.process.communicate(), END_SECONDS)
    except TimeoutError:
        return None
    lines = out.decode().splitlines()
    return json.loads(lines[-1]) if lines else None


async def run(options: argparse.Namespace, console: Console, directory: Path) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    database = directory / "entries.sqlite"
    collector_port, gateway_port = free_ports(2)
    tally = Tally()
    async with contextlib.AsyncExitStack() as stack:
        collector = await stack.enter_async_context(
            serve("collector.py", directory, PORT=collector_port, DATABASE=database)
        )
        gateway = await stack.enter_async_context(
            serve(
                "gateway.py",
                directory,
                PORT=gateway_port,
                COLLECTOR=f"http://127.0.0.1:{collector_port}/entries",
                MS_DELAY=options.delay,
                ENTRIES=options.entries,
                LAYOUT=options.layout,
            )
        )
        await answering(collector, collector_port)
        await answering(gateway, gateway_port)

        url = f"http://127.0.0.1:{gateway_port}"
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        async with asyncio.TaskGroup() as group:
            clients = [
                group.create_task(ask(number, url, session, tally))
                for number in range(options.clients)
            ]
            await watch(View(console, options), gateway, url, tally, stop)
            before = len(tally.answered)
            final = await end_in_mid_traffic(gateway, tally, clients)
    books = Books(
        options.entries,
        tally,
        len(tally.answered) - before,
        final,
        *read_store(database),
    )
    for server in (collector, gateway):
        if said := server.said():
            console.print(f"{server.log.stem} said:\n{said}", markup=False)
    books.show(console)
    return 1 if books.disagreements() else 0


def above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seconds", type=above_zero, default=10.0, help="of traffic")
    parser.add_argument("--delay", type=above_zero, default=10.0, help="ms_delay")
    parser.add_argument(
        "--clients", type=at_least_one, default=16, help="at the same time"
    )
    parser.add_argument("--entries", type=at_least_one, default=1, help="to a request")
    parser.add_argument(
        "--layout", choices=["objects", "records", "bytes"], default="objects"
    )
    return parser.parse_args()


def main() -> int:
    options = read_options()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="ringdispatch-demo-") as directory:
        try:
            return uvloop.run(run(options, console, Path(directory)))
        except DemoError as error:
            console.print(str(error), style="red", markup=False)
            return 1


if __name__ == "__main__":
    sys.exit(main())
