"""The --benchmark options, which pytest reads only from the root.

With one of them pytest runs benchmarks/ and nothing else; without, no benchmark.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
MODES = {
    "--benchmark": "run the benchmarks, in at most five minutes, and nothing else",
    "--benchmark-quick": "the same in about a minute, with shorter runs and fewer",
    "--benchmark-full": "the same with the full grid, in an hour and a half",
}
PLUGINS = {
    "pytest_benchmark": "pytest-benchmark",
    "pytest_timeout": "pytest-timeout",
    "numpy": "numpy",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ringdispatch")
    for option, words in MODES.items():
        group.addoption(option, action="store_true", help=words)


def wanted(config: pytest.Config) -> bool:
    """Whether benchmarks are to run; pytest-benchmark's own option asks for it too."""
    names = ("benchmark", "benchmark_quick", "benchmark_full", "benchmark_only")
    return any(config.getoption(name, False) for name in names)


def pytest_configure(config: pytest.Config) -> None:
    if not wanted(config):
        return
    missing = [name for module, name in PLUGINS.items() if find_spec(module) is None]
    if missing:
        raise pytest.UsageError(
            f"--benchmark: {', '.join(missing)} not installed: "
            "pip install -e . --group bench, or make bench"
        )
    if config.getoption("numprocesses", None):
        raise pytest.UsageError("--benchmark: leave out -n, measurements take turns")
    if config.getoption("benchmark_quick") and config.getoption("benchmark_full"):
        raise pytest.UsageError("--benchmark-quick, --benchmark-full: choose one")
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = [str(BENCHMARKS)]
    config.option.randomly_reorganize = False  # benchmarks have an order
    if not config.getoption("benchmark_compare"):
        # The suite's own tables say it shorter than pytest-benchmark's.
        config.option.benchmark_quiet = True


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    inside = collection_path == BENCHMARKS or BENCHMARKS in collection_path.parents
    around = collection_path in BENCHMARKS.parents
    return True if inside != wanted(config) and not around else None


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out what was named on the command line, against the option."""
    run = wanted(config)
    chosen = [item for item in items if (BENCHMARKS in item.path.parents) == run]
    if len(chosen) < len(items):
        left = [item for item in items if item not in chosen]
        config.hook.pytest_deselected(items=left)
        items[:] = chosen
