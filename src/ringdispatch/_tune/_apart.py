"""Runs a measurement in a process of its own, and says why one died."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ._entries import CellError

# Called with how much of the expected time has passed, from 0 to 1.
OnProgress = Callable[[float], object]

# Seconds that a process may take beyond what it is expected to.
GRACE_SECONDS = 60.0
_PROGRESS_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Ended:
    """What a process left behind.

    Attributes:
        lines: The JSON values that it wrote, one a line.
        code: Its exit status; negative: the signal that ended it.
        errors: What it wrote to its standard error.
    """

    lines: list[Any]
    code: int
    errors: str

    def why(self) -> str:
        """The last thing it said, or how it died."""
        said = [line.strip() for line in self.errors.splitlines() if line.strip()]
        how = f"signal {-self.code}" if self.code < 0 else f"exit status {self.code}"
        return f"{how}: {said[-1]}" if said else how


def run_apart(
    module: str,
    order: dict[str, Any],
    expected: float,
    on_progress: OnProgress | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run `python -m module`, handing it the order as JSON.

    Args:
        module: Its name.
        order: What it is to do.
        expected: Seconds that it is expected to take. A minute later it is killed.
        on_progress: Called every tenth of a second.
        environment: Variables to set for it.

    Raises:
        CellError: it did not end.
    """
    deadline = expected + GRACE_SECONDS
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", module, json.dumps(order)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **(environment or {})},
    ) as process:
        ended, passed = None, 0.0
        try:
            while ended is None and passed < deadline:
                try:
                    ended = process.communicate(timeout=_PROGRESS_SECONDS)
                except subprocess.TimeoutExpired:
                    passed = time.monotonic() - began
                    if on_progress is not None:
                        on_progress(min(1.0, passed / expected))
        finally:
            process.kill()  # nothing, where it has ended
    if ended is None:
        raise CellError(
            f"no result within {passed:.0f} s where {expected:.0f} were expected: "
            "does the dispatch function block the event loop?"
        )
    out, errors = ended
    # The process may have been cut off in the middle of its last line.
    lines = [json.loads(line) for line in out.splitlines() if line.endswith(("}", "]"))]
    return Ended(lines, process.returncode, errors)


def take_order() -> tuple[dict[str, Any], int]:
    """The order that this process was started with, and where its answer goes.

    What else is printed, as by a user's own dispatch function, goes to standard error.
    """
    answers = os.dup(1)
    os.dup2(2, 1)
    order: dict[str, Any] = json.loads(sys.argv[1])
    return order, answers


def answer(answers: int, value: Any) -> None:
    """Write one line of the answer."""
    os.write(answers, json.dumps(value).encode() + b"\n")
