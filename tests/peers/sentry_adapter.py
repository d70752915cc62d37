"""Sentry's batchers of logs and metrics on a dispatcher."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import sentry_sdk._batcher
import sentry_sdk.client
from sentry_sdk._log_batcher import LogBatcher
from sentry_sdk._metrics_batcher import MetricsBatcher
from sentry_sdk.envelope import Envelope
from sentry_sdk.utils import format_timestamp

from ringdispatch import BackgroundDispatcher


class Batcher(sentry_sdk._batcher.Batcher):
    """What collects entries, and sends them as the items of an envelope.

    A batch has at most `MAX_BEFORE_FLUSH` entries; Sentry's own hands over all that it
    has once there are so many.
    """

    def __init__(
        self,
        capture_func: Callable[[Envelope], None],
        record_lost_func: Callable[..., None],
    ) -> None:
        self._capture_func = capture_func
        self._record_lost_func = record_lost_func
        self._active = threading.local()
        self._buffer: list[Any] = []
        self._dispatcher = BackgroundDispatcher[Any](
            self._send,
            ms_delay=self.FLUSH_WAIT_TIME * 1000,
            capacity=self.MAX_BEFORE_DROP,
            max_batch=self.MAX_BEFORE_FLUSH,
            dispatch_timeout=None,
            home="thread",
            name=f"Sentry {self.TYPE}",
        )

    def _send(self, batch: list[Any]) -> None:
        """Send a batch; what logs meanwhile in this thread must not come back."""
        self._active.flag = True
        try:
            sent_at = format_timestamp(datetime.now(UTC))
            envelope = Envelope(headers={"sent_at": sent_at})
            self._buffer = batch
            self._add_to_envelope(envelope)
            self._capture_func(envelope)
        finally:
            self._buffer = []
            self._active.flag = False

    def add(self, item: Any) -> None:
        if getattr(self._active, "flag", False):
            return
        if not self._dispatcher.enqueue(item) and not self._dispatcher.closed:
            self._record_lost(item)

    def flush(self) -> None:
        self._dispatcher.flush()

    def kill(self) -> None:
        self._dispatcher.close()


class DispatchedLogs(Batcher, LogBatcher):
    """Logs."""


class DispatchedMetrics(Batcher, MetricsBatcher):
    """Metrics."""


def install() -> None:
    """Have clients make their batchers of logs and metrics from the adapter.

    The one of spans keeps a queue for each trace, and stays as it is.
    """
    sentry_sdk._batcher.Batcher = Batcher
    sentry_sdk.client.LogBatcher = DispatchedLogs
    sentry_sdk.client.MetricsBatcher = DispatchedMetrics
