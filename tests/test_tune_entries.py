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

from ringdispatch import Records
from ringdispatch._tune import _apart, _cell, _entries
from ringdispatch._tune._cell import measure, measure_apart
from ringdispatch._tune._entries import (
    CellError,
    entry_bytes,
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
        "import os, subprocess, time\n"
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
        "        words = ['sh', '-c', 'echo began; : > began; exec sleep 300']\n"
        "        with open('fifo', 'w') as fifo:\n"
        "            left.append(subprocess.Popen(words, stdout=fifo))\n"
        "        while not os.path.exists('began'):\n"
        "            time.sleep(0.005)\n"
        "def entry():\n"
        "    return {'path': '/made'}\n"
        "made = 0\n"
        "class Odd(BaseException): pass\n"
        "def odd():\n"
        "    raise Odd('no\\nentry')\n"
        "def odd_later():\n"
        "    global made\n"
        "    made += 1\n"
        "    return made if made < 450 else odd()\n"
        "def float_later():\n"
        "    global made\n"
        "    made += 1\n"
        "    return (1,) if made < 450 else (1.5,)\n"
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
            r"raised ConnectionError: no route to host in every call \(calls so far",
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
    words = ("tune", "users_own:says_who", "--seconds", "300", "--minutes", "60")
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


# What str.splitlines() takes for the end of a line, and JSON does not.
ODD_ENDS = "\u2028\u2029\x85"


def test_text_of_a_sample_may_hold_any_separator(here: Path) -> None:
    rows = [{"path": f"/{end}/"} for end in ODD_ENDS]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (here / "odd.jsonl").write_bytes(lines.encode())
    stream = load_entries("odd.jsonl", "objects")()
    assert [*itertools.islice(stream, 4)] == [*rows, rows[0]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["bom.json", "bom.jsonl"])
def test_samples_are_read_whatever_wrote_them(
    encoding: str, name: str, here: Path
) -> None:
    (here / name).write_text('{"path": "/é"}\n{"path": "/b"}\n', encoding=encoding)
    stream = load_entries(name, "objects")()
    assert [next(stream)["path"] for _ in range(3)] == ["/é", "/b", "/é"]


def test_samples_in_no_encoding_are_refused(here: Path) -> None:
    (here / "latin.json").write_bytes('{"path": "/é"}'.encode("latin-1"))
    with pytest.raises(CellError, match=r"latin.json: can't be read: .*utf-8"):
        load_entries("latin.json", "objects")


@pytest.mark.parametrize(
    ("text", "rows", "kinds"),
    [
        ("[200, 1]\n[404, 0.25]\n", [(200, 1.0), (404, 0.25)], ["i8", "f8"]),
        ("[[true, 1.5], [true, 2]]", [(True, 1.5), (True, 2.0)], ["?", "f8"]),
        ("[true]\n[7]\n[false]", [(True,), (7,), (False,)], ["i8"]),
        ("[200, 0.25]\n", [(200, 0.25)], ["i8", "f8"]),
        ("[200, 1]\n", [(200, 1)], ["i8", "i8"]),
    ],
)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_fields_of_a_record_have_the_widest_type_of_their_column(
    text: str, rows: list[Any], kinds: list[str], name: str, here: Path
) -> None:
    np = pytest.importorskip("numpy")
    if name == "rows.jsonl" and text.startswith("[["):
        text = "\n".join(map(json.dumps, json.loads(text)))
    (here / name).write_text(text)
    found = [*itertools.islice(load_entries(name, "records")(), len(rows))]
    assert [*map(repr, found)] == [*map(repr, rows)]
    layout = make_layout("records", 10, found, own=True)
    assert isinstance(layout, Records)
    assert [layout.dtype[i] for i in range(len(kinds))] == [*map(np.dtype, kinds)]


def test_an_integer_that_no_float_can_be_stays_one(here: Path) -> None:
    (here / "large.jsonl").write_text(f"[1{'0' * 400}]\n[0.5]\n")
    assert next(load_entries("large.jsonl", "records")()) == (10**400,)


def test_a_line_of_its_own_is_one_sample(here: Path) -> None:
    """In a file of JSON lines, even an array: elsewhere it is one of samples."""
    for name, first in (("one.jsonl", ["a", "b"]), ("one.json", "a")):
        (here / name).write_text('["a", "b"]\n')
        assert next(load_entries(name, "objects")()) == first


def test_json_over_several_lines_is_read_under_any_name(here: Path) -> None:
    (here / "pretty.jsonl").write_text(json.dumps([{"path": "/a"}], indent=2))
    assert next(load_entries("pretty.jsonl", "objects")()) == {"path": "/a"}


def test_a_factory_may_return_an_integer_before_a_float() -> None:
    pytest.importorskip("numpy")
    rows = [(200, 1), (200, 0.25)]
    setting = Setting(100.0, 10.0, 0.0, "records", seconds=0.1)
    seen = measure(setting, seed=SEED, entries=lambda: itertools.cycle(rows))
    assert seen.batches > 0
    assert seen.dropped == 0


@pytest.mark.parametrize(
    ("entry", "kind", "message"),
    [
        ("odd", "objects", "^making an entry raised Odd: no entry$"),
        ("odd_later", "objects", "^making an entry raised Odd: no entry$"),
        (
            "float_later",
            "records",
            "^enqueueing an entry under load raised TypeError: .*; the first 100 .*1$",
        ),
    ],
)
def test_an_entry_that_fails_is_reported_in_one_line(
    here: Path, entry: str, kind: str, message: str
) -> None:
    if kind == "records":
        pytest.importorskip("numpy")
    setting = Setting(1_000.0, 10.0, 0.0, kind, seconds=0.5)
    with pytest.raises(CellError, match=message):
        measure_apart(setting, seed=SEED, entry=f"users_own:{entry}")


def test_a_module_that_raises_anything_is_refused(here: Path) -> None:
    (here / "users_odd.py").write_text("raise GeneratorExit('odd')")
    with pytest.raises(CellError, match="importing users_odd raised GeneratorExit: od"):
        load_function("users_odd:send")


def test_a_factory_of_the_command_that_raises_anything_is_refused(here: Path) -> None:
    entries = load_entries("users_own:odd", "objects")
    with pytest.raises(CellError, match="making an entry raised Odd: no entry"):
        entry_bytes("objects", entries)


@pytest.mark.parametrize("entries", [[b"{}", {}], [{}, b"{}"], [b"a"], [{}]])
def test_entries_may_be_bytes_in_part(entries: list[Any]) -> None:
    setting = Setting(100.0, 10.0, 0.0, "bytes", seconds=0.1)
    seen = measure(setting, seed=SEED, entries=lambda: itertools.cycle(entries))
    assert seen.batches > 0
    assert seen.dropped == 0


def test_an_arena_is_as_large_as_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as `capacity` lines of the sample's length: those may be a gibibyte."""
    arenas = []

    def layout(*arguments: Any, **options: Any) -> Any:
        arenas.append(made := make_layout(*arguments, **options))
        return made

    monkeypatch.setattr(_cell, "make_layout", layout)
    setting = Setting(200.0, 10.0, 0.0, "bytes", seconds=0.3)
    line = b"x" * 200_000
    measure(setting, seed=SEED, entries=lambda: itertools.repeat(line))
    assert [made.max_bytes for made in arenas] == [2 * 60 * (len(line) + 1)]


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
        make_layout("rows", 10, [{}], own=False)


def test_records_without_numpy_are_refused_with_the_way_out() -> None:
    outcome = run_snippet(
        """
        sys.modules["numpy"] = None
        from ringdispatch._tune._entries import CellError, make_layout
        try:
            make_layout("records", 10, [(1,)], own=True)
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
