"""Drives the gateway under real HTTP load, and checks its books at the end.

The gateway and the collector run as processes of their own. Clients keep their
connections alive and send one request after the other. At the end the gateway gets a
SIGTERM in the middle of the traffic. Then every response that a client counted must
have all of its entries in the collector's database, once each, and nothing else may be
in it; the demo exits with 1 unless that is so.

With --spool the gateway keeps its entries in a directory, and with --kill it gets a
SIGKILL halfway and is started again. Then an entry may be in the database twice, under
the one id of its batch, by which a service drops doubles.

With --via the gateway sends to a server of NATS or Redis, and a relay takes the entries
from there to the collector.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import uvloop
from rich.console import Console
from rich.live import Live

from demo_books import Books, BooksOfKill, Tally, read_store
from demo_engines import ENGINES, STREAM, find, serving
from demo_view import SAMPLES_PER_SECOND, Sample, Statistics, View
from ringdispatch import Bytes

HERE = Path(__file__).parent
START_SECONDS = 30.0
END_SECONDS = 30.0


class DemoError(Exception):
    """The demo could not run to its end."""


# ---------------------------------------------------------------------- the processes


def free_ports(count: int) -> list[int]:
    """Ports below those that the system gives to clients, which take one soon."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            found.add(port)
    return [*found]


@dataclass
class Server:
    """One of the processes, and what it says on standard error."""

    process: Process
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace").strip()


@contextlib.asynccontextmanager
async def serve(
    script: str, directory: Path, *arguments: str, **environment: object
) -> AsyncIterator[Server]:
    """Run a server; end it on leaving, whatever happened."""
    log = directory / f"{script}.log"
    command = [str(HERE / script)] if script.endswith(".py") else ["-m", "ringdispatch"]
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            *arguments,
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


async def relaying(relay: Server) -> None:
    """Wait until the relay has its stream."""
    assert relay.process.stdout is not None
    async with asyncio.timeout(START_SECONDS):
        line = await relay.process.stdout.readline()
    if not line.startswith(b"relaying"):
        raise DemoError(f"the relay did not start:\n{relay.said()}")


async def relayed(database: Path, tally: Tally, owed: int) -> None:
    """Wait until all that is owed is stored; the books tell if it never is."""
    deadline = time.monotonic() + END_SECONDS
    while read_store(database, tally.run).distinct < owed:
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(0.1)


# ------------------------------------------------------------------------ the clients


async def ask(
    number: int, url: str, session: aiohttp.ClientSession, tally: Tally
) -> None:
    """Send one request after the other, until the gateway takes no more."""
    count = 0
    while time.monotonic() < tally.until:
        count += 1
        request = f"{tally.run}-{number}-{count}"
        try:
            # POST: aiohttp itself would send a GET twice.
            async with session.post(
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
    view: View,
    gateway: Server,
    url: str,
    tally: Tally,
    stop: asyncio.Event,
    *,
    until: float,
) -> None:
    """Show the traffic until so many seconds are over, or the gateway's life."""
    process = psutil.Process(gateway.process.pid)
    view.forget()
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
                elapsed = time.monotonic() - view.began
                view.show(elapsed, live)
                left = until - elapsed
                if left <= 0:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        stop.wait(), min(1 / SAMPLES_PER_SECOND, left)
                    )


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


async def kill(gateway: Server, tally: Tally, console: Console) -> int:
    """End the gateway as the kernel does; returns how many responses it had given."""
    gateway.process.kill()
    await gateway.process.wait()
    answered = len(tally.answered)
    console.print(f"SIGKILL, after {answered:,} responses", style="bold")
    return answered


