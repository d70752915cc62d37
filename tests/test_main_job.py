"""The main job for real: a gateway under HTTP load, and what the README shows."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("aiohttp", "httpx", "rich", "starlette", "uvicorn")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


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


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.parametrize(("delay", "entries"), [("10", "1"), ("100", "20")])
def test_books_agree_after_sigterm_in_mid_traffic(delay: str, entries: str) -> None:
    options = ("--seconds", "1", "--delay", delay, "--entries", entries)
    assert "The books agree." in run("examples/demo.py", *options, seconds=50)


def test_first_example_of_the_readme_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    printed = run("-W", "error", "-c", example.group(1), seconds=30)
    counts = map(int, re.findall(r"^(\d+) entries in one call$", printed, re.MULTILINE))
    assert sum(counts) == 1000
