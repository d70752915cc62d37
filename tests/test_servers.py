"""C16, C17: real servers, from their first entry to their end.

The table in docs/servers.md says what these tests hold: what is delivered, and what the
user has to call.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import NamedTuple

import pytest

from served import FIRST, LAST
from servers import COMMANDS, PACKAGES, SERVED, SILENT, UVICORN, WEB, gunicorn
from serving import PROGRAMS, Server, Traffic, missing, needs, serve
from subprocesses import run_snippet

in_whole = pytest.mark.in_whole

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

SETTLED, ALL = FIRST, FIRST + LAST


class Cell(NamedTuple):
    """One cell of the table."""

    server: str
    closes: str  # what the application does for its end
    signal: signal.Signals
    delivered: tuple[str, ...]


CELLS = [
    # Under SIGTERM uvicorn kills itself once the lifespan has ended: see F09 below.
    Cell("uvicorn", "nothing", SIGKILL, SETTLED),
    Cell("hypercorn", "nothing", SIGINT, ALL),
    Cell("hypercorn", "nothing", SIGTERM, ALL),
    Cell("hypercorn", "lifespan", SIGINT, ALL),
    Cell("hypercorn", "lifespan", SIGTERM, ALL),
    Cell("hypercorn", "nothing", SIGKILL, SETTLED),
    Cell("gunicorn-sync", "nothing", SIGINT, ALL),
    Cell("gunicorn-sync", "nothing", SIGTERM, ALL),
    Cell("gunicorn-sync", "nothing", SIGKILL, SETTLED),
    Cell("gunicorn-gthread", "nothing", SIGINT, ALL),
    Cell("gunicorn-gthread", "nothing", SIGTERM, ALL),
    Cell("gunicorn-gthread", "nothing", SIGKILL, SETTLED),
    Cell("gunicorn-gevent", "nothing", SIGINT, ALL),
    Cell("gunicorn-gevent", "nothing", SIGTERM, ALL),
    Cell("gunicorn-gevent", "nothing", SIGKILL, SETTLED),
    # Its worker raises the signal again, as uvicorn does, with no handler left.
    Cell("gunicorn-uvicorn", "nothing", SIGINT, SETTLED),
    Cell("gunicorn-uvicorn", "nothing", SIGTERM, SETTLED),
    Cell("gunicorn-uvicorn", "lifespan", SIGINT, ALL),
    Cell("gunicorn-uvicorn", "lifespan", SIGTERM, ALL),
    Cell("gunicorn-uvicorn", "nothing", SIGKILL, SETTLED),
    # After SIGINT for all its processes granian may hang, with any application.
    Cell("granian-asgi", "nothing", SIGTERM, ALL),
    Cell("granian-asgi", "lifespan", SIGTERM, ALL),
    Cell("granian-asgi", "nothing", SIGKILL, SETTLED),
    Cell("granian-wsgi", "nothing", SIGTERM, ALL),
    Cell("granian-wsgi", "nothing", SIGKILL, SETTLED),
    Cell("daphne", "nothing", SIGINT, ALL),
    Cell("daphne", "nothing", SIGTERM, ALL),
    Cell("daphne", "nothing", SIGKILL, SETTLED),
    # SIGINT for all its processes: see below.
    Cell("uwsgi", "nothing", SIGTERM, ALL),
    Cell("uwsgi", "nothing", SIGKILL, SETTLED),
    Cell("aiohttp", "nothing", SIGINT, ALL),
    Cell("aiohttp", "nothing", SIGTERM, ALL),
    Cell("aiohttp", "on_cleanup", SIGINT, ALL),
    Cell("aiohttp", "on_cleanup", SIGTERM, ALL),
    Cell("aiohttp", "nothing", SIGKILL, SETTLED),
    *(
        cell
        for name in ("waitress", "eventlet", "eventlet-patched")
        for cell in (
            Cell(name, "nothing", SIGINT, ALL),
            Cell(name, "nothing", SIGTERM, SETTLED),
            Cell(name, "sys.exit", SIGTERM, ALL),
            Cell(name, "nothing", SIGKILL, SETTLED),
        )
    ),
    Cell("script", "nothing", SIGINT, ALL),
    Cell("script", "nothing", SIGTERM, SETTLED),
    Cell("script", "sys.exit", SIGTERM, ALL),
    Cell("script", "nothing", SIGKILL, SETTLED),
    Cell("asyncio.run", "nothing", SIGINT, ALL),
    Cell("asyncio.run", "nothing", SIGTERM, SETTLED),
    Cell("asyncio.run", "handler", SIGTERM, ALL),
    Cell("asyncio.run", "nothing", SIGKILL, SETTLED),
    # The children of the pool end by os._exit.
    Cell("celery-prefork", "nothing", SIGINT, SETTLED),
    Cell("celery-prefork", "nothing", SIGTERM, SETTLED),
    Cell("celery-prefork", "worker_process_shutdown", SIGINT, ALL),
    Cell("celery-prefork", "worker_process_shutdown", SIGTERM, ALL),
    Cell("celery-prefork", "nothing", SIGKILL, SETTLED),
    Cell("celery-solo", "nothing", SIGINT, ALL),
    Cell("celery-solo", "nothing", SIGTERM, ALL),
    Cell("celery-solo", "nothing", SIGKILL, SETTLED),
]

# Left to `make nightly`: what a server does that ends as most do; eventlet, which may
# hang at its end.
AS_MOST = {"granian-asgi", "granian-wsgi", "daphne", "uwsgi", "aiohttp", "waitress"}
AS_MOST |= {"eventlet", "eventlet-patched"}


def marks(cell: Cell) -> list[pytest.MarkDecorator]:
    rare = cell.server in AS_MOST and cell.delivered == SETTLED
    rare |= cell.server == "eventlet"
    nightly = [pytest.mark.nightly] if rare else []
    return [needs(*PACKAGES.get(cell.server, ())), *nightly]


each_cell = pytest.mark.parametrize(
    "cell",
    [
        pytest.param(
            cell,
            id=f"{cell.server}-{cell.closes}-{cell.signal.name}",
            marks=marks(cell),
        )
        for cell in CELLS
    ],
)


# ---- the table


def outcome(cell: Cell, folder: Path) -> tuple[str, ...]:
    """Settle some entries, leave some pending, and see what an end delivers."""
    with serve(COMMANDS[cell.server], folder, CLOSES=cell.closes) as server:
        if cell.server not in SILENT:
            server.wait_for_notes("ready")
        server.wait_for(server.listens)
        if cell.server in WEB:
            ask_all(server)
        server.signal(cell.signal)
        server.wait()
        return server.delivered()


def ask_all(server: Server) -> None:
    for path in (*FIRST, "/flush", *LAST):
        server.ask(path)


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Cell, Future[tuple[str, ...]]]]:
    """Run the cells side by side: most of an end is waiting, for seconds with Celery.

    In the order of the tests, and no other cells than theirs; from the one that asks
    on, since another worker may have those before it.
    """
    with ThreadPoolExecutor(4) as pool:
        futures = {}
        items = request.session.items
        first = items.index(request._pyfuncitem)
        for item in [*items[first:], *items[:first]]:
            if "outcomes" not in getattr(item, "fixturenames", ()):
                continue
            cell = item.callspec.params["cell"]
            if not missing(*PACKAGES.get(cell.server, ())):
                folder = tmp_path_factory.mktemp("cell")
                futures[cell] = pool.submit(outcome, cell, folder)
        yield futures
        for future in futures.values():
            future.cancel()


@each_cell
def test_end_of_a_server(
    cell: Cell, outcomes: dict[Cell, Future[tuple[str, ...]]]
) -> None:  # C16, C17
    """What was settled stays so; the open window is delivered, or it alone is lost."""
    assert outcomes[cell].result(timeout=50) == cell.delivered


@pytest.mark.parametrize("kind", ["script", "asyncio.run"])
def test_normal_end_of_a_script(kind: str, tmp_path: Path) -> None:  # C16
    with serve([SERVED, kind, "normal"], tmp_path) as server:
        server.wait()
        assert server.process.returncode == 0
        assert server.delivered() == ALL


@needs("gunicorn", "uvicorn", "uvicorn_worker")
def test_uvicorn_worker_is_killed_after_sigint_to_gunicorn_alone(
    tmp_path: Path,
) -> None:
    """The master then sends SIGQUIT, which this worker sleeps through."""
    command = [*COMMANDS["gunicorn-uvicorn"], "--graceful-timeout", "1"]
    with serve(command, tmp_path, CLOSES="lifespan") as server:
        server.wait_for_notes("ready")
        ask_all(server)
        server.process.send_signal(SIGINT)
        assert "SIGKILL" in server.wait()
        assert server.delivered() == SETTLED


@needs("ipykernel", "jupyter_client")
@pytest.mark.parametrize(
    ("end", "delivered"),
    [
        ("shutdown", ALL),
        ("SIGTERM", SETTLED),
        pytest.param("interrupt", ALL, marks=in_whole),
        pytest.param("SIGKILL", SETTLED, marks=in_whole),
    ],
)
def test_end_of_a_notebook(
    end: str, delivered: tuple[str, ...], tmp_path: Path
) -> None:  # C16
    """Cells run on the kernel's loop, which is the home: `await` works in them."""
    with serve([str(PROGRAMS / "notebook.py"), end], tmp_path) as server:
        server.wait()
        assert server.process.returncode == 0
        assert server.delivered() == delivered


