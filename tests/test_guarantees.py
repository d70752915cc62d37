"""Each promise and each fault of the pages has tests, and their names are right."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PAGE = DOCS / "guarantees.md"


def all_tests() -> dict[str, str]:
    """The name of each test, and the text of its file."""
    texts = [path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py")]
    return {
        name: text
        for text in texts
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", text, re.MULTILINE)
    }


def test_each_promise_has_a_row_of_tests_that_exist() -> None:
    page = PAGE.read_text(encoding="utf-8")
    promises = re.findall(r"^\*\*C(\d+)\. ", page, re.MULTILINE)
    rows = dict(re.findall(r"^\| C(\d+) \| (.+) \|$", page, re.MULTILINE))
    assert [*rows] == promises == [f"{number}" for number in range(1, 24)]
    known = all_tests()
    for number, row in rows.items():
        tests = re.findall(r"`(test_\w+)`", row)
        assert tests, number
        assert set(tests) <= set(known), number
        assert any(re.search(rf"\bC{number}\b", known[test]) for test in tests), number


def test_page_names_tests_nowhere_else() -> None:
    page = PAGE.read_text(encoding="utf-8")
    above = page.partition("## The tests of each promise")[0]
    assert set(re.findall(r"`(test_\w+)`", above)) == {"test_end_of_a_server"}
    assert "test_end_of_a_server" in all_tests()


def test_each_fault_has_a_test_of_its_name() -> None:
    page = (DOCS / "faults.md").read_text(encoding="utf-8")
    on_the_page = re.findall(r"^\| F(\d\d) ", page, re.MULTILINE)
    assert on_the_page == [f"{number:02}" for number in range(1, 43)]
    assert set(re.findall(r"_f(\d\d)", " ".join(all_tests()))) == set(on_the_page)
