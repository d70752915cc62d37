from typing import NoReturn

from typing_extensions import disjoint_base

from ._batch import Batch
from ._bytes import ByteRing
from ._spool_file import SpoolFile

MOST_DEATHS: int

class ProcessDiedError(Exception): ...

def condemn(data: object) -> NoReturn: ...

@disjoint_base
class RecoveredBatch(Batch):
    @property
    def returned(self) -> bool: ...
    @property
    def attempts(self) -> int: ...  # type: ignore[override]
    def outlive(self) -> None: ...

def take_recovered(
    ring: ByteRing, file: SpoolFile, waiting: int = 0
) -> RecoveredBatch | int | None: ...
