"""What a script measured on each Python."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def runs(folder: str) -> list[dict[str, Any]]:
    """The measurements of one script on each Python."""
    found = [json.loads(path.read_text()) for path in (RESULTS / folder).glob("*.json")]
    found.sort(key=lambda run: (run["build"] != "GIL", run["python"].split(".")))
    return found


def name(run: dict[str, Any]) -> str:
    """The Python of a run."""
    return run["python"] + (" free-threaded" if run["build"] != "GIL" else "")