OURS = r"ringdispatch\[n1\]: .*"
LOST = OURS + "ended: 1 entry in flight failed, 2 entries pending abandoned.*"


@pytest.mark.parametrize(
    ("home", "second", "lines", "errors"),
    [
        ("thread", SIGTERM, ["a", "b", "c", "accepted=3 dispatched=3"], ""),
        ("loop", SIGTERM, ["b", "c", "accepted=3 dispatched=2 failed=1"], OURS),
        ("thread", SIGINT, ["accepted=3 failed=1 abandoned=2"], LOST),
        (
            "loop",
            SIGINT,
            ["accepted=3 failed=1 abandoned=2"],
            OURS + "2 entries pend.*",
        ),
    ],
)
def test_second_signal_while_the_process_ends(
    home: str, second: signal.Signals, lines: list[str], errors: str
) -> None:  # C9, C10, C16
    """The end goes on after SIGTERM; Ctrl-C ends the wait, and the rest is reported.

    A loop made for the end is lost with the call on it. Ctrl-C under gunicorn makes two
    signals for each worker.
    """
    outcome = run_snippet(
        f"""
        def handle(*_):
            handled.append(True)
            sys.exit(143)
        signal.signal(signal.SIGTERM, handle)
        async def send(batch):
            if batch == ["a"]:
                while not ending:
                    await asyncio.sleep(0.001)
                # From the loop, when every task only waits.
                asyncio.get_running_loop().call_later(0.01, again.set)
                while len(handled) < 2:  # under Ctrl-C for ever
                    await asyncio.sleep(0.5)
            say(*batch)
        ending, again, handled = [], threading.Event(), []
        def kill():
            again.wait()
            os.kill(os.getpid(), {int(second)})
        threading.Thread(target=kill, daemon=True).start()
        dispatcher = BackgroundDispatcher(
            send, ms_delay=60_000, max_batch=1, name="n1")
        loop = new_loop()
        import atexit, ringdispatch._process
        atexit.unregister(ringdispatch._process.at_exit)
        atexit.register(loop.close)
        atexit.register(books, dispatcher)
        atexit.register(ringdispatch._process.at_exit)
        whole = ringdispatch._process._dispatch_all
        def dispatch_all(deadline):
            ending.append(True)
            whole(deadline)
        ringdispatch._process._dispatch_all = dispatch_all
        def enqueue():
            for entry in "abc":
                dispatcher.enqueue(entry)
        async def main():
            loop.call_soon(enqueue)  # in the last step before it stops
        if {home!r} == "loop":
            loop.run_until_complete(main())
        else:
            enqueue()
        os.kill(os.getpid(), signal.SIGTERM)
        """,
        code=143,
        stderr=errors,
    )
    assert outcome.lines == lines


