"""Checks what is in wheels of ringdispatch, and what their compiled files ask for.

    python .ci/check_wheel.py [--include FOLDER] WHEEL...

FOLDER has the headers of the Python that the wheels are for, on Linux. A compiled file
may use every name of Python's that these headers declare outside `internal/`, which is
what an extension may include, and no other; it may export nothing but its own start.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MOST_BYTES = 850_000  # with debug information or C sources it has several times that
COMPILED = ["_pthread", "_atomic", "_batch", "_ordered", "_ring"]
COMPILED += ["_objects", "_enqueue", "_records", "_bytes"]
COMPILED += ["_spool_file", "_spool_place", "_spool_recovered", "_spool_ring"]
FOLDERS = {"_collector", "_spool_command", "_tune", "relay", "sinks", "testing"}
KINDS = {".py", ".pyi", ".so", ".pyd", ".typed", ".html", ".css", ".js", ".svg"}


def contents(wheel: Path, names: list[str]) -> Iterator[str]:
    """What is wrong with the files of a wheel, and with its name."""
    if (size := wheel.stat().st_size) >= MOST_BYTES:
        yield f"{size} bytes, and {MOST_BYTES} are too many"
    python, abi = wheel.stem.split("-")[2:4]
    if abi.removesuffix("t") != python:
        yield f"tagged {python}-{abi}: each wheel is for one version of CPython"
    for name in names:
        path = PurePosixPath(name)
        if name.endswith("/") or path.parts[0].endswith(".dist-info"):
            continue
        compiled = path.suffix in {".so", ".pyd"}
        if (
            path.parts[0] != "ringdispatch"
            or path.suffix not in KINDS
            or not FOLDERS.issuperset(path.parts[1:-1])
            or (compiled and path.name.partition(".")[0] not in COMPILED)
        ):
            yield f"{name} does not belong into a wheel"
    if "ringdispatch/py.typed" not in names:
        yield "py.typed is missing"
    for folder in FOLDERS:
        if f"ringdispatch/{folder}/__init__.py" not in names:
            yield f"the folder {folder} is missing"
    for module in COMPILED:
        if f"ringdispatch/{module}.pyi" not in names:
            yield f"the stub of {module} is missing"
        built = re.compile(rf"ringdispatch/{module}\.[^/]+\.(so|pyd)")
        if sum(bool(built.fullmatch(name)) for name in names) != 1:
            yield f"{module} is not there as one compiled file"


def declared(include: Path) -> set[str]:
    """The names of Python's in the headers that an extension may include."""
    text = " ".join(
        header.read_text(errors="replace")
        for header in include.rglob("*.h")
        if "internal" not in header.relative_to(include).parts
    )
    return set(re.findall(r"\b_?Py\w+", text))


def symbols(library: Path, public: set[str]) -> Iterator[str]:
    """What is wrong with the symbols that a compiled file uses and exports."""
    listed = subprocess.run(
        ["nm", "--dynamic", str(library)], capture_output=True, check=True, text=True
    ).stdout
    module = library.name.split(".")[0]
    for line in listed.splitlines():
        *_, kind, name = line.split()
        if kind in "Uw":
            if re.match("_?Py", name) and name not in public:
                yield f"{module} uses {name}, which no public header declares"
        elif name != f"PyInit_{module}":
            yield f"{module} exports {name}"


def check(wheel: Path, public: set[str] | None) -> list[str]:
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = archive.namelist()
        wrong = list(contents(wheel, names))
        for name in names:
            if public is not None and name.endswith(".so"):
                wrong += symbols(Path(archive.extract(name, folder)), public)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--include", type=Path, help="also check the symbols")
    parser.add_argument("wheels", nargs="+", type=Path)
    options = parser.parse_args()
    public = declared(options.include) if options.include else None
    if public is not None and "PyObject_Call" not in public:
        parser.error(f"--include {options.include}: Python's headers are not there")
    failed = 0
    for wheel in options.wheels:
        wrong = check(wheel, public)
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes")
        for each in wrong:
            print(f"  {each}")
        failed += bool(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
