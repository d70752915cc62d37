"""`spool` where its output is cut, its names are odd, or its files vanish."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ringdispatch._spool_command import _command, _files
from ringdispatch._spool_file import SpoolFile
from spool_side import (
    ENTRIES,
    START,
    TAKEN,
    arrived,
    expected,
    files,
    flip,
    replay,
    rows,
    run,
)
from spools import CELL_SIZE, CELLS_AT, needs_spools

pytest_plugins = ["spool_fixtures"]
pytestmark = needs_spools


# ---- what reads the output, or asks


def piped(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the command with an output that nothing reads: its status, its errors."""
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = subprocess.run(
            [*START, "spool", *arguments],
            check=False,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=writes,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
        )
    finally:
        os.close(writes)
    return done.returncode, done.stderr


def test_the_end_of_what_reads_it_ends_it(folder: Path) -> None:
    audit, meter = files(folder)
    for command in (["ls", "spool"], ["cat", "spool"]):
        assert piped(folder, *command) == (141, "")
    # What was dispatched is noted, and its file removed.
    options = ["--to", "functions:plain", "spool"]
    assert piped(folder, "replay", *options) == (141, "")
    assert not audit.exists()
    assert files(folder) == [meter]
    assert replay(folder, "plain").status == 0
    calls = arrived(folder)
    assert [each for call in calls for each in call["entries"]] == expected(
        "audit", "meter"
    )


def test_purge_without_any_input_is_as_without_a_terminal(
    folder: Path, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as python has it under <&-
    status, _, err = tell("purge", "--orphans", "spool")
    assert status == 2
    assert err[0].endswith("add --yes to remove without being asked")
    assert len(files(folder)) == 2


# ---- names


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_cannot_be_printed_are_escaped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    odd = os.fsdecode(b"b\xff\x1b[31m\ngr\xc3\xbc")
    (folder / "spool" / "audit").rename(folder / "spool" / odd)
    (folder / odd).mkdir()
    known = "b\\udcff\\x1b[31m\\ngr" + ("ü" if encoding == "utf-8" else "\\xfc")
    [path] = (folder / "spool" / odd).iterdir()
    listed = ask(folder, "ls", "spool")
    assert listed[1].startswith(f"{known} ")
    assert f" {known}/{path.name}" in listed[1]
    assert ask(folder, "ls", odd)[0].endswith(": no files of a spool")
    row = json.loads(ask(folder, "ls", "--json", "spool")[0])
    assert (row["name"], row["entries"]) == (odd, ENTRIES)
    said = ask(folder, "replay", "--to", "functions:plain", f"spool/{odd}")
    assert said[-1] == f"replayed {ENTRIES} entries in 2 batches"


def ask(folder: Path, *arguments: str) -> list[str]:
    """What the command prints, which ends well."""
    command = [sys.executable, "-m", "ringdispatch", "spool", *arguments]
    done = subprocess.run(
        command, check=False, cwd=folder, capture_output=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


# ---- what vanishes


def test_what_vanishes_meanwhile_is_left_out(
    folder: Path, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, meter = files(folder)
    is_dir = Path.is_dir

    def then_remove(path: Path) -> bool:
        was = is_dir(path)
        if path == audit.parent.relative_to(folder):
            shutil.rmtree(path)
        return was

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", then_remove)
        [row] = rows(tell("ls", "--json", "spool")[1])
    assert row["name"] == "meter"

    def gone(state: Any) -> None:
        meter.unlink()
        raise _files.GoneError

    monkeypatch.setattr(_command, "remove", gone)
    status, out, err = tell("purge", "--orphans", "--yes", "spool")
    assert (status, err) == (0, [])
    assert out[-2:] == [
        f"meter/{meter.name}: skipped, it is gone",
        "removed 0 files",
    ]


# ---- damage, and how many calls were made


def test_what_was_cut_off_is_counted(folder: Path, tell: Any) -> None:
    audit, _ = files(folder)
    size = audit.stat().st_size
    cut = CELLS_AT + CELL_SIZE * 40  # amid the cells, so that no bytes are there
    os.truncate(audit, cut)
    first, _ = rows(tell("ls", "--json", "spool")[1])
    assert (first["entries"], first["damaged"]) == (0, ENTRIES)
    reason = f"cut to {cut:,} of {size:,} B, {ENTRIES} entries are damaged"
    assert first["reason"] == reason
    line = f"ringdispatch spool: audit/{audit.name}: {reason}, and left out"
    assert tell("cat", "spool") == (1, expected("meter"), [line])


def test_a_file_that_was_kept_aside_says_that_it_was_damaged(folder: Path) -> None:
    audit, _ = files(folder)
    flip(audit, audit.read_bytes().index(b"audit-50"))
    outcome = run(folder, "replay", "--to", "functions:plain", "spool/audit")
    assert outcome.status == 1  # not all of it could be read
    aside = audit.with_suffix(".bad")
    said = f"{audit.name} is kept aside as {aside.name}: what was intact in it is "
    assert f"{said}dispatched" in outcome.out
    [row] = rows(run(folder, "ls", "--json", str(aside)).out)
    assert (row["entries"], row["damaged"]) == (0, 0)
    assert row["reason"] == "what was intact in it is dispatched"


def test_attempts_are_those_of_the_calls(folder: Path) -> None:
    def attempts() -> list[int]:
        listed = rows(run(folder, "cat", "--json", "spool/audit").out)
        assert [row["entry"] for row in listed] == expected("audit")
        return [row["attempts"] for row in listed]

    audit, _ = files(folder)
    assert attempts() == [1] * TAKEN + [0] * (ENTRIES - TAKEN)
    # A call that left the batch as it was is not counted.
    outcome = run(folder, "replay", "--to", "functions:refuse_first", "spool/audit")
    assert outcome.status == 1
    assert attempts() == [1] * TAKEN + [0] * (ENTRIES - TAKEN)
    file = SpoolFile(audit)  # a process that dies in the call
    file.begin(*sizes_of(audit))
    assert file.take(1_000, 1 << 20) is not None
    file.leave()
    assert attempts() == [2] * TAKEN + [0] * (ENTRIES - TAKEN)
    assert replay(folder, "plain").status == 0
    assert [call["attempts"] for call in arrived(folder)][:2] == [3, 1]


def test_a_file_aside_names_the_batches_that_ended_processes(folder: Path) -> None:
    audit, _ = files(folder)
    for _ in range(4):  # and the one that was killed at first
        file = SpoolFile(audit)
        file.begin(*sizes_of(audit))
        assert file.take(1_000, 1 << 20) is not None
        file.leave()
    aside = audit.rename(audit.with_suffix(".bad"))
    [row] = rows(run(folder, "ls", "--json", str(aside)).out)
    assert row["reason"] == f"{TAKEN} entries are in batches whose processes died"


def sizes_of(path: Path) -> tuple[int, int, int, int]:
    with path.open("rb") as opened:
        header = _files.read_header(opened.fileno(), path.stat().st_size, path.stem)
    return header.cells, header.arena_bytes, header.seed, len(header.separator)


def test_a_generator_that_is_returned_is_a_failure(folder: Path) -> None:
    for function in ("returns_generator", "returns_async_generator"):
        outcome = replay(folder, function)
        assert outcome.status == 1
        assert "which nothing iterates: must be a plain or async" in outcome.err[0]
    assert len(files(folder)) == 2
