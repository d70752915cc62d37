"""How long an `enqueue` takes with a spool on a disk, also beside a busy writer.

    python benchmarks/spool_disk.py [--directory DIRECTORY] [--seconds 40] [--json FILE]

A dispatcher gets RATE entries a second of SIZE bytes, with `ms_delay=100`: in memory,
with a spool on tmpfs, with one on a disk, and there beside a process that writes files
at full speed and syncs each, which began before. Every case is a process of its own,
and each call is timed, the clock included. The kernel writes a page back after half a
minute, which 40 s have in them. Nothing has a limit: the disk says how long it takes.

DIRECTORY is one on the disk, by default in the checkout; what is made there is removed
at the end, and never takes more than 2 GiB beside the spools.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHARED = "/dev/shm"
TMPFS = 0x01021994  # of statfs(2)
RATE = 10_000
SIZE = 300  # with the separator
MOST_WRITTEN = 2 << 30
FILES = 8
CHUNK = 1 << 20
# Of the figures of a case, nanoseconds: the unit, and how many there are in it.
SHOWN = {"p50": ("µs", 1e3), "p99.9": ("µs", 1e3), "longest": ("ms", 1e6)}

# ---- in processes of their own


async def take_all(_: Any) -> None:
    """Do nothing with a batch."""


async def enqueue(directory: str | None, seconds: float) -> dict[str, int]:
    """Nanoseconds of a call.

    Raises:
        SystemExit: an entry was refused.
    """
    from ringdispatch import BackgroundDispatcher, Bytes

    count = int(RATE * seconds)
    took = array("Q", bytes(8 * count))
    dispatcher = BackgroundDispatcher(
        take_all, ms_delay=100, name="disk", layout=Bytes(spool=directory)
    )
    entry, clock, made = b"x" * (SIZE - 1), time.perf_counter_ns, 0
    began = clock()
    while made < count:
        due = min(count, (clock() - began) * RATE // 1_000_000_000)
        for number in range(made, due):
            before = clock()
            accepted = dispatcher.enqueue(entry)
            took[number] = clock() - before
            if not accepted:
                raise SystemExit(f"entry {number:,} of {count:,} was refused")
        made = due
        await asyncio.sleep(0.001)
    await dispatcher.aclose()
    ordered = sorted(took)
    return {
        "p50": ordered[count // 2],
        "p99.9": ordered[int(count * 0.999)],
        "longest": ordered[-1],
    }


def write(directory: Path, size: int) -> None:
    """Write files of that size, and print a line for each, until it is ended."""
    chunk = os.urandom(CHUNK)
    for number in itertools.cycle(range(FILES)):
        path = directory / str(number)
        path.unlink(missing_ok=True)
        with path.open("wb", buffering=0) as file:
            for _ in range(size // CHUNK):
                file.write(chunk)
            os.fsync(file.fileno())
        print("written", flush=True)


# ---- the cases


@contextmanager
def writing(directory: Path) -> Iterator[Callable[[], float]]:
    """While a process writes there, which has begun; gives what it wrote, in MB/s.

    Raises:
        SystemExit: it ended by itself.
    """
    directory.mkdir()
    most = min(MOST_WRITTEN, shutil.disk_usage(directory).free // 4)
    size = max(1, most // FILES // CHUNK) * CHUNK
    process = subprocess.Popen(
        [sys.executable, __file__, "--write", str(directory), str(size)],
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = process.stdout
    assert lines is not None

    def rate() -> float:
        if process.poll() is not None:
            raise SystemExit("the writer ended by itself")
        took = time.perf_counter() - began
        process.kill()
        return len(lines.readlines()) * size / took / 1e6

    with process:
        try:
            if not all(lines.readline() for _ in range(FILES)):
                raise SystemExit("the writer ended by itself")
            began = time.perf_counter()
            yield rate
        finally:
            process.kill()


def measured(directory: Path | None, seconds: float) -> dict[str, int]:
    """What a process of its own prints.

    Raises:
        SystemExit: it failed.
    """
    where = "" if directory is None else str(directory)
    run = subprocess.run(
        [sys.executable, __file__, "--enqueue", where, str(seconds)],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    if run.returncode:
        raise SystemExit(f"{where or 'in memory'}: its process failed, see above")
    return json.loads(run.stdout)


def measure(disk: Path, seconds: float) -> dict[str, Any]:
    """All cases.

    Args:
        disk: A directory of our own on the disk.
        seconds: How long each is measured.
    """
    cases: dict[str, dict[str, int]] = {}

    def case(words: str, directory: Path | None) -> None:
        cases[words] = found = measured(directory, seconds)
        shown = (
            f"{key} {found[key] / ns:,.2f} {unit}" for key, (unit, ns) in SHOWN.items()
        )
        print(f"  {words:<40}{', '.join(shown)}", flush=True)

    print(f"one enqueue, {RATE:,} a second of {SIZE} B, {seconds:g} s each")
    case("none: in memory", None)
    if os.access(SHARED, os.W_OK):
        with tempfile.TemporaryDirectory(dir=SHARED) as shared:
            case("on tmpfs", Path(shared))
    else:
        print(f"  {SHARED} can't be written to: nothing is measured on tmpfs")
    case("on a disk", disk / "spool")
    with writing(disk / "written") as rate_of_writer:
        case("on a disk, beside a program that writes", disk / "spool")
        rate = rate_of_writer()
    print(f"the writer wrote and synced {rate:,.0f} MB/s")
    return {"cases": cases, "writer_mb_per_second": rate}


def file_system(directory: Path) -> str:
    """The name of the file system that it is on."""
    run = subprocess.run(
        ["findmnt", "-no", "FSTYPE", "--target", str(directory)],
        check=True,
        capture_output=True,
        text=True,
    )
    return run.stdout.strip()


def main() -> int:
    """Measure, and print it."""
    if sys.argv[1:2] == ["--enqueue"]:
        directory, seconds = sys.argv[2:]
        print(json.dumps(asyncio.run(enqueue(directory or None, float(seconds)))))
        return 0
    if sys.argv[1:2] == ["--write"]:
        write(Path(sys.argv[2]), int(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, help="on the disk; else the checkout")
    parser.add_argument("--seconds", type=float, default=40, help="of each case")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    from ringdispatch._spool_file import SUPPORTED

    if not SUPPORTED:
        print("only Linux has spools")
        return 0
    from ringdispatch._spool_place import filesystem

    given = options.directory or ROOT / ".benchmarks"
    given.mkdir(parents=True, exist_ok=True)
    if filesystem(given) == TMPFS:
        parser.error(f"--directory {given}: is on tmpfs: give one on a disk")
    with tempfile.TemporaryDirectory(dir=given, prefix="spool-disk-") as disk:
        found = measure(Path(disk), options.seconds)
    if options.json:
        figures = {
            "python": platform.python_version(),
            "kernel": platform.release().split("-")[0],
            "file_system": file_system(given),
            "seconds": options.seconds,
            **found,
        }
        options.json.write_text(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
