"""OpenTelemetry's batch processor on a dispatcher."""

from __future__ import annotations

import inspect
from typing import Any

import opentelemetry.sdk._logs._internal.export as logs
import opentelemetry.sdk.trace.export as traces
from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,
    attach,
    detach,
    set_value,
)

from ringdispatch import BackgroundDispatcher


class BatchProcessor:
    """What `BatchSpanProcessor` and `BatchLogRecordProcessor` are made of.

    Takes the arguments of OpenTelemetry's own, and has the attributes that its callers
    read. Where the queue is full, the newest entry is refused instead of the oldest
    dropped: so `emit` learns of each loss at once, and counts it.
    """

    def __init__(
        self,
        exporter: Any,
        schedule_delay_millis: float,
        max_export_batch_size: int,
        export_timeout_millis: float,
        max_queue_size: int,
        exporting: str,
        metrics: Any,
    ) -> None:
        self._exporter = exporter
        self._schedule_delay_millis = schedule_delay_millis
        self._schedule_delay = schedule_delay_millis / 1000
        self._max_export_batch_size = max_export_batch_size
        self._export_timeout_millis = export_timeout_millis
        self._max_queue_size = max_queue_size
        self._metrics = metrics
        self._dispatcher = dispatcher = BackgroundDispatcher[Any](
            self._export,
            ms_delay=schedule_delay_millis,
            capacity=max_queue_size,
            max_batch=max_export_batch_size,
            dispatch_timeout=None,  # OpenTelemetry's has none either
            home="thread",
            name=f"OpenTelemetry {exporting}",
        )
        metrics.register_queue_size(lambda: dispatcher.pending)

    @property
    def _shutdown(self) -> bool:
        return self._dispatcher.closed

    def _export(self, batch: list[Any]) -> None:
        """Hand a batch to the exporter, which must not trace what it does."""
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            self._metrics.finish_items(len(batch))
            self._exporter.export(batch)
        finally:
            detach(token)

    def emit(self, data: Any) -> None:
        if self._dispatcher.enqueue(data):
            return
        if self._dispatcher.closed:
            self._metrics.drop_items(1, "already_shutdown")
        else:
            self._metrics.drop_items(1)

    def force_flush(self, timeout_millis: float | None = None) -> bool:
        timeout = None if timeout_millis is None else timeout_millis / 1000
        return not self._dispatcher.closed and self._dispatcher.flush(timeout)

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        if self._dispatcher.closed:
            return
        self._dispatcher.close(timeout_millis / 1000)
        exporter_shutdown = self._exporter.shutdown
        if "timeout_millis" in inspect.getfullargspec(exporter_shutdown).args:
            exporter_shutdown(timeout_millis=0)
        else:
            exporter_shutdown()


def install() -> None:
    """Have the span and the log record processor made from the adapter."""
    for module in (logs, traces):
        module.BatchProcessor = BatchProcessor
