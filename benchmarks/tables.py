"""Writes the tables of the README and of docs/layouts.md from what was measured.

    python benchmarks/enqueue_price.py --json benchmarks/results/enqueue/3.13.json
    python benchmarks/record_price.py --json benchmarks/results/records/3.13.json
    python benchmarks/whole_way.py --json benchmarks/results/whole_way.json
    python benchmarks/tables.py [--check]

`--check` changes nothing and exits with 1 where a page is out of step.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

COLUMNS = {
    "enqueue(entry)": "`enqueue(entry)`",
    "enqueue(entry, context)": "with a context",
    "full, drop_newest": "ring full",
    "SimpleQueue.put": "`SimpleQueue.put`",
    "asyncio.Queue.put_nowait": "`asyncio.Queue.put_nowait`",
}


def runs(folder: str) -> list[dict[str, Any]]:
    """The measurements of one script on each Python."""
    found = [json.loads(path.read_text()) for path in (RESULTS / folder).glob("*.json")]
    found.sort(key=lambda run: (run["build"] != "GIL", run["python"].split(".")))
    return found


def name(run: dict[str, Any]) -> str:
    """The Python of a run."""
    return run["python"] + (" free-threaded" if run["build"] != "GIL" else "")


def rows(heads: list[str], cells: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    ruled = [heads, ["---"] * len(heads), *cells]
    return ["| " + " | ".join(line) + " |" for line in ruled] + [""]


def enqueue_prices() -> list[str]:
    """Instructions of an enqueue, and their ratio to an append."""
    cells = []
    for run in runs("enqueue"):
        prices = run["prices"]
        append = prices["deque.append"]
        ratios = [f"{prices[c]:,.0f} ({prices[c] / append:.2f})" for c in COLUMNS]
        cells.append([name(run), f"{append:,.0f}", *ratios])
    return [
        *rows(["CPython", "`deque.append`", *COLUMNS.values()], cells),
        "Instructions per call, as callgrind counts them around the loop alone, the",
        "empty loop taken off; in brackets the ratio to `deque.append` in the same",
        "interpreter.",
        "",
    ]


def layout_prices() -> list[str]:
    """The whole way, stalls and memory, and instructions of a row."""
    found = json.loads((RESULTS / "whole_way.json").read_text())
    delays = [group for group in found if group.endswith(" ms")]
    cells = []
    for case in found[delays[0]]:
        line = [case]
        for delay in delays:
            one = found[delay][case]
            line += [f"{one['million_per_second']:.2f}"]
            line += [f"{one['longest_stall_ms']:.1f} ms"]
        cells.append(line)
    heads = ["million entries a second"]
    for delay in delays:
        heads += [delay, "longest stall"]
    at_once = [
        [
            case,
            f"{one['longest_stall_ms']:.2f} ms",
            f"{found['memory'][case]['bytes_per_entry']:.0f} B",
        ]
        for case, one in found["at once"].items()
    ]
    prices = [
        [name(run), *(f"{price:,.0f}" for price in run["prices"].values())]
        for run in runs("records")
    ]
    cases = [f"`{case}`" for case in runs("records")[0]["prices"]]
    return [
        f"The whole way, on CPython {found['python']}: one thread makes entries of",
        "four numbers and enqueues them at full rate on the event loop; they are",
        "batched, dispatched to a function that counts or encodes them, and freed.",
        "The rate is by processor time, the stall the longest time the loop stood",
        "still.",
        "",
        *rows(heads, cells),
        "A million pending entries that go out at once, and the resident memory of a",
        "full ring of a million, for each entry (of records, in both buffers):",
        "",
        *rows(["", "longest stall", "memory"], at_once),
        "Instructions of one call, for a row of four numbers or a line of 61 bytes:",
        "",
        *rows(["CPython", *cases], prices),
        "`benchmarks/whole_way.py` and `benchmarks/record_price.py` measure them.",
        "",
    ]


PAGES: dict[str, dict[str, Callable[[], list[str]]]] = {
    "README.md": {"prices": enqueue_prices},
    "docs/layouts.md": {"layouts": layout_prices},
}


def main() -> int:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    options = parser.parse_args()
    behind = 0
    for page, tables in PAGES.items():
        path = ROOT / page
        text = fresh = path.read_text()
        for marker, table in tables.items():
            begin, end = f"<!-- {marker}:begin -->\n", f"<!-- {marker}:end -->\n"
            before, rest = fresh.split(begin)
            fresh = before + begin + "\n".join(table()) + end + rest.split(end)[1]
        if options.check and fresh != text:
            print(f"{page} is out of step: run benchmarks/tables.py")
            behind += 1
        elif fresh != text:
            path.write_text(fresh)
    return min(behind, 1)


if __name__ == "__main__":
    sys.exit(main())
