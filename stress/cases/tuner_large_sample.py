"""The tuner takes little memory for a small load of large entries."""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import psutil

size = int(sys.argv[1]) if len(sys.argv) > 1 else 8_000
with tempfile.TemporaryDirectory() as f:
    p = pathlib.Path(f, "s.jsonl")
    p.write_text(json.dumps({"prompt": "x" * size}) + "\n")
    proc = subprocess.Popen(
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
            "0.3",
            "--delays",
            "10",
            "--layout",
            "bytes",
            "--entry",
            str(p),
            "--report",
            f"{f}/r.html",
            "--json",
            f"{f}/r.json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = 0
    me = psutil.Process(proc.pid)
    while proc.poll() is None:
        try:
            peak = max(
                peak,
                sum(c.memory_info().rss for c in [me, *me.children(recursive=True)]),
            )
        except psutil.Error:
            pass
        time.sleep(0.01)
    out, err = proc.communicate()
print(f"entry {size} B: rc {proc.returncode} peak {peak / 2**20:.0f} MiB", err[-200:])
if peak > 600 << 20:
    sys.exit(
        f"{peak / 2**20:.0f} MiB for a load of 200 entries/s of {size} B ({200 * size / 2**20:.1f} MiB/s), nothing said beforehand"
    )
