"""`spool purge`, what the command refuses in one line, and its table on a terminal."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ringdispatch._spool_command import _command, _files, _sources
from ringdispatch._spool_file import SpoolFile
from ringdispatch._spool_header import unpack
from spool_side import ENTRIES, files, rows, run, serving
from spools import needs_spools

pytest_plugins = ["spool_fixtures"]
pytestmark = needs_spools


# ---- purge


def test_purge_shows_asks_and_removes_only_what_is_named(
    folder: Path, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, meter = files(folder)
    bad = meter.rename(meter.with_suffix(".bad"))

    def answer(words: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(words))
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)

    for words in ("", "\n", "n\n", "remove\n"):
        answer(words)
        status, out, err = tell("purge", "--orphans", "spool")
        assert (status, err) == (0, [])
        assert out[1].split()[:2] == ["audit", "spool"]
        assert out[2] == (
            f"Remove 1 file, with {ENTRIES} entries not dispatched? [y/N] "
            "nothing was removed"
        )
    assert files(folder) == [audit, bad]
    answer("y\n")
    status, out, err = tell("purge", "--bad", "spool")
    assert (status, err) == (0, [])
    assert out[-1].endswith("? [y/N] removed 1 file")
    assert files(folder) == [audit]
    assert tell("purge", "--bad", "--dead", "spool") == (0, ["nothing to remove"], [])
    old = tell("purge", "--orphans", "--older-than", "1h", "--yes", "spool")
    assert old == (0, ["nothing to remove"], [])
    assert files(folder) == [audit]
    assert tell("purge", "--orphans", "--yes", "spool")[1][-1] == "removed 1 file"
    assert files(folder) == []


def test_purge_never_removes_a_living_owners_file(folder: Path) -> None:
    with serving(folder, ("other", b"\n")) as service:
        status, out, err = run(folder, "purge", "--orphans", "--yes", "spool")
        assert (status, out[-1], err) == (0, "removed 2 files", [])
        [own] = files(folder)
        assert own.parent.name == "other"
        assert out[0] == f"other/{own.name}: skipped, a process has it"
        assert service.poll() is None


def test_purge_keeps_what_was_taken_or_written_to_since(
    folder: Path, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, meter = files(folder)
    locked = []

    def meanwhile() -> str:
        locked.append(SpoolFile(audit))
        with meter.open("ab") as file:
            file.write(b"more")
        return "y\n"

    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdin, "readline", meanwhile)
    status, out, err = tell("purge", "--orphans", "spool")
    assert status == 1
    assert err == [
        f"ringdispatch spool: audit/{audit.name}: stays, another process has it now",
        f"ringdispatch spool: meter/{meter.name}: stays, was written to since",
    ]
    assert out[-1].endswith("removed 0 files")
    assert files(folder) == [audit, meter]
    locked[0].leave()


def test_a_directory_that_nothing_can_be_removed_from_is_said(
    folder: Path, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    audit, meter = files(folder)
    monkeypatch.setattr(Path, "unlink", refuse)
    status, out, err = tell("replay", "--to", "functions:plain", str(audit))
    assert (status, out[-1]) == (1, f"replayed {ENTRIES} entries in 2 batches")
    [line] = err
    assert line.endswith(
        f"{audit.name}: all of it is dispatched, and it can't be removed: Permission "
        "denied"
    )
    status, out, err = tell("purge", "--orphans", "--yes", str(meter))
    assert (status, out[-1]) == (1, "removed 0 files")
    [line] = err
    assert line.endswith(f"{meter.name}: stays, can't be removed: Permission denied")


def test_older_than_counts_from_the_later_of_making_and_writing(
    folder: Path, tell: Any
) -> None:
    audit, meter = files(folder)
    header = unpack(audit.read_bytes()[:1024])
    old = header._replace(made=header.made - 86_400)
    with audit.open("r+b") as file:
        file.write(old.pack())
    assert rows(tell("ls", "--json", "spool/audit")[1])[0]["age"] > 86_000
    arguments = ("purge", "--orphans", "--older-than", "2h", "--yes", "spool")
    assert tell(*arguments)[1] == ["nothing to remove"]
    os.utime(audit, (header.made - 86_400, header.made - 86_400))
    assert tell(*arguments)[1][-1] == "removed 1 file"
    assert files(folder) == [meter]


def test_without_a_terminal_purge_asks_for_yes(folder: Path) -> None:
    status, out, err = run(folder, "purge", "--orphans", "spool")
    assert status == 2
    assert len(out) == 3
    [line] = err
    assert line == (
        "ringdispatch spool: 2 files would be removed, and no terminal is there to "
        "ask: add --yes to remove without being asked"
    )
    assert len(files(folder)) == 2


# ---- what is refused

TO = ("replay", "spool", "--to")
WRONG = [
    ((), "the following arguments are required: COMMAND; --help lists the options"),
    (("list",), "invalid choice: 'list'"),
    (("ls",), "the following arguments are required: DIRECTORY"),
    (("ls", "nowhere"), "nowhere: there is no such directory; name the one that"),
    (("ls", ""), "'': must be the path of a spool's directory"),
    (("ls", "functions.py"), "functions.py: is no directory and no file of a spool"),
    (("ls", "spool", "--yaml"), "unrecognized arguments: --yaml"),
    (("cat", "nowhere"), "nowhere: there is no such directory"),
    (("replay", "spool"), "the following arguments are required: --to"),
    ((*TO, "functions"), "--to 'functions': must be given as package.module:name"),
    ((*TO, "nowhere:send"), "importing nowhere raised ModuleNotFoundError"),
    ((*TO, "functions:sned"), "functions has no 'sned'; it has send"),
    ((*TO, "functions:not_callable"), "is 7, which is not callable"),
    ((*TO, "functions:generates"), "must be a plain or async function, not a gener"),
    ((*TO, "functions:Sink"), "must be an object, not its class: write Sink(...)"),
    ((*TO, "functions:send", "--rate", "0"), "--rate: '0': must be a number of entr"),
    ((*TO, "functions:send", "--rate", "nan"), "--rate: 'nan': must be a number of"),
    ((*TO, "functions:send", "--rate", "inf"), "--rate: 'inf': must be a number of"),
    ((*TO, "functions:send", "--max-batch", "0"), "'0': must be an integer >= 1"),
    ((*TO, "functions:send", "--max-batch", "1e3"), "'1e3': must be an integer >= 1"),
    (("replay", "nowhere", "--to", "nowhere:send"), "nowhere: there is no such direc"),
    (("purge", "spool"), "name what to remove: --dead, --bad or --orphans"),
    (("purge", "spool", "--orphans", "--older-than", "7"), "'7': must be a time such"),
    (("purge", "spool", "--orphans", "--older-than=-1d"), "'-1d': must be a time such"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_bad_input_is_one_line_and_status_2(
    arguments: tuple[str, ...],
    words: str,
    folder: Path,
    tell: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, out, err = tell(*arguments)
    assert (status, out) == (2, [])
    [line] = err
    assert line.startswith("ringdispatch spool: ")
    assert words in line
    assert len(files(folder)) == 2


def test_help_is_there_for_each_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in ("ls", "cat", "replay", "purge"):
        with pytest.raises(SystemExit, match="0"):
            _command.main([command, "--help"])
        assert "DIRECTORY" in capsys.readouterr().out


def test_a_file_that_is_locked_once_it_was_looked_at_is_skipped(
    folder: Path, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, meter = files(folder)
    locked = SpoolFile(audit)
    monkeypatch.setattr(_files, "is_locked", lambda path: False)
    status, out, err = tell("replay", "--to", "functions:plain", "spool")
    assert (status, err) == (0, [])
    assert out[0] == f"audit/{audit.name}: skipped, a process has it"
    assert files(folder) == [audit]
    assert not meter.exists()
    locked.leave()


def test_where_no_lock_is_kept_nothing_is_replayed(
    folder: Path, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, meter = files(folder)
    monkeypatch.setattr(_sources, "is_locked", lambda path: False)
    status, _, err = tell("replay", "--to", "functions:plain", "spool")
    assert status == 1
    assert err[0] == (
        f"ringdispatch spool: audit/{audit.name}: skipped, its file system keeps no "
        "lock: copy it to a disk"
    )
    assert files(folder) == [audit, meter]


# ---- rich


def test_on_a_terminal_there_is_a_table_and_a_bar(folder: Path) -> None:
    pytest.importorskip("rich", reason="the extra [tune] is not installed")
    from rich.console import Console

    from ringdispatch._spool_command._files import find, look_at_all
    from ringdispatch._spool_command._show import Progress, print_table

    states = list(look_at_all(find("spool")))
    states[0].reason = "[red]refused\x1b[2J"
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=140, markup=False)
    print_table(states, console)
    with Progress(20, console) as progress:
        progress.advance(15)
    shown = screen.getvalue()
    assert files(folder)[0].name in shown
    assert "[red]refused\\x1b[2J" in shown
    assert "15/20" in shown
