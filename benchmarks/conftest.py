"""Shows how far the suite is, and at its end what it found."""

import gc
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import figures
import plan
from ringdispatch._tune import _report
from suite import Suite

SUITE = pytest.StashKey[Suite]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "duration(seconds): about how long the benchmark takes"
    )
    # What other packages warn of is not for a benchmark to fail by.
    config.addinivalue_line("filterwarnings", "default")
    config.stash[SUITE] = Suite(plan.mode(config))
    config.pluginmanager.register(Progress(config))


@pytest.fixture
def suite(request: pytest.FixtureRequest) -> Suite:
    """What is gathered."""
    gathered = request.config.stash[SUITE]
    gathered.said = ""
    return gathered


@pytest.fixture(autouse=True, scope="session")
def _frozen() -> Iterator[None]:
    """Keep the collector from walking over what pytest made, at the peers' expense."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Progress:
    """A line for each benchmark: how many, how long, how long still, what was found."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.began = time.monotonic()
        self.done = 0
        self.left: dict[str, float] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            marker = item.get_closest_marker("duration")
            self.left[item.nodeid] = marker.args[0] if marker else 0.0
        self.total = len(self.left)
        self.reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        self.reporter.showfspath = False
        self.reporter._show_progress_info = False
        self.began = time.monotonic()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """No dots."""
        if report.when != "call" or not report.passed:
            return None
        return ("passed", "", "")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        self.left.pop(report.nodeid, None)
        self.done += 1
        name = report.nodeid.partition("[")[2].removesuffix("]")
        found = self.config.stash[SUITE].said
        if report.skipped:
            found = "not installed"
        elif report.failed:
            found = "FAILED"
        self.reporter.ensure_newline()
        self.reporter.write_line(
            f"{self.done:>4}/{self.total}  {clock(time.monotonic() - self.began)}, "
            f"about {clock(sum(self.left.values()))} left  {name}: {found}"
        )


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the tables, write the results and the report, and say where they are."""
    results = config.stash[SUITE].results()
    if results is None:
        return
    terminalreporter.section("what was found")
    for line in figures.summary(results):
        terminalreporter.write_line(line)
    # Where pytest-benchmark keeps what it saves: .benchmarks, if nothing else is said.
    storage = config.getoption("benchmark_storage")
    folder = Path(storage.removeprefix("file://")).resolve()
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    json, page = (folder / f"suite-{moment}.{ending}" for ending in ("json", "html"))
    results.write(json)
    _report.write(results, page)
    terminalreporter.write_line(f"figures: {json}")
    terminalreporter.write_line(f"report:  {page}")
