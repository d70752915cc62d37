"""Fixtures on virtual time; tests that run with every layout."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Iterator

import pytest

from layouts import LAYOUTS, can_be, use_layout
from ringdispatch._batcher import Batcher
from subprocesses import LAYOUT_VARIABLE
from support import Sink, SteppedLoop

# They import signals that only Unix has.
collect_ignore = []
if sys.platform == "win32":
    collect_ignore = ["test_frozen.py", "test_servers.py"]

EVERY_LAYOUT = """\
every_layout: the test runs with each layout, told nothing of it: the name \
BackgroundDispatcher in its module, and in the programs it runs, stands for one that \
takes any entry and hands out lists (layouts.py). Where time is real, which costs it, \
not with every combination: bytes come in one way only, and on one kind of loop, since \
a ring does not know who takes from it."""
OBJECTS_ONLY = """\
objects_only(reason): of a module of which each test runs with each layout, this does \
not."""
COUNTS_MEMORY = """\
counts_memory: the test judges how much memory a process holds, or limits it: no use \
where freed memory is kept, as AddressSanitizer keeps it."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", EVERY_LAYOUT)
    config.addinivalue_line("markers", OBJECTS_ONLY)
    config.addinivalue_line("markers", COUNTS_MEMORY)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marked = metafunc.definition.get_closest_marker
    if not marked("every_layout"):
        return
    if only := marked("objects_only"):
        assert only.args, f"{metafunc.function.__name__}: objects_only for no reason"
        return
    layouts = [*filter(can_be, LAYOUTS)]
    if "stepped" not in metafunc.fixturenames:
        layouts.remove("encoded")
    metafunc.parametrize("layout", layouts, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _is_spared(item)]


def _is_spared(item: pytest.Item) -> bool:
    chosen = item.callspec.params if hasattr(item, "callspec") else {}
    layout, loop = chosen.get("layout", "objects"), chosen.get("loop_name", "asyncio")
    return bool(layout != "objects" and loop != "asyncio")


@pytest.fixture(autouse=True)
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The layout that the test's dispatchers have."""
    name: str = getattr(request, "param", "objects")
    if name != "objects":
        for which, cls in use_layout(vars(request.module), name).items():
            monkeypatch.setattr(request.module, which, cls)
        monkeypatch.setenv(LAYOUT_VARIABLE, name)
    return name


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the test logs: the dispatchers that earlier tests left speak before it."""
    gc.collect()
    return caplog


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> Iterator[SteppedLoop]:
    """A stepped loop; every dispatcher of the test goes by its clock.

    Run a test's coroutine with `stepped.run_until_complete(main())`.
    """
    # First: after the test it is put back.
    monkeypatch.setattr(Batcher, "now", staticmethod(time.monotonic))
    loop = SteppedLoop()
    yield loop
    loop.run_until_complete(_end(loop))
    loop.close()


async def _end(loop: SteppedLoop) -> None:
    # What a failed test left behind is given its five seconds, or it would stand still.
    ending = asyncio.ensure_future(loop.shutdown_asyncgens())
    await loop.advance(60.0)
    await ending


@pytest.fixture
def sink(stepped: SteppedLoop) -> Sink:
    """A recording sink on the stepped loop's clock."""
    return Sink(stepped.time)
