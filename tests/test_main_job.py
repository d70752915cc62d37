"""The main job for real: a gateway under HTTP load, and what the README shows."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spools import needs_spools

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


@needs_demo
@needs_spools
def test_books_agree_after_a_kill_in_mid_traffic(tmp_path: Path) -> None:
    options = ("--seconds", "3", "--entries", "20", "--spool", str(tmp_path / "a/b"))
    printed = run("examples/demo.py", *options, "--kill", seconds=50)
    assert "The books agree." in printed
    counts = {
        name: int(count.replace(",", ""))
        for name, count in re.findall(
            r"^ +(\w.*?)  +([\d,]+) *$", printed, re.MULTILINE
        )
    }
    owed = counts["entries owed, 20 to a response"]
    assert owed == 20 * counts["responses counted by the clients"] > 0
    assert counts["of these, after the SIGKILL"] > 0
    assert counts["distinct rows in SQLite"] >= owed
    assert counts["doubles with another id"] == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@needs_demo
@needs_spools
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kill"], "demo.py: --kill: entries in memory would be lost: give it"),
        (["--layout", "records"], "demo.py: --layout records: with --spool it must be"),
        (["--layout", "objects"], "demo.py: --layout objects: with --spool it must be"),
        ([], "demo.py: --spool "),
    ],
)
def test_demo_refuses_what_it_cannot_do(
    tmp_path: Path, options: list[str], words: str
) -> None:
    directory = tmp_path / "spool"
    if not options:
        directory.touch()
    if options != ["--kill"]:
        options = [*options, "--kill", "--spool", str(directory)]
    done = subprocess.run(
        [sys.executable, "examples/demo.py", *options],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(words)
    assert done.stdout == ""


# What is stored of two responses that owe two entries each, and what the demo says.
FAULTS = [
    ({"a": 2, "b": 2}, 4, 4, []),
    ({"a": 2, "b": 1}, 3, 4, ["3 rows", "3 distinct rows", "1 responses without all"]),
    ({"a": 2}, 2, 4, ["2 rows", "2 distinct rows", "1 responses without all"]),
    ({"a": 2, "b": 2}, 5, 4, ["5 rows"]),  # one arrived twice
    ({"a": 2, "b": 2, "c": 1}, 5, 5, ["5 accepted", "5 dispatched", "1 requests st"]),
    ({"a": 2, "b": 2}, 4, 3, ["3 accepted", "3 dispatched"]),
]


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("demo_books")


@needs_demo
@pytest.mark.parametrize(("stored", "rows", "counted", "words"), FAULTS)
def test_books_that_do_not_agree_say_why(
    books: Any, stored: dict[str, int], rows: int, counted: int, words: list[str]
) -> None:
    said = books.Books(
        entries=2,
        tally=books.Tally(answered={"a", "b"}),
        after_signal=0,
        statistics={"accepted": counted, "dispatched": counted},
        store=books.Store(rows, stored),
    )
    found = said.disagreements()
    for word in words:
        assert any(word in each for each in found), (word, found)
    assert bool(found) is bool(words)
    said.statistics = None
    assert said.disagreements() == ["the gateway left no final statistics"]


# What is stored of two responses and of a request without one, after a kill.
DOUBLES = [
    ({"a": 2, "b": 2}, 4, 0, 4, []),
    ({"a": 2, "b": 2, "c": 1}, 9, 0, 4, []),
    ({"a": 2, "b": 1, "c": 2}, 9, 0, 4, ["1 responses without all"]),
    ({"a": 2, "b": 2}, 5, 1, 4, ["1 doubles without their first one's id"]),
    ({"a": 2, "b": 2, "d": 1}, 5, 0, 4, ["1 requests stored that no client sent"]),
    ({"a": 2, "b": 2}, 4, 0, 3, ["4 accepted after the SIGKILL, but 3 dispatched"]),
]


@needs_demo
@pytest.mark.parametrize(("stored", "rows", "split", "dispatched", "words"), DOUBLES)
def test_books_after_a_kill_say_what_is_wrong(
    books: Any,
    stored: dict[str, int],
    rows: int,
    split: int,
    dispatched: int,
    words: list[str],
) -> None:
    statistics = {"accepted": 4, "dispatched": dispatched, "recovered_failed": 0}
    said = books.BooksOfKill(
        entries=2,
        tally=books.Tally(answered={"a", "b"}, unanswered={"c"}),
        after_signal=1,
        statistics=statistics,
        store=books.Store(rows, stored, split),
    )
    found = said.disagreements()
    assert len(found) == len(words), found
    assert all(map(str.startswith, found, words)), found
    statistics["recovered_failed"] = 3
    assert "3 recovered entries failed" in said.disagreements()


@needs_demo
def test_store_tells_doubles_by_the_id_of_their_batch(
    books: Any, tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "entries.sqlite")) as connection:
        connection.execute("CREATE TABLE entries (request_id, number, path, batch)")
        connection.executemany(
            "INSERT INTO entries VALUES (?, ?, '', ?)",
            [
                *[("now-1", 0, "one"), ("now-1", 1, "one"), ("now-2", 0, "two")],
                *[("now-1", 0, "one"), ("now-1", 1, "three"), ("earlier-1", 0, "one")],
            ],
        )
        connection.commit()
    store = books.read_store(tmp_path / "entries.sqlite", "now")
    assert store.stored == {"now-1": 2, "now-2": 1}
    assert (store.rows, store.distinct, store.doubles, store.split) == (5, 3, 2, 1)


def test_first_example_of_the_readme_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    printed = run("-W", "error", "-c", example.group(1), seconds=30)
    counts = map(int, re.findall(r"^(\d+) entries in one call$", printed, re.MULTILINE))
    assert sum(counts) == 1000
