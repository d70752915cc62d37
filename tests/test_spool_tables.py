"""What the pages say of a spool's price, and the programs that measure it."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

import spool_disk
import spool_price
import spool_tables
from places import place
from runs import RESULTS, runs
from spools import needs_spools


def test_what_is_published_was_measured_and_meets_its_limits() -> None:
    published = runs("spool")
    assert len(published) == len(list((RESULTS / "spool").glob("*.json"))) >= 5
    for run in published:
        assert run["unit"] == "instructions"
        for words, value, limit in spool_tables.figures_of(run):
            if limit.startswith("at least "):
                assert value >= float(limit.removeprefix("at least ")), words
            elif limit:
                assert value <= float(limit), words
    table, _, lines = "\n".join(spool_tables.figures()).partition("\n\n")
    assert len(table.splitlines()) == 2 + len(list(spool_tables.figures_of(run)))
    assert f"the best of {spool_price.ROUNDS} processes" in lines


def test_time_beyond_its_limit_is_as_a_count_beyond_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def measured(measure: str, directory: Path) -> dict[str, float]:
        asked.append(measure)
        slow = 2.0 if measure == "file" else 1.0
        return {"ns": slow * 100 - len(asked), "stall": 1e6, "adopt": 1e5}

    monkeypatch.setattr(spool_price, "measured", measured)
    monkeypatch.setattr(spool_price, "folder", Path)
    figures, failed = spool_price.compare_times(whole=False)
    assert failed == 1
    # Rounds go on until the limits are met, and the best of them counts.
    assert asked == ["memory", "file"] * spool_price.ROUNDS + ["leave", "recover"]
    best = {"ns": 200.0 - 2 * spool_price.ROUNDS, "stall": 1e6, "adopt": 1e5}
    assert figures["full rate"]["file"] == best

    asked.clear()
    figures, failed = spool_price.compare_times(whole=True)
    assert asked[-2 * spool_price.ROUNDS :] == ["leave", "recover"] * spool_price.ROUNDS
    assert figures["recovery"]["ns"] == 100.0 - len(asked)


@needs_spools
def test_price_of_a_spool_writes_times_too_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, figures = tmp_path / "made", tmp_path / "figures.json"
    made.mkdir()
    case = spool_price.spool(spool_price.of(spool_price.SIZE))
    base = spool_price.memory(spool_price.of(spool_price.SIZE))
    monkeypatch.setattr(spool_price, "SHARED", made)
    monkeypatch.setattr(spool_price, "ROUNDS", 1)
    monkeypatch.setattr(spool_price, "LIMITS", [])
    monkeypatch.setattr(
        spool_price, "CASES", {one: spool_price.CASES[one] for one in (base, case)}
    )
    monkeypatch.setattr(sys, "argv", [spool_price.__file__, "--json", str(figures)])
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # no valgrind, which would take a minute
    assert spool_price.main() == 0
    assert list(made.iterdir()) == []
    found = json.loads(figures.read_text())
    assert set(found["prices"]) == {base, case}
    assert set(found["full rate"]) == {"memory", "file"}
    assert found["recovery"]["ns"] > 0


@needs_spools
def test_a_disk_is_measured_beside_a_writer_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, figures = tmp_path / "disk", tmp_path / "figures.json"
    monkeypatch.setattr(spool_disk, "MOST_WRITTEN", 8 << 20)
    monkeypatch.setattr(spool_disk, "TMPFS", None)  # where the tests' folder is on one
    given = ["--directory", str(disk), "--seconds", "0.5", "--json", str(figures)]
    monkeypatch.setattr(sys, "argv", [spool_disk.__file__, *given])
    assert spool_disk.main() == 0
    assert list(disk.iterdir()) == []
    found = json.loads(figures.read_text())
    published = json.loads((RESULTS / "spool_disk.json").read_text())
    assert found.keys() == published.keys()
    assert found["writer_mb_per_second"] > 0
    for one in found["cases"].values():
        assert 0 < one["p50"] <= one["p99.9"] <= one["longest"]
    assert list(published["cases"])[-2:] == list(found["cases"])[-2:]


def test_writer_that_ends_by_itself_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with (
        pytest.raises(SystemExit, match="the writer ended by itself"),
        spool_disk.writing(tmp_path / "written"),
    ):
        raise AssertionError("it has not begun")


@needs_spools
def test_tmpfs_is_no_disk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with place("tmpfs", tmp_path) as shared:
        given = ["--directory", str(shared)]
        monkeypatch.setattr(sys, "argv", [spool_disk.__file__, *given])
        with pytest.raises(SystemExit):
            spool_disk.main()
    said = f"--directory {shared}: is on tmpfs: give one on a disk"
    assert said in capsys.readouterr().err
