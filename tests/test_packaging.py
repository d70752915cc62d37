"""What was installed: its files, its metadata, and what importing it brings along."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

import ringdispatch

FOLDER = Path(ringdispatch.__file__).parent
INSTALLED = FOLDER.parent == Path(sysconfig.get_path("platlib"))
COMPILED = sorted(stub.stem for stub in FOLDER.glob("*.pyi"))

# What no program that imports ringdispatch may have to load.
OPTIONAL = {
    "aiohttp",
    "backports",
    "cython",
    "google",
    "greenlet",
    "httpx",
    "multiprocessing",
    "numpy",
    "opentelemetry",
    "orjson",
    "prometheus_client",
    "psutil",
    "pytest",
    "rich",
    "setuptools",
    "sqlite3",
    "starlette",
    "uvloop",
}


def told_by(program: str, *flags: str) -> object:
    """What a fresh interpreter prints, as JSON."""
    run = subprocess.run(
        [sys.executable, *flags, "-c", program],
        capture_output=True,
        check=True,
        text=True,
    )
    return json.loads(run.stdout)


def test_there_is_a_compiled_module_for_every_stub():
    assert len(COMPILED) >= 8
    for name in COMPILED:
        module = importlib.import_module(f"ringdispatch.{name}")
        assert module.__file__ is not None
        assert Path(module.__file__).suffix in {".so", ".pyd"}, name


def test_type_checkers_find_the_marker():
    assert (FOLDER / "py.typed").is_file()


@pytest.mark.skipif(not INSTALLED, reason="runs from a checkout")
def test_no_source_of_compiled_modules_and_no_test_is_installed():
    kinds = {path.suffix for path in FOLDER.rglob("*") if path.is_file()}
    assert not kinds & {".c", ".h", ".pxd", ".pyx"}
    files = distribution("ringdispatch").files
    assert files is not None
    # Installers add the caches of what they compiled.
    roots = {path.parts[0] for path in files if "__pycache__" not in path.parts}
    assert {name for name in roots if not name.endswith(".dist-info")} == {
        "ringdispatch"
    }


def test_the_base_install_requires_nothing():
    requires = distribution("ringdispatch").requires or []
    assert [each for each in requires if "extra ==" not in each] == []


def test_the_version_is_that_of_the_metadata():
    assert ringdispatch.__version__ == version("ringdispatch")


def test_importing_brings_nothing_optional_along():
    program = "import json, sys, ringdispatch; print(json.dumps([*sys.modules]))"
    alone = "import json, sys, asyncio; print(json.dumps([*sys.modules]))"
    brought = {name.split(".")[0] for name in told_by(program)}
    common = {name.split(".")[0] for name in told_by(alone)}
    assert (brought - common) & OPTIONAL == set()


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this build has its GIL"
)
def test_importing_leaves_the_gil_off():
    program = """
import json, sys, ringdispatch
import ringdispatch._atomic, ringdispatch._batch, ringdispatch._bytes
import ringdispatch._enqueue, ringdispatch._ordered, ringdispatch._pthread
import ringdispatch._objects, ringdispatch._records, ringdispatch._ring
import ringdispatch._spool_file, ringdispatch._spool_ring
print(json.dumps(sys._is_gil_enabled()))
"""
    # A module that does not declare its support says so in a warning as well.
    assert told_by(program, "-W", "error") is False