async def run(options: argparse.Namespace, console: Console, directory: Path) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    database = directory / "entries.sqlite"
    collector_port, gateway_port, engine_port = free_ports(3)
    entries = f"http://127.0.0.1:{collector_port}/entries"
    tally = Tally()
    kind: type[Books] = Books
    async with contextlib.AsyncExitStack() as stack:
        collector = await stack.enter_async_context(
            serve("collector.py", directory, PORT=collector_port, DATABASE=database)
        )

        async def start_gateway() -> Server:
            gateway = await stack.enter_async_context(
                serve(
                    "gateway.py",
                    directory,
                    PORT=gateway_port,
                    COLLECTOR=entries,
                    VIA=via,
                    MS_DELAY=options.delay,
                    ENTRIES=options.entries,
                    LAYOUT=options.layout,
                    SPOOL=options.spool or "",
                )
            )
            await answering(gateway, gateway_port)
            return gateway

        await answering(collector, collector_port)
        via, relay = "", None
        if options.via is not None:
            engine = ENGINES[options.via]
            via = await stack.enter_async_context(
                serving(engine, directory, engine_port)
            )
            relay = await stack.enter_async_context(
                serve(
                    "relay",
                    directory,
                    *("relay", "--from", via, "--stream", STREAM, *engine.relay),
                    *("--to", "relayed:post", "--ms-delay", "100"),
                    PYTHONPATH=os.pathsep.join(
                        [str(HERE), os.environ.get("PYTHONPATH", "")]
                    ),
                    COLLECTOR=entries,
                )
            )
            await relaying(relay)
        gateway = await start_gateway()

        url = f"http://127.0.0.1:{gateway_port}"
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        view = View(console, options)
        async with asyncio.TaskGroup() as group:
            clients = [
                group.create_task(ask(number, url, session, tally))
                for number in range(options.clients)
            ]
            seconds = options.seconds / 2 if options.kill else options.seconds
            await watch(view, gateway, url, tally, stop, until=seconds)
            before = len(tally.answered)
            if options.kill and not stop.is_set():
                kind = BooksOfKill
                before = await kill(gateway, tally, console)
                began = time.monotonic()
                gateway = await start_gateway()
                took = time.monotonic() - began
                console.print(f"started again in {took:.1f} s", style="bold")
                until = time.monotonic() - view.began + seconds
                await watch(view, gateway, url, tally, stop, until=until)
            final = await end_in_mid_traffic(gateway, tally, clients)
        if relay is not None:
            await relayed(database, tally, len(tally.answered) * options.entries)
    store = read_store(database, tally.run)
    books = kind(options.entries, tally, len(tally.answered) - before, final, store)
    for server in [collector, gateway, *filter(None, [relay])]:
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
        "--layout",
        choices=["objects", "records", "bytes"],
        default=argparse.SUPPRESS,
        help="of the dispatcher (default: objects, with a spool bytes)",
    )
    parser.add_argument(
        "--spool",
        metavar="DIRECTORY",
        default=argparse.SUPPRESS,
        help="keep entries there, which is made where it isn't (default: in memory)",
    )
    parser.add_argument(
        "--kill",
        action="store_true",
        default=argparse.SUPPRESS,
        help="SIGKILL the gateway halfway, and start it again",
    )
    parser.add_argument(
        "--via",
        choices=[*ENGINES],
        default=argparse.SUPPRESS,
        help="send to a server of this engine, from which a relay takes the entries",
    )
    nothing = argparse.Namespace(layout=None, spool=None, kill=False, via=None)
    options = parser.parse_args(namespace=nothing)
    if options.spool is None and options.kill:
        wrong = "--kill: entries in memory would be lost: give it --spool DIRECTORY"
    else:
        wrong = check_spool(options) or check_via(options)
    if wrong:
        parser.exit(2, f"{parser.prog}: {wrong}\n")
    if options.layout is None:
        options.layout = "objects" if options.spool is None else "bytes"
    return options


def check_spool(options: argparse.Namespace) -> str:
    """Make the directory; returns what is wrong."""
    if options.spool is None:
        return ""
    if options.layout not in {None, "bytes"}:
        return f"--layout {options.layout}: with --spool it must be bytes"
    try:
        Bytes(spool=options.spool)
        Path(options.spool).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        return f"--spool {options.spool}: {error}"
    return ""


def check_via(options: argparse.Namespace) -> str:
    """Returns what is missing."""
    if options.via is None or find(ENGINES[options.via]):
        return ""
    engine = ENGINES[options.via]
    return (
        f"--via {options.via}: {engine.program} is not installed: "
        f"apt-get install {engine.package}"
    )


def main() -> int:
    options = read_options()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="ringdispatch-demo-") as directory:
        try:
            return uvloop.run(run(options, console, Path(directory)))
        except* DemoError as errors:
            for error in errors.exceptions:
                console.print(str(error), style="red", markup=False)
    return 1


if __name__ == "__main__":
    sys.exit(main())
