from typing import Any, Self

from typing_extensions import disjoint_base

from ._batch import Batch
from ._bytes import ByteRing

BOUND: str

@disjoint_base
class SpoolRing(ByteRing):
    def __new__(cls, *options: Any) -> Self: ...
    @property
    def bound(self) -> str: ...
    @property
    def place(self) -> str | None: ...  # type: ignore[override]
    def write_letter(self, batch: Batch, reason: str) -> None: ...
