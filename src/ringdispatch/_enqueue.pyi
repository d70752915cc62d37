from typing import Any, Generic, TypeVar

from typing_extensions import disjoint_base

from ._ring import Ring

_Entry_contra = TypeVar("_Entry_contra", contravariant=True)
_Class = TypeVar("_Class", bound=type)

POLICIES: dict[str, int]

class Full(Exception): ...

@disjoint_base
class EnqueueBase(Generic[_Entry_contra]):
    def _attach(self, ring: Ring, on_full: str, listener: Any = None) -> None: ...
    def _offer(self, entry: _Entry_contra, context: Any) -> bool | None: ...
    def _reject_full(self) -> None: ...

class Arguments:
    @staticmethod
    def enqueue(entry: Any, context: Any = None) -> tuple[Any, Any]: ...

def install_enqueue(cls: _Class) -> _Class: ...
