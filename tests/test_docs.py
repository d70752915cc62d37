"""Every block of Python in README.md and docs/ runs, against a real HTTP server.

The blocks of a page run in order and share their names, as a reader would type them. A
block may need what its page only speaks of (PRELUDES), and what it should have done is
looked at afterwards (CHECKS). Both are found by the page and the last heading.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import io
import logging
import os
import re
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import page_checks
import ringdispatch
import web_pages
from collecting import Collector, collecting
from serving import DIRECT
from web_pages import serve_and_ask

ROOT = Path(__file__).parent.parent
# What pages post to: a service of yours, and `python -m ringdispatch collector`.
ADDRESSES = re.compile("https://logs.example.com/|http://127.0.0.1:8780/")
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<source>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
# What the library's sinks import.
SINKS = {"HttpSink": {"aiohttp"}, "OtlpLogSink": {"aiohttp", "google"}}


@dataclass
class Block:
    page: str
    heading: str
    line: int
    title: str | None
    source: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def missing(self) -> list[str]:
        """Packages that it imports and that are not installed here."""
        imported = set()
        for node in ast.walk(ast.parse(self.source)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
                for alias in node.names if node.module == "ringdispatch.sinks" else ():
                    imported |= SINKS.get(alias.name, set())
        return [name for name in sorted(imported) if not installed(name)]


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        language, _, info = fence["info"].partition(" ")
        if language != "python":
            continue
        above = FENCE.sub("", text[: fence.start()])
        headings = re.findall(r"^#+ (.+)$", above, re.MULTILINE)
        title = re.search(r'title="([^"]+)"', info)
        found.append(
            Block(
                path.relative_to(ROOT).as_posix(),
                headings[-1],
                text.count("\n", 0, fence.start()) + 2,
                title and title[1],
                textwrap.dedent(fence["source"]),
            )
        )
    return found


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = {path.relative_to(ROOT).as_posix(): blocks_of(path) for path in PAGES}
TESTING = "docs/testing.md"  # whose blocks are files, for pytest to run


class Request:
    url = "/orders/1"


class Context:
    def wait_until(self, awaitable: Awaitable[object]) -> None:
        self.awaitable = awaitable


PRELUDES = {
    **web_pages.PRELUDES,
    ("docs/logging.md", "Logging"): """
import logging
logging.getLogger("httpx").setLevel(logging.INFO)
""",
    ("docs/migrating.md", "From QueueHandler"): """
import logging
logging.getLogger("httpx").setLevel(logging.INFO)
""",
}


# ---- what each block should have done


class Run:
    """A page's names, the server that it posts to, and what it printed."""

    def __init__(self, collector: Collector, logged: list[logging.LogRecord]) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.collector = collector
        self.logged = logged
        self.printed = ""

    def of(self, block: Block) -> None:
        prelude = PRELUDES.get((block.page, block.heading), "")
        for text, line in ((prelude, 1), (block.source, block.line)):
            # So many lines down that a traceback shows the page's own.
            source = "\n" * (line - 1) + ADDRESSES.sub(self.collector.url, text)
            path = str(ROOT / block.page)
            code = compile(source, path, "exec", dont_inherit=True)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, self.names)
            self.printed = out.getvalue()


Check = Callable[[Run], None]


def ported_from_typescript(run: Run) -> None:
    async def main() -> None:
        context = Context()
        answer = await run.names["handler"](Request(), context)
        assert answer == "Hello World!"
        assert await run.names["dispatcher"].aclose()
        await context.awaitable
        await run.names["client"].aclose()

    asyncio.run(main())
    assert run.collector.entries == [{"message": "new request on /orders/1"}]


def first_example(run: Run) -> None:
    assert run.printed == "1000 entries in one call\n"


def service(run: Run) -> None:
    """Under a real uvicorn, asked by a real client; and again, as tests begin anew."""
    answers = [serve_and_ask(run.names["app"], "a") for _ in range(2)]
    urls = [url for url, _ in answers]
    assert {answer for _, answer in answers} == {b"Hello World!"}
    messages = [{"message": f"new request on {url}"} for url in urls]
    assert run.collector.entries == messages


def copied(run: Run) -> None:
    assert run.printed.splitlines() == [
        "{'status': 'paid'}",
        "{'status': 'new'}",
        "{'status': 'new'}",
    ]


def ordinary_function(run: Run) -> None:
    assert run.collector.entries == [{"order": number} for number in range(1000)]


def shown_live(run: Run) -> None:
    assert run.collector.entries == [{"order": number} for number in range(500)]


