"""The main job for real: a gateway under HTTP load, and what the README shows."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "aiohttp",
    "fastapi",
    "numpy",
    "orjson",
    "psutil",
    "rich",
    "uvicorn",
    "uvloop",
)
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_demo = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"
)


def run(*arguments: str, seconds: float) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_demo
@pytest.mark.parametrize(
    ("delay", "entries", "layout"),
    [("10", "1", "objects"), ("100", "20", "records"), ("100", "20", "bytes")],
)
def test_books_agree_after_sigterm_in_mid_traffic(
    delay: str, entries: str, layout: str
) -> None:
    options = ("--seconds", "1", "--delay", delay, "--entries", entries)
    printed = run("examples/demo.py", *options, "--layout", layout, seconds=50)
    assert "The books agree." in printed
    owed, rows = (
        re.search(rf"^ *{name} +([\d,]+) *$", printed, re.MULTILINE)
        for name in (f"entries owed, {entries} to a response", "rows in SQLite")
    )
    assert owed is not None
    assert rows is not None
    assert owed.group(1) == rows.group(1) != "0"


# What is stored of two responses that owe two entries each, and what the demo says.
FAULTS = [
    ({"a": 2, "b": 2}, 4, 4, []),
    ({"a": 2, "b": 1}, 3, 4, ["3 rows", "3 distinct rows", "1 responses without all"]),
    ({"a": 2}, 2, 4, ["2 rows", "2 distinct rows", "1 responses without all"]),
    ({"a": 2, "b": 2}, 5, 4, ["5 rows"]),  # one arrived twice
    ({"a": 2, "b": 2, "c": 1}, 5, 5, ["5 accepted", "5 dispatched", "1 requests st"]),
    ({"a": 2, "b": 2}, 4, 3, ["3 accepted", "3 dispatched"]),
]


@needs_demo
@pytest.mark.parametrize(("stored", "rows", "counted", "words"), FAULTS)
def test_books_that_do_not_agree_say_why(
    monkeypatch: pytest.MonkeyPatch,
    stored: dict[str, int],
    rows: int,
    counted: int,
    words: list[str],
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    demo = importlib.import_module("demo")
    books = demo.Books(
        entries=2,
        tally=demo.Tally(answered={"a", "b"}),
        after_sigterm=0,
        statistics={"accepted": counted, "dispatched": counted},
        rows=rows,
        distinct=sum(stored.values()),
        stored=stored,
    )
    found = books.disagreements()
    for word in words:
        assert any(word in each for each in found), (word, found)
    assert bool(found) is bool(words)
    books.statistics = None
    assert books.disagreements() == ["the gateway left no final statistics"]


def test_first_example_of_the_readme_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    printed = run("-W", "error", "-c", example.group(1), seconds=30)
    counts = map(int, re.findall(r"^(\d+) entries in one call$", printed, re.MULTILINE))
    assert sum(counts) == 1000
