"""`spool` and dead letters: they are shown, printed, replayed and removed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from ringdispatch._dead_letters import DeadFile, DeadLetter, append, begin
from ringdispatch._spool_command import _command, _sources
from spool_side import (
    FUNCTIONS,
    arrived,
    end,
    entries,
    files,
    replay,
    run,
    start,
    wait_for_calls,
)
from spools import needs_spools

pytestmark = needs_spools

UUID = "8a3f4dea-a44e-4df6-8ed4-cf1d9fc75a57"


def letter(first: int, size: int = 5, separator: bytes = b"\n") -> DeadLetter:
    each = [b"entry-%d" % number for number in range(first, first + size)]
    return DeadLetter(
        id=f"{UUID}-{first}-{size}",
        first=first,
        count=size,
        attempts=1,
        time=time.time(),
        reason="SinkError('503 \x1b[31m')",
        recovered=False,
        sizes=[len(entry) for entry in each],
        payload=b"".join(entry + separator for entry in each),
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spool with a file of four letters, of which the first begins at 0."""
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    audit = tmp_path / "spool" / "audit"
    audit.mkdir(parents=True)
    path = begin(audit, b"\n", letter(0))
    for first in (5, 10, 15):
        assert append(path, letter(first))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str], folder: Path, monkeypatch: Any) -> Any:
    """Runs the command in this process: its status, and what it printed."""
    monkeypatch.syspath_prepend(folder)

    def call(*arguments: str) -> tuple[int, list[str], list[str]]:
        status = _command.main(arguments)
        sys.modules.pop("functions", None)
        out, err = capfd.readouterr()
        return status, out.splitlines(), err.splitlines()

    return call


def expected(first: int = 0, last: int = 20) -> list[str]:
    return [f"entry-{number}" for number in range(first, last)]


def test_ls_and_cat_show_what_was_not_replayed(folder: Path, tell: Any) -> None:
    [path] = files(folder)
    with DeadFile(path) as file:
        first = next(file.letters())
        file.store_progress(first.end)
    status, out, err = tell("ls", "--json", "spool")
    assert (status, err) == (0, [])
    row = json.loads(out[0])
    shown = (row["kind"], row["owner"], row["entries"], row["letters"])
    assert shown == ("dead", None, 15, 3)
    assert row["reason"] == "SinkError('503 \x1b[31m')"
    assert row["made"]
    assert "SinkError('503 \\x1b[31m')" in tell("ls", "spool")[1][1]
    assert tell("cat", "spool")[1] == expected(5)
    read = [json.loads(line) for line in tell("cat", "--json", "spool")[1]]
    assert [each["entry"] for each in read] == expected(5)
    assert read[0]["id"] == f"{UUID}-5-5"
    assert read[0]["reason"] == row["reason"]
    assert read[0]["attempts"] == 1
    assert abs(read[0]["time"] - time.time()) < 3600


@pytest.mark.parametrize("function", ["plain", "send"])
def test_they_are_replayed_as_they_were(folder: Path, function: str) -> None:
    outcome = replay(folder, function, "--max-batch", "2")
    assert (outcome.status, outcome.err) == (0, [])
    assert outcome.out[-1] == "replayed 20 entries in 4 batches"
    assert entries(folder) == expected()
    for call, first in zip(arrived(folder), (0, 5, 10, 15), strict=True):
        assert call["id"] == f"{UUID}-{first}-5"
        assert (call["start"], call["count"], call["attempts"]) == (first, 5, 2)
    assert files(folder) == []


def test_stopped_in_the_middle_it_goes_on_there(folder: Path) -> None:
    process = start(folder, "replay", "--to", "functions:third_waits", "spool")
    wait_for_calls(folder, 3)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("SIGINT: the batch in flight goes on")
    (folder / "go").touch()
    assert end(process).status == 128 + signal.SIGINT
    assert entries(folder) == expected(0, 15)
    assert replay(folder, "plain").status == 0
    assert entries(folder) == expected()
    assert files(folder) == []


