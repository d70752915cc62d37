"""`spool ls` and `cat`: what they show, without a lock, and of any damage."""

from __future__ import annotations

import base64
import errno
import io
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

from recovering import orphan
from ringdispatch._spool_command import _command, _files
from ringdispatch._spool_command._reading import Reader, read_header
from ringdispatch._spool_file import SpoolFile, crc32c_of
from ringdispatch._spool_header import unpack
from spool_side import ENTRIES, TAKEN, expected, files, flip, rows, run, serving
from spools import filled, left, made, needs_spools, take

pytest_plugins = ["spool_fixtures"]
pytestmark = needs_spools


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
            lines, (audit, meter, other), ("ended", "ended", "alive"), strict=True
        ):
            name = path.parent.name
            assert line[:6] == [name, "spool", owner, str(ENTRIES), size, "KiB"]
            assert line[7] in {"s", "min"}
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
            "owner": "ended",
            "entries": ENTRIES,
            "damaged": 0,
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
        9: "its header fails its check",
    }
    assert tell("ls", "spool")[0] == 0
    fifth = f"{5:08x}-0000-4000-8000-000000000000.spool"
    status, out, err = tell("cat", f"spool/audit/{fifth}")
    # How many there were, nothing says.
    assert (status, out) == (1, expected("audit"))
    assert err == [f"ringdispatch spool: {fifth}: {reasons[5]}"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root gives away")
def test_ls_of_a_damaged_time_says_that_it_is_not_known(
    tmp_path: Path, tell: Any
) -> None:
    path = orphan(tmp_path, b"entry")
    data = bytearray(path.read_bytes())
    data[63] ^= 0x7F  # the highest byte of when it was made
    path.write_bytes(data)
    path.rename(path.with_suffix(".bad"))
    status, out, _ = tell("ls", "--json", str(tmp_path))
    (row,) = rows(out)
    assert (status, row["made"], row["entries"]) == (0, None, 1)


def test_files_of_others_are_rows_that_say_so(folder: Path, tell: Any) -> None:
    audit, meter = files(folder)
    os.chown(audit, 12345, 12345)
    first, second = rows(tell("ls", "--json", "spool")[1])
    assert first["reason"] == "belongs to user 12345: run this as that user"
    assert (first["entries"], first["owner"]) == (None, None)
    assert second["entries"] == ENTRIES
    line = f"ringdispatch spool: audit/{audit.name}: skipped, {first['reason']}"
    status, out, err = tell("purge", "--orphans", "--yes", "spool")
    assert (status, out[-1], err) == (1, "removed 1 file", [line])
    assert files(folder) == [audit]
    assert not meter.exists()
    status, out, err = tell("purge", "--orphans", "--yes", "spool")
    assert (status, out, err) == (1, ["nothing to remove"], [line])
    assert tell("purge", "--dead", "--yes", "spool") == (0, ["nothing to remove"], [])
    assert tell("replay", "--to", "functions:plain", "spool")[::2] == (1, [line])
    assert tell("cat", "spool") == (1, [], [line.replace("skipped, ", "")])
    assert tell("ls", "spool")[0] == 0


def test_a_file_that_can_only_be_read_is_shown(
    folder: Path, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(_files, "is_locked", refuse)
    audit, meter = files(folder)
    first, second = rows(tell("ls", "--json", "spool")[1])
    reason = "can't be asked for its lock: Read-only file system"
    assert [first["reason"], second["reason"]] == [reason, reason]
    assert (first["owner"], first["entries"]) == (None, ENTRIES)
    assert tell("cat", "spool") == (0, expected("audit", "meter"), [])
    status, out, err = tell("purge", "--orphans", "--yes", "spool")
    assert (status, out) == (1, ["nothing to remove"])
    assert [line.endswith(f"skipped, {reason}") for line in err] == [True, True]
    assert files(folder) == [audit, meter]


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
    line = f"ringdispatch spool: audit/{path.name}: 1 entry is damaged, and left out"
    assert tell("cat", str(tmp_path)) == (1, shown, [line])
    [row] = rows(tell("ls", "--json", str(tmp_path))[1])
    assert (row["entries"], row["damaged"]) == (6, 1)
    assert row["reason"] == "1 entry is damaged"
    # Words that make no sense, or a header that does not.
    data = path.read_bytes()
    for at in (1024 + 3, 1088 + 5, 33, 42, 60, 4, 20, 50, 70):
        aside = path.with_suffix(".bad")
        aside.write_bytes(data)
        flip(aside, at)
        status, out, err = tell("cat", str(aside))
        assert (status, out, len(err)) == (1, shown, 1), at
        known = at not in {1024 + 3, 1088 + 5}
        [row] = rows(tell("ls", "--json", str(aside))[1])
        assert (row["entries"], row["damaged"]) == (6, 1 if known else None), at
    aside.write_bytes(bytes(len(data)))
    status, out, err = tell("cat", str(aside))
    assert (status, out) == (1, [])
    assert err == [
        f"ringdispatch spool: {aside.name}: it doesn't begin as the file of a spool"
    ]


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
            reads = seen = overwritten = 0
            deadline = time.monotonic() + 20
            while reads < 200 or (seen <= 200 and time.monotonic() < deadline):
                reads += 1
                reader = Reader(fd, size, header)
                read = [int(each) for lying in reader.read() for each in lying.entries]
                assert read == sorted(set(read))
                assert all(reader.released <= each < reader.tail for each in read)
                overwritten += reader.tail - reader.released - len(read)
                assert reader.damaged == 0
                seen += len(read)
    finally:
        stop.set()
        owner.join()
        file.leave()
    assert seen > 200
    assert overwritten


def test_a_ring_that_goes_round_between_two_reads_makes_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = made(tmp_path, 64, 2048)
    read = os.pread

    def go_round() -> None:
        for _ in range(20):
            while file.append(b"%09d\n" % file.tail):
                pass
            batch = take(file, 7)
            assert batch is not None
            file.settle(batch.start, batch.end)

    def pread(*args: int) -> bytes:
        go_round()
        return read(*args)

    go_round()
    size = Path(file.path).stat().st_size
    with Path(file.path).open("rb") as opened:
        header = read_header(opened.fileno(), size, Path(file.path).stem)
        monkeypatch.setattr(os, "pread", pread)
        reader = Reader(opened.fileno(), size, header)
        assert reader.makes_sense
        list(reader.read())
        assert reader.damaged == 0
    file.leave()
