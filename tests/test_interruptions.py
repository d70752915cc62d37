"""C20 on a small scale: an exception at every line of a window strands nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from subprocesses import needs_fork

PROGRAM = Path(__file__).parents[1] / "stress" / "interruptions.py"
LEAST_POINTS = 30  # lines of a window: fewer, and something is not traced


@needs_fork
@pytest.mark.timeout(180)
@pytest.mark.parametrize("exception", ["KeyboardInterrupt", "MemoryError"])
def test_an_exception_at_any_line_of_a_window_strands_nothing(
    exception: str,
) -> None:  # C20
    run = subprocess.run(
        [sys.executable, PROGRAM, "--scene", "window", "--exception", exception],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    held = re.search(r"(\d+) of (\d+) points held", run.stdout)
    assert held is not None, run.stdout
    assert held[1] == held[2]
    assert int(held[1]) >= LEAST_POINTS
