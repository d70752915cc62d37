"""Ends each server of docs/servers.md in the middle of its traffic, and counts.

    python benchmarks/server_ends.py [--ends 20] [--only daphne] [--lanes 4] [--check]

Prints a line for each server, what its application calls at the end, and the signal:
how many entries its dispatcher had accepted, and how many were delivered. Writes them
to benchmarks/results/servers.json, where cells that were not measured stay as they are;
benchmarks/tables.py makes the page's tables of it. Exits with 1 where a cell could not
be measured. `--check` writes nothing, and exits with 1 also where entries were lost in
a cell that delivers all on the page, or a server hung that is not known for it.

With a spool, another process comes after it, and counts too.

The windows are longer than any server takes to stop, and full batches go out before: so
at the end a call is in flight, and entries are pending until something dispatches them.
"""

import argparse
import datetime as dt
import importlib.metadata
import os
import platform
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "tests" / folder) for folder in ("helpers", "programs")]
os.environ.setdefault("RECORD", os.devnull)  # of the programs, which are imported here

import pytest  # noqa: E402

import server_table  # noqa: E402
import serving  # noqa: E402
from server_table import TO_MAIN, Cell, Ends, summed  # noqa: E402
from servers import COMMANDS, FRAMEWORKS, PACKAGES, SILENT, WEB  # noqa: E402
from serving import PROGRAMS, Server, Traffic, serve  # noqa: E402

MAX_BATCH = 100
ENTRIES = 250  # accepted before the end: two batches and a half
CALL_SECONDS = 0.4
SPOOL = "spool"  # in the folder that the server is started in
CLIENTS, PAUSE = 4, 0.02  # 200 requests a second at most, as two calls can send
# Of the kernel, by a driver in whose place nobody sends signals.
NOTEBOOK = {"SIGINT": "interrupt", "SIGTERM": "SIGTERM", "SIGKILL": "SIGKILL"}


def command(cell: Cell) -> list[str]:
    """What runs the server."""
    if cell.server == "notebook":
        return [str(PROGRAMS / "notebook.py"), NOTEBOOK[cell.signal]]
    return ["traffic" if part == "signal" else part for part in COMMANDS[cell.server]]


def variables(cell: Cell) -> dict[str, Any]:
    """What its application finds in the environment."""
    found: dict[str, Any] = {
        "MAX_BATCH": MAX_BATCH,
        "CALL_SECONDS": CALL_SECONDS,
        "CLOSES": cell.closes,
        "TRAFFIC": ENTRIES,
    }
    if cell.closes == "home=thread":
        found["HOME_OF_CALLS"] = "thread"
    if cell.waits_in_task:
        found["WAITS_IN_TASK"] = 1
    if cell.spool:
        found["SPOOL"] = SPOOL
    if cell.server in FRAMEWORKS:
        found["FRAMEWORK"] = FRAMEWORKS[cell.server]
    return found


def end(cell: Cell) -> Ends:
    """End it once."""
    with tempfile.TemporaryDirectory() as folder:
        with serve(command(cell), Path(folder), **variables(cell)) as server:
            accepted = in_traffic(server, cell)
            hung = False
            if cell.server != "notebook":
                send_signal(server, cell.signal)
            try:
                server.wait()
            except pytest.fail.Exception:
                hung = True
        if hung:
            return Ends(ends=1, hung=1)
        if cell.spool:
            recover(Path(folder), cell)
        notes = {word for _, word in server.notes()}
        entries = {*accepted} or {w[1:] for w in notes if w.startswith("+")}
        assert len(entries) >= ENTRIES, f"{cell}: {len(entries)} entries"
        return Ends(1, 0, len(entries), len(entries & notes))


def recover(folder: Path, cell: Cell) -> None:
    """Start another process, for what the server has left."""
    command = [str(PROGRAMS / "served.py"), "recover", SPOOL]
    with serve(command, folder, **variables(cell)) as successor:
        successor.wait()


def in_traffic(server: Server, cell: Cell) -> dict[str, int]:
    """Wait until it has its entries; returns the requests that it answers."""
    if cell.server not in WEB:
        if cell.server != "notebook":
            server.wait_for(lambda: server.record.read_text().count("+") >= ENTRIES)
        return {}
    if cell.server not in SILENT:
        server.wait_for_notes("ready")
    server.wait_for(server.listens)
    traffic = Traffic(server, CLIENTS, PAUSE)
    several = cell.server in {"uvicorn-workers", "uwsgi-prefork"}
    server.wait_for(lambda: len(traffic.answered_by()) == 1 + several)
    server.wait_for(lambda: len(traffic.answered) >= ENTRIES)
    return traffic.answered


def send_signal(server: Server, name: str) -> None:
    """As from outside."""
    if name == TO_MAIN:
        server.process.send_signal(signal.SIGINT)
    else:
        server.signal(signal.Signals[name])


def versions() -> dict[str, str]:
    """Of the servers."""
    names = {name for needed in PACKAGES.values() for name in needed} | {"ipykernel"}
    names = {name.replace("_", "-") for name in names}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ends", type=int, default=20, help="of each cell")
    parser.add_argument("--only", default="", help="cells with this in their name")
    parser.add_argument("--lanes", type=int, default=4, help="servers at once")
    parser.add_argument("--check", action="store_true", help="only compare")
    options = parser.parse_args()

    serving.END_SECONDS = 15.0
    known = server_table.read()[1] if server_table.RESULTS.exists() else {}
    failures = []
    with ThreadPoolExecutor(options.lanes) as pool:
        running = {
            cell: [pool.submit(end, cell) for _ in range(options.ends)]
            for cell in server_table.all_cells()
            if options.only in name(cell)
        }
        for cell, futures in running.items():
            errors = [error for each in futures if (error := each.exception())]
            if errors:
                failures.append(f"{cell}: {errors[0]!r}")
                continue
            found = summed(each.result() for each in futures)
            print(line(cell, found), flush=True)
            if not options.check:
                known[cell] = found
                server_table.write(machine(), known)
            elif loses(found) and not loses(known[cell]):
                failures.append(f"{cell}: {found}; on the page it delivers all")
            elif found.hung and cell.server not in server_table.HANG:
                failures.append(f"{cell}: {found}")
    for failure in failures:
        print(failure, file=sys.stderr)
    return min(len(failures), 1)


def loses(found: Ends) -> bool:
    """Whether an entry was lost."""
    return found.delivered < found.accepted


def name(cell: Cell) -> str:
    """What was ended, in words."""
    waits = ", waits in a task" if cell.waits_in_task else ""
    spool = ", with a spool" if cell.spool else ""
    return f"{cell.server}, {cell.closes}{waits}{spool}, {cell.signal}"


def line(cell: Cell, found: Ends) -> str:
    """What came of a cell."""
    of = f"{found.delivered} of {found.accepted}, {found}"
    return f"{name(cell):60} {found.ends} ends: {of}"


def machine() -> dict[str, Any]:
    """Where and how it was measured."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "entries": ENTRIES,
        "max_batch": MAX_BATCH,
        "call_seconds": CALL_SECONDS,
        "packages": versions(),
    }


if __name__ == "__main__":
    sys.exit(main())
