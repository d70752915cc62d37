"""C16: frameworks with a middleware, under real servers that end in mid-traffic.

Each request has an id, and each that was answered is delivered: once, by its worker.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from typing import Any

import pytest

import frameworks
from served import FIRST
from servers import COMMANDS, PACKAGES, gunicorn, of_framework
from serving import Traffic, needs, serve

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

# Of many: what the others do not show. The rest is for `make nightly`.
GATE = {
    ("fastapi", "uvicorn", SIGINT),
    ("fastapi", "uvicorn", SIGTERM),
    ("fastapi", "hypercorn", SIGTERM),
    ("fastapi", "granian-asgi", SIGTERM),
    ("flask", "gunicorn-gthread", SIGTERM),
}
LEFT_OUT = {
    # It may hang, with any application.
    ("granian-asgi", SIGINT),
    ("granian-workers", SIGINT),
    ("granian-wsgi", SIGINT),
    # Ctrl-C comes twice, and may cost the open window: reported, with any application.
    ("uwsgi", SIGINT),
    ("gunicorn-gevent", SIGINT),
}
SERVERS = {
    "asgi": (
        "uvicorn",
        "uvicorn-workers",
        "hypercorn",
        "hypercorn-workers",
        "granian-asgi",
        "granian-workers",
        "daphne",
    ),
    "wsgi": (
        "gunicorn-sync",
        "gunicorn-gthread",
        "gunicorn-gevent",
        "granian-wsgi",
        "uwsgi",
        "waitress",
    ),
}
WORKERS = {"uvicorn-workers": 2, "hypercorn-workers": 2, "granian-workers": 2}


def cells() -> list[Any]:
    found = []
    for interface, kinds in (("asgi", frameworks.ASGI), ("wsgi", frameworks.WSGI)):
        for name in SERVERS[interface]:
            for kind in kinds:
                for number in (SIGINT, SIGTERM):
                    if (name, number) in LEFT_OUT:
                        continue
                    marks = [needs(kind, *PACKAGES[name])]
                    if (kind, name, number) not in GATE:
                        marks.append(pytest.mark.nightly)
                    cell = f"{kind}-{name}-{number.name}"
                    found.append(pytest.param(kind, name, number, id=cell, marks=marks))
    return found


def variables(kind: str, number: Signals = SIGTERM, name: str = "") -> dict[str, Any]:
    closes = "sys.exit" if (name, number) == ("waitress", SIGTERM) else "nothing"
    home = "thread" if name == "daphne" else "auto"  # which has no lifespan
    given = {"FRAMEWORK": kind, "MS_DELAY": 20, "CLOSES": closes}
    return {**given, "HOME_OF_CALLS": home}


@pytest.mark.parametrize(("kind", "name", "number"), cells())
def test_every_answered_request_has_its_entry_once(
    kind: str, name: str, number: Signals, tmp_path: Path
) -> None:  # C16
    with serve(of_framework(name), tmp_path, **variables(kind, number, name)) as server:
        server.wait_for(server.listens)
        traffic = Traffic(server)
        workers = WORKERS.get(name, 1)
        server.wait_for(lambda: len(traffic.answered_by()) == workers)
        server.wait_for(lambda: len(traffic.answered) >= 100)
        traffic.end_with(number)
        traffic.check()
        assert not re.search(r"ringdispatch(/\w+\.py|\[)", traffic.printed)


@pytest.mark.nightly
@needs("granian")
@pytest.mark.parametrize("kind", frameworks.ASGI)
def test_sigint_for_granian_alone_loses_nothing(
    kind: str, tmp_path: Path
) -> None:  # C16
    with serve(of_framework("granian-asgi"), tmp_path, **variables(kind)) as server:
        server.wait_for(server.listens)
        traffic = Traffic(server)
        server.wait_for(lambda: len(traffic.answered) >= 100)
        traffic.end_with(SIGINT, alone=True)
        traffic.check()


@pytest.mark.nightly
@needs("flask", "gunicorn", "gevent")
@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
def test_preloaded_workers_deliver_their_own(worker: str, tmp_path: Path) -> None:
    arguments = gunicorn(worker, "served_frameworks:wsgi", workers=2)  # C17
    assert "--preload" in arguments
    with serve(arguments, tmp_path, **variables("flask")) as server:
        traffic = Traffic(server)
        server.wait_for(lambda: len(traffic.answered_by()) == 2)
        server.wait_for(lambda: min(traffic.answered_by().values()) >= 20)
        traffic.end_with(SIGTERM)
        traffic.check()


@pytest.mark.nightly
@needs("fastapi", "uvicorn", "hypercorn", "granian", "watchfiles")
@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "granian-asgi"])
def test_reload_in_mid_traffic_loses_nothing(name: str, tmp_path: Path) -> None:  # C16
    module = tmp_path / "reloaded.py"
    module.write_text("from served_frameworks import asgi\n")
    served = [part.replace("served:", "reloaded:") for part in COMMANDS[name]]
    served.append("--reload")
    if name == "granian-asgi":  # by default all that changes in its folder reloads it
        served += ["--reload-paths", str(module)]
    with serve(served, tmp_path, **variables("fastapi")) as server:
        # uvicorn resets connections that it has accepted and not begun to read.
        traffic = Traffic(server, goes_on=True)
        server.wait_for(lambda: len(traffic.answered) >= 100)
        for workers in (2, 3):
            newer = module.stat().st_mtime + 10
            os.utime(module, (newer, newer))
            server.wait_for(lambda: len(traffic.answered_by()) == workers)  # noqa: B023
            before = len(traffic.answered)
            server.wait_for(lambda: len(traffic.answered) >= before + 100)  # noqa: B023
        traffic.end_with(SIGTERM)
        traffic.check()


FLASK_RUN = [
    "-m",
    "flask",
    "--app",
    "served_frameworks:wsgi",
    "run",
    "--port",
    "{port}",
]


@needs("flask")
@pytest.mark.parametrize(
    ("closes", "number", "delivered"),
    [
        ("nothing", SIGINT, 3),
        pytest.param("nothing", SIGTERM, 0, marks=pytest.mark.nightly),
        pytest.param("sys.exit", SIGTERM, 3, marks=pytest.mark.nightly),
    ],
)
def test_end_of_flask_run(
    closes: str, number: Signals, delivered: int, tmp_path: Path
) -> None:  # C16
    environment = {"FRAMEWORK": "flask", "MS_DELAY": 60_000, "CLOSES": closes}
    with serve(FLASK_RUN, tmp_path, **environment) as server:
        server.wait_for(server.listens)
        for path in FIRST:
            server.ask(path)
        server.signal(number)
        server.wait()
        assert server.delivered() == FIRST[:delivered]
