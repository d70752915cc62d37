"""Fixtures on virtual time; tests that run with every layout."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from extent import WHOLE
from layouts import LAYOUTS, can_be, spools
from ringdispatch import BackgroundDispatcher, _dispatcher, _names
from ringdispatch._batcher import Batcher
from support import Sink, SteppedLoop

if TYPE_CHECKING:
    from answering import Answering

# They import signals that only Unix has.
collect_ignore = []
if sys.platform == "win32":
    collect_ignore = ["test_frozen.py", "test_servers.py"]

COUNTS_MEMORY = """\
counts_memory: the test judges how much memory a process holds, or limits it: no use \
where freed memory is kept, as AddressSanitizer keeps it."""

NIGHTLY = "nightly: `make nightly` runs the test; `make test` leaves it out."
IN_WHOLE = "in_whole: only a whole run has the test, as is `make test WHOLE=1`."


def pytest_configure(config: pytest.Config) -> None:
    if can_be("spooled"):
        spools()  # removed when this process ends, whatever becomes of others
    config.addinivalue_line("markers", COUNTS_MEMORY)
    config.addinivalue_line("markers", NIGHTLY)
    config.addinivalue_line("markers", IN_WHOLE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _is_spared(item)]


def pytest_collection_finish() -> None:
    # What is there by now stays: tests that collect garbage need not look through it.
    gc.collect()
    gc.freeze()


def _is_spared(item: pytest.Item) -> bool:
    if item.get_closest_marker("in_whole") and not WHOLE:
        return True
    # Where time is real, which costs it, not with every combination: bytes come in one
    # way only, and on one kind of loop, since a ring does not know who takes from it.
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    layout = item.callspec.params.get("layout", "objects")
    loop = item.callspec.params.get("loop_name", "asyncio")
    if layout == "spooled" and "in_memory" in item.fixturenames:
        return True
    if layout == "encoded":
        return "stepped" not in item.fixturenames
    # Nor does what ends a process: a ring in memory and one in a file show it.
    if layout in {"records", "bytes"} and "dispatcher_class" not in item.fixturenames:
        return not WHOLE
    return bool(layout != "objects" and loop != "asyncio")


@pytest.fixture(params=[*filter(can_be, LAYOUTS)])
def layout(request: pytest.FixtureRequest) -> str:
    """Each layout in turn, for `run_snippet`."""
    name: str = request.param
    return name


@pytest.fixture
def in_memory() -> None:
    """Not with a spool: it says nothing of what lies in a file, or becomes of that."""


@pytest.fixture
def dispatcher_class(layout: str) -> type[BackgroundDispatcher[Any]]:
    """A class of dispatchers of each layout that take any entry and hand out lists."""
    return LAYOUTS[layout]


@pytest.fixture(autouse=True)
def _clock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stepped clock runs on after its test, ahead of the time.
    monkeypatch.setattr(Batcher, "now", staticmethod(time.monotonic))


@pytest.fixture(autouse=True)
def _names_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # A dispatcher that another test left alive keeps its name.
    monkeypatch.setattr(_names, "_owners", {})
    monkeypatch.setattr(_names, "_numbers", {})


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushes and closes have a minute by default: a disk may stand for seconds."""
    for name in ("flush", "aflush", "close", "aclose"):
        wait = getattr(BackgroundDispatcher, name)
        monkeypatch.setattr(wait, "__defaults__", (60.0,))


@pytest.fixture
def no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """No dispatcher that another test left alive is among `dispatchers()`."""
    living = weakref.WeakValueDictionary[int, BackgroundDispatcher[Any]]()
    monkeypatch.setattr(_dispatcher, "_living", living)


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the test logs: the dispatchers that earlier tests left speak before it."""
    gc.collect()
    return caplog


@pytest.fixture
def stepped() -> Iterator[SteppedLoop]:
    """A stepped loop; every dispatcher of the test goes by its clock.

    Run a test's coroutine with `stepped.run_until_complete(main())`.
    """
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
def server() -> Iterator[Answering]:
    """A server on a free port, whose answers the test says."""
    from answering import answering

    with answering() as running:
        yield running


@pytest.fixture
def sink(stepped: SteppedLoop) -> Sink:
    """A recording sink on the stepped loop's clock."""
    return Sink(stepped.time)
