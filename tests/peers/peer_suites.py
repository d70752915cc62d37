"""Runs peers' own tests against adapters on a dispatcher.

    python tests/peers/peer_suites.py [opentelemetry] [sentry] [cpython]

The tests of OpenTelemetry and Sentry come from the source distributions of the
releases that are installed, by pip; CPython's from this interpreter's standard
library. Many builds come without those: then a last line says so, and the exit status
is that of the other suites. A failure must be in differences.toml, which says why ours
differs by choice, and each test that fails there must fail: anything else ends the run
with 1. Those tests sleep for short times, so one that fails unexpectedly runs once
more, alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS = 600


@dataclass(frozen=True)
class Suite:
    """Tests of a peer: from a package's source distribution, or a module's."""

    adapter: str
    package: str | None
    tests: tuple[str, ...]
    only: str = ""  # as pytest's -k has it


SUITES = {
    "opentelemetry": Suite(
        "opentelemetry_adapter",
        "opentelemetry-sdk",
        (
            "tests/shared_internal/test_batch_processor.py",
            "tests/logs/test_export.py",
            "tests/trace/export/test_export.py",
        ),
    ),
    "sentry": Suite(
        "sentry_adapter",
        "sentry-sdk",
        ("tests/test_logs.py", "tests/test_metrics.py"),
    ),
    "cpython": Suite("queue_adapter", None, ("test.test_queue",), "CSimpleQueueTest"),
}


def has_cpython_tests() -> bool:
    """Whether the standard library came with its tests, which many builds leave out."""
    find = importlib.util.find_spec
    return find("test") is not None and find("test.test_queue") is not None


def fetch(package: str, folder: Path) -> Path:
    """Unpack the source distribution of the release that is installed.

    Raises:
        subprocess.CalledProcessError: pip can't have it.
    """
    wanted = f"{package}=={version(package)}"
    # `--no-binary :all:` would have pip compile what the package is built with, too.
    pip = ("pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
    options = ("--no-binary", package, "--dest", str(folder))
    subprocess.run([sys.executable, "-m", *pip, *options, wanted], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (unpacked,) = (each for each in folder.iterdir() if each.is_dir())
    return unpacked


@dataclass(frozen=True)
class Found:
    """How tests ended, which were left out, and how many dispatchers they made."""

    ended: dict[str, str]
    left_out: list[str]
    dispatchers: int

    def unlike(
        self, fails: Iterable[str], not_run: Iterable[str]
    ) -> tuple[list[str], list[str]]:
        """Tests that failed and should not; and those that are not as expected."""
        failed = {test for test, outcome in self.ended.items() if outcome == "failed"}
        unlike = set(fails) - failed | set(not_run) - set(self.left_out)
        return sorted(failed - set(fails)), sorted(unlike)


def pytest(suite: Suite, folder: Path, tests: Iterable[str], *options: str) -> Found:
    """Run tests with the adapter in place.

    Raises:
        SystemExit: pytest itself failed.
    """
    outcomes, empty = folder.parent / "outcomes.json", folder.parent / "pytest.ini"
    outcomes.unlink(missing_ok=True)
    empty.write_text("[pytest]\n")  # theirs asks for plugins
    plugins = ("no:cacheprovider", "no:randomly", "no:xdist", "peer_plugin")
    command = [sys.executable, "-m", "pytest", "--quiet", "--tb=short", "-rf"]
    command += [f"-c{empty}", f"--rootdir={folder}", "--timeout=60"]
    command += ["--disable-warnings", *(f"-p{plugin}" for plugin in plugins)]
    if suite.package is None:
        command += ["--pyargs"]
    if suite.only:
        command += ["-k", suite.only]
    done = subprocess.run(
        [*command, *options, *tests],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(HERE),
            "RINGDISPATCH_ADAPTER": suite.adapter,
            "RINGDISPATCH_OUTCOMES": str(outcomes),
        },
        timeout=SECONDS,
        check=False,
    )
    if done.returncode > 1:
        raise SystemExit(f"{suite.adapter}: pytest ended with {done.returncode}")
    return Found(**json.loads(outcomes.read_text()))


def run(name: str, expected: dict[str, dict[str, str]]) -> bool:
    """Run a peer's tests: whether they ended as expected."""
    suite = SUITES[name]
    fails, not_run = expected.get("fails", {}), expected.get("not_run", {})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        folder = Path(made) / "unpacked"
        folder.mkdir()
        origin = f"CPython {platform.python_version()}"
        if suite.package is not None:
            folder = fetch(suite.package, folder)
            origin = f"{suite.package} {version(suite.package)}"
        options = [f"--deselect={test}" for test in not_run]
        found = pytest(suite, folder, suite.tests, *options)
        again, _ = found.unlike(fails, not_run)
        if again and suite.package is not None:
            found.ended.update(pytest(suite, folder, again).ended)
    unexpected, unlike = found.unlike(fails, not_run)
    outcomes = Counter(found.ended.values())
    said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    print(
        f"\n{origin}: {said}; {found.dispatchers} dispatchers; not as there by choice:"
    )
    for kind, tests in expected.items():
        for test, why in tests.items():
            print(f"  {kind.replace('_', ' ')}: {test}\n      {why}")
    for test in unexpected:
        print(f"  FAILED, not in differences.toml: {test}")
    for test in unlike:
        state = found.ended.get(test, "not there")
        print(f"  FAILED, not as in differences.toml: {test} ({state})")
    if found.dispatchers == 0:
        print("  FAILED: no test reached the adapter")
    return not unexpected and not unlike and found.dispatchers > 0


def main() -> int:
    """Run the suites that are named, else all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", choices=[*SUITES, []], default=[])
    names = parser.parse_args().suites or [*SUITES]
    not_run = []
    if "cpython" in names and not has_cpython_tests():
        names.remove("cpython")
        library = f"the library of CPython {platform.python_version()}"
        why = f"{library} in {sys.base_prefix} came without test.test_queue"
        not_run = [f"cpython: not run: {why}"]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    expected = tomllib.loads((HERE / "differences.toml").read_text())
    met = [run(name, expected.get(name, {})) for name in names]
    print("", *not_run, sep="\n")
    if not met:
        return 2  # what was asked for could not be run
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
