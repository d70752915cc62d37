"""How the core is built: what imports what, what is public, how much there is of it."""

from __future__ import annotations

import ast
import asyncio
import functools
import re
from pathlib import Path
from typing import Any

import pytest

import ringdispatch
from ringdispatch import BackgroundDispatcher

PACKAGE = Path(ringdispatch.__file__).parent
PAGE = Path(__file__).parent.parent / "docs" / "api.md"

# They check, describe or show; everything else that the dispatcher reaches is policy.
NOT_POLICY = {"_options", "_names", "_layouts", "_fields", "_statistics", "_batch_info"}
# What is reached by a layout alone, and only where its option is given.
NOT_POLICY |= {"_ring_files", "_recovery", "_spool", "_spool_header"}
NOT_POLICY |= {"_letters", "_dead_letters"}
# The names of variables that hold objects of CPython's.
OF_CPYTHON = {"asyncio", "loop", "task"}
POLICY_LINES = 3_253
FILE_LINES = 450


@functools.cache
def imports(module: str) -> set[str]:
    """The package's Python modules that one imports when it runs."""
    found = set()
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            named = [node.module] if node.module else [a.name for a in node.names]
            found |= {name for name in named if (PACKAGE / f"{name}.py").exists()}
    return found


def reached(start: str, path: tuple[str, ...] = ()) -> set[str]:
    """Every module behind `start`; a circle of imports fails."""
    assert start not in path, " -> ".join([*path, start])
    further = (reached(name, (*path, start)) for name in imports(start))
    return {start}.union(*further)


def test_imports_go_one_way() -> None:
    core = reached("__init__")
    assert {"_dispatcher", "_batcher", "_call", "_home", "_waiting"} <= core
    assert "_dispatcher" not in reached("_batcher")
    assert "_batcher" not in reached("_call") | reached("_process")
    assert reached("_home") == {"_home", "_loop_end"}


def test_policy_is_small() -> None:
    policy = reached("_dispatcher") - NOT_POLICY
    lines = {
        name: len((PACKAGE / f"{name}.py").read_text().splitlines()) for name in policy
    }
    assert sum(lines.values()) <= POLICY_LINES, lines
    assert max(lines.values()) <= FILE_LINES, lines


def test_public_names_are_those_of_the_page() -> None:
    public = {name for name in dir(BackgroundDispatcher) if not name.startswith("_")}
    section = r"::: ringdispatch.BackgroundDispatcher\n(.*?)\n\n"
    shown = re.search(section, PAGE.read_text(), re.DOTALL)
    assert shown is not None
    members = set(re.findall(r"^ +- (\w+)$", shown[1], re.MULTILINE))
    assert public == members


def test_private_names_of_cpython_stand_in_the_list() -> None:
    page = (PAGE.parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(?:asyncio|loop|task|future)\.(_\w+)`", page))
    used: set[str] = set()
    for path in [*PACKAGE.glob("*.py"), *(PACKAGE / "testing").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                if ast.unparse(node.value) in {*OF_CPYTHON, "self._loop"}:
                    used.add(node.attr)
            elif isinstance(node, ast.Name) and node.id.startswith("_asyncio_"):
                used.add(node.id)
            elif isinstance(node, ast.Call) and len(node.args) > 1:
                thing, name = node.args[:2]
                if ast.unparse(thing) in OF_CPYTHON and isinstance(name, ast.Constant):
                    used.add(str(name.value))
    private = {name for name in used if re.match(r"_[a-z]", name)}
    assert private == listed


@pytest.mark.parametrize("name", ["failed", "take", "look", "ring", "pump", "home"])
def test_subclass_may_use_any_public_name_for_itself(name: str) -> None:
    class Own(BackgroundDispatcher[int]):
        pass

    setattr(Own, name, 0)
    got: list[int] = []

    async def send(batch: list[int]) -> None:
        got.extend(batch)
        if batch == [1]:
            raise ConnectionError

    async def main() -> Any:
        dispatcher = Own(send, ms_delay=1)
        for number in range(3):
            assert dispatcher.enqueue(number)
            assert await dispatcher.aflush()
        assert await dispatcher.aclose()
        return dispatcher.statistics()

    seen = asyncio.run(main())
    assert got == [0, 1, 2]
    assert (seen.dispatched, seen.failed) == (2, 1)