def test_killed_it_loses_nothing(folder: Path) -> None:
    process = start(folder, "replay", "--to", "functions:third_waits", "spool")
    wait_for_calls(folder, 3)
    process.kill()
    end(process)
    assert replay(folder, "plain").status == 0
    assert entries(folder) == expected(0, 15) + expected(10)
    calls = arrived(folder)
    assert calls[2] == calls[3]  # with the same id


def test_one_that_fails_stays_and_others_go_on_where_that_is_asked(
    folder: Path, tell: Any
) -> None:
    [path] = files(folder)
    status, _, err = tell("replay", "--to", "functions:refuse_first", "spool")
    assert status == 1
    [line] = err
    assert line == (
        f"ringdispatch spool: audit/{path.name}: batch {UUID}-0-5 (5 entries) failed, "
        "and stays: ConnectionError: no route"
    )
    assert entries(folder) == []
    assert files(folder) == [path]
    for attempts in (2, 3):
        status, _, err = tell(
            "replay", "--to", "functions:refuse_first", "--keep-going", "spool"
        )
        assert status == 1
        assert len(err) == 1
        assert entries(folder) == expected(5)
        [aside] = files(folder)
        with DeadFile(aside, locked=False) as file:
            [left] = file.letters()
        assert (left.id, left.attempts) == (f"{UUID}-0-5", attempts)
        assert left.reason == "ConnectionError('no\\nroute')"
        assert left.payload == letter(0).payload
    assert tell("replay", "--to", "functions:plain", "spool")[0] == 0
    assert entries(folder) == expected(5) + expected(0, 5)
    assert files(folder) == []


def test_one_that_fails_stays_with_the_others_where_the_disk_is_full(
    folder: Path, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_sources, "begin", refuse)
    [path] = files(folder)
    status, _, err = tell(
        "replay", "--to", "functions:refuse_first", "--keep-going", "spool"
    )
    assert status == 1
    assert err[1] == (
        f"ringdispatch spool: audit/{path.name}: can't be written to: No space left on "
        "device"
    )
    monkeypatch.undo()
    assert entries(folder) == []
    assert replay(folder, "plain").status == 0
    assert entries(folder) == expected()


def test_a_service_goes_on_in_another_file_while_one_is_replayed(folder: Path) -> None:
    [path] = files(folder)
    process = start(folder, "replay", "--to", "functions:third_waits", "spool")
    wait_for_calls(folder, 3)
    listed = run(folder, "ls", "--json", "spool").out
    assert json.loads(listed[0])["owner"] == "alive"
    assert not append(path, letter(20))
    another = begin(path.parent, b"\n", letter(20))
    second = replay(folder, "plain")
    assert second.status == 0
    assert f"audit/{path.name}: skipped, a process has it" in second.out
    assert entries(folder)[15:] == expected(20, 25)
    assert not another.exists()
    kept = run(folder, "purge", "--dead", "--yes", "spool")
    assert (kept.status, kept.err) == (0, [])
    assert kept.out == [
        f"audit/{path.name}: skipped, a process has it",
        "nothing to remove",
    ]
    (folder / "go").touch()
    assert end(process).status == 0
    assert entries(folder)[20:] == expected(15)
    assert files(folder) == []


def test_a_damaged_letter_hides_no_other_and_the_file_is_kept_aside(
    folder: Path, tell: Any
) -> None:
    [path] = files(folder)
    data = bytearray(path.read_bytes())
    data[data.index(b"entry-10")] ^= 1
    path.write_bytes(data)
    with DeadFile(path, locked=False) as file:
        damage = f"{file.damaged} B of its letters are damaged"
        whole = [letter.first for letter in file.letters()]
    assert whole == [0, 5, 15]
    intact = [*expected(0, 10), *expected(15, 20)]
    row = json.loads(tell("ls", "--json", "spool")[1][0])
    assert (row["letters"], row["reason"]) == (3, damage)
    assert (row["entries"], row["damaged"]) == (15, None)
    line = f"ringdispatch spool: audit/{path.name}: {damage}, and left out"
    assert tell("cat", "spool") == (1, intact, [line])
    with DeadFile(path):  # a service may be writing it
        assert tell("cat", "spool") == (0, intact, [])
        row = json.loads(tell("ls", "--json", "spool")[1][0])
        assert (row["owner"], row["damaged"]) == ("alive", 0)
    status, out, err = tell("replay", "--to", "functions:plain", "spool")
    assert (status, err) == (1, [])
    bad = path.with_suffix(".bad")
    assert f"audit/{path.name} is kept aside as {bad.name}: what was intact" in out[-2]
    assert entries(folder) == intact
    assert files(folder) == [bad]
    line = line.replace(".dead", ".bad")
    assert tell("cat", "spool") == (1, [], [line])
    with bad.open("r+b") as file:  # as if none had been replayed
        file.seek(512)
        file.write(bytes(16))
    assert tell("cat", "spool")[1] == intact
    status, out, err = tell("replay", "--to", "functions:plain", "--bad", "spool")
    assert (status, err) == (0, [])
    assert entries(folder) == intact * 2
    assert tell("purge", "--bad", "--yes", "spool")[1][-1] == "removed 1 file"
    assert files(folder) == []


