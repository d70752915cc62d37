"""`flush` and `close` of a `DispatchHandler`; forks, ends and new configurations."""

from __future__ import annotations

import asyncio
import gc
import logging
import logging.config
import sysconfig
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import ringdispatch
from ringdispatch import BackgroundDispatcher
from ringdispatch.logging import DispatchHandler
from subprocesses import needs_fork, run_snippet

got: list[str] = []


async def ship(batch: list[Any]) -> None:
    got.extend(entry["message"] for entry in batch)


def write(batch: list[Any]) -> None:
    got.extend(entry["message"] for entry in batch)


@pytest.fixture(autouse=True)
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("shop")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    got.clear()
    yield logger
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def attached(log: logging.Logger, function: Any = ship, **options: Any) -> Any:
    given: Any = {"ms_delay": 60_000, **options}
    handler = DispatchHandler(dispatch_function=function, **given)
    log.addHandler(handler)
    return handler


def test_flush_and_close_wait_for_what_was_logged(log: logging.Logger) -> None:
    for function in (ship, write):
        handler = attached(log, function)
        log.info("a")
        handler.flush()
        assert got == ["a"]
        log.info("b")
        handler.close()
        assert got == ["a", "b"]
        handler.close()
        log.removeHandler(handler)
        got.clear()


@pytest.mark.parametrize("home", ["auto", "thread"])
@pytest.mark.parametrize("method", ["flush", "close"])
def test_on_a_running_loop_they_start_the_flush_and_return(
    log: logging.Logger, method: str, home: str
) -> None:
    returned = threading.Event()

    async def slow(batch: list[Any]) -> None:
        await asyncio.to_thread(returned.wait, 4)  # less than a flush that blocks
        await ship(batch)

    async def main() -> None:
        handler = attached(log, slow, home=home)
        log.info("a")
        getattr(handler, method)()
        assert got == []
        returned.set()
        assert await handler.dispatcher.aflush()  # not after a minute
        assert got == ["a"]
        tasks = [each for each in asyncio.all_tasks() if each.get_name() != "main"]
        assert tasks == [asyncio.current_task()]
        assert await handler.dispatcher.aclose()

    asyncio.run(main())


def test_loop_goes_on_while_another_threads_flush_blocks(log: logging.Logger) -> None:
    async def main() -> None:
        sending = asyncio.Event()
        release = asyncio.Event()

        async def held(batch: list[Any]) -> None:
            sending.set()
            await release.wait()
            await ship(batch)

        handler = attached(log, held)
        log.info("a")
        flushing = asyncio.create_task(asyncio.to_thread(handler.flush))
        await sending.wait()
        release.set()
        await flushing
        assert got == ["a"]
        assert await handler.dispatcher.aclose()

    asyncio.run(main())


def test_flush_never_raises_whatever_the_service_does(log: logging.Logger) -> None:
    async def fail(batch: list[Any]) -> None:
        raise ConnectionError

    handler = attached(log, fail)
    log.info("a")
    handler.flush()
    assert handler.dispatcher.statistics().failed == 1
    assert handler.dispatcher.close()
    log.info("b")
    handler.flush()
    handler.close()
    assert handler.dispatcher.statistics().rejected_closed == 1


def test_flush_blocks_no_home_that_another_greenlet_runs(log: logging.Logger) -> None:
    async def main() -> None:
        handler = attached(log)
        log.info("a")
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)  # as in that greenlet
        try:
            handler.flush()
        finally:
            asyncio._set_running_loop(loop)
        assert got == []
        assert await handler.dispatcher.aclose()

    asyncio.run(main())
    assert got == ["a"]


def test_flush_in_a_batch_does_not_wait_for_itself(log: logging.Logger) -> None:
    began = time.monotonic()
    handlers: list[DispatchHandler] = []

    def write_and_flush(batch: list[Any]) -> None:
        write(batch)
        handlers[0].flush()

    handlers.append(attached(log, write_and_flush))
    log.info("a")
    handlers[0].close()
    assert got == ["a"]
    assert time.monotonic() - began < 5  # a flush that waits has its whole time


def test_shutdown_of_logging_ships_what_is_pending(log: logging.Logger) -> None:
    handler = attached(log)
    log.info("a")
    logging.shutdown([weakref.ref(handler)])
    assert got == ["a"]
    log.info("b")  # as a StreamHandler, it goes on
    handler.flush()
    assert got == ["a", "b"]


def test_shutdown_while_threads_log_loses_nothing(log: logging.Logger) -> None:
    handler = attached(log, ms_delay=1)

    def work() -> None:
        for number in range(2000):
            log.info("%d", number)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        logging.shutdown([weakref.ref(handler)])
    handler.flush()
    accepted = handler.dispatcher.statistics().accepted
    assert accepted == len(got) == 6000


# ---- new configurations


