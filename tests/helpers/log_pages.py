"""What the blocks about logging and metrics should have done; for test_docs.py."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from ringdispatch.logging import DispatchHandler

OURS = ("QueueHandler", "DispatchHandler")


def migrated(run: Any) -> None:
    two_lines(run)
    if "DispatchHandler" in run.names:
        assert run.names["handler"].dispatcher.close()  # and the sink's connections
    forget_handlers()


def two_lines(run: Any) -> None:
    """The same, by either handler."""
    paid, failed = run.collector.entries
    assert paid["message"] == "order 1 paid"
    text = failed["message"]
    if "DispatchHandler" in run.names:
        assert text == "order 2 failed"
        text += "\n" + failed["exception"]
    assert text.startswith("order 2 failed\nTraceback (most recent call last):")
    assert text.endswith("KeyError: 'address'")


def feeds_nothing(run: Any) -> None:
    """The client logs a line for each batch: not shipped, it makes no other."""
    run.collector.forget()
    [handler] = [
        each
        for each in logging.getLogger().handlers
        if isinstance(each, DispatchHandler)
    ]
    before = len([each for each in run.logged if each.name == "httpx"])
    logging.getLogger("shop").info("order 3 paid")
    for _ in range(3):
        handler.flush()
    assert [each["message"] for each in run.collector.entries] == ["order 3 paid"]
    assert len([each for each in run.logged if each.name == "httpx"]) == before + 1
    assert handler.suppressed >= 2


def forget_handlers() -> None:
    root = logging.getLogger()
    for handler in [each for each in root.handlers if type(each).__name__ in OURS]:
        root.removeHandler(handler)


def shipped(run: Any) -> None:
    assert run.collector.entries[0].pop("tenant") == 7
    two_lines(run)
    feeds_nothing(run)
    forget_handlers()


def configured(run: Any) -> None:
    kinds = [type(each).__name__ for each in logging.getLogger().handlers]
    assert kinds == ["StreamHandler", "DispatchHandler"]
    logging.getLogger().handlers[0].setLevel(logging.CRITICAL)  # as quiet as a test
    logging.getLogger("shop").warning("order 4 paid")
    logging.shutdown()
    assert [each["message"] for each in run.collector.entries] == ["order 4 paid"]
    forget_handlers()


def shipped_by_structlog(run: Any) -> None:
    run.names["structlog"].reset_defaults()
    [entry] = run.collector.entries
    assert entry.pop("timestamp") > 0
    assert entry == {"event": "order paid", "order": 1, "level": "info"}


def scraped(run: Any) -> None:
    import httpx
    from prometheus_client import REGISTRY

    from ringdispatch.prometheus import DispatcherCollector

    dispatcher = run.names["dispatcher"]

    async def main() -> str:
        transport = httpx.ASGITransport(run.names["app"])
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://shop/")).text == "Hello World!"
            text = (await client.get("http://shop/metrics/")).text
        await dispatcher.aclose()
        return text

    accepted = f'ringdispatch_entries_accepted_total{{dispatcher="{dispatcher.name}"}}'
    assert f"{accepted} 1.0" in asyncio.run(main())
    for collector in [*REGISTRY._collector_to_names]:
        if isinstance(collector, DispatcherCollector):
            REGISTRY.unregister(collector)


def observed(run: Any) -> None:
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    run.names["provider"].shutdown()
    reader = InMemoryMetricReader()
    provider = run.names["MeterProvider"]([reader])
    run.names["ringdispatch"].opentelemetry.instrument(provider)
    data = reader.get_metrics_data()
    assert data is not None
    assert "ringdispatch.entries.accepted" in json.dumps(json.loads(data.to_json()))


CHECKS = {
    ("docs/logging.md", "Logging"): shipped,
    ("docs/logging.md", "By dictConfig"): configured,
    ("docs/logging.md", "structlog"): shipped_by_structlog,
    ("docs/metrics.md", "Prometheus"): scraped,
    ("docs/metrics.md", "OpenTelemetry"): observed,
    ("docs/migrating.md", "From QueueHandler"): migrated,
}
