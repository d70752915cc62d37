"""The background dispatcher for Python gateways.

`BackgroundDispatcher` takes one entry per request at the price of an append and hands
them to your async function in batches: one every `ms_delay` milliseconds, and sooner
only where `max_batch` is reached, a flush asks for it, or entries waited for a call.
"""

from typing import TYPE_CHECKING, Any

from ._bytes import BytesBatch
from ._call import current_batch
from ._dispatcher import BackgroundDispatcher, current_dispatcher, dispatchers
from ._enqueue import Full
from ._layouts import Bytes, Objects, Records

if TYPE_CHECKING:
    from ._batch_info import BatchInfo
    from ._statistics import Statistics

__all__ = [
    "BackgroundDispatcher",
    "BatchInfo",
    "Bytes",
    "BytesBatch",
    "Full",
    "Objects",
    "Records",
    "Statistics",
    "current_batch",
    "current_dispatcher",
    "dispatchers",
]


def __getattr__(name: str) -> Any:
    # Defined on first use: that takes long.
    if name == "Statistics":
        from ._statistics import Statistics

        return Statistics
    if name == "BatchInfo":
        from ._batch_info import BatchInfo

        return BatchInfo
    if name == "__version__":
        from importlib.metadata import version

        return version("ringdispatch")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