# ---- F06: gunicorn forks its workers


@pytest.mark.parametrize(
    ("kind", "app", "delay"),
    [
        pytest.param("sync", "wsgi", 20, marks=needs("gunicorn")),
        pytest.param("gthread", "wsgi", 60_000, marks=[needs("gunicorn"), in_whole]),
        pytest.param(
            "gevent", "wsgi", 20, marks=[needs("gunicorn", "gevent"), in_whole]
        ),
        pytest.param(
            "uvicorn_worker.UvicornWorker",
            "asgi",
            20,
            marks=needs("gunicorn", "uvicorn", "uvicorn_worker"),
        ),
    ],
)
def test_f06_preloaded_workers_deliver_their_own_entries(
    kind: str, app: str, delay: int, tmp_path: Path
) -> None:  # C16, C17: and the master the one it had before the fork
    closes = "lifespan" if app == "asgi" else "nothing"
    command = gunicorn(kind, f"served:{app}", workers=2)
    variables = {"MS_DELAY": delay, "CLOSES": closes, "AT_IMPORT": 1}
    with serve(command, tmp_path, **variables) as server:
        server.wait_for_notes("ready", 2)
        traffic = Traffic(server)
        server.wait_for(lambda: len(traffic.answered_by()) == 2)
        server.wait_for(lambda: min(traffic.answered_by().values()) >= 20)
        traffic.end_with(SIGTERM)
        traffic.check()
        assert server.process.returncode == 0
        of_master = [word for pid, word in server.notes() if pid == server.pid]
        assert of_master == ["/import"]


