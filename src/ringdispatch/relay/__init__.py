"""From an engine's streams to one function: what gateways sent, in larger batches."""

from typing import TYPE_CHECKING, Any

from ._relay import Counts, Relay
from ._source import SourceError

if TYPE_CHECKING:
    from ._jetstream import JetStreamSource
    from ._redis_stream import RedisStreamSource

__all__ = [
    "Counts",
    "JetStreamSource",
    "RedisStreamSource",
    "Relay",
    "SourceError",
]

_MODULES = {
    "JetStreamSource": ("_jetstream", "nats-py", "nats"),
    "RedisStreamSource": ("_redis_stream", "redis", "redis"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    module, needed, extra = _MODULES[name]
    try:
        imported = import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ringdispatch"):
            raise
        raise ImportError(
            f"{name} needs {needed}: pip install 'ringdispatch[{extra}]'"
        ) from error
    return getattr(imported, name)
