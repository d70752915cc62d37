from collections.abc import Callable, Iterator
from typing import Any, Self, overload

from typing_extensions import disjoint_base

from ._ring import Ring

@disjoint_base
class BytesBatch:
    @property
    def payload(self) -> bytes: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> bytes: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[bytes]: ...
    def __iter__(self) -> Iterator[bytes]: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def json_array(self) -> bytes: ...

def restore_batch(
    payload: bytes, sizes: list[int], separator_size: int
) -> BytesBatch: ...

@disjoint_base
class BatchIterator(Iterator[bytes]):
    def __new__(cls, batch: BytesBatch) -> Self: ...
    def __next__(self) -> bytes: ...

@disjoint_base
class ByteRing(Ring):
    def __new__(
        cls,
        capacity: int,
        max_batch: int,
        encode: Callable[[Any], Any] | None,
        separator: bytes,
        max_bytes: int,
        max_batch_bytes: int,
        file: object = None,
    ) -> Self: ...
