"""A cell: load that arrives on a schedule, and what is said of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringdispatch._tune import _apart, _cell, _entries, _load, _machine, _probes
from ringdispatch._tune._cell import measure, measure_apart
from ringdispatch._tune._entries import (
    CellError,
    load_entries,
    load_function,
    make_layout,
)
from ringdispatch._tune._load import Load, schedule
from ringdispatch._tune._machine import describe
from ringdispatch._tune._probes import percentile, resident
from ringdispatch._tune._results import Measured, Setting
from subprocesses import run_snippet

SEED = 7


@pytest.fixture(autouse=True)
def no_time_for_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cell, "_PROBE_SECONDS", 0.02)


class Counter:
    """A sink that counts; its first call after the warm-up blocks the loop."""

    def __init__(self, *, sleeps: float = 0.0, blocks: float = 0.0) -> None:
        self.received = 0
        self._sleeps = sleeps
        self._blocks = blocks

    async def __call__(self, batch: Any) -> None:
        warm_up = _cell._WARM_UP_BATCHES * _cell._WARM_UP_ENTRIES
        if self._blocks and self.received >= warm_up:
            time.sleep(self._blocks)  # noqa: ASYNC251 - what is measured
            self._blocks = 0.0
        self.received += len(batch)
        await asyncio.sleep(self._sleeps)


def add_up(seen: Measured, setting: Setting, counter: Counter, warm_up: int) -> None:
    """The relations that hold on any machine."""
    handed = seen.entries_per_batch * seen.batches
    assert handed == pytest.approx(counter.received - warm_up)
    assert setting.rate is not None
    if seen.held:
        expected = setting.rate * setting.seconds
        assert handed + seen.dropped == pytest.approx(expected, rel=0.021)
    assert 0 <= seen.age_p50 <= seen.age_p99 <= seen.age_max
    assert seen.stall_max > 0
    assert seen.request_p99 > 0
    assert 0 < seen.peak_pending <= setting.capacity


@pytest.mark.parametrize("layout", ["objects", "records", "bytes"])
def test_figures_add_up_in_every_layout(layout: str) -> None:
    if layout == "records":
        pytest.importorskip("numpy")
    setting = Setting(2_000.0, 10.0, None, layout, seconds=0.2)
    counter = Counter()
    seen = measure(setting, seed=SEED, sink=counter)
    add_up(seen, setting, counter, 300)
    assert seen.rate <= 2_000.0
    assert seen.age_max >= 9.0  # the opener of a window waits for its delay
    assert seen.dropped == 0


def test_what_finds_no_room_is_counted_as_dropped() -> None:
    setting = Setting(20_000.0, 5.0, None, capacity=10, seconds=0.2)
    counter = Counter(sleeps=0.02)
    seen = measure(setting, seed=SEED, sink=counter)
    add_up(seen, setting, counter, 30)
    assert seen.dropped > 0
    assert seen.peak_pending == 10
    assert seen.sink_mean >= 19.0


def test_a_loop_that_stands_still_is_charged_to_what_waited() -> None:
    setting = Setting(1_000.0, 10.0, None, seconds=0.3)
    counter = Counter(blocks=0.15)
    seen = measure(setting, seed=SEED, sink=counter)
    add_up(seen, setting, counter, 300)
    # Entries that were due while nothing could enqueue them.
    assert seen.age_max >= 100.0
    assert seen.request_p99 >= 100.0
    assert seen.stall_max >= 150.0


def test_an_ordinary_function_is_measured_in_its_thread() -> None:
    received = []

    def sink(batch: list[Any]) -> None:
        received.append(len(batch))

    seen = measure(Setting(1_000.0, 10.0, None, seconds=0.1), seed=SEED, sink=sink)
    assert sum(received) - 300 == pytest.approx(seen.entries_per_batch * seen.batches)


def test_as_many_as_the_machine_holds() -> None:
    seen = measure(Setting(None, 5.0, 0.0, seconds=0.1), seed=SEED)
    assert seen.held
    assert seen.rate > 0
    assert 0 <= seen.age_p50 <= seen.age_p99 <= seen.age_max


def test_a_rate_that_no_machine_holds_is_not_reported_as_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_load, "_MOST_PER_SECOND", 1e6)  # to draw fewer
    seen = measure(Setting(1e9, 5.0, 0.0, seconds=0.1), seed=SEED)
    assert not seen.held
    assert seen.rate < 1e9


def test_a_delay_may_be_longer_than_what_is_waited_for_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_cell, "DRAIN_SECONDS", 1.0)
    monkeypatch.setattr(_cell._Cell, "_warm_up", no_warm_up)
    counter = Counter()
    seen = measure(
        Setting(1_000.0, 1_500.0, None, seconds=0.1), seed=SEED, sink=counter
    )
    assert seen.dropped == 0
    assert counter.received == seen.entries_per_batch * seen.batches > 0


def test_a_call_that_does_not_end_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cell, "DRAIN_SECONDS", 0.05)
    monkeypatch.setattr(_cell._Cell, "_warm_up", no_warm_up)
    counter = Counter(sleeps=300.0)
    setting = Setting(1_000.0, 10.0, None, seconds=0.1)
    with pytest.raises(CellError, match=r"a call did not end within 0\.05 s"):
        measure(setting, seed=SEED, sink=counter)


async def no_warm_up(*_: Any) -> None: ...


def test_a_function_that_fails_under_load_is_told_without_waiting_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_cell._Cell, "_warm_up", no_warm_up)

    async def fails(batch: list[Any]) -> None:
        raise ConnectionError("no route")

    setting = Setting(1_000.0, 10.0, None, seconds=0.1)
    with pytest.raises(CellError, match="raised ConnectionError: no route"):
        measure(setting, seed=SEED, sink=fails)


def test_an_entry_that_cannot_be_made_is_told_in_one_line() -> None:
    def entries() -> Iterator[Any]:
        raise KeyError("path")
        yield

    setting = Setting(1_000.0, 10.0, 0.0, seconds=0.1)
    with pytest.raises(CellError, match="making an entry raised KeyError: 'path'"):
        measure(setting, seed=SEED, entries=entries)


@pytest.mark.parametrize(
    ("values", "percent", "found"),
    [([], 50, 0.0), ([3.0], 99, 3.0), ([1.0, 2.0], 50, 1.0), ([1.0, 2.0], 51, 2.0)],
)
def test_percentile_is_a_value_that_was_seen(
    values: list[float], percent: float, found: float
) -> None:
    assert percentile(values, percent) == found


def test_memory_is_measured_by_psutil_where_the_system_does_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("psutil")
    told = resident()
    monkeypatch.setattr(_probes, "_statm", lambda: None)
    assert resident() == pytest.approx(told, rel=0.2)
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(
        ImportError, match=r"psutil: pip install 'ringdispatch\[tune\]'"
    ):
        resident()


# ---- the load


def test_a_schedule_is_drawn_from_its_seed() -> None:
    times = schedule(1_000.0, 2.0, SEED)
    assert len(times) == 2_000
    assert list(times) == sorted(times)
    assert times[0] > 0
    assert times[-1] < 2.0
    assert times == schedule(1_000.0, 2.0, SEED)
    assert times != schedule(1_000.0, 2.0, SEED + 1)
    # Of a Poisson process, the variance of what falls in equal times is its mean.
    counts = [0] * 100
    for at in times:
        counts[int(at * 50)] += 1
    spread = sum((count - 20) ** 2 for count in counts) / 100 / 20
    assert 0.6 < spread < 1.5


def test_entries_arrive_when_they_are_due_not_when_they_are_enqueued() -> None:
    load = Load(1_000.0, 0.1, SEED)
    due = schedule(1_000.0, 0.1, SEED)
    taken: list[int] = []

    def put(entry: int) -> bool:
        taken.append(entry)
        return True

    asyncio.run(load.offer(put, iter(range(1_000))))
    # On a busy machine the producer may fall behind, and gives up then.
    assert taken == [*range(load.offered)]
    assert load.arrivals() == due[: load.offered]
    assert load.accepted == load.offered > 0


def test_a_producer_that_cannot_keep_up_stops_when_its_time_is_over() -> None:
    load = Load(100_000.0, 0.05, SEED)

    def put(entry: int) -> None:
        time.sleep(0.001)

    asyncio.run(load.offer(put, iter(range(5_000))))
    assert 0 < load.offered < 5_000
    assert load.elapsed >= 0.05
    assert not load.held(mean_age=1.0)


def test_a_load_of_no_whole_number_of_entries_is_held_at_its_rate() -> None:
    load = Load(34.9, 0.1, SEED)
    due = schedule(34.9, 0.1, SEED)
    assert len(due) == 3
    load.offered, load.elapsed = 3, due[-1]
    assert load.held(mean_age=0.01)
    assert load.reached == 34.9
    load.offered = 2
    assert not load.held(mean_age=0.01)


def test_arrivals_are_those_of_accepted_entries() -> None:
    load = Load(None, 0.01, SEED)
    asyncio.run(load.offer(lambda entry: entry % 500 < 3, iter(range(10**9))))
    chunks = load.offered // 500
    assert load.accepted == 3 * chunks
    assert len(load.arrivals()) == 3 * chunks
    assert len(set(load.arrivals())) == chunks


# ---- the user's own


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
        ("users_own:fails", "raised ConnectionError: no route to host in one of its"),
        ("users_own:dies", "the measuring process died: exit status 3"),
    ],
)
def test_a_function_that_fails_is_told_in_one_line(
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
    # The end of the file: whoever could write to it is gone.
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
        ("users_own:generates", "users_own:generates: .*: must not yield"),
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


def test_the_machine_is_described() -> None:
    said = describe(seed=SEED, mode="test", peers=("no-such-package",))
    assert said["seed"] == SEED
    assert said["mode"] == "test"
    assert said["cores"] >= 1
    assert said["packages"]["no-such-package"] == "not installed"
    assert said["packages"]["ringdispatch"] != "not installed"
    assert said["date"].endswith("+00:00")
    assert all(said.values())
    json.dumps(said)


def test_a_machine_that_does_not_tell_is_described_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("psutil")
    told = describe(seed=SEED, mode="test")
    lines = _machine._lines
    monkeypatch.setattr(_machine, "_lines", lambda path: lines(f"/nowhere/{path}"))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    seen = describe(seed=SEED, mode="test")
    assert seen["cpu"]
    assert seen["cores"] == os.cpu_count()
    assert seen["memory"] == told["memory"]
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert describe(seed=SEED, mode="test")["memory"] == "unknown"


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_the_commit_is_that_of_the_checkout_the_code_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit() -> str:
        found: str = describe(seed=SEED, mode="test")["commit"]
        return found

    def git(*words: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e")
        return subprocess.check_output(
            ["git", *identity, *words], cwd=tmp_path, text=True
        ).strip()

    code = tmp_path / "code.py"
    code.write_text("1\n")
    monkeypatch.setattr(_machine, "__file__", str(code))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "not a checkout"
    git("init", "--quiet")
    assert commit() == "not a checkout"  # but beside one
    git("add", "code.py")
    git("commit", "--quiet", "--message", "first")
    assert commit() == git("rev-parse", "--short=12", "HEAD")
    code.write_text("2\n")
    assert commit() == git("rev-parse", "--short=12", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert commit() == "not a checkout"
