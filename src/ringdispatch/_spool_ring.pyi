from typing import Any, Self

from typing_extensions import disjoint_base

from ._atomic import WorkerThreads
from ._bytes import ByteRing
from ._letters import Letters
from ._ring_files import RingFiles

BOUND: str

@disjoint_base
class SpoolRing(ByteRing):
    def __new__(cls, *options: Any) -> Self: ...
    @property
    def bound(self) -> str: ...
    @property
    def files(self) -> RingFiles | None: ...  # type: ignore[override]
    @property
    def letters(self) -> Letters | None: ...
    @property
    def place(self) -> str | None: ...  # type: ignore[override]
    def populate(self, workers: WorkerThreads) -> None: ...
