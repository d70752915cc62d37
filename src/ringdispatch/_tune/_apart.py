"""Runs a measurement in a process of its own, and says why one died."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any

from ._entries import CellError

# Called with how much of the expected time has passed, from 0 to 1.
OnProgress = Callable[[float], object]

# Seconds that a process may take beyond what it is expected to.
GRACE_SECONDS = 60.0
_PROGRESS_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Ended:
    """The output and the exit status of a process.

    Attributes:
        lines: The JSON values that it wrote, one a line.
        code: Its exit status; negative: the signal that ended it.
        errors: What it wrote to its standard error.
    """

    lines: list[Any]
    code: int
    errors: str

    def why(self) -> str:
        """Its last line of errors, if any, and how it ended."""
        said = [line.strip() for line in self.errors.split("\n") if line.strip()]
        how = f"signal {-self.code}" if self.code < 0 else f"exit status {self.code}"
        return f"{how}: {said[-1]}" if said else how


def run_apart(
    module: str,
    order: Any,
    expected: float,
    on_progress: OnProgress | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run `python -m module` with the order as JSON.

    Args:
        module: Its name.
        order: Its arguments.
        expected: Seconds that it should take. A minute later it is killed.
        on_progress: Called every tenth of a second.
        environment: Variables to set for it.

    Raises:
        CellError: it did not end.
    """
    # Files, not pipes: a child that it leaves behind would hold those open.
    with (
        TemporaryFile() as out,
        TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(order)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        ) as process,
    ):
        try:
            _wait(process, expected, on_progress)
        finally:
            _end(process)
        # It may have been cut off in the middle of its last line.
        lines = [
            json.loads(line)
            for line in _read(out).split("\n")
            if line.endswith(("}", "]"))
        ]
        return Ended(lines, process.returncode, _read(errors))


def _wait(
    process: "subprocess.Popen[bytes]", expected: float, on_progress: OnProgress | None
) -> None:
    began, passed = time.monotonic(), 0.0
    while passed < expected + GRACE_SECONDS:
        try:
            process.wait(timeout=_PROGRESS_SECONDS)
        except subprocess.TimeoutExpired:
            passed = time.monotonic() - began
            if on_progress is not None:
                on_progress(min(1.0, passed / expected))
        else:
            return
    raise CellError(
        f"no result within {passed:.0f} s where {expected:.0f} were expected: "
        "does the dispatch function block the event loop, or never return?"
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process and its children."""
    if sys.platform == "win32":
        process.kill()
    else:
        # macOS refuses where every process of the group has ended.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def take_order() -> tuple[Any, int]:
    """Return the order of this process, and the descriptor for its answers.

    Other output, as of the user's dispatch function, goes to standard error.
    """
    answers = os.dup(1)
    os.dup2(2, 1)
    return json.loads(sys.argv[1]), answers


def answer(answers: int, value: Any) -> None:
    """Write one line of the answer."""
    os.write(answers, json.dumps(value).encode() + b"\n")
