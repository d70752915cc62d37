"""The machine and the run that figures come from."""

import importlib
import os
import platform
import re
import subprocess
import sysconfig
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ._entries import JSON

_GIB = 1 << 30
# The packages that the measured code uses, if they are installed.
_PACKAGES = ("ringdispatch", "numpy", "orjson")


def describe(*, seed: int, mode: str, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Describe this machine and this run, for Results.machine.

    Args:
        seed: Of everything random.
        mode: The kind of run, such as "quick".
        peers: Further packages, by the names that install them.
    """
    return {
        "cpu": _cpu(),
        "cores": _cores(),
        "memory": _memory(),
        "system": f"{_system()}, {platform.machine()}",
        "python": _python(),
        "packages": {name: _version(name) for name in (*_PACKAGES, *peers)},
        "json": JSON,
        "commit": _commit(),
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "mode": mode,
    }


def _cpu() -> str:
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> str:
    total = memory("total")
    return "unknown" if total is None else f"{total / _GIB:.1f} GiB"


def memory(which: str) -> int | None:
    """Bytes of this machine's memory: the "total" or the "available"; None: unknown."""
    for line in _lines("/proc/meminfo"):
        if line.startswith(f"Mem{which.title()}:"):
            return int(line.split()[1]) * 1024
    try:
        psutil: Any = importlib.import_module("psutil")
    except ImportError:
        return None
    found: int = getattr(psutil.virtual_memory(), which)
    return found


def _python() -> str:
    build = "free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else "GIL"
    name, number = platform.python_implementation(), platform.python_version()
    return f"{name} {number}, {build}, {platform.python_compiler()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _system() -> str:
    """The name and version of the system, without a builder's suffix."""
    return re.sub(r"(-\d+\.\d+).*", r"\1", platform.platform(terse=True))


def _commit() -> str:
    """The commit of this file's checkout, marked if it has changes."""
    if not _git("ls-files", Path(__file__).name):
        return "not a checkout"  # it may lie in another project's
    return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(*words: str) -> str:
    try:
        run = subprocess.run(
            ["git", *words],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").split("\n")
    except OSError:
        return []
