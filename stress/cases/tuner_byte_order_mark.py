"""The tuner reads samples that begin with a byte order mark."""

import pathlib
import subprocess
import sys
import tempfile

with tempfile.TemporaryDirectory() as f:
    p = pathlib.Path(f, "s.jsonl")
    p.write_bytes(b'\xef\xbb\xbf{"n": 1}\n{"n": 2}\n')
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
        sys.exit("a valid file with a BOM is refused: " + r.stderr.strip()[-150:])