def configure(**more: Any) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "ship": {
                    "()": DispatchHandler,
                    "dispatch_function": ship,
                    "ms_delay": 60_000,
                }
            },
            "loggers": {"shop": {"handlers": ["ship"], "level": "INFO"}},
            **more,
        }
    )


@pytest.mark.usefixtures("no_others")
def test_new_configuration_ships_what_the_old_one_has(log: logging.Logger) -> None:
    for number in range(4):
        configure()
        log.info("%d", number)
    assert got == ["0", "1", "2"]
    gc.collect()
    assert len(ringdispatch.dispatchers()) == 1
    log.handlers[0].flush()
    assert got == ["0", "1", "2", "3"]


def test_new_configuration_on_a_running_loop_ships_it_too(log: logging.Logger) -> None:
    async def main() -> None:
        configure()
        log.info("old")
        configure()
        gc.collect()  # the old handler, and its dispatcher
        log.info("new")
        log.handlers[0].flush()

    asyncio.run(main())
    assert sorted(got) == ["new", "old"]


def test_handler_that_another_configuration_closed_goes_on(
    log: logging.Logger,
) -> None:
    """As uvicorn's configuration, which knows nothing of it, closes every handler."""
    handler = attached(log)
    log.info("before")
    other = {"handlers": ["null"], "level": "INFO"}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"null": {"class": "logging.NullHandler"}},
            "loggers": {"uvicorn": other},
        }
    )
    assert handler in log.handlers
    assert got == ["before"]
    log.info("after")
    assert handler.dispatcher.close()
    assert got == ["before", "after"]


def test_handler_goes_on_after_uvicorns_configuration(log: logging.Logger) -> None:
    config = pytest.importorskip("uvicorn.config")
    handler = attached(log)
    log.info("before")
    logging.config.dictConfig(config.LOGGING_CONFIG)
    log.info("after")
    handler.flush()
    assert got == ["before", "after"]
    for name in config.LOGGING_CONFIG["loggers"]:
        logging.getLogger(name).handlers.clear()


def test_thread_that_the_first_line_starts_logs_nothing() -> None:
    """It starts in the middle of that line's own enqueue."""
    ended = run_snippet(
        PROGRAM
        + """
log.setLevel(logging.DEBUG)
log.info("first")
logging.shutdown()
""",
        debug=False,
    )
    assert ended.lines == ["True first"]


def test_given_dispatcher_stays_open(log: logging.Logger) -> None:
    dispatcher = BackgroundDispatcher[Any](ship, ms_delay=60_000)
    handler = DispatchHandler(dispatcher)
    log.addHandler(handler)
    log.info("a")
    handler.close()
    assert got == ["a"]
    assert not dispatcher.closed
    assert dispatcher.close()


# ---- processes


PROGRAM = """
from ringdispatch.logging import DispatchHandler

async def ship(batch):
    for entry in batch:
        say(os.getpid() == parent, entry["message"])

parent = os.getpid()
handler = DispatchHandler(dispatch_function=ship, ms_delay=60_000)
log = logging.getLogger()
log.addHandler(handler)
log.setLevel(logging.INFO)
"""


def test_lines_are_shipped_at_exit_without_a_word() -> None:
    ended = run_snippet(PROGRAM + "log.info('last')\n")
    assert ended.lines == ["True last"]


def test_lines_of_a_loop_are_shipped_at_its_end() -> None:
    ended = run_snippet(
        PROGRAM
        + """
async def main():
    log.info("first")
    logging.shutdown()
    log.info("second")

run(main())
"""
    )
    assert ended.lines == ["True first", "True second"]


@needs_fork
def test_child_of_a_fork_ships_its_own_lines_only() -> None:
    ended = run_snippet(
        PROGRAM
        + """
log.info("of the parent")
handler.acquire()  # as another thread might, at that moment
child = os.fork()
if child == 0:
    log.info("of the child")
    logging.shutdown()
    os._exit(0)
handler.release()
assert os.waitpid(child, 0)[1] == 0
handler.flush()
""",
        warnings=("ignore:.*multi-threaded.*:DeprecationWarning",),
    )
    assert ended.lines == ["False of the child", "True of the parent"]


@needs_fork
@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="CPython without the GIL may hang in the child",
)
def test_child_forked_while_threads_log_does_not_hang() -> None:
    run_snippet(
        PROGRAM
        + """
say = lambda *_: None
ending = threading.Event()

def work():
    while not ending.is_set():
        log.info("line")

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        log.info("of the child")
        handler.flush()
        os._exit(0 if handler.dispatcher.statistics().dispatched == 1 else 3)
    assert os.waitpid(child, 0)[1] == 0
ending.set()
for thread in threads:
    thread.join()
""",
        warnings=("ignore:.*multi-threaded.*:DeprecationWarning",),
        stderr=r"(ringdispatch\[ship\]: \d+ entr(y|ies) rejected_full[^\n]*\n?)*",
    )
