"""What tests of the command `spool` share: a spool that a killed process left."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ringdispatch._spool_command import _command
from spool_side import AUDIT, METER, make_killed


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    make_killed(folder, AUDIT, METER)
    return folder


@pytest.fixture
def folder(killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which the process goes to, and imports functions from."""
    shutil.copytree(killed, tmp_path / "copy", copy_function=shutil.copy)
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.syspath_prepend(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs the command in this process: its status, and what it printed."""

    def call(*arguments: str) -> tuple[int, list[str], list[str]]:
        status = _command.main(arguments)
        sys.modules.pop("functions", None)
        out, err = capfd.readouterr()
        return status, out.splitlines(), err.splitlines()

    return call
