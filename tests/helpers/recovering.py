"""What a killed process leaves in a spool, and what recovers it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringdispatch import BackgroundDispatcher, Bytes, current_batch
from ringdispatch._bytes import restore_batch
from ringdispatch._dead_letters import DeadLetter, letters
from spools import filled, left, made, take

if TYPE_CHECKING:
    from ringdispatch import BatchInfo

MADE = """
from ringdispatch import Bytes
def made(function, **options):
    layout = Bytes(spool={folder!r})
    options = dict(name="audit", ms_delay=1, layout=layout) | options
    return BackgroundDispatcher(function, **options)
"""


def spooled(
    function: Any, folder: Path, *, dead_letters: bool = True, **options: Any
) -> BackgroundDispatcher[Any]:
    given: dict[str, Any] = {"ms_delay": 1, "name": "audit", **options}
    layout = Bytes(spool=folder, dead_letters=dead_letters)
    return BackgroundDispatcher(function, layout=layout, **given)


def letters_in(folder: Path) -> list[DeadLetter]:
    """The dead letters there, the oldest first."""
    found = [each for path in folder.rglob("*.dead") for each in letters(path)]
    return sorted(found, key=lambda letter: letter.time)


def entries_of(letter: DeadLetter, separator: int = 1) -> list[bytes]:
    return restore_batch(letter.payload, letter.sizes, separator)[:]


def orphan(
    folder: Path, *entries: bytes, taken: tuple[int, ...] = (), name: str = "audit"
) -> Path:
    """A file as a killed process leaves it, which had taken batches of these sizes."""
    (folder / name).mkdir(exist_ok=True, mode=0o700)
    file = made(folder / name, cells=64, arena_bytes=4096)
    filled(file, list(entries))
    for count in taken:
        batch = take(file, count)
        assert batch is not None
        assert len(batch.entries) == count
    return left(file)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


class Got:
    """A dispatch function that keeps what it was called with."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.infos: list[BatchInfo] = []

    async def __call__(self, batch: Any) -> None:
        info = current_batch()
        assert info is not None
        self.infos.append(info)
        self.batches.append(batch[:])

    @property
    def entries(self) -> list[bytes]:
        return [entry for batch in self.batches for entry in batch]


def books(dispatcher: BackgroundDispatcher[Any]) -> tuple[int, ...]:
    seen = dispatcher.statistics()
    return seen.accepted, seen.dispatched, seen.recovered, seen.recovered_failed


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110, nothing notifies
            await asyncio.sleep(0.001)
