"""The pages on guarantees and faults name tests that exist, and all have one."""

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


def test_each_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 40
    assert named - set(all_tests()) == set()


def test_each_promise_is_on_the_page_and_in_the_tests() -> None:
    texts = set(all_tests().values())
    for number in range(1, 20):
        assert re.search(
            rf"^\*\*C{number}\. ", PAGE.read_text(encoding="utf-8"), re.MULTILINE
        ), number
        assert any(re.search(rf"\bC{number}\b", text) for text in texts), number


def test_each_fault_has_a_test_of_its_name() -> None:
    page = (DOCS / "faults.md").read_text(encoding="utf-8")
    on_the_page = re.findall(r"^\| F(\d\d) ", page, re.MULTILINE)
    assert on_the_page == [f"{number:02}" for number in range(1, 43)]
    assert set(re.findall(r"_f(\d\d)", " ".join(all_tests()))) == set(on_the_page)
