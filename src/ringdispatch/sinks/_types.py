"""The type variable of sinks: what a batch of theirs is."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Batch = TypeVar("Batch", contravariant=True, default=Any)
else:
    from typing import TypeVar

    Batch = TypeVar("Batch", contravariant=True)
