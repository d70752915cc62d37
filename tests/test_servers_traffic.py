"""C16, C17: real servers that end in the middle of their traffic."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest

from served import FIRST, LAST
from servers import COMMANDS, PACKAGES, SILENT, granian, uwsgi
from serving import Server, Traffic, needs, serve

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix"),
    pytest.mark.nightly,
]


def end_in_traffic(
    server: Server, name: str, number: signal.Signals, workers: int = 1
) -> Traffic:
    if name not in SILENT:
        server.wait_for_notes("ready")
    server.wait_for(server.listens)
    traffic = Traffic(server)
    # granian hangs where a signal finds a worker that is still starting.
    server.wait_for(lambda: len(traffic.answered_by()) == workers)
    server.wait_for(lambda: len(traffic.answered) >= 300)
    traffic.end_with(number)
    return traffic


def named(name: str, *rest: object) -> object:
    return pytest.param(name, *rest, marks=needs(*PACKAGES[name]))


@pytest.mark.parametrize(
    ("name", "closes", "number"),
    [
        named("hypercorn", "lifespan", SIGINT),
        named("hypercorn", "lifespan", SIGTERM),
        named("granian-asgi", "lifespan", SIGTERM),
        named("granian-wsgi", "nothing", SIGTERM),
        named("uwsgi", "nothing", SIGTERM),
        named("aiohttp", "on_cleanup", SIGINT),
        named("aiohttp", "on_cleanup", SIGTERM),
        named("waitress", "nothing", SIGINT),
        named("waitress", "sys.exit", SIGTERM),
        # eventlet: a signal that raises in a request's greenlet may be swallowed there.
    ],
)
def test_every_answered_request_is_delivered(
    name: str, closes: str, number: signal.Signals, tmp_path: Path
) -> None:  # C16
    command, workers = COMMANDS[name], 1
    if name.startswith("granian"):
        command, workers = granian(name.removeprefix("granian-"), workers=2), 2
    with serve(command, tmp_path, MS_DELAY=20, CLOSES=closes) as server:
        end_in_traffic(server, name, number, workers).check()


@needs("daphne")
@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_home_thread_delivers_calls_in_flight_under_daphne(
    number: signal.Signals, tmp_path: Path
) -> None:  # C16
    variables = {"MS_DELAY": 20, "HOME_OF_CALLS": "thread"}
    with serve(COMMANDS["daphne"], tmp_path, **variables) as server:
        end_in_traffic(server, "daphne", number).check()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        named(name, number)
        for name in ("hypercorn", "granian-asgi", "daphne", "aiohttp")
        for number in (SIGINT, SIGTERM)
        if (name, number) != ("granian-asgi", SIGINT)  # it may hang
    ],
)
def test_call_in_flight_when_the_loop_ends_is_delivered_or_reported(
    name: str, number: signal.Signals, tmp_path: Path
) -> None:  # C16, C11
    """With no close at the end: pending entries go out, and no other batch is lost."""
    with serve(COMMANDS[name], tmp_path, MS_DELAY=20) as server:
        traffic = end_in_traffic(server, name, number)
        lost = {*traffic.answered} - {*server.delivered()}
        failed = re.findall(r"dispatch failed \((\d+) entr", traffic.printed)
        assert len(failed) <= 1, traffic.printed
        assert len(lost) <= sum(map(int, failed)), traffic.printed


@needs("pyuwsgi")
def test_ctrl_c_loses_at_most_the_open_window_of_uwsgi(tmp_path: Path) -> None:  # C16
    """It reaches a worker twice: from the terminal and from the master."""
    with serve(COMMANDS["uwsgi"], tmp_path) as server:
        for path in (*FIRST, "/flush", *LAST):
            server.ask(path)
        server.signal(SIGINT)
        server.wait()
        assert server.delivered() in [FIRST, FIRST + LAST]


@needs("pyuwsgi")
@pytest.mark.parametrize(
    ("options", "at_import"),
    [
        ((), False),
        # Not --py-call-osafterfork: with a thread in the master, workers hang.
        (("--py-call-uwsgi-fork-hooks",), True),
    ],
)
def test_preloaded_workers_of_uwsgi_deliver_their_own_entries(
    options: tuple[str, ...], at_import: bool, tmp_path: Path
) -> None:  # C17: and the master the one it had before the fork
    variables = {"AT_IMPORT": 1} if at_import else {}
    command = uwsgi("--processes", "2", *options)
    with serve(command, tmp_path, MS_DELAY=20, **variables) as server:
        traffic = Traffic(server, clients=8)
        server.wait_for(lambda: len(traffic.answered_by()) == 2)
        server.wait_for(lambda: min(traffic.answered_by().values()) >= 20)
        traffic.end_with(SIGTERM)
        traffic.check()
        of_master = [word for pid, word in server.notes() if pid == server.pid]
        assert of_master == (["/import"] if at_import else [])


@needs("granian")
@pytest.mark.parametrize("name", ["granian-asgi", "granian-wsgi"])
def test_sigint_for_granian_alone_delivers(name: str, tmp_path: Path) -> None:  # C16
    with serve(COMMANDS[name], tmp_path, CLOSES="lifespan") as server:
        server.wait_for(server.listens)
        for path in (*FIRST, "/flush", *LAST):
            server.ask(path)
        server.process.send_signal(SIGINT)
        server.wait()
        assert server.delivered() == FIRST + LAST