@pytest.mark.parametrize("at", [0, 8, 20, 60])
def test_a_damaged_header_is_said_and_the_file_stays(
    folder: Path, tell: Any, at: int
) -> None:
    [path] = files(folder)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    why = (
        "it doesn't begin as a file of dead letters"
        if at == 0
        else "its header fails its check"
    )
    assert json.loads(tell("ls", "--json", "spool")[1][0])["reason"] == why
    status, _, err = tell("replay", "--to", "functions:plain", "spool")
    assert status == 1
    assert err == [f"ringdispatch spool: audit/{path.name}: skipped, {why}"]
    assert files(folder) == [path]
    assert tell("cat", "spool")[0] == 1


def test_purge_removes_letters_that_nobody_reads(folder: Path, tell: Any) -> None:
    [path] = files(folder)
    shutil.copy(path, path.with_stem(str(uuid.uuid4())))
    os.utime(path, (0, 0))
    status, out, _ = tell("purge", "--bad", "--orphans", "--yes", "spool")
    assert (status, out) == (0, ["nothing to remove"])
    status, out, _ = tell("purge", "--dead", "--yes", "spool")
    assert (status, out[-1]) == (0, "removed 2 files")
    assert files(folder) == []


# Its function refuses all, and notes the ids; it goes on with each line that it gets.
REFUSING = """
import sys
from ringdispatch import BackgroundDispatcher, Bytes, current_batch

def refuse(batch):
    with open("refused", "a") as file:
        file.write(current_batch().id + "\\n")
    raise ConnectionError("no route")

dispatcher = BackgroundDispatcher(
    refuse, ms_delay=60_000, max_batch=10, name="audit", layout=Bytes(spool="spool"),
    capacity=500)
number = 0
for line in sys.stdin:
    for _ in range(50):
        assert dispatcher.enqueue(b"entry-%d" % number)
        number += 1
    assert dispatcher.flush()
    print(dispatcher.statistics().kept, flush=True)
"""


def test_those_of_a_service_are_replayed_beside_it_and_once_it_was_killed(
    tmp_path: Path,
) -> None:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    with subprocess.Popen(
        [sys.executable, "-c", REFUSING],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
    ) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        try:
            for kept in (50, 100):
                service.stdin.write("go\n")
                assert service.stdout.readline() == f"{kept}\n"
                if kept == 50:
                    outcome = replay(tmp_path, "plain")
                    assert (outcome.status, outcome.err) == (0, [])
                    assert entries(tmp_path) == expected(0, 50)
                    assert service.poll() is None
        finally:
            service.kill()
    rows = [json.loads(line) for line in run(tmp_path, "ls", "--json", "spool").out]
    found = [(row["kind"], row["entries"], row["letters"]) for row in rows]
    assert sorted(found) == [("dead", 50, 5), ("spool", 0, None)]
    assert {row["reason"] for row in rows} == {None, "ConnectionError('no route')"}
    assert replay(tmp_path, "plain").status == 0
    assert entries(tmp_path) == expected(0, 100)
    refused = (tmp_path / "refused").read_text().split()
    assert [call["id"] for call in arrived(tmp_path)] == refused
    assert files(tmp_path) == []
