"""The tables of docs/servers.md, from what `make ends` has measured."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).resolve().parent / "results" / "servers.json"
SIGNALS = ("SIGINT", "SIGTERM", "SIGKILL")
# Beside its row's SIGINT, which is for every process as from a terminal.
TO_MAIN = "SIGINT to the main process"
# At times, after SIGINT, with any application: docs/servers.md has why.
HANG = {"granian-asgi", "granian-wsgi", "eventlet", "eventlet-patched"}


class Cell(NamedTuple):
    """What was ended, and how."""

    server: str
    closes: str
    signal: str
    waits_in_task: bool = False  # whether each call waits in a task of its own
    spool: bool = False  # whether it has one, and another process comes after it


@dataclass(frozen=True)
class Row:
    """A row of the page: one or several servers, and what the application calls."""

    title: str
    servers: tuple[str, ...]
    closes: str = "nothing"
    advice: str = "nothing"
    to_main: bool = False

    def cells(self, signal: str, **apart: bool) -> list[Cell]:
        """What stands in one column."""
        return [Cell(s, self.closes, signal, **apart) for s in self.servers]

    def signals(self) -> tuple[str, ...]:
        """All that end it."""
        return (*SIGNALS, TO_MAIN) if self.to_main else SIGNALS


LIFESPAN = ("lifespan", "`await dispatcher.aclose()` in the lifespan")
EXIT = ("sys.exit", "`sys.exit(143)` in a handler of SIGTERM")
IN_THREAD = ("home=thread", '`home="thread"`')
CELERY = (
    "worker_process_shutdown",
    "`dispatcher.close()` in `worker_process_shutdown`",
)
WITH = (
    "`async with dispatcher`, in it a wait for an event that a handler of SIGTERM sets"
)
HANDLER = ("handler", WITH)
UVICORN = "**uvicorn**"
HYPERCORN = "**hypercorn**"
GRANIAN = "**granian, ASGI**"
DAPHNE = "**daphne**, which has no lifespan"
AIOHTTP = "**aiohttp.web**"
CLEANUP = ("on_cleanup", "`await dispatcher.aclose()` in `on_cleanup`")
WORKER = "**gunicorn, `UvicornWorker`, also `--preload`**"
WAITRESS = "**waitress**"
EVENTLET = ("**eventlet.wsgi, patched or not**", ("eventlet", "eventlet-patched"))
UWSGI = "the [options below](#why)"
NO_HOOK = "nothing, no hook"
MIDDLEWARE = "nothing: [`AccessLogMiddleware`](web.md) closes it"

ROWS = [
    Row("**FastAPI** under uvicorn", ("fastapi-uvicorn",), advice=MIDDLEWARE),
    Row("**Django, ASGI**, under uvicorn", ("django-uvicorn",), advice=MIDDLEWARE),
    Row("**Django, WSGI**, under gunicorn", ("django-gunicorn",), advice=NO_HOOK),
    Row("**Flask** under gunicorn", ("flask-gunicorn",), advice=NO_HOOK),
    Row("**uvicorn, also `--workers`**", ("uvicorn", "uvicorn-workers"), *LIFESPAN),
    Row(UVICORN, ("uvicorn",)),
    Row(HYPERCORN, ("hypercorn",), *LIFESPAN),
    Row(HYPERCORN, ("hypercorn",)),
    Row(GRANIAN, ("granian-asgi",), *LIFESPAN, to_main=True),
    Row(GRANIAN, ("granian-asgi",), to_main=True),
    Row("**granian, WSGI**", ("granian-wsgi",), to_main=True),
    Row(DAPHNE, ("daphne",), *IN_THREAD),
    Row(DAPHNE, ("daphne",)),
    Row(AIOHTTP, ("aiohttp",), *CLEANUP),
    Row(AIOHTTP, ("aiohttp",)),
    Row(
        "**gunicorn, `sync` or `gthread` workers, also `--preload`**",
        ("gunicorn-sync", "gunicorn-gthread"),
        advice=NO_HOOK,
    ),
    Row(
        "**gunicorn, `gevent` workers, also `--preload`**",
        ("gunicorn-gevent",),
        advice=NO_HOOK,
    ),
    Row(WORKER, ("gunicorn-uvicorn",), *LIFESPAN),
    Row(WORKER, ("gunicorn-uvicorn",)),
    Row("**uWSGI, `--lazy-apps`**", ("uwsgi",), advice=UWSGI, to_main=True),
    Row(
        "**uWSGI, prefork**",
        ("uwsgi-prefork",),
        advice="the same, and `--py-call-uwsgi-fork-hooks`",
        to_main=True,
    ),
    Row(WAITRESS, ("waitress",), *EXIT),
    Row(WAITRESS, ("waitress",)),
    Row(*EVENTLET, *EXIT),
    Row(*EVENTLET),
    Row("**Celery, `prefork` pool**", ("celery-prefork",), *CELERY),
    Row("**Celery, `prefork` pool**", ("celery-prefork",)),
    Row("**Celery, `solo` pool**", ("celery-solo",)),
    Row("**script without a loop**", ("script",), *EXIT),
    Row("**script without a loop**", ("script",)),
    Row("**`asyncio.run(main())`**", ("asyncio.run",), *HANDLER),
    Row("**`asyncio.run(main())`**", ("asyncio.run",)),
    Row(
        "**notebook (ipykernel)**",
        ("notebook",),
        advice="nothing; `await dispatcher.aclose()` works in a cell",
    ),
]
# Where calls run on the loop that ends.
ON_A_LOOP = [
    Row(UVICORN, ("uvicorn",), *LIFESPAN),
    Row(UVICORN, ("uvicorn",)),
    Row(HYPERCORN, ("hypercorn",), *LIFESPAN),
    Row(HYPERCORN, ("hypercorn",)),
    Row(GRANIAN, ("granian-asgi",), *LIFESPAN),
    Row(GRANIAN, ("granian-asgi",)),
    Row(DAPHNE, ("daphne",), *IN_THREAD),
    Row(DAPHNE, ("daphne",)),
    Row(AIOHTTP, ("aiohttp",), *CLEANUP),
    Row(AIOHTTP, ("aiohttp",)),
    Row("**`asyncio.run(main())`**", ("asyncio.run",), *HANDLER),
    Row("**`asyncio.run(main())`**", ("asyncio.run",)),
]
# With a spool, where without one entries are lost by more than SIGKILL, or often.
WITH_SPOOL = [
    Row("**uvicorn, `--workers`**", ("uvicorn-workers",), *LIFESPAN),
    Row(UVICORN, ("uvicorn",)),
    Row(GRANIAN, ("granian-asgi",)),
    Row("**gunicorn, `gthread` workers, `--preload`**", ("gunicorn-gthread",)),
    Row("**gunicorn, `UvicornWorker`, `--preload`**", ("gunicorn-uvicorn",)),
    Row(WAITRESS, ("waitress",)),
    Row("**Celery, `prefork` pool**", ("celery-prefork",)),
    Row("**script without a loop**", ("script",)),
    Row("**`asyncio.run(main())`**", ("asyncio.run",)),
]


def all_cells() -> list[Cell]:
    """Everything that the tables of the page need, in their order."""
    cells = [
        cell for row in ROWS for number in row.signals() for cell in row.cells(number)
    ]
    for row in ON_A_LOOP:
        for number in SIGNALS[:2]:
            cells += row.cells(number, waits_in_task=True)
    for row in WITH_SPOOL:
        for number in SIGNALS:
            cells += row.cells(number, spool=True)
    return cells


class Ends(NamedTuple):
    """What came of the ends of one cell, or of several."""

    ends: int = 0
    hung: int = 0
    accepted: int = 0
    delivered: int = 0

    def __str__(self) -> str:
        some = f"{self.delivered:,} of {self.accepted:,}"
        words = "all" if self.delivered == self.accepted else some
        if not self.hung:
            return words
        hung = f"hung in {self.hung} of {self.ends}"
        return hung if self.hung == self.ends else f"{hung}, else {words}"


def summed(several: Iterable[Ends]) -> Ends:
    """All of them together."""
    return Ends(*map(sum, zip(*several, strict=True)))


def read() -> tuple[dict[str, Any], dict[Cell, Ends]]:
    """What was measured where, and what came of each cell."""
    found = json.loads(RESULTS.read_text())
    measured = {
        Cell(**each["cell"]): Ends(**each["ends"]) for each in found.pop("cells")
    }
    return found, measured


def write(machine: dict[str, Any], measured: dict[Cell, Ends]) -> None:
    """Keep what was measured, in the order of the tables."""
    cells = [
        {"cell": cell._asdict(), "ends": measured[cell]._asdict()}
        for cell in all_cells()
        if cell in measured
    ]
    text = json.dumps({**machine, "cells": cells}, indent=1)
    RESULTS.write_text(text + "\n")


def table(rows: list[Row], signals: tuple[str, ...], **apart: bool) -> list[str]:
    """A row for each server, a column for each signal."""
    _, measured = read()
    lines = [
        f"| server, and what to call at the end | {' | '.join(signals)} |",
        f"|---|{'---|' * len(signals)}",
    ]
    for row in rows:
        words = []
        for number in signals:
            cells = row.cells(number, **apart)
            words.append(str(summed(measured[cell] for cell in cells)))
            if number == "SIGINT" and row.to_main:
                alone = summed(measured[cell] for cell in row.cells(TO_MAIN))
                words[-1] += f"; to the main process alone: {alone}"
        lines.append(f"| {row.title}<br>{row.advice} | {' | '.join(words)} |")
    return [*lines, ""]


def ends() -> list[str]:
    """The table of servers and signals."""
    return table(ROWS, SIGNALS)


def in_task() -> list[str]:
    """The same where each call waits in a task of its own."""
    return table(ON_A_LOOP, SIGNALS[:2], waits_in_task=True)


def with_spool() -> list[str]:
    """What arrives with a spool, once another process has come after it."""
    _, measured = read()
    count = min(each.ends for cell, each in measured.items() if cell.spool)
    lines = table(WITH_SPOOL, SIGNALS, spool=True)
    return [*lines, f"Each was ended {count} times by each signal.", ""]


def how() -> list[str]:
    """How it was measured."""
    machine, measured = read()
    counts = {each.ends for cell, each in measured.items() if not cell.spool}
    low, high = min(counts), max(counts)
    count = f"{low}" if low == high else f"{low} to {high}"
    entries, seconds = machine["entries"], machine["call_seconds"]
    packages = [f"{name} {version}" for name, version in machine["packages"].items()]
    return [
        f"`make ends` ended each server {count} times by each signal, in the middle of",
        f"traffic, after {entries} entries or more. A call takes {seconds} s, and one",
        f"of {machine['max_batch']} entries starts every half second; the window is",
        "longer than any server takes to stop. So at the end a call is in flight, and",
        f"entries are pending. Python {machine['python']}, {machine['date']};",
        f"{', '.join(packages)}.",
        "",
    ]
