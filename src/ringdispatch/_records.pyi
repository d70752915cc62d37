from collections.abc import Callable
from typing import Any, Protocol, Self, type_check_only

from typing_extensions import disjoint_base

from ._ring import Ring

KINDS: dict[tuple[str, int], int]

@type_check_only
class Rule(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def low(self) -> int: ...
    @property
    def high(self) -> int: ...
    def plain(self, value: Any) -> Any: ...
    def refusal(self, value: Any) -> Exception: ...

@disjoint_base
class Buffers:
    def __new__(cls, size: int, count: int) -> Self: ...

@disjoint_base
class RecordBuffer: ...

@disjoint_base
class RecordRing(Ring):
    def __new__(
        cls,
        capacity: int,
        max_batch: int,
        max_in_flight: int,
        itemsize: int,
        rules: list[Rule],
        as_batch: Callable[[RecordBuffer], Any],
    ) -> Self: ...
    def describe(self) -> str: ...
