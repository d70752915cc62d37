"""The machine that measured: what is said of it, and of the code's commit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ringdispatch._tune import _machine
from ringdispatch._tune._machine import describe

SEED = 7


def test_the_machine_is_described() -> None:
    said = describe(seed=SEED, mode="test", peers=("no-such-package",))
    assert said["seed"] == SEED
    assert said["mode"] == "test"
    assert said["cores"] >= 1
    assert said["packages"]["no-such-package"] == "not installed"
    assert said["packages"]["ringdispatch"] != "not installed"
    assert said["date"].endswith("+00:00")
    assert all(said.values())
    json.dumps(said)


def test_a_machine_that_does_not_tell_is_described_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("psutil")
    described = describe(seed=SEED, mode="test")
    lines = _machine._lines
    monkeypatch.setattr(_machine, "_lines", lambda path: lines(f"/nowhere/{path}"))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    seen = describe(seed=SEED, mode="test")
    assert seen["cpu"]
    assert seen["cores"] == os.cpu_count()
    assert seen["memory"] == described["memory"]
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert describe(seed=SEED, mode="test")["memory"] == "unknown"


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_the_commit_is_that_of_the_checkout_the_code_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit() -> str:
        found: str = describe(seed=SEED, mode="test")["commit"]
        return found

    def git(*words: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e")
        return subprocess.check_output(
            ["git", *identity, *words], cwd=tmp_path, text=True
        ).strip()

    code = tmp_path / "code.py"
    code.write_text("1\n")
    monkeypatch.setattr(_machine, "__file__", str(code))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "not a checkout"
    git("init", "--quiet")
    assert commit() == "not a checkout"  # but beside one
    git("add", "code.py")
    git("commit", "--quiet", "--message", "first")
    assert commit() == git("rev-parse", "--short=12", "HEAD")
    code.write_text("2\n")
    assert commit() == git("rev-parse", "--short=12", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert commit() == "not a checkout"
