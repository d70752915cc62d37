"""The tuner reads samples whose text holds separators of Unicode."""

import json
import pathlib
import subprocess
import sys
import tempfile

with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "samples.jsonl")
    rows = [
        {"prompt": "a\u2028b\u0085c", "tokens": 3},
        {"prompt": "plain", "tokens": 4},
    ]
    path.write_bytes(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()
    )
    assert [json.loads(x) for x in path.read_bytes().split(b"\n") if x] == rows
    done = subprocess.run(
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
            "--entry",
            str(path),
            "--report",
            f"{folder}/r.html",
            "--json",
            f"{folder}/r.json",
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    if done.returncode:
        sys.exit("valid JSONL refused: " + (done.stderr or done.stdout).strip()[-250:])
