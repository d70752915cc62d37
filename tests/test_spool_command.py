"""`spool ls`, `cat` and `purge`, and what the command refuses, in one line."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import random
import shutil
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ringdispatch._spool_command import _command, _files
from ringdispatch._spool_command._reading import Reader, read_header
from ringdispatch._spool_file import SpoolFile, crc32c_of
from ringdispatch._spool_header import unpack
from spool_side import ENTRIES, TAKEN, expected, files, make_killed, run, serving
from spools import filled, left, made, needs_spools, take

pytestmark = needs_spools

AUDIT = ("audit", b"\n")
METER = ("meter", b"|")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    make_killed(folder, AUDIT, METER)
    return folder


@pytest.fixture
def folder(killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(killed, tmp_path / "copy", copy_function=shutil.copy)
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs the command in this process: its status, and what it printed."""

    def call(*arguments: str) -> tuple[int, list[str], list[str]]:
        status = _command.main(arguments)
        out, err = capfd.readouterr()
        return status, out.splitlines(), err.splitlines()

    return call


def rows(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# ---- ls


def test_ls_shows_each_file_and_disturbs_none(folder: Path) -> None:
    audit, meter = files(folder)
    before = audit.read_bytes(), meter.read_bytes()
    with serving(folder, ("other", b"\n")) as service:
        status, out, err = run(folder, "ls", "spool")
        assert (status, err) == (0, [])
        columns = ["name", "kind", "owner"]
        heads, *lines = [line.split() for line in out]
        assert heads[:7] == [*columns, "entries", "letters", "bytes", "age"]
        assert heads[7:] == ["file", "reason"]
        size = f"{audit.stat().st_size / 1024:.1f}"
        [other] = (folder / "spool" / "other").iterdir()
        for line, path, owner in zip(
            lines, (audit, meter, other), ("dead", "dead", "alive"), strict=True
        ):
            name = path.parent.name
            assert line[:6] == [name, "spool", owner, str(ENTRIES), size, "KiB"]
            assert line[7] == "s"
            assert line[8:] == [f"{name}/{path.name}"]
        assert service.poll() is None
    assert before == (audit.read_bytes(), meter.read_bytes())


def test_ls_exactly(folder: Path, tell: Any) -> None:
    audit, meter = files(folder)
    status, out, err = tell("ls", "--json", "spool")
    assert (status, err) == (0, [])
    for row, path in zip(rows(out), (audit, meter), strict=True):
        assert 0 <= row.pop("age") < 3600
        assert row.pop("made").endswith("+00:00")
        assert row == {
            "name": path.parent.name,
            "file": f"{path.parent.name}/{path.name}",
            "kind": "spool",
            "owner": "dead",
            "entries": ENTRIES,
            "letters": None,
            "bytes": path.stat().st_size,
            "reason": None,
        }
    assert rows(tell("ls", "--json", "spool/meter")[1])[0]["file"] == meter.name
    assert rows(tell("ls", "--json", str(meter))[1])[0]["name"] == "meter"


def test_ls_says_why_a_file_cannot_be_read(folder: Path, tell: Any) -> None:
    audit = folder / "spool" / "audit"
    [good] = audit.iterdir()

    def another(number: int, suffix: str = ".spool") -> Path:
        path = audit / f"{number:08x}-0000-4000-8000-000000000000{suffix}"
        shutil.copyfile(good, path)
        return path

    flip(another(1), 60)
    data = bytearray(another(2).read_bytes())
    data[8] = 9  # the version
    header = bytearray(data[:1024])
    header[12:16] = bytes(4)
    data[12:16] = crc32c_of(bytes(header)).to_bytes(4, "little")
    another(2).write_bytes(data)
    os.truncate(another(3), good.stat().st_size - 5000)
    os.truncate(another(4), 100)
    flip(another(5), 1024 + 8 + 3)  # the copy of tail
    sixth = another(6)
    sixth.unlink()
    sixth.symlink_to(good)
    os.link(another(7), audit / "hard")
    another(8, ".new")
    flip(another(9, ".bad"), 60)
    (audit / "another.spool").write_bytes(b"not ours")
    reasons = {
        int(row["file"].split("/")[1][:8], 16): row["reason"]
        for row in rows(tell("ls", "--json", "spool")[1])
        if row["file"].split("/")[1][:7] == "0000000"
    }
    assert reasons == {
        1: "its header fails its check",
        2: "its version is 9; this one reads up to 1",
        3: f"cut to {good.stat().st_size - 5000:,} of {good.stat().st_size:,} B",
        4: "it doesn't begin as the file of a spool",
        5: "damaged: its entries are looked for one by one",
        6: "must be a regular file",
        7: "must be a file with one name",
        8: "never finished",
        9: None,
    }
    assert tell("ls", "spool")[0] == 0
    status, out, _ = tell(
        "cat", f"spool/audit/{5:08x}-0000-4000-8000-000000000000.spool"
    )
    assert (status, out) == (0, expected("audit"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root gives away")
def test_files_of_others_are_rows_that_say_so(folder: Path, tell: Any) -> None:
    audit, meter = files(folder)
    os.chown(audit, 12345, 12345)
    first, second = rows(tell("ls", "--json", "spool")[1])
    assert first["reason"] == "belongs to user 12345: run this as that user"
    assert (first["entries"], first["owner"]) == (None, None)
    assert second["entries"] == ENTRIES
    assert tell("purge", "--orphans", "--yes", "spool")[1][-1] == "removed 1 file"
    assert files(folder) == [audit]
    assert not meter.exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads all")
def test_a_directory_that_cannot_be_read_is_a_row_that_says_so(
    folder: Path, tell: Any
) -> None:
    (folder / "spool" / "audit").chmod(0)
    first, second = rows(tell("ls", "--json", "spool")[1])
    assert (first["name"], first["kind"]) == ("audit", None)
    assert first["reason"] == "can't be read: Permission denied"
    assert second["entries"] == ENTRIES
    (folder / "spool" / "audit").chmod(stat.S_IRWXU)


def test_an_empty_directory_is_no_error(tmp_path: Path, tell: Any) -> None:
    assert tell("ls", str(tmp_path)) == (0, [f"{tmp_path}: no files of a spool"], [])
    assert tell("ls", "--json", str(tmp_path)) == (0, [], [])
    assert tell("cat", str(tmp_path)) == (0, [], [])


# ---- cat


def test_cat_prints_the_entries_of_the_dead_and_the_living(folder: Path) -> None:
    with serving(folder, ("other", b"\n")):
        status, out, err = run(folder, "cat", "spool")
        assert (status, err) == (0, [])
        assert out == expected("audit", "meter", "other")
        listed = run(folder, "cat", "--json", "spool/other")
        calls = [row["id"] for row in rows(listed.out)]
        [path] = (folder / "spool" / "other").iterdir()
        # Ten are in a batch that is in flight there.
        assert calls == [f"{path.stem}-0-{TAKEN}"] * TAKEN + [None] * (ENTRIES - TAKEN)


def test_cat_is_exact_in_json_for_any_bytes(tmp_path: Path, tell: Any) -> None:
    entries = [
        b"a\nb",
        "grüße \u2028".encode(),
        b"\xff\x00\x1b[2J",
        b"",
        bytes(range(256)),
    ]
    (tmp_path / "audit").mkdir()
    file = made(tmp_path / "audit", 64, 4096)
    filled(file, [*entries, b"last", b"settled"])
    batch = take(file, 2)
    assert batch is not None
    path = left(file)
    status, out, err = tell("cat", "--json", str(tmp_path))
    assert (status, err) == (0, [])
    read = rows(out)
    got = [
        row["entry"].encode() if "entry" in row else base64.b64decode(row["base64"])
        for row in read
    ]
    assert got == [*entries, b"last", b"settled"]
    assert [row["id"] for row in read][:3] == [f"{path.stem}-0-2"] * 2 + [None]
    assert {row["file"] for row in read} == {f"audit/{path.name}"}
    raw = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, write_through=True))
        assert _command.main(["cat", str(path)]) == 0
        assert raw.getvalue() == b"".join(each + b"\n" for each in got)
        raw.truncate(0)
        raw.seek(0)
        patch.setattr(sys.stdout, "isatty", lambda: True)
        assert _command.main(["cat", str(path)]) == 0
        assert b"\x1b" not in raw.getvalue()
        assert b"\\xff\\x00\\x1b[2J\n" in raw.getvalue()


def test_cat_leaves_out_what_is_settled_or_damaged(tmp_path: Path, tell: Any) -> None:
    (tmp_path / "audit").mkdir()
    file = made(tmp_path / "audit", 64, 4096)
    filled(file, [b"entry %d" % number for number in range(9)])
    first, second = take(file, 2), take(file, 2)
    assert first is not None
    assert second is not None
    file.settle(second.start, second.end)
    path = left(file)
    flip(path, path.read_bytes().index(b"entry 7"))
    shown = [f"entry {number}" for number in (0, 1, 4, 5, 6, 8)]
    assert tell("cat", str(tmp_path))[1] == shown
    assert rows(tell("ls", "--json", str(tmp_path))[1])[0]["entries"] == 7
    # Words that make no sense, or a header that does not.
    data = path.read_bytes()
    for at in (1024 + 3, 1088 + 5, 33, 42, 60, 4, 20, 50, 70):
        aside = path.with_suffix(".bad")
        aside.write_bytes(data)
        flip(aside, at)
        assert tell("cat", str(aside))[1] == shown, at
    aside.write_bytes(bytes(len(data)))
    status, out, err = tell("cat", str(aside))
    assert (status, out) == (1, [])
    assert err == [
        f"ringdispatch spool: {aside.name}: it doesn't begin as the file of a spool"
    ]


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
    monkeypatch.syspath_prepend(folder)
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
    sys.modules.pop("functions", None)


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
    assert err == [
        "ringdispatch spool: 2 files would be removed: --yes does that unasked"
    ]
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
    monkeypatch.syspath_prepend(folder)
    status, out, err = tell(*arguments)
    assert (status, out) == (2, [])
    [line] = err
    assert line.startswith("ringdispatch spool: ")
    assert words in line
    assert len(files(folder)) == 2
    sys.modules.pop("functions", None)


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
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(_files, "is_locked", lambda path: False)
    status, out, err = tell("replay", "--to", "functions:plain", "spool")
    assert (status, err) == (0, [])
    assert out[0] == f"audit/{audit.name}: skipped, a process has it"
    assert files(folder) == [audit]
    assert not meter.exists()
    locked.leave()
    sys.modules.pop("functions", None)


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


# ---- what is read without a lock


def test_of_any_damage_it_reads_what_an_adopter_would(tmp_path: Path) -> None:
    seed = time.time_ns() % 1_000_000
    print("seed", seed)
    drawn = random.Random(seed)
    file = made(tmp_path, 16, 256, position=2**40 - 5)
    for turn in range(4):  # over the arena's end, and the cells'
        filled(file, [b"entry %d-%d" % (turn, number) for number in range(9)])
        for _ in range(2 if turn == 3 else 3):
            batch = take(file, 3)
            assert batch is not None
            if turn < 3 or batch.entries[0] != b"entry 3-0":
                file.settle(batch.start, batch.end)
    whole = left(file).read_bytes()
    sizes = {read_alone(tmp_path, whole)}
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(drawn.randint(1, 3)):
            data[drawn.choice(range(1024, len(data)))] = drawn.randrange(256)
        if drawn.random() < 0.3:
            del data[drawn.randrange(4096, len(data)) :]
        sizes.add(read_alone(tmp_path, bytes(data)))
    assert len(sizes) > 4


def read_alone(folder: Path, data: bytes) -> int:
    """Compare what a reader and an adopter find in it; return how much."""
    path = folder / "00000000-0000-4000-8000-000000000000.spool"
    path.write_bytes(data)
    with path.open("rb") as opened:
        fd = opened.fileno()
        reader = Reader(fd, len(data), read_header(fd, len(data), path.stem))
        read = [entry for lying in reader.read() for entry in lying.entries]
    file = SpoolFile(path)
    header = unpack(file.fixed_header)
    file.begin(header.cells, header.arena_bytes, header.seed, len(header.separator))
    found = []
    while batch := take(file):
        found += batch.entries
        file.settle(batch.start, batch.end)
    file.leave()
    path.unlink()
    assert read == found
    return len(read)


def test_a_file_is_read_while_its_owner_writes(tmp_path: Path) -> None:
    file = made(tmp_path, 64, 2048)
    path = Path(file.path)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            while file.append(b"%09d\n" % number):
                number += 1
            batch = take(file, 7)
            assert batch is not None
            file.settle(batch.start, batch.end)

    owner = threading.Thread(target=write)
    owner.start()
    try:
        with path.open("rb") as opened:
            fd, size = opened.fileno(), path.stat().st_size
            header = read_header(fd, size, path.stem)
            seen = 0
            for _ in range(200):
                reader = Reader(fd, size, header)
                read = [int(each) for lying in reader.read() for each in lying.entries]
                assert read == sorted(set(read))
                assert all(reader.released <= each < reader.tail for each in read)
                seen += len(read)
    finally:
        stop.set()
        owner.join()
        file.leave()
    assert seen > 200
