"""A table in Markdown: what `enqueue` costs here, beside what it costs on main.

    python .ci/compare_prices.py MAIN.json HERE.json

Both files are what benchmarks/enqueue_price.py writes with --json, on one machine.
"""

import json
import sys
from pathlib import Path

BASE = "deque.append"


def ratios(path: str) -> dict[str, float]:
    prices = json.loads(Path(path).read_text())["prices"]
    return {case: price / prices[BASE] for case, price in prices.items()}


def main() -> None:
    before, here = map(ratios, sys.argv[1:])
    print(f"Instructions per call, as a ratio to `{BASE}`:\n")
    print("| call | main | here | change |")
    print("|---|---|---|---|")
    for case, ratio in here.items():
        if case not in before:
            print(f"| `{case}` | | {ratio:.2f} | new |")
            continue
        change = ratio / before[case] - 1
        print(f"| `{case}` | {before[case]:.2f} | {ratio:.2f} | {change:+.1%} |")


if __name__ == "__main__":
    main()
