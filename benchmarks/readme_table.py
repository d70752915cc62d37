"""Writes the README's table of prices from what `enqueue_price.py --json` measured.

    python benchmarks/enqueue_price.py --json benchmarks/results/3.13.json
    python benchmarks/readme_table.py [--check]

`--check` changes nothing and exits with 1 where the README is out of step.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- prices:begin -->\n", "<!-- prices:end -->\n"

COLUMNS = {
    "enqueue(entry)": "`enqueue(entry)`",
    "enqueue(entry, context)": "with a context",
    "full, drop_newest": "ring full",
    "SimpleQueue.put": "`SimpleQueue.put`",
    "asyncio.Queue.put_nowait": "`asyncio.Queue.put_nowait`",
}


def table(measured: list[dict[str, Any]]) -> str:
    """The table in Markdown: instructions per call, and their ratio to an append."""
    lines = [
        "| CPython | `deque.append` | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for run in measured:
        prices = run["prices"]
        append = prices["deque.append"]
        cells = [f"{prices[c]:,.0f} ({prices[c] / append:.2f})" for c in COLUMNS]
        build = " free-threaded" if run["build"] == "free-threaded" else ""
        lines.append(
            f"| {run['python']}{build} | {append:,.0f} | " + " | ".join(cells) + " |"
        )
    lines += [
        "",
        "Instructions per call, as callgrind counts them around the loop alone, the",
        "empty loop taken off; in brackets the ratio to `deque.append` in the same",
        "interpreter.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    options = parser.parse_args()
    measured = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    measured.sort(key=lambda run: (run["build"] != "GIL", run["python"].split(".")))
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    fresh = before + BEGIN + table(measured) + END + after
    if options.check:
        if fresh != text:
            print("README.md is out of step: run benchmarks/readme_table.py")
        return int(fresh != text)
    README.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
