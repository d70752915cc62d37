from typing import Any, Self

from typing_extensions import disjoint_base

from ._bytes import ByteRing

@disjoint_base
class SpoolRing(ByteRing):
    def __new__(cls, *options: Any) -> Self: ...
    @property
    def place(self) -> str | None: ...  # type: ignore[override]