def hooks(run: Run) -> None:
    run.collector.failures = 1
    dispatcher = run.names["dispatcher"]
    dispatcher.enqueue({"order": 1})
    assert dispatcher.close()
    assert dispatcher.statistics().failed == 1
    assert any(record.name == "shipping" for record in run.logged)
    for record in run.logged:
        if record.exc_info and isinstance(record.exc_info[1], urllib.error.HTTPError):
            record.exc_info[1].close()  # from 3.14 on it warns


def retried(run: Run) -> None:
    assert run.collector.entries == [{"order": 1}]
    assert len(run.collector.refused) == 2
    posts = [*run.collector.refused, *run.collector.posts]
    assert len({post.headers["idempotency-key"] for post in posts}) == 1


def posted_by_a_sink(run: Run) -> None:
    assert run.collector.entries == [{"order": 1, "status": "paid"}]


def posted_by_own_session(run: Run) -> None:
    sink = run.names["sink"]

    async def main() -> None:
        await sink([1])
        await sink.aclose()

    asyncio.run(main())
    assert run.collector.entries == [1]


def stored(run: Run) -> None:
    rows = run.printed.splitlines()
    assert rows == ["('/orders/1', 200, 0.25)", "('/orders/2', 404, None)"]


def log_records(run: Run) -> None:
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

    (post,) = run.collector.posts
    assert post.path == "/v1/logs"
    request = logs_service_pb2.ExportLogsServiceRequest.FromString(post.body)
    (record,) = request.resource_logs[0].scope_logs[0].log_records
    assert record.body.string_value == "order paid"
    assert {each.key for each in record.attributes} == {"order", "items"}


def own_sink(run: Run) -> None:
    bad = run.names["LineSink"]()
    layout = ringdispatch.Bytes()
    with pytest.raises(TypeError, match="LineSink takes lists"):
        ringdispatch.BackgroundDispatcher(bad, ms_delay=1, layout=layout)


def sent_again(run: Run) -> None:
    assert len(run.collector.refused) == 1
    assert run.collector.entries == [{"order": 1}]
    assert not run.names["DEAD"].exists()


def compressed(run: Run) -> None:
    assert [entry["order"] for entry in run.collector.entries] == [*range(1000)]
    assert sum(len(post.body) for post in run.collector.posts) < 10_000


def by_kind(run: Run) -> None:
    kinds = {post.path: post.entries for post in run.collector.posts}
    assert kinds == {
        "/access": [{"url": "/orders/1"}],
        "/audit": [{"user": 1, "action": "paid"}],
        "/metering": [{"tenant": 7, "bytes": 512}],
    }


def traced(run: Run) -> None:
    assert run.collector.entries == [{"message": "order 1 paid"}]


def queued(run: Run) -> None:
    assert [entry["order"] for entry in run.collector.entries] == [*range(100)]


def layouts(run: Run) -> None:
    assert run.printed


def under_trio(run: Run) -> None:
    assert run.collector.entries == [{"order": 1}]


def closed_by_celery(run: Run) -> None:
    run.names["pay"](1)
    run.names["worker_process_shutdown"].send(sender=None)
    assert run.names["dispatcher"].closed
    assert run.collector.entries == [{"order": 1}]


CHECKS: dict[tuple[str, str], Check] = {
    ("README.md", "ringdispatch"): first_example,
    ("README.md", "Coming from TypeScript"): ported_from_typescript,
    ("docs/collector.md", "Start in five minutes"): shown_live,
    ("docs/index.md", "A service that ships an entry per request"): service,
    ("docs/index.md", "An entry that changes after `enqueue`"): copied,
    ("docs/index.md", "Without an event loop"): ordinary_function,
    ("docs/index.md", "When the other side is down"): hooks,
    ("docs/layouts.md", "Records"): layouts,
    ("docs/layouts.md", "Bytes"): layouts,
    ("docs/migrating.md", "From the TypeScript object"): ported_from_typescript,
    ("docs/migrating.md", "From OpenTelemetry's processors"): traced,
    ("docs/migrating.md", "From a hand-written asyncio queue"): queued,
    ("docs/recipes.md", "Retry"): retried,
    ("docs/recipes.md", "Dead letters"): sent_again,
    ("docs/recipes.md", "Compression"): compressed,
    ("docs/recipes.md", "Several dispatchers in a dict"): by_kind,
    ("docs/sinks.md", "HttpSink"): posted_by_a_sink,
    ("docs/sinks.md", "Certificates and proxies"): posted_by_own_session,
    ("docs/sinks.md", "SqliteSink"): stored,
    ("docs/sinks.md", "OtlpLogSink"): log_records,
    ("docs/sinks.md", "A sink of your own"): own_sink,
    ("docs/servers.md", "Why"): closed_by_celery,
    ("docs/servers.md", "trio"): under_trio,
    **web_pages.CHECKS,
    **page_checks.CHECKS,
}
FAILURES = {("docs/recipes.md", "Retry"): 2, ("docs/recipes.md", "Dead letters"): 1}


