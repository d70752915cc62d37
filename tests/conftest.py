"""Fixtures on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ringdispatch import BackgroundDispatcher
from support import Sink, SteppedLoop


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> Iterator[SteppedLoop]:
    """A stepped loop; every dispatcher of the test goes by its clock.

    Run a test's coroutine with `stepped.run_until_complete(main())`.
    """
    loop = SteppedLoop()
    monkeypatch.setattr(BackgroundDispatcher, "_now", staticmethod(loop.time))
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
