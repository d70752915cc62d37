"""The tuner's command: what it prints and writes."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich", reason="the extra [tune] is not installed")

from rich.console import Console

from ringdispatch._tune import _command
from ringdispatch._tune._model import with_prediction
from ringdispatch._tune._results import Cell, Measured, Results, Setting
from tuning import Orders, as_predicted, measure_nothing, run, write_service


@pytest.fixture(autouse=True)
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_service(tmp_path, monkeypatch)


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> Orders:
    return measure_nothing(monkeypatch)


def test_it_measures_recommends_and_writes(
    capsys: pytest.CaptureFixture[str], orders: Orders
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
    orders: Orders,
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
    orders: Orders,
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
    capsys: pytest.CaptureFixture[str], orders: Orders
) -> None:
    words = "--dry 5 --delays 10 --budget-age 300 --budget-calls 500"
    status, _, err = run(capsys, *words.split())
    assert (status, err) == (0, "")
    machine = Results.read(Path(".benchmarks/tune.json")).machine
    assert machine["budgets"] == {"age": 300, "calls": 500}


def test_dry_run_needs_no_function_and_writes_to_the_given_place(
    capsys: pytest.CaptureFixture[str], orders: Orders
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
