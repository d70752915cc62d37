"""The user's own function and entries: measured in a process apart, or refused."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringdispatch._tune import _apart, _entries
from ringdispatch._tune._cell import measure, measure_apart
from ringdispatch._tune._entries import (
    CellError,
    load_entries,
    load_function,
    make_layout,
)
from ringdispatch._tune._results import Setting
from subprocesses import run_snippet

SEED = 7


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module."""
    (tmp_path / "users_own.py").write_text(
        "import os, subprocess\n"
        "async def send(batch):\n"
        "    print('sent', [entry['path'] for entry in batch])\n"
        "async def fails(batch):\n"
        "    raise ConnectionError('no route\\nto host')\n"
        "def dies(batch):\n"
        "    os._exit(3)\n"
        "async def says_who(batch):\n"
        "    with open('new', 'w') as file:\n"
        "        file.write(str(os.getpid()))\n"
        "    os.replace('new', 'pid')\n"
        "left = []\n"
        "async def leaves_a_child(batch):\n"
        "    if not left:\n"
        "        words = ['sh', '-c', 'echo began; exec sleep 300']\n"
        "        with open('fifo', 'w') as fifo:\n"
        "            left.append(subprocess.Popen(words, stdout=fifo))\n"
        "def entry():\n"
        "    return {'path': '/made'}\n"
        "def generates(batch):\n"
        "    yield\n"
        "number = 5\n"
    )
    (tmp_path / "samples.json").write_text(json.dumps([{"path": "/a"}, {"path": "/b"}]))
    (tmp_path / "lines.json").write_text('{"path": "/a"}\n{"path": "/b"}\n')
    (tmp_path / "broken.json").write_text("{'path'}")
    (tmp_path / "empty.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_process_of_its_own_measures_the_users_function(here: Path) -> None:
    parts: list[float] = []
    seen = measure_apart(
        Setting(200.0, 10.0, None, seconds=0.3),
        seed=SEED,
        target="users_own:send",
        entry="samples.json",
        on_progress=parts.append,
    )
    assert seen.batches > 0
    assert seen.entries_per_batch * seen.batches + seen.dropped <= 60.001
    assert parts == sorted(parts)
    assert all(0 < part <= 1 for part in parts)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "users_own:fails",
            r"raised ConnectionError: no route to host \(calls so far: ",
        ),
        ("users_own:dies", "the measuring process died: exit status 3"),
    ],
)
def test_a_function_that_fails_is_reported_in_one_line(
    here: Path, target: str, message: str
) -> None:
    setting = Setting(200.0, 10.0, None, seconds=0.3)
    with pytest.raises(CellError, match=message) as raised:
        measure_apart(setting, seed=SEED, target=target)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
def test_a_child_that_the_function_leaves_behind_is_ended(here: Path) -> None:
    os.mkfifo("fifo")
    fifo = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    setting = Setting(200.0, 10.0, None, seconds=0.3)
    seen = measure_apart(setting, seed=SEED, target="users_own:leaves_a_child")
    assert seen.batches > 0
    assert os.read(fifo, 100) == b"began\n"
    # The end of the file: every process that could write to it is gone.
    assert select.select([fifo], [], [], 30.0)[0]
    assert os.read(fifo, 100) == b""
    os.close(fifo)


@pytest.mark.skipif(sys.platform == "win32", reason="no signal to end it by")
def test_to_end_the_tuner_ends_what_it_measures(here: Path) -> None:
    pytest.importorskip("rich")
    words = ("tune", "users_own:says_who", "--seconds", "300", "--delays", "10")
    with subprocess.Popen([sys.executable, "-m", "ringdispatch", *words]) as tuner:
        deadline = time.monotonic() + 60
        while not Path("pid").exists():
            assert tuner.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        tuner.send_signal(signal.SIGTERM)
        assert tuner.wait(60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)


def test_a_process_that_does_not_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_apart, "GRACE_SECONDS", -60.5)
    with pytest.raises(CellError, match=r"no result within \d+ s where 61 were"):
        measure_apart(Setting(100.0, 10.0, 0.0, seconds=60.0), seed=SEED)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("users_own", "must be given as package.module:name"),
        ("no_such_module:send", "importing no_such_module raised ModuleNotFoundError"),
        ("users_own:nothing", "users_own has no 'nothing'"),
        ("users_own:number", "is 5, which is not callable"),
        ("users_own:generates", "users_own:generates: .*: must be .*, not a generator"),
    ],
)
def test_a_function_that_is_none_is_refused(
    here: Path, target: str, message: str
) -> None:
    with pytest.raises(CellError, match=message):
        load_function(target)


@pytest.mark.parametrize("source", ["samples.json", "lines.json"])
def test_samples_come_in_turn_each_time_afresh(here: Path, source: str) -> None:
    entries = load_entries(source, "objects")()
    first, second, third = next(entries), next(entries), next(entries)
    assert [first["path"], second["path"], third["path"]] == ["/a", "/b", "/a"]
    assert first is not third


def test_samples_stay_what_they_are(here: Path) -> None:
    (here / "odd.json").write_text(r'[NaN, 123456789012345678901234567890, "\ud800"]')
    first, second, third = itertools.islice(load_entries("odd.json", "objects")(), 3)
    assert first != first  # noqa: PLR0124 - not a number
    assert second == 123456789012345678901234567890
    assert third == "\ud800"


def test_a_factory_makes_entries(here: Path) -> None:
    entries: Iterator[Any] = load_entries("users_own:entry", "objects")()
    assert next(entries) == {"path": "/made"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.json", "can't be read"),
        ("broken.json", "neither JSON nor a JSON sample a line"),
        ("empty.json", "has no samples"),
        ("users_own:number", "not callable"),
    ],
)
def test_entries_that_are_none_are_refused(
    here: Path, source: str, message: str
) -> None:
    with pytest.raises(CellError, match=message):
        load_entries(source, "objects")


def test_entries_that_are_no_rows_are_refused_as_records(here: Path) -> None:
    entries = load_entries("samples.json", "records")
    setting = Setting(100.0, 10.0, 0.0, "records", seconds=0.1)
    with pytest.raises(CellError, match="layout='records' can't hold the entry"):
        measure(setting, seed=SEED, entries=entries)


def test_a_layout_that_there_is_not_is_refused() -> None:
    with pytest.raises(CellError, match="'rows': must be one of objects, records"):
        make_layout("rows", 10, {}, own=False)


def test_records_without_numpy_are_refused_with_the_way_out() -> None:
    outcome = run_snippet(
        """
        sys.modules["numpy"] = None
        from ringdispatch._tune._entries import CellError, make_layout
        try:
            make_layout("records", 10, (1,), own=True)
        except CellError as error:
            say(error)
        """
    )
    assert outcome.lines == ["Records needs numpy: pip install 'ringdispatch[records]'"]


@pytest.mark.parametrize("name", ["json", "orjson"])
def test_entries_are_encoded_by_either_of_two(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.setattr(_entries, "JSON", name)
    entry = {"path": "/a", "sizes": [1, 2.5]}
    assert _entries._choose_encode()(entry) == b'{"path":"/a","sizes":[1,2.5]}'
