"""Files of dead letters: what is written is read, and nothing else."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from ringdispatch import _dead_letters
from ringdispatch._dead_letters import (
    FULL_BYTES,
    LETTERS_AT,
    DeadFile,
    DeadHeader,
    DeadLetter,
    append,
    begin,
    letters,
    remove,
)
from ringdispatch._spool_file import NotASpoolError, crc32c_of
from ringdispatch._spool_header import DamagedError, NewerError
from spools import needs_spools

pytestmark = needs_spools

LETTER_SIZE = 24  # what stands before each


def letter_of(
    first: int, entries: list[bytes], reason: str = "OSError()"
) -> DeadLetter:
    count = len(entries)
    payload = b"".join(entry + b"\n" for entry in entries)
    sizes = [len(entry) for entry in entries]
    return DeadLetter(
        f"id-{first}", first, count, 1, 1e9 + 0.5, reason, False, sizes, payload
    )


SMALL = letter_of(0, [b"a", b"", b"ccc"])
OTHER = letter_of(3, [b"d" * 50], "TimeoutError('é\udc80')")
LARGE = letter_of(9, [b"x" * FULL_BYTES])


def read(path: Path) -> list[DeadLetter]:
    return [replace(letter, end=0) for letter in letters(path)]


def filled(folder: Path) -> Path:
    path = begin(folder, b"\n", SMALL)
    assert append(path, OTHER)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = filled(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read(path) == [SMALL, OTHER]
    with DeadFile(path) as file:
        assert file.header.separator == b"\n"
        assert str(file.header.uuid) == path.stem
        assert file.header.made == int(SMALL.time)
        assert [letter.end for letter in file.letters()][-1] == file.size
        assert file.damaged == 0


def test_a_reason_is_cut(tmp_path: Path) -> None:
    long = letter_of(0, [b"a"], "\U0001f600" * 100_000)
    (letter,) = read(begin(tmp_path, b"\n", long))
    assert letter.reason == long.reason[:1000]


def test_each_truncation_keeps_what_is_whole(tmp_path: Path) -> None:
    path = filled(tmp_path)
    data = path.read_bytes()
    with DeadFile(path) as file:
        ends = [letter.end for letter in file.letters()]
    for size in reversed(range(len(data))):
        os.truncate(path, size)
        if size < LETTERS_AT:
            with pytest.raises(DamagedError):
                read(path)
            continue
        whole = [
            letter
            for letter, end in zip((SMALL, OTHER), ends, strict=True)
            if end <= size
        ]
        assert read(path) == whole
        with DeadFile(path) as file:
            intact = max(end for end in (LETTERS_AT, *ends) if end <= size)
            assert file.damaged == size - intact


def test_a_flipped_bit_hides_no_other_letter(tmp_path: Path) -> None:
    path = filled(tmp_path)
    data = bytearray(path.read_bytes())
    with DeadFile(path) as file:
        first_end = next(file.letters()).end
    # of what repeats, not every byte
    for at in (*range(310), *range(500, 530), *range(LETTERS_AT, len(data))):
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        data[at] ^= 1 << at % 8
        if at < 512:
            with pytest.raises((DamagedError, NewerError)):
                read(path)
        elif at < LETTERS_AT:  # the word of progress: everything again
            assert read(path) == [SMALL, OTHER]
        else:
            expected = [SMALL] if at >= first_end else [OTHER]
            if at in range(LETTERS_AT + 4, LETTERS_AT + 24):  # its sizes
                expected = []
            assert read(path) == expected, at


def forged(folder: Path, prefix: tuple[int, int, int], body: bytes) -> Path:
    """A file with one letter of those sizes, and the crc it should have."""
    header = DeadHeader(uuid.uuid4(), 1, b"\n", 0)
    after = struct.pack("<IQQ", *prefix) + body
    crc = crc32c_of(after, header.seed)
    path = folder / f"{header.uuid}.dead"
    path.write_bytes(header.pack() + struct.pack("<I", crc) + after)
    return path


ABOUT = (
    b'{"id": "i", "first": 0, "count": 1, "attempts": 1, "time": 0.5, "reason": "r",'
    b' "recovered": false}'
)
ONE = struct.pack("<I", 1) + b"a\n"


def test_a_forged_letter_is_read_where_all_fits(tmp_path: Path) -> None:
    (letter,) = letters(forged(tmp_path, (len(ABOUT), 1, 2), ABOUT + ONE))
    assert (letter.id, letter.sizes, letter.payload) == ("i", [1], b"a\n")


@pytest.mark.parametrize(
    ("prefix", "body"),
    [
        ((2**32 - 1, 1, 2), ABOUT + ONE),
        ((len(ABOUT), 2**64 - 1, 2), ABOUT + ONE),
        ((len(ABOUT), 2**62, 2), ABOUT + ONE),
        ((len(ABOUT), 1, 2**64 - 1), ABOUT + ONE),
        ((len(ABOUT), 1, 3), ABOUT + ONE + b"b"),
        ((len(ABOUT), 1, 2), ABOUT + struct.pack("<I", 2**32 - 1) + b"a\n"),
        ((70_000, 1, 2), ABOUT.ljust(70_000) + ONE),
        ((60_000, 1, 2), b"[" * 60_000 + ONE),
        ((4, 1, 2), b"null" + ONE),
        ((2, 1, 2), b"{}" + ONE),
        ((4, 1, 2), b"\xff\xfe{}" + ONE),
    ],
)
def test_hostile_sizes_and_fields_are_no_letter(
    tmp_path: Path, prefix: tuple[int, int, int], body: bytes
) -> None:
    path = forged(tmp_path, prefix, body)
    assert read(path) == []
    with DeadFile(path) as file:
        assert file.damaged


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"first": 0', b'"first": true'),
        (b'"time": 0.5', b'"time": NaN'),
        (b'"time": 0.5', b'"time": 1e999'),
        (b'"reason": "r"', b'"reason": ["r"]'),
        (b'"id"', b'"sizes"'),
        (b"false}", b'false, "more": 1}'),
    ],
)
def test_fields_of_other_names_or_types_are_no_letter(
    tmp_path: Path, before: bytes, after: bytes
) -> None:
    about = ABOUT.replace(before, after)
    assert about != ABOUT
    assert read(forged(tmp_path, (len(about), 1, 2), about + ONE)) == []


def test_a_newer_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dead_letters, "VERSION", 2)
    path = begin(tmp_path, b"\n", SMALL)
    monkeypatch.undo()
    with pytest.raises(NewerError, match="version is 2"):
        read(path)
    assert not append(path, OTHER)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = filled(tmp_path)
    link, twin, pipe = (tmp_path / name for name in ("l.dead", "t.dead", "p.dead"))
    link.symlink_to(path)
    os.mkfifo(pipe)
    for other in (link, tmp_path, pipe):
        with pytest.raises((NotASpoolError, IsADirectoryError)):
            DeadFile(other)
        with pytest.raises(NotASpoolError):
            DeadFile(other, locked=False)
    twin.hardlink_to(path)
    with pytest.raises(NotASpoolError, match="one name"):
        DeadFile(path)
    assert not append(path, OTHER)
    assert remove(path) is None
    twin.unlink()
    assert append(path, OTHER)


def test_a_locked_file_takes_no_letter(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with DeadFile(path):
        assert not append(path, OTHER)
        assert remove(path) is None
        with pytest.raises(BlockingIOError):
            DeadFile(path)
        assert read(path) == [SMALL, OTHER]
    assert append(path, SMALL)
    assert read(path) == [SMALL, OTHER, SMALL]


def test_a_forked_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    path = filled(tmp_path)
    asked, answer = os.pipe()
    with DeadFile(path):
        child = os.fork()
        if child == 0:  # pragma: no cover
            os.read(asked, 1)
            os._exit(0)
    try:
        assert append(path, SMALL)
    finally:
        os.write(answer, b"x")
        os.close(asked)
        os.close(answer)
        assert os.waitpid(child, 0)[1] == 0


def test_a_large_file_takes_no_letter(tmp_path: Path) -> None:
    path = begin(tmp_path, b"\n", LARGE)
    assert not append(path, SMALL)
    assert read(path) == [LARGE]


def test_progress_is_kept_and_ends_appending(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with DeadFile(path) as file:
        assert file.progress == LETTERS_AT
        end = next(file.letters()).end
        file.store_progress(end)
        assert file.progress == end
        assert [letter.first for letter in file.letters()] == [OTHER.first]
        assert len(list(file.letters(LETTERS_AT))) == 2
    assert read(path) == [OTHER]
    assert not append(path, SMALL)


@pytest.mark.parametrize("offset", [0, 1, 2**64 - 1])
def test_progress_out_of_the_file_is_none(tmp_path: Path, offset: int) -> None:
    path = filled(tmp_path)
    with DeadFile(path) as file:
        file.store_progress(offset)
    assert read(path) == [SMALL, OTHER]


def test_a_file_that_is_gone_takes_no_letter(tmp_path: Path) -> None:
    path = filled(tmp_path)
    assert remove(path) == SMALL.count + OTHER.count
    assert not append(path, SMALL)
    assert remove(path) is None
    assert list(tmp_path.iterdir()) == []


def test_any_file_of_ours_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.bad"
    path.write_bytes(b"anything")
    assert remove(path) == 0
    assert not path.exists()


def test_a_write_that_fails_is_cut_off(tmp_path: Path) -> None:
    path = filled(tmp_path)
    size = path.stat().st_size
    program = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from ringdispatch._dead_letters import DeadLetter, append, begin
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 300}, {size + 300}))
sizes, payload = [100_000], bytes(100_000) + b"\\n"
large = DeadLetter("id", 0, 1, 1, 0.5, "OSError()", False, sizes, payload)
for write in (
    lambda: append(Path({str(path)!r}), large),
    lambda: begin(Path({str(tmp_path)!r}), b"\\n", large),
):
    try:
        write()
    except OSError as error:
        print(error.errno)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.split() == ["27", "27"], ran.stderr
    assert path.stat().st_size == size
    assert list(tmp_path.iterdir()) == [path]
    assert append(path, SMALL)
    assert read(path) == [SMALL, OTHER, SMALL]


def test_a_letter_whose_write_fails_while_it_is_read_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path)
    with DeadFile(path) as file:
        first = next(file.letters()).end
        ends = DeadFile._end_of

        def end_of(self: DeadFile, at: int) -> int | None:
            end = ends(self, at)
            if at == first:
                os.truncate(path, at)
            return end

        monkeypatch.setattr(DeadFile, "_end_of", end_of)
        assert list(file.letters()) == [replace(SMALL, end=first)]
        assert file.damaged == 0