# ---- the tests


def loggers() -> list[logging.Logger]:
    """All but the root."""
    known = logging.root.manager.loggerDict.values()
    return [each for each in known if isinstance(each, logging.Logger)]


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No proxy between a page and its server; files go to a folder of the test."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.chdir(tmp_path)
    before = urllib.request._opener  # type: ignore[attr-defined]
    urllib.request.install_opener(DIRECT)
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    levels = {logger: logger.level for logger in loggers()}
    environment = os.environ.copy()
    yield
    for name in os.environ.keys() - environment.keys():  # as Django's page sets one
        del os.environ[name]
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger in loggers():
        logger.setLevel(levels.get(logger, logging.NOTSET))
    urllib.request._opener = before  # type: ignore[attr-defined]


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("page", [p for p in BLOCKS if BLOCKS[p] and p != TESTING])
def test_blocks_of_the_page_run(page: str, caplog: pytest.LogCaptureFixture) -> None:
    left_out = {}
    with collecting() as collector:
        run = Run(collector, caplog.records)
        for block in BLOCKS[page]:
            if missing := [*block.missing(), *of_prelude(block)]:
                words = f"not installed: {', '.join(missing)}"
                left_out[block.heading] = f"{block}: {words}"
                continue
            if (begun := GOES_ON.get((page, block.heading))) in left_out:
                left_out[block.heading] = f"{block}: goes on from {begun!r}"
                continue
            collector.forget(failures=FAILURES.get((page, block.heading), 0))
            run.of(block)
            if check := CHECKS.get((page, block.heading)):
                check(run)
    if left_out:
        pytest.skip("; ".join(left_out.values()))


def of_prelude(block: Block) -> list[str]:
    prelude = PRELUDES.get((block.page, block.heading), "")
    return Block(block.page, block.heading, 0, None, prelude).missing()


def test_page_about_tests_passes_under_pytest(tmp_path: Path) -> None:
    for block in BLOCKS[TESTING]:
        assert block.title, f"{block}: a file wants a title"
        (tmp_path / block.title).write_text(block.source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*command, "-W", "error", "--rootdir", str(tmp_path), str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "7 passed" in ended.stdout, ended.stdout


# Which block goes on from which, as its page says.
GOES_ON = {
    ("docs/logging.md", "By dictConfig"): "Logging",
    ("docs/logging.md", "structlog"): "Logging",
    ("docs/index.md", "Check the counts"): "Without an event loop",
    ("docs/index.md", "When the other side is down"): "Without an event loop",
    ("docs/migrating.md", "From OpenTelemetry's processors"): (
        "From OpenTelemetry's processors"
    ),
}


@pytest.mark.skipif(not installed("ruff"), reason="not installed: ruff")
@pytest.mark.parametrize("page", [p for p in BLOCKS if BLOCKS[p]])
def test_block_has_all_its_names_when_it_is_pasted(page: str) -> None:
    above: list[Block] = []
    for block in BLOCKS[page]:
        begun = GOES_ON.get((page, block.heading))
        sources = [each.source for each in above if each.heading == begun]
        ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821"]
        ended = subprocess.run(
            [*ruff, "-"],
            check=False,
            capture_output=True,
            input="\n".join([*sources, block.source]),
            text=True,
        )
        assert ended.returncode == 0, f"{block}: {ended.stdout}{ended.stderr}"
        above.append(block)


def test_every_check_belongs_to_a_block() -> None:
    known = {
        (block.page, block.heading) for found in BLOCKS.values() for block in found
    }
    assert {*CHECKS, *PRELUDES, *FAILURES, *GOES_ON} <= known


def test_readme_links_only_what_is_there() -> None:
    """Those of docs/ are looked after by `make docs`."""
    links = re.findall(
        r"\]\(([^)#\s]+)[^)]*\)", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    within = [link for link in links if link.startswith(("docs/", "examples/"))]
    assert within
    assert [link for link in within if not (ROOT / link).exists()] == []