# ---- F09: uvicorn raises the signal again when it has shut down


@needs("uvicorn")
@pytest.mark.parametrize(
    ("server_name", "number"),
    [
        ("uvicorn", SIGINT),
        ("uvicorn-workers", SIGTERM),
        pytest.param("uvicorn", SIGTERM, marks=in_whole),
        pytest.param("uvicorn-workers", SIGINT, marks=in_whole),
    ],
)
def test_f09_close_in_the_lifespan_delivers_everything(
    server_name: str, number: signal.Signals, tmp_path: Path
) -> None:  # C16
    command = COMMANDS[server_name]
    workers = 2 if server_name == "uvicorn-workers" else 1
    with serve(command, tmp_path, MS_DELAY=20, CLOSES="lifespan") as server:
        server.wait_for_notes("ready", workers)
        traffic = Traffic(server)
        server.wait_for(lambda: len(traffic.answered) >= 200)
        traffic.end_with(number)
        traffic.check()


@needs("uvicorn")
@pytest.mark.parametrize(
    ("number", "delivered", "code"),
    [(SIGINT, ALL, 0), (SIGTERM, SETTLED, -SIGTERM)],
)
def test_f09_without_a_close_in_the_lifespan(
    number: signal.Signals, delivered: tuple[str, ...], code: int, tmp_path: Path
) -> None:  # C16
    """SIGINT goes on to the end of the loop; SIGTERM ends the process on the spot."""
    with serve(UVICORN, tmp_path) as server:
        ask_all(server)
        server.signal(number)
        server.wait()
        assert server.delivered() == delivered
        assert server.process.returncode == code
