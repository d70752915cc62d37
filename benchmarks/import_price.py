"""What `import ringdispatch` costs, beside `import asyncio` alone.

    python benchmarks/import_price.py [--check]

Counts the instructions of whole processes with callgrind, those of an interpreter that
imports nothing taken off. All read bytecode that a first run has cached. `--check`
exits with 1 above the limit.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

LIMIT = 1.15


def instructions(program: str, environment: dict[str, str]) -> int:
    """Instructions of one interpreter that runs `program`."""
    measured = [
        "valgrind",
        "--tool=callgrind",
        f"--callgrind-out-file={os.devnull}",
        *(sys.executable, "-c", program),
    ]
    subprocess.run(measured[-3:], check=True, env=environment)
    run = subprocess.run(
        measured, capture_output=True, check=True, env=environment, text=True
    )
    return int(re.search(r"Collected : (\d+)", run.stderr)[1])


def main() -> int:
    """Measure, print, and check the limit where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail above the limit")
    check = parser.parse_args().check
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is missing: install it to count instructions")

    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as cache:
        environment["PYTHONPYCACHEPREFIX"] = cache
        nothing = instructions("pass", environment)
        asyncio = instructions("import asyncio", environment) - nothing
        ours = instructions("import ringdispatch", environment) - nothing
    ratio = ours / asyncio
    verdict = "met" if ratio <= LIMIT else "NOT MET"
    print(f"import asyncio        {asyncio:12,d} instructions")
    print(f"import ringdispatch   {ours:12,d}   {ratio:.3f}, limit {LIMIT}: {verdict}")
    return 1 if check and ratio > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
