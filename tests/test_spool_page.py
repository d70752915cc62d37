"""What docs/durability.md shows of the command `spool` is what it prints and does."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from pages import BLOCKS, ROOT
from recovering import orphan
from ringdispatch._spool_command._files import Place, State
from ringdispatch._spool_command._show import print_table
from spool_side import files, run
from spools import needs_spools

pytestmark = needs_spools

PAGE = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")


def state(
    file: str, owner: str, entries: int, size: float, age: float, **more: object
) -> State:
    place = Place(Path("/var/spool/shop") / file, file)
    found = State(place, owner, entries, bytes=round(size * 1024), is_known=True)
    found.made_at = time.time() - age
    for name, value in more.items():
        setattr(found, name, value)
    return found


def test_the_table_of_the_page_is_as_ls_prints_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = re.search(r"\$ python -m ringdispatch spool ls .*\n((?:.+\n)+?)```", PAGE)
    assert shown is not None
    names = re.findall(r"audit/\S+", shown[1])
    assert len(set(names)) == 3
    more = {"letters": 2, "reason": "ConnectionError('no route')"}
    print_table(
        [
            state(names[0], "ended", 2_000, 312.4, 9 * 60, **more),
            state(names[1], "alive", 37, 36 * 1024, 2 * 3600),
            state(names[2], "ended", 12_400, 36 * 1024, 5 * 3600),
        ],
        None,
    )
    assert capsys.readouterr().out == shown[1]


def test_the_modules_of_the_page_may_be_named_to_replay(tmp_path: Path) -> None:
    """Importing them makes no dispatcher, and enqueues nothing."""
    for block in BLOCKS["docs/durability.md"]:
        assert block.title is not None
        (tmp_path / block.title).write_text(block.source)
    (tmp_path / "spool").mkdir()
    for name in ("orders:encode", "store:store"):
        if name == "orders:encode":
            pytest.importorskip("aiohttp", reason="not installed: aiohttp")
        outcome = run(tmp_path, "replay", "--to", name, "spool")
        assert outcome == (0, ["replayed 0 entries in 0 batches"], [])
        assert list((tmp_path / "spool").iterdir()) == []
    path = orphan(tmp_path / "spool", b"order 1", b"order 2", name="store")
    outcome = run(tmp_path, "replay", "--to", "store:store", "spool")
    assert outcome == (
        0,
        [f"store/{path.name}: 2 entries replayed", "replayed 2 entries in 1 batch"],
        [],
    )
    assert files(tmp_path) == []
