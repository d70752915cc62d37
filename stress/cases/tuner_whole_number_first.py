"""The tuner takes a column that begins with 1 for floats if 0.25 follows, and one row for a row."""

import pathlib
import subprocess
import sys
import tempfile

bad = []
for name, data in (
    ("float column whose first value is whole", "[200, 1]\n[200, 0.25]\n[404, 1.5]\n"),
    ("one row, one line", "[200, 0.25]\n"),
):
    with tempfile.TemporaryDirectory() as f:
        p = pathlib.Path(f, "s.jsonl")
        p.write_text(data)
        r = subprocess.run(
            [
                sys.executable,
                "-m",
                "ringdispatch",
                "tune",
                "--dry",
                "1",
                "--rate",
                "200",
                "--seconds",
                "0.2",
                "--delays",
                "10",
                "--layout",
                "records",
                "--entry",
                str(p),
                "--report",
                f"{f}/r.html",
                "--json",
                f"{f}/r.json",
            ],
            capture_output=True,
            text=True,
            timeout=100,
        )
        if r.returncode:
            bad.append(f"{name}: {r.stderr.strip()[-140:]}")
if bad:
    sys.exit(" | ".join(bad))
