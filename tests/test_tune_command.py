"""The tuner's command: what it prints and writes, and every bad input in one line."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich", reason="the extra [tune] is not installed")

from rich.console import Console

from ringdispatch import __main__
from ringdispatch._tune import _command
from ringdispatch._tune._model import predict, with_prediction
from ringdispatch._tune._recording import Calls
from ringdispatch._tune._results import Cell, Measured, Results, Setting
from subprocesses import run_snippet

SERVICE = """\
import asyncio

number = 7

async def send(batch):
    await asyncio.sleep(0.001)

async def fails(batch):
    raise ConnectionError("refused:\\nno route")

async def quits(batch):
    raise SystemExit(0)

def entry():
    return {"status": 200}

def no_entry():
    raise KeyError("x")

def exits():
    raise SystemExit(0)

def ends():
    raise StopIteration

def generates():
    yield 1

async def awaits():
    return 1
"""


@pytest.fixture(autouse=True)
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a user's service, and no module of it imported."""
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "dies.py").write_text("import os; os._exit(3)\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "none.json").write_text("[]")
    (tmp_path / "words.json").write_text("hello {")
    (tmp_path / "long.json").write_text(json.dumps(["x" * 100_000]))
    (tmp_path / "samples.json").write_text('[{"a": 1}, {"a": 2, "b": "text"}]')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("service", "broken", "exits"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def as_predicted(setting: Setting, **order: Any) -> Measured:
    """What stands in for a measurement: the model, a little off."""
    order["on_progress"](0.5)
    assert setting.rate is not None
    said = predict(setting, calls=Calls.constant(5), entry_bytes=300)
    return Measured(
        rate=setting.rate,
        held=True,
        batches=40,
        entries_per_batch=1.02 * said.entries_per_batch,
        calls_per_second=0.98 * said.calls_per_second,
        age_p50=said.age_p50,
        age_p99=said.age_p99,
        age_max=said.age_p99,
        stall_max=1.0,
        request_p99=2.0,
        cpu_seconds_per_million=1.0,
        sink_mean=5.0,
        peak_pending=round(said.peak_pending),
        rss_growth=round(said.memory),
        dropped=0,
    )


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Setting, dict[str, Any]]]:
    """Nothing is measured; what was to be measured."""
    seen: list[tuple[Setting, dict[str, Any]]] = []

    def measure(setting: Setting, **order: Any) -> Measured:
        seen.append((setting, order))
        return as_predicted(setting, **order)

    monkeypatch.setattr(_command, "measure_apart", measure)
    return seen


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = _command.main(["tune", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_it_measures_recommends_and_writes(
    capsys: pytest.CaptureFixture[str], orders: list[tuple[Setting, dict[str, Any]]]
) -> None:
    status, out, err = run(
        capsys,
        *("service:send", "--rate", "1000", "--rate", "5000", "--delays", "10,100"),
        *("--entry", "samples.json", "--capacity", "9000", "--seconds", "2"),
        *("--budget-age", "60", "--seed", "7"),
    )
    assert (status, err) == (0, "")
    assert "run 1: 10 ms at 5,000/s: how long large batches take" in out
    assert "run 2: 10 ms with 4 in flight at 5,000/s: how many calls are slow" in out
    assert "run 7: 10 ms at 1,000/s: as good as hoped, run 3" in out
    assert out.count("replay") == 3
    words = " ".join(out.split())
    assert "Set ms_delay=10, capacity=1024" in words
    assert "--delays 100: not tried, as an entry that waits so long" in words
    assert "\x1b" not in out
    settings = [setting for setting, _ in orders]
    assert {one.capacity for one in settings} == {9000}
    assert min(one.seconds for one in settings) == 2
    searched = [one.rate for one in settings if one.max_in_flight == 1]
    assert sorted(searched) == [1000] * 3 + [5000] * 3  # type: ignore[type-var]
    assert len({order["seed"] for _, order in orders}) == len(orders) == 7
    assert {order["target"] for _, order in orders} == {"service:send"}
    results = Results.read(Path(".benchmarks/tune.json"))
    assert len(results.cells) == 3
    assert [one["setting"] for one in results.runs] == [
        *("10 ms", "10 ms with 4 in flight"),
        *["10 ms"] * 5,
    ]
    assert {one.setting.rate for one in results.expected} == {1000, 5000}
    assert {one.setting.max_in_flight for one in results.expected} == {1}
    drawn = [one.setting.delay for one in results.expected]
    assert (min(drawn), max(drawn)) == (2, 200)
    assert results.runs[1]["why"] == "how many calls are slow"
    assert all(one["calls/s"] > 50 for one in results.runs)
    assert all(cell.predicted for cell in results.cells)
    assert results.recommendation is not None
    assert results.recommendation["delay"] == 10
    assert results.machine["dispatch_function"] == "service:send"
    assert results.machine["entries"] == "samples.json"
    assert results.machine["layout"] == "objects"
    assert results.machine["capacity"] == 9000
    assert results.machine["budgets"] == {"age": 60}
    page = Path(".benchmarks/tune.html").read_text()
    assert "<html" in page
    assert "service:send" in page
    assert "samples.json" in page
    assert "age 60.0" in page
    assert "The runs, in their order" in page
    assert "as good as hoped, run 3" in page


def test_where_the_time_is_up_it_says_so(
    capsys: pytest.CaptureFixture[str],
    orders: list[tuple[Setting, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = property(lambda bars: 10.0 * len(orders))
    monkeypatch.setattr(_command._Bars, "passed", passed)
    words = "service:send --seconds 1 --budget-age 60 --minutes"
    status, out, err = run(capsys, *words.split(), "0.5")
    assert (status, err) == (0, "")
    assert len(orders) == 3
    said = " ".join(out.split())
    assert "--minutes 0.5: the time was up before the search had ended" in said
    orders.clear()
    assert "the time was up" not in run(capsys, *words.split(), "5")[1]


@pytest.mark.parametrize(("width", "spared"), [(100, 0), (80, 2), (62, 4)])
def test_a_narrow_terminal_crops_no_figure(width: int, spared: int) -> None:
    setting = Setting(12_345.0, 100.0, None)
    measured = as_predicted(setting, on_progress=lambda share: None)
    cells = [with_prediction(setting, measured, 300)]
    console = Console(width=width, file=io.StringIO(), force_terminal=True)
    table = _command._fitting_table(cells, console)
    console.print(table)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert len(table.columns) == len(_command.HEADS) - spared
    assert "…" not in shown
    assert "12,345" in shown


def test_a_cell_without_a_prediction_has_one_row() -> None:
    setting = Setting(1_000.0, 100.0, None)
    measured = as_predicted(setting, on_progress=lambda share: None)
    predicted = with_prediction(setting, measured, 300)
    rows = [
        _command._table([one]).row_count for one in (predicted, Cell(setting, measured))
    ]
    assert rows == [2, 1]


def test_a_terminal_shows_bars_instead_of_a_line_for_each_run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    orders: list[tuple[Setting, dict[str, Any]]],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes it for a terminal
    monkeypatch.setenv("COLUMNS", "90")
    status, out, err = run(capsys, "--dry", "5", "--delays", "10")
    assert (status, err) == (0, "")
    assert len(orders) == 3
    assert "in all, at most" in out
    assert "10 ms at 1,000/s: the replay says" in out
    assert "run 1" not in out


def test_budgets_that_do_not_contradict_are_taken(
    capsys: pytest.CaptureFixture[str], orders: list[tuple[Setting, dict[str, Any]]]
) -> None:
    words = "--dry 5 --delays 10 --budget-age 300 --budget-calls 500"
    status, _, err = run(capsys, *words.split())
    assert (status, err) == (0, "")
    machine = Results.read(Path(".benchmarks/tune.json")).machine
    assert machine["budgets"] == {"age": 300, "calls": 500}


def test_dry_run_needs_no_function_and_writes_to_the_given_place(
    capsys: pytest.CaptureFixture[str], orders: list[tuple[Setting, dict[str, Any]]]
) -> None:
    status, _, err = run(
        capsys,
        *("--dry", "5", "--delays", "20", "--layout", "bytes"),
        *("--report", "here/page.html", "--json", "there.json"),
    )
    assert (status, err) == (0, "")
    assert {(s.sink, s.layout, order["target"]) for s, order in orders} == {
        (5.0, "bytes", None)
    }
    assert Path("here/page.html").exists()
    seen = json.loads(Path("there.json").read_text())
    assert seen["kind"] == "tune"
    assert seen["machine"]["dispatch_function"] == "none: a stand-in that takes 5 ms"
    assert seen["machine"]["budgets"] == "none"


def test_a_rate_that_is_not_held_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(setting: Setting, **order: Any) -> Measured:
        return replace(as_predicted(setting, **order), held=False, rate=54_321.0)

    monkeypatch.setattr(_command, "measure_apart", measure)
    status, out, err = run(capsys, "--dry", "0", "--rate", "80000", "--delays", "10")
    assert status == 2
    assert err.count("\n") == 1
    assert "--rate 80000: the producer did not hold it" in err
    assert "it reached 54,321 entries/s" in err
    assert "try --rate 40000" in err
    assert "Set ms_delay" not in out
    assert not Path(".benchmarks/tune.json").exists()


def test_a_producer_that_was_disturbed_once_gets_another_chance(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def measure(setting: Setting, **order: Any) -> Measured:
        seeds.append(order["seed"])
        return replace(as_predicted(setting, **order), held=len(seeds) != 1)

    monkeypatch.setattr(_command, "measure_apart", measure)
    assert run(capsys, "--dry", "0", "--delays", "10")[0] == 0
    assert len(set(seeds)) == 4


WRONG: list[tuple[str, str]] = [
    ("", "no dispatch function: name one as package.module:function"),
    ("service:send --delays 10,x", "'10,x': must be numbers of milliseconds > 0"),
    ("service:send --delays nan", "must be numbers of milliseconds > 0"),
    ("service:send --delays=-5", "must be numbers of milliseconds > 0"),
    ("service:send --rate 0", "--rate: '0': must be a number of entries a second > 0"),
    ("service:send --rate many", "--rate: 'many': must be a number"),
    ("service:send --seconds inf", "--seconds: 'inf': must be a number of seconds"),
    (
        "service:send --rate 1.5",
        "--rate 1.5 and --seconds 5 make fewer than 30 entries",
    ),
    ("service:send --rate 1.5", "too few to measure: give it --seconds 20"),
    ("service:send --rate 1 --rate 9e3 --seconds .3", "give it --seconds 30"),
    ("service:send --layout rows", "--layout: invalid choice: 'rows'"),
    ("service:send --capacity 0", "--capacity: '0': must be an integer from 1"),
    ("service:send --capacity 1e3", "--capacity: '1e3': must be an integer"),
    ("service:send --capacity 99999999999999", "must be an integer from 1 to"),
    ("service:send --dry=-1", "--dry: '-1': must be a number of milliseconds >= 0"),
    ("service:send --dry x", "--dry: 'x': must be a number of milliseconds >= 0"),
    ("service:send --seed x", "--seed: invalid int value: 'x'"),
    ("service:send --budget-age=-5", "--budget-age: '-5': must be a number"),
    ("service:send --budget-memory 0", "--budget-memory: '0': must be a number"),
    ("service:send --budget-calls x", "--budget-calls: 'x': must be a number"),
    ("service:send --budget-request 0", "--budget-request: '0': must be a number"),
    ("service:send --budget-request inf", "must be a number of milliseconds > 0"),
    ("service:send --minutes 0", "--minutes: '0': must be a number of minutes > 0"),
    (
        "service:send --minutes .1",
        "--minutes 0.1: is too short to learn how long calls",
    ),
    (
        "service:send --minutes .1",
        "give it --minutes 0.3, or shorter runs by --seconds",
    ),
    ("service:send --minutes .5 --seconds 30", "give it --minutes 1."),
    (
        "service:send --budget-age 10 --delays 10,100",
        "--budget-age 10 and --delays contradict: an entry may wait the whole delay",
    ),
    (
        "service:send --budget-age 10.3 --delays 10",
        "try --delays 5.15, or leave it out",
    ),
    (
        "service:send --budget-age 5 --delays 10,100",
        "--budget-age 5 and --delays contradict: an entry may wait the whole delay",
    ),
    (
        "service:send --budget-age 20 --budget-calls 5 --rate 10000",
        "--budget-age 20 and --budget-calls 5 contradict",
    ),
    (
        "service:send --budget-memory 0.2",
        "--budget-memory 0.2 and --capacity 65536 contradict",
    ),
    (
        "service:send --budget-memory 0.6 --capacity 65537",
        "a ring of objects takes 1 MiB by itself",
    ),
    (
        "service:send --budget-memory 16 --layout bytes",
        "a ring of bytes takes 16.2 MiB by itself",
    ),
    (
        "service:send --rate 1e9 --layout bytes --entry long.json --capacity 100000000",
        "--capacity 100000000: a ring of bytes takes 19,0",
    ),
    ("service:send --entry missing.json", "--entry missing.json: can't be read"),
    ("service:send --entry empty.json", "--entry empty.json: has no samples"),
    ("service:send --entry none.json", "--entry none.json: has no samples"),
    ("service:send --entry words.json", "--entry words.json: is neither JSON"),
    ("service:send --entry .", "--entry .: can't be read"),
    ("service:send --entry service:nothing", "service has no 'nothing'"),
    ("service:send --entry service:no_entry", "making an entry raised KeyError: 'x'"),
    ("service:send --entry deep.json", "--entry deep.json: is neither JSON"),
    ("service:send --entry service:exits", "making an entry raised SystemExit: 0"),
    ("service:send --entry exits:entry", "importing exits raised SystemExit: 0"),
    ("service:send --entry service:ends", "generator raised StopIteration"),
    ("service:send --entry service:generates", "must be a plain function"),
    ("service:send --entry service:awaits", "must be a plain function"),
    ("service:send --layout records --entry samples.json", "it takes rows of numbers"),
    (
        "service:send --report same.x --json ./same.x",
        "--report same.x and --json same.x: must be two files",
    ),
    ("service:send --report .", ".: can't be written"),
    ("service:send --json service.py/x.json", "service.py/x.json: can't be written"),
    ("service:send --frobnicate", "unrecognized arguments: --frobnicate"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_bad_input_is_one_line_and_status_2(
    arguments: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    orders: list[tuple[Setting, dict[str, Any]]],
) -> None:
    status, out, err = run(capsys, *arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith("ringdispatch tune: ")
    assert err.count("\n") == 1
    assert words in err
    assert not orders


def test_a_memory_budget_is_held_against_what_the_layout_sets_aside(
    capsys: pytest.CaptureFixture[str], orders: list[tuple[Setting, dict[str, Any]]]
) -> None:
    pytest.importorskip("numpy")
    Path("rows.json").write_text("[[1]]")
    words = "--dry 1 --delays 10 --layout records --entry rows.json --budget-memory"
    status, _, err = run(capsys, *words.split(), "0.9")
    assert status == 2
    assert "a ring of records takes 1 MiB by itself" in err
    status, _, err = run(capsys, *words.split(), "50")
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            "no_such_service:send",
            r"importing no_such_service raised ModuleNotFound.*; run from the folder",
        ),
        (
            "broken:send",
            r"No module named 'no_such_mod.*; check it with python -c 'imp",
        ),
        ("exits:send", "importing exits raised SystemExit: 0; put what it runs under"),
        ("dies:send", "importing dies ended the process: exit status 3; check it"),
        ("service:sent", "service has no 'sent'; it has send"),
        ("service:missing", "service has no 'missing'; it has send, fails, quits"),
        ("service:number", "is 7, which is not callable; name a function of service"),
        ("service:generates", "must take "),
        ("empty:send", "empty has no 'send'; define it there"),
        ("service", "must be given as package.module:name"),
    ],
)
def test_a_dispatch_function_that_is_not_there_is_an_error_before_all_else(
    target: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    orders: list[tuple[Setting, dict[str, Any]]],
) -> None:
    status, out, err = run(capsys, target)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(words, err)
    assert target in err
    assert not orders


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("quits", "exit status 0: SystemExit: 0; check that the dispatch function"),
        ("fails", "raised ConnectionError: refused: no route in every call"),
    ],
)
def test_a_dispatch_function_that_always_fails_is_one_line_and_status_2(
    target: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(
        capsys, f"service:{target}", "--seconds", "0.1", "--delays", "10"
    )
    assert status == 2
    assert err.count("\n") == 1
    assert words in err
    assert not Path(".benchmarks/tune.json").exists()


def test_calls_that_fail_are_in_table_page_and_advice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(setting: Setting, **order: Any) -> Measured:
        seen = as_predicted(setting, **order)
        failure = "ConnectionError: reset by <peer>"
        return replace(seen, failed=2, lost=140, failure=failure)

    monkeypatch.setattr(_command, "measure_apart", measure)
    status, out, err = run(capsys, "--dry", "0", "--delays", "10,100")
    assert (status, err) == (0, "")
    assert out.count("420 failed") == 1  # three runs of the only setting
    words = " ".join(out.split())
    assert "5.0% of calls failed (ConnectionError: reset by <peer>)" in words
    assert "420 entries lost; a retry belongs into the dispatch function" in words
    page = Path(".benchmarks/tune.html").read_text()
    assert "420 entries lost" in page
    assert ">lost by it<" in page
    assert ">420<" in page


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("option", ["--json", "--report"])
def test_a_full_disk_is_named(
    option: str,
    capsys: pytest.CaptureFixture[str],
    orders: list[tuple[Setting, dict[str, Any]]],
) -> None:
    status, _, err = run(capsys, "--dry", "5", option, "/dev/full")
    assert status == 2
    assert "/dev/full: can't be written: No space left on device" in err
    assert err.count("\n") == 1
    assert orders


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        ("[123456789012345678901234567890]", ""),
        (r'["\ud800"]', ""),
        ("[NaN]", ""),
        ("[[1, 99999999999999999999]]", ""),
        ("[[1, 99999999999999999999]]", "--layout records"),
        ("[123456789012345678901234567890]", "--layout bytes"),
    ],
)
def test_samples_that_not_all_can_hold_are_measured_or_refused(
    samples: str, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "records" in options:
        pytest.importorskip("numpy")
    Path("odd.json").write_text(samples)
    arguments = f"--dry 1 --entry odd.json --seconds .1 --delays 10 {options}"
    status, _, err = run(capsys, *arguments.split())
    if options and status:
        assert status == 2
        assert "raised" in err
        assert err.count("\n") == 1
    else:
        assert (status, err) == (0, "")


def test_it_runs_from_the_command_line() -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "ringdispatch", "tune", "service:send"),
            *("--rate", "300", "--entry", "service:entry", "--seconds", "0.1"),
            *("--delays", "10", "--budget-age", "100000"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Set ms_delay=10" in ended.stdout


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_what_nohup_has_ignored_stays_ignored() -> None:
    words = ("tune", "--dry", "0", "--rate", "300", "--seconds", "0.1", "--delays", "9")
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "words = ['-m', 'ringdispatch', *sys.argv[1:]]; "
        "os.execv(sys.executable, [sys.executable, *words])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", ignoring, *words], stdout=subprocess.PIPE, text=True
    ) as tuner:
        assert tuner.stdout is not None
        assert tuner.stdout.readline().startswith("run 1: 9 ms at 300/s: the replay")
        tuner.send_signal(signal.SIGHUP)
        assert "Set ms_delay=9" in tuner.stdout.read()
        assert tuner.wait(60) == 0


def test_help_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        _command.main(["tune", "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    for option in (
        "--rate",
        "--entry",
        "--delays",
        "--minutes",
        "--budget-age",
        "--budget-request",
        "--dry",
        "--report",
    ):
        assert option in out


def test_an_interruption_is_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_command, "measure_apart", interrupt)
    status, _, err = run(capsys, "--dry", "5")
    assert (status, err.count("\n")) == (130, 1)


@pytest.mark.parametrize("name", ["jinja2", "rich"])
def test_without_its_packages_it_says_what_to_install(name: str) -> None:
    outcome = run_snippet(
        f"""
        sys.modules["{name}"] = None
        from ringdispatch.__main__ import main
        sys.exit(main())
        """,
        code=2,
        stderr=rf"ringdispatch: the tuner needs {name}: pip install '.*\[tune\]'",
    )
    assert outcome.lines == []


def test_other_missing_modules_are_not_taken_for_rich(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "ringdispatch._tune._command")
    monkeypatch.setitem(sys.modules, "ringdispatch._tune._recommend", None)
    with pytest.raises(ModuleNotFoundError, match="_recommend"):
        __main__.main()
