"""The examples of docs/workers.md, each in the real thing, from start to end."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import pytest

from collecting import collecting
from lambda_api import runtime_api
from pages import ADDRESSES, BLOCKS
from servers import celery
from serving import END_SECONDS, PROGRAMS, needs, serve

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix"),
    needs("aiohttp"),
]

PAGE = "docs/workers.md"


def write(heading: str, path: Path, url: str, **other: str) -> None:
    """The page's example as a file, with a window that only an end cuts short."""
    [source] = [block.source for block in BLOCKS[PAGE] if block.heading == heading]
    for old, new in {"ms_delay=100": "ms_delay=60_000", **other}.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    path.write_text(ADDRESSES.sub(url, source))


def celery_ends(pool: str, number: signal.Signals, folder: Path) -> tuple[Any, Any]:
    """What ran, and what was delivered, after a signal amid tasks."""
    command = celery(pool, "tasks", "--include", "celery_traffic")
    folder.mkdir()
    with collecting() as collector:
        memory = {"amqp://localhost": "memory://"}
        write("Celery", folder / "tasks.py", collector.url, **memory)
        with serve(command, folder) as worker:
            worker.wait_for(lambda: len(worker.delivered()) >= 3)
            worker.signal(number)
            worker.wait()
            ran = [int(note.removeprefix("/")) for note in worker.delivered()]
            return ran, [entry["order"] for entry in collector.entries]


@needs("celery", "gevent")
def test_celery_delivers_each_entry_once_in_every_pool(tmp_path: Path) -> None:  # C16
    ends = {"prefork": SIGTERM, "threads": SIGINT, "gevent": SIGTERM}
    with ThreadPoolExecutor() as side_by_side:
        futures = {
            pool: side_by_side.submit(celery_ends, pool, number, tmp_path / pool)
            for pool, number in ends.items()
        }
    for pool, future in futures.items():
        ran, delivered = future.result()
        assert sorted(delivered) == sorted(ran), pool


@needs("awslambdaric")
def test_lambda_has_delivered_when_it_freezes(tmp_path: Path) -> None:
    """As Lambda does it: frozen at each answer, killed while it is frozen."""
    command = ["-m", "awslambdaric", "app.handler"]
    with collecting() as collector, runtime_api() as api:
        patient = {"timeout=1)": "timeout=20)", "timeout=2)": "timeout=20)"}
        write("AWS Lambda", tmp_path / "app.py", collector.url, **patient)
        variables = {"AWS_LAMBDA_RUNTIME_API": api.address}
        with serve(command, tmp_path, **variables) as process:
            api.asked.get(timeout=END_SECONDS)
            for order in range(3):
                process.process.send_signal(SIGCONT)
                api.events.put({"order": order})
                api.asked.get(timeout=END_SECONDS)
                process.process.send_signal(SIGSTOP)
                path, answer = api.answers.get(timeout=END_SECONDS)
                assert path.endswith(f"/invocation/request-{order}/response")
                assert answer == {"statusCode": 200}
                entry = {"request": f"request-{order}", "order": order}
                assert collector.entries[order:] == [entry]
                collector.hang_up()
            process.signal(SIGKILL)
            process.wait()
        assert len(collector.entries) == 3


@needs("ipykernel", "jupyter_client")
def test_notebook_delivers_when_its_kernel_shuts_down(tmp_path: Path) -> None:  # C16
    """A cell that was run thrice has three dispatchers, of which one was flushed."""
    (tmp_path / "flush").write_text("assert dispatcher.flush()")
    cells = ["cell", "cell", "flush", "cell"]
    with collecting() as collector:
        write("Notebooks", tmp_path / "cell", collector.url)
        command = [str(PROGRAMS / "notebook.py"), "shutdown", *cells]
        with serve(command, tmp_path) as notebook:
            printed = notebook.wait()
            assert notebook.process.returncode == 0, printed
        steps = [entry["step"] for entry in collector.entries]
        assert sorted(steps) == sorted([*range(1_000)] * 3)


@pytest.mark.nightly
@needs("litellm")
def test_litellm_ships_an_entry_for_each_call(tmp_path: Path) -> None:
    with collecting() as collector:
        write("litellm", tmp_path / "usage.py", collector.url)
        variables = {"LITELLM_LOCAL_MODEL_COST_MAP": True}  # else it looks elsewhere
        with serve(["usage.py"], tmp_path, **variables) as program:
            printed = program.wait()
            assert program.process.returncode == 0, printed
        [entry] = collector.entries
    assert entry["model"] == "gpt-4o"
    assert (entry["status"], entry["error_str"]) == ("success", None)
    assert entry["total_tokens"] > 0
    assert entry["response_cost"] > 0


def test_every_example_of_the_page_is_run() -> None:
    headings = [block.heading for block in BLOCKS[PAGE]]
    assert headings == ["Celery", "AWS Lambda", "Notebooks", "litellm"]
