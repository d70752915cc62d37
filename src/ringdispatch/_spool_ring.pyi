from collections.abc import Callable
from typing import Any, Self

from typing_extensions import disjoint_base

from ._bytes import ByteRing
from ._spool_file import SpoolFile

@disjoint_base
class SpoolRing(ByteRing):
    def __new__(
        cls,
        capacity: int,
        max_batch: int,
        encode: Callable[[Any], Any] | None,
        separator: bytes,
        max_bytes: int,
        max_batch_bytes: int,
        file: SpoolFile,
    ) -> Self: ...
    def use(self, file: SpoolFile) -> None: ...
    def leave(self) -> None: ...
