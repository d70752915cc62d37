"""Every block of Python in README.md and docs/ runs, against a real HTTP server.

The blocks of a page run in order and share their names, as a reader would type them. A
block may need what its page only speaks of (PRELUDES), and what it should have done is
looked at afterwards (CHECKS). Both are found by the page and the last heading.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from collecting import collecting
from page_checks import CHECKS, FAILURES, GOES_ON, PRELUDES, Run
from pages import BLOCKS, ROOT, Block, installed
from serving import DIRECT

STARLETTES = ["-W", "ignore:Using `httpx`"]  # its TestClient asks for a new package
TESTING = "docs/testing.md"  # whose blocks are files, for pytest to run
WORKERS = "docs/workers.md"  # whose blocks test_docs_workers.py runs
RUN_HERE = [page for page in BLOCKS if BLOCKS[page] and page not in (TESTING, WORKERS)]


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


@pytest.mark.usefixtures("direct", "patient")
@pytest.mark.parametrize("page", RUN_HERE)
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
    has_web = all(map(installed, ("aiohttp", "fastapi", "httpx")))
    for block in BLOCKS[TESTING]:
        assert block.title, f"{block}: a file wants a title"
        if has_web or not block.title.endswith("web.py"):
            (tmp_path / block.title).write_text(block.source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [
            *command,
            "-W",
            "error",
            *STARLETTES,
            "--rootdir",
            str(tmp_path),
            str(tmp_path),
        ],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{8 if has_web else 7} passed" in ended.stdout, ended.stdout


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
