"""Which test holds which promise: a test cites the number of each one (`# C3`)."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
CITED = re.compile(r"\bC(\d+)\b")


def held_by() -> dict[int, list[str]]:
    """The tests of each promise, in the order of their files."""
    found: dict[int, list[str]] = {}
    for path in sorted(TESTS.glob("test_*.py")):
        for test, source in _tests(path.read_text(encoding="utf-8")):
            for number in {int(each) for each in CITED.findall(source)}:
                found.setdefault(number, []).append(test)
    return dict(sorted(found.items()))


def _tests(text: str) -> list[tuple[str, str]]:
    """Each test of a file, with its source."""
    lines = text.splitlines()
    return [
        (node.name, "\n".join(lines[node.lineno - 1 : node.end_lineno]))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]


def table() -> list[str]:
    """A row for each promise, in Markdown."""
    rows = ["| promise | tests |", "| --- | --- |"]
    for number, tests in held_by().items():
        rows.append(f"| C{number} | {', '.join(f'`{test}`' for test in tests)} |")
    return [*rows, ""]
