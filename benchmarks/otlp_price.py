"""What a log record costs on its way to an OTLP body: OtlpLogSink's, and the SDK's.

    python benchmarks/otlp_price.py [--check] [--json FILE]

A round makes a record of a message, a level and five attributes, and has its share of
encoding a batch of 1,000: with the SDK `Logger.emit`, a processor that collects, and
the encoder of its OTLP exporters; with ours a dict, `enqueue`, and the sink's encoder.
Nothing is posted. `--check` exits with 1 above the limit, which holds where protobuf
has its compiled part: for free-threaded Python there is none.
"""

import argparse
import asyncio
import json
import platform
import sys
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from google.protobuf.internal import api_implementation

from instructions import Cases, Loop, prices, serve

ENTRIES = 1_000
LIMIT = 0.25
SDK, OURS = "OpenTelemetry SDK", "OtlpLogSink"
NANOSECONDS = 1_767_225_600_000_000_000


def attributes(number: int) -> dict[str, Any]:
    """What the record of a request has."""
    return {
        "http.request.method": "GET",
        "url.path": "/orders/1",
        "http.response.status_code": 200,
        "duration_ms": 0.25 * number,
        "cached": False,
    }


def empty() -> Loop:
    """The loop that makes the attributes, and nothing of them."""

    def run() -> None:
        for number, _ in enumerate(repeat(None, ENTRIES)):
            attributes(number)

    return run


def of_the_sdk() -> Loop:
    """The SDK's logger, a processor that collects, the exporters' encoder."""
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
    from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
    from opentelemetry.sdk.resources import Resource

    batch: list[Any] = []

    class Collecting(LogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            batch.append(log_record)

        def shutdown(self) -> None:
            batch.clear()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return timeout_millis > 0

    provider = LoggerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_log_record_processor(Collecting())
    logger = provider.get_logger("shop")

    def run() -> None:
        for number, _ in enumerate(repeat(None, ENTRIES)):
            logger.emit(
                LogRecord(
                    timestamp=NANOSECONDS,
                    severity_number=SeverityNumber.INFO,
                    severity_text="INFO",
                    body="order paid",
                    attributes=attributes(number),
                )
            )
        encoded = encode_logs(batch).SerializeToString()
        assert len(encoded) > 100 * ENTRIES
        batch.clear()

    return run


def ours() -> Loop:
    """A dict, `enqueue`, and the sink's encoder, chunk by chunk."""
    from ringdispatch import BackgroundDispatcher
    from ringdispatch.sinks import OtlpLogSink

    loop = asyncio.new_event_loop()
    sizes: list[int] = []

    class Encoding(OtlpLogSink[list[Any]]):
        async def _send(self, entries: Sequence[Any], encode: Any) -> None:
            sizes.append(len(await self._body_of(entries, encode)))

    sink = Encoding("http://127.0.0.1:4318", resource={"service.name": "shop"})
    dispatcher = BackgroundDispatcher(sink, ms_delay=60_000)

    async def send() -> None:
        for number, _ in enumerate(repeat(None, ENTRIES)):
            entry = attributes(number)
            entry["time"] = NANOSECONDS
            entry["level"] = "INFO"
            entry["message"] = "order paid"
            dispatcher.enqueue(entry)
        assert await dispatcher.aflush()

    def run() -> None:
        loop.run_until_complete(send())
        assert sizes.pop() > 100 * ENTRIES

    return run


CASES: Cases = {"empty loop": empty, SDK: of_the_sdk, OURS: ours}


def main() -> int:
    """Measure, print, and check the limit where asked."""
    serve(CASES)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail above the limit")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    unit, measured = prices(CASES, ENTRIES)
    compiled = api_implementation.Type() != "python"
    about = f"{platform.machine()}, protobuf {'compiled' if compiled else 'in Python'}"
    print(f"CPython {platform.python_version()}, {about}: {unit} a record")
    for case, price in measured.items():
        print(f"  {case:<24}{price:10,.0f}   {price / measured[SDK]:5.2f} of the SDK")
    ratio = measured[OURS] / measured[SDK]
    met = ratio <= LIMIT
    verdict = "met" if met else "NOT MET" if compiled else "with compiled protobuf only"
    print(f"{ratio:.3f} of the SDK, limit {LIMIT:.2f}: {verdict}")
    if options.json:
        options.json.write_text(json.dumps({"unit": unit, "prices": measured}))
    return 1 if options.check and compiled and not met else 0


if __name__ == "__main__":
    sys.exit(main())
