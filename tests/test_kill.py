"""Processes that spool are killed, and no entry is lost; and the judge of that."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import kill
from spools import needs_spools

pytestmark = [needs_spools, pytest.mark.timeout(300)]

KILLS = int(os.environ.get("RINGDISPATCH_TEST_KILLS", "8"))


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> kill.Trial:
    seed = time.time_ns() % 1_000_000
    print("seed", seed)
    trial = kill.Trial(tmp_path_factory.mktemp("kill"), seed)
    while not any(map(is_long, noted(trial))):
        trial.round()
    # So few may all have died between two batches.
    verdict = kill.run(trial, KILLS, doubles_a_kill=0)
    assert (verdict.own, verdict.recovered) == trial.books
    return trial


def noted(trial: kill.Trial) -> list[Path]:
    paths = [trial.folder / f"calls.{each.number}" for each in trial.processes]
    return [path for path in paths if path.exists()]


def is_long(path: Path) -> bool:
    """Whether the first of its own batches was not in flight when it died."""
    return path.read_bytes().count(b" 0 1 ") > 5


def own(lines: list[bytes]) -> bytes:
    """The id of its first batch that no other process has called for."""
    return next(line.split()[1] for line in lines if line.split()[2] == b"0")


def lose(lines: list[bytes]) -> None:
    batch_id = own(lines)
    lines[:] = [line for line in lines if line.split()[1] != batch_id]


def invent(lines: list[bytes]) -> None:
    call = lines[0].split(b" ")
    lines[0] = b" ".join([*call[:4], call[4] + b",1.0.999999999", *call[5:]])


def repeat(lines: list[bytes]) -> None:
    lines += lines


def cut(lines: list[bytes]) -> None:
    batch_id = own(lines)
    lines[:] = [line for line in lines if line.split()[:2] != [b"done", batch_id]]


def rename(lines: list[bytes]) -> None:
    call, done = list(lines[0].split(b" ")), [b"done", b"other", b"."]
    call[1] = b"other"
    lines += [b" ".join(call), b" ".join(done)]


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (lose, "entries were lost"),
        (invent, "were never accepted"),
        (repeat, "came twice in one process"),
        (cut, "has returned"),
        (rename, "came with the ids"),
    ],
)
def test_the_judge_finds_it(
    trial: kill.Trial, tamper: Callable[[list[bytes]], None], why: str
) -> None:
    path = next(filter(is_long, noted(trial)))
    before = path.read_bytes()
    lines = before.splitlines()
    tamper(lines)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    try:
        with pytest.raises(kill.WrongError, match=why):
            trial.judge()
    finally:
        path.write_bytes(before)


def test_the_judge_asks_for_a_minimum() -> None:
    with pytest.raises(kill.WrongError, match="only 3 entries"):
        kill.Verdict(10, 3, 10, 0, 0, 0).demand_enough()
    with pytest.raises(kill.WrongError, match="only 0 batches"):
        kill.Verdict(10, 10_000, 0, 0, 0, 0).demand_enough()
