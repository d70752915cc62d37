"""What one line of `logging` costs with a `DispatchHandler`, beside other handlers.

    python benchmarks/logging_price.py [--check] [--json FILE]

Counts instructions of `log.info("request %s took %s ms", url, took)` with callgrind
(instructions.py), the empty loop's own taken off, from the call of the logger until the
record lies where it waits to be shipped; a handler that does nothing shows what logging
itself takes. `--check` exits with 1 where a ratio is above its limit.

structlog has no handlers: its event goes straight into `enqueue`, where structlog is
installed.
"""

import logging
import logging.handlers
import queue
import sys
from collections.abc import Callable
from importlib.util import find_spec

from enqueue_price import dispatcher
from instructions import Cases, Limit, Loop, calling, compare

LINE = 'log.info("request %s took %s ms", url, took)'
NAMES = {"url": "/orders/1", "took": 12}
LINES = 2_000


class Nothing(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        pass


def dispatching(**options: object) -> logging.Handler:
    from ringdispatch.logging import DispatchHandler

    return DispatchHandler(dispatcher(**options))


def formatting() -> logging.Handler:
    handler = dispatching()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def queueing(entries: queue.SimpleQueue | queue.Queue) -> Loop:
    return logging_to(lambda: logging.handlers.QueueHandler(entries))


def logging_to(make: Callable[[], logging.Handler], line: str = LINE) -> Loop:
    log = logging.getLogger("shop")
    log.handlers = [make()]
    log.propagate = False
    log.setLevel(logging.INFO)
    return calling(line, LINES, log=log, **NAMES)


def with_extra() -> Loop:
    line = 'log.info("request %s took %s ms", url, took, extra={"tenant": 7})'
    return logging_to(dispatching, line)


def with_structlog() -> Loop:
    import structlog

    enqueue = dispatcher().enqueue

    def ship(_: object, __: str, event: dict[str, object]) -> None:
        enqueue(event)
        raise structlog.DropEvent

    log = structlog.wrap_logger(
        None,
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(),
            structlog.processors.format_exc_info,
            ship,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    ).bind()
    return calling('log.info("request", url=url, took=took)', LINES, log=log, **NAMES)


CASES: Cases = {
    "no-op handler": lambda: logging_to(Nothing),
    "DispatchHandler": lambda: logging_to(dispatching),
    "DispatchHandler, one extra": with_extra,
    "DispatchHandler, Formatter": lambda: logging_to(formatting),
    # As logging.config makes it, and with the cheapest queue that it can have.
    "QueueHandler": lambda: queueing(queue.Queue()),
    "QueueHandler, SimpleQueue": lambda: queueing(queue.SimpleQueue()),
}
if find_spec("structlog"):
    CASES = {**CASES, "structlog into enqueue": with_structlog}

LIMITS: list[Limit] = [
    ("DispatchHandler", "no-op handler", 1.20, 1.20),
    ("DispatchHandler", "QueueHandler", 0.60, 0.60),
]


if __name__ == "__main__":
    sys.exit(compare(__doc__, CASES, "no-op handler", LIMITS, rounds=LINES))
