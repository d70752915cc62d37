"""Layouts as values: what they are equal to, what they say, what they can't be."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from ringdispatch import Bytes, Objects, Records
from ringdispatch._spool_file import SUPPORTED
from subprocesses import run_snippet

pytest.importorskip("numpy")

# Made anew for each comparison: what is equal must not be the same.
MAKERS: dict[str, Any] = {
    "objects": Objects,
    "records": lambda: Records([("number", "u4")]),
    "other records": lambda: Records([("number", "u8")]),
    "bytes": Bytes,
    "encoded": lambda: Bytes(json.dumps),
    "separated": lambda: Bytes(separator=b""),
    "bounded": lambda: Bytes(max_bytes=9),
    "both bounded": lambda: Bytes(max_bytes=9, max_batch_bytes=5),
    **({"spooled": lambda: Bytes(spool="here")} if SUPPORTED else {}),
}
each_layout = pytest.mark.parametrize("name", MAKERS)


@each_layout
def test_layout_is_equal_to_those_with_its_options_only(name: str) -> None:
    layout = MAKERS[name]()
    equal = {other for other, make in MAKERS.items() if make() == layout}
    assert equal == {name}
    assert len({layout, MAKERS[name]()}) == 1
    assert layout != name


@each_layout
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)
def test_copy_of_a_layout_is_equal_to_it(name: str, duplicate: Any) -> None:
    layout = MAKERS[name]()
    assert duplicate(layout) == layout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("objects", "Objects()"),
        ("records", "Records(dtype=dtype([('number', '<u4')]))"),
        (
            "both bounded",
            (
                r"Bytes(encode=None, separator=b'\n', max_bytes=9, max_batch_bytes=5, "
                "spool=None, dead_letters=True)"
            ),
        ),
    ],
)
def test_layout_shows_its_options(name: str, words: str) -> None:
    assert repr(MAKERS[name]()) == words


@pytest.mark.parametrize(
    ("name", "option"), [("records", "dtype"), ("bytes", "max_bytes"), ("objects", "x")]
)
def test_layout_is_never_changed(name: str, option: str) -> None:
    layout = MAKERS[name]()
    with pytest.raises(AttributeError, match=f"{option}=9: .* can't be changed"):
        setattr(layout, option, 9)
    assert layout == MAKERS[name]()


def test_numpy_that_is_broken_is_not_called_missing() -> None:
    outcome = run_snippet(
        """
        from pathlib import Path
        Path("numpy.py").write_text("import what_numpy_needs")
        from ringdispatch import Records
        try:
            Records([("number", "i4")])
        except ModuleNotFoundError as error:
            say(error)
        """
    )
    assert outcome.lines == ["No module named 'what_numpy_needs'"]
