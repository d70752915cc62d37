"""C20 on a small scale: an exception at any line strands nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from subprocesses import needs_fork

PROGRAM = Path(__file__).parents[1] / "stress" / "interruptions.py"
# Lines of a window, and of all scenes: fewer, and something is not traced.
LEAST_POINTS = 30


def interrupt(*options: str, seconds: float) -> list[tuple[int, int]]:
    """Of each scene, how many points held, of how many."""
    run = subprocess.run(
        [sys.executable, PROGRAM, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    scenes = re.findall(r"(\d+) of (\d+) points held", run.stdout)
    return [(int(held), int(points)) for held, points in scenes]


@needs_fork
@pytest.mark.timeout(180)
@pytest.mark.parametrize("exception", ["KeyboardInterrupt", "MemoryError"])
def test_an_exception_at_any_line_of_a_window_strands_nothing(
    exception: str,
) -> None:  # C20
    # A busy machine is late: of the points that hold none is waited for so long.
    given = ("--scene", "window", "--exception", exception, "--patience", "8")
    ((held, points),) = interrupt(*given, seconds=170)
    assert held == points
    assert points >= LEAST_POINTS
