"""Dispatch functions for what entries are usually sent to, closed with the dispatcher.

Each is imported on first use, so that it needs its own extra only.
"""

from typing import TYPE_CHECKING, Any

from ._error import SinkError

if TYPE_CHECKING:
    from ._http import HttpSink
    from ._jetstream import JetStreamSink
    from ._kafka import KafkaSink
    from ._otlp import OtlpLogSink
    from ._redis_stream import RedisStreamSink
    from ._sqlite import SqliteSink

__all__ = [
    "HttpSink",
    "JetStreamSink",
    "KafkaSink",
    "OtlpLogSink",
    "RedisStreamSink",
    "SinkError",
    "SqliteSink",
]

# By name: the module, the package that it needs, and the extra that brings it.
_MODULES = {
    "HttpSink": ("_http", "aiohttp", "http"),
    "JetStreamSink": ("_jetstream", "nats-py", "nats"),
    "KafkaSink": ("_kafka", "aiokafka", "kafka"),
    "OtlpLogSink": ("_otlp", "opentelemetry-proto and aiohttp", "otlp"),
    "RedisStreamSink": ("_redis_stream", "redis", "redis"),
    "SqliteSink": ("_sqlite", "sqlite3", None),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    module, needed, extra = _MODULES[name]
    try:
        imported = import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("ringdispatch"):
            raise
        raise ImportError(
            f"{name} needs {needed}: pip install 'ringdispatch[{extra}]'"
        ) from error
    return getattr(imported, name)
