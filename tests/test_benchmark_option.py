"""pytest --benchmark runs the benchmarks and nothing else; what a run of them holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import plan
from figures import Table
from ringdispatch._tune._results import Results
from suite import Suite

ROOT = Path(__file__).parent.parent
A_TEST = "tests/test_guarantees.py"
needs_plugin = pytest.mark.skipif(
    find_spec("pytest_benchmark") is None, reason="pytest-benchmark is not installed"
)

WITHOUT_PLUGIN = """
import importlib.util, sys
import pytest
real = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if "benchmark" in name else real(name)
sys.exit(pytest.main(["-p", "no:benchmark", *sys.argv[1:]]))
"""


def run(*arguments: str, without_plugin: bool = False) -> tuple[int, str]:
    """The exit status and the output of a pytest run from the root."""
    how = ["-c", WITHOUT_PLUGIN] if without_plugin else ["-m", "pytest"]
    # Else it would take itself for a worker of the suite's own run.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    ended = subprocess.run(
        [sys.executable, *how, "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env=outside,
        check=False,
        capture_output=True,
        text=True,
    )
    return ended.returncode, ended.stdout + ended.stderr


def files(output: str) -> list[str]:
    """The files of the tests that were collected, in order."""
    found = [line.partition("::")[0] for line in output.splitlines() if "::" in line]
    return list(dict.fromkeys(found))


def test_without_the_option_no_benchmark_is_collected() -> None:
    named = ("benchmarks", "benchmarks/test_prices.py", A_TEST)
    status, output = run("--collect-only", "-q", *named, without_plugin=True)
    assert status == 0, output
    assert files(output) == [A_TEST]


@needs_plugin
@pytest.mark.parametrize("option", ["--benchmark", "--benchmark-only"])
def test_with_it_only_benchmarks_are_collected_in_their_order(option: str) -> None:
    status, output = run("--collect-only", "-q", option)
    assert status == 0, output
    names = ("batches", "cells", "end_to_end", "memory", "prices")
    assert files(output) == [f"benchmarks/test_{name}.py" for name in names]


def test_without_the_plugin_it_says_what_to_install() -> None:
    status, output = run("--benchmark", without_plugin=True)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "pytest-benchmark not installed: pip install -e . --group bench" in output


@needs_plugin
def test_quick_and_full_are_either_or() -> None:
    status, output = run("--benchmark-quick", "--benchmark-full")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "--benchmark-quick, --benchmark-full: choose one" in output


@needs_plugin
def test_processes_beside_each_other_are_refused() -> None:
    status, output = run("--benchmark", "-n", "2")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "--benchmark: leave out -n" in output


@needs_plugin
@pytest.mark.timeout(180)
def test_a_run_saves_its_figures_its_report_and_what_the_plugin_saves(
    tmp_path: Path,
) -> None:
    chosen = "test_price and not threads and not full and (deque or empty or Objects)"
    options = ("--benchmark-quick", "-k", chosen, f"--benchmark-storage={tmp_path}")
    saving = ("--benchmark-save=one", f"--benchmark-json={tmp_path}/plugin.json")
    status, output = run(*options, *saving)
    assert status == 0, output
    (figures,) = tmp_path.glob("suite-*.json")
    found = Results.read(figures)
    assert [price.name for price in found.prices] == [
        "deque.append",
        "ringdispatch, Objects",
    ]
    assert found.prices[0].ratio == 1.0
    assert found.machine["mode"] == "quick"
    assert figures.with_suffix(".html").exists()
    assert str(figures) in output
    assert "3/3" in output
    seen = json.loads((tmp_path / "plugin.json").read_text())
    extra = [one["extra_info"] for one in seen["benchmarks"]]
    assert extra[-1]["ratio to deque.append"] == found.prices[1].ratio
    assert [*tmp_path.glob("*/0001_one.json")]


def test_the_default_run_has_room_in_five_minutes() -> None:
    cells = plan.cells("default")
    assert sum(cell.seconds + plan.CELL_OVERHEAD for cell in cells) < 200
    assert all(cell.seconds >= 3 for cell in cells)


def test_every_cell_lasts_long_enough_for_percentiles() -> None:
    for cell in plan.cells("default") + plan.cells("full"):
        if cell.rate is not None:
            cycle = max(cell.delay + 1000 / cell.rate, cell.sink or 0.0)
            assert 1000 * cell.seconds / cycle >= 30, cell


def test_no_setting_is_measured_twice() -> None:
    for mode in plan.MODES:
        assert len(set(plan.cells(mode))) == len(plan.cells(mode))


def test_a_price_is_without_the_empty_loop() -> None:
    suite = Suite("quick")
    suite.samples["empty loop", 1, False] = [5.0, 5.0, 6.0]
    suite.samples["deque.append", 1, False] = [15.0, 25.0, 26.0]
    suite.samples["some.put", 1, False] = [40.0, 45.0, 105.0]
    price = suite.price("some.put", 1, False)
    assert (price.ns_min, price.ns_median, price.ns_p99) == (35.0, 40.0, 100.0)
    assert price.ratio == 2.0
    assert not suite.has_base("some.put", 4)


def test_a_table_is_the_same_in_markdown_and_as_text() -> None:
    table = Table(["call", "ns"], [["`put`", "1.5"], ["append", "12"]])
    assert table.markdown() == [
        "| call | ns |",
        "| --- | ---: |",
        "| `put` | 1.5 |",
        "| append | 12 |",
        "",
    ]
    assert table.text() == ["call     ns", "put     1.5", "append   12", ""]
