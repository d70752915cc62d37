"""What shipping log lines logs itself is not shipped: it would never end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from collecting import Collector, collecting
from ringdispatch import BackgroundDispatcher
from ringdispatch.logging import DispatchHandler
from subprocesses import run_snippet

Sending = BackgroundDispatcher[Any]
shop = logging.getLogger("shop")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(autouse=True)
def everything() -> Iterator[None]:
    """Loggers as noisy as they can be, and the root's handlers as they were."""
    gc.collect()  # what earlier tests left unclosed speaks of it before
    root = logging.getLogger()
    level, before = root.level, [*root.handlers]
    root.setLevel(logging.DEBUG)
    shop.setLevel(logging.NOTSET)
    yield
    root.setLevel(level)
    for handler in [each for each in root.handlers if each not in before]:
        root.removeHandler(handler)


def on_root(dispatcher: Sending) -> DispatchHandler:
    handler = DispatchHandler(dispatcher)
    logging.getLogger().addHandler(handler)
    return handler


def lines(entries: list[Any]) -> list[str]:
    return [entry["message"] for entry in entries if entry["logger"] == "shop"]


async def log_and_settle(*handlers: DispatchHandler) -> None:
    """Log one line; then no handler has anything more to ship."""
    shop.info("order paid")
    for _ in range(3):
        for handler in handlers:
            assert await handler.dispatcher.aflush()
    before = [handler.dispatcher.statistics().accepted for handler in handlers]
    for _ in range(3):
        for handler in handlers:
            assert await handler.dispatcher.aflush()
    after = [handler.dispatcher.statistics().accepted for handler in handlers]
    assert before == after
    for handler in handlers:
        assert handler.dispatcher.statistics().failed == 0


# ---- HTTP clients


def installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)


@contextlib.asynccontextmanager
async def by_httpx(url: str) -> Any:
    import httpx

    async with httpx.AsyncClient(trust_env=False) as client:

        async def send(entries: list[Any]) -> None:
            (await client.post(url, json=entries)).raise_for_status()

        yield send


@contextlib.asynccontextmanager
async def by_aiohttp(url: str) -> Any:
    import aiohttp

    sessions: list[Any] = []

    async def send(entries: list[Any]) -> None:
        if not sessions:  # in a batch, so that all it starts is of that batch
            sessions.append(aiohttp.ClientSession())
        async with sessions[0].post(url, json=entries) as response:
            response.raise_for_status()

    yield send
    await sessions[0].close()


@contextlib.asynccontextmanager
async def by_urllib3(url: str) -> Any:
    import urllib3

    with urllib3.PoolManager() as pool:

        def send(entries: list[Any]) -> None:
            assert pool.request("POST", url, json=entries).status == 204

        yield send


@pytest.mark.parametrize("client", [by_httpx, by_aiohttp, by_urllib3])
def test_client_that_logs_its_requests_feeds_nothing(
    client: Any, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    name = client.__name__.removeprefix("by_")
    if not installed(name):
        pytest.skip(f"not installed: {name}")
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        asyncio.get_running_loop().set_debug(True)  # asyncio's lines too
        asyncio.get_running_loop().slow_callback_duration = 60
        async with client(collector.url) as send:
            handler = on_root(Sending(send, ms_delay=1))
            await log_and_settle(handler)
            logs = {record.name.split(".")[0] for record in caplog.records}
            assert name in logs or name == "aiohttp"  # which logs next to nothing
            assert handler.suppressed > 0 or name == "aiohttp"
            assert await handler.dispatcher.aclose()

    asyncio.run(main())
    assert lines(collector.entries) == ["order paid"]


# ---- the sink's own lines


async def in_the_call(batch: list[Any]) -> None:
    shop.info("sending %d", len(batch))


def in_a_worker_thread(batch: list[Any]) -> None:
    shop.info("sending %d", len(batch))


async def in_a_task(batch: list[Any]) -> None:
    await asyncio.create_task(in_the_call(batch))


async def in_to_thread(batch: list[Any]) -> None:
    await asyncio.to_thread(in_a_worker_thread, batch)


@pytest.mark.parametrize(
    "send", [in_the_call, in_a_worker_thread, in_a_task, in_to_thread]
)
def test_lines_of_the_sink_are_dropped_and_counted(
    send: Callable[[list[Any]], object],
) -> None:  # F15
    got: list[Any] = []

    async def sink(batch: list[Any]) -> None:
        got.extend(batch)
        await forward(batch)

    async def forward(batch: list[Any]) -> None:
        if inspect.iscoroutinefunction(send):
            await send(batch)

    def ordinary(batch: list[Any]) -> None:
        got.extend(batch)
        send(batch)

    async def main() -> None:
        function: Any = ordinary if send is in_a_worker_thread else sink
        handler = on_root(Sending(function, ms_delay=1))
        await log_and_settle(handler)
        assert handler.suppressed >= 1
        assert await handler.dispatcher.aclose()

    asyncio.run(main())
    assert lines(got) == ["order paid"]


def test_line_of_a_task_that_outlives_its_batch_is_dropped() -> None:
    """A client's task that reads answers logs in later batches too."""
    got: list[Any] = []

    async def main() -> None:
        sent: asyncio.Queue[int] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []

        async def read() -> None:
            while True:
                await sent.get()
                shop.debug("answered")
                sent.task_done()

        async def send(batch: list[Any]) -> None:
            got.extend(batch)
            if not tasks:
                tasks.append(asyncio.create_task(read()))
            sent.put_nowait(len(batch))

        handler = on_root(Sending(send, ms_delay=1))
        for _ in range(2):
            await log_and_settle(handler)
            await sent.join()
        assert handler.suppressed >= 2
        await log_and_settle(handler)
        tasks[0].cancel()
        assert await handler.dispatcher.aclose()

    asyncio.run(main())
    assert lines(got) == ["order paid"] * 3


def test_two_handlers_do_not_feed_each_other() -> None:
    got: dict[str, list[Any]] = {"a": [], "b": []}

    def sink(name: str) -> Callable[[list[Any]], Awaitable[None]]:
        async def send(batch: list[Any]) -> None:
            got[name].extend(batch)
            shop.info("%s sends %d", name, len(batch))

        return send

    async def main() -> None:
        first = on_root(Sending(sink("a"), ms_delay=1))
        second = on_root(Sending(sink("b"), ms_delay=1, home="thread"))
        await log_and_settle(first, second)
        assert first.suppressed == second.suppressed == 2
        for handler in (first, second):
            assert await handler.dispatcher.aclose()

    asyncio.run(main())
    assert {name: lines(entries) for name, entries in got.items()} == {
        "a": ["order paid"],
        "b": ["order paid"],
    }


def test_lines_of_a_batch_that_ships_none_are_shipped() -> None:
    """The sink of an access log may log; its dispatcher has no handler."""
    got: list[Any] = []

    async def ship(batch: list[Any]) -> None:
        got.extend(batch)

    async def main() -> None:
        handler = on_root(Sending(ship, ms_delay=1))
        access = Sending(in_the_call, ms_delay=1)
        access.enqueue("a")
        assert await access.aclose()
        assert await handler.dispatcher.aclose()
        assert handler.suppressed == 0

    asyncio.run(main())
    assert lines(got) == ["sending 1"]


def test_handler_that_was_closed_feeds_no_other() -> None:
    """Its dispatcher may still have a batch to send."""
    got: list[Any] = []

    async def ship(batch: list[Any]) -> None:
        got.extend(batch)

    async def main() -> None:
        old = DispatchHandler(dispatch_function=in_the_call, ms_delay=1)
        new = on_root(Sending(ship, ms_delay=1))
        old.handle(logging.makeLogRecord({"msg": "last"}))
        old.close()
        assert await old.dispatcher.aflush()
        assert await new.dispatcher.aclose()
        assert new.suppressed == 1

    asyncio.run(main())
    assert lines(got) == []


def test_suppressed_counts_every_thread() -> None:
    together = threading.Barrier(4)

    def send(batch: list[Any]) -> None:
        together.wait(10)
        for _ in range(500):
            shop.info("sending")

    handler = DispatchHandler(
        dispatch_function=send, ms_delay=1, max_batch=1, max_in_flight=4
    )
    logging.getLogger().addHandler(handler)
    for number in range(4):
        handler.dispatcher.enqueue(number)
    assert handler.dispatcher.close(timeout=30)
    assert handler.suppressed == 2000


# ---- the library's own lines


def test_own_lines_are_dropped_and_other_handlers_get_them(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(batch: list[Any]) -> None:
        raise ConnectionError("down")

    async def main() -> None:
        handler = on_root(Sending(fail, ms_delay=1))
        shop.info("order paid")
        assert await handler.dispatcher.aclose()
        assert handler.suppressed >= 1
        assert handler.dispatcher.statistics().accepted == 1

    asyncio.run(main())
    assert any("ConnectionError('down')" in line for line in caplog.messages)
    assert "ConnectionError" not in capsys.readouterr().err


def test_own_warnings_go_to_stderr_where_no_other_handler_takes_them() -> None:
    """That the service is down is to be read elsewhere than there."""
    run_snippet(
        """
        from ringdispatch.logging import DispatchHandler

        async def fail(batch):
            raise ConnectionError("down")

        async def go_on(batch):
            pass

        root = logging.getLogger()
        for send in (fail, go_on):
            root.addHandler(DispatchHandler(dispatch_function=send, ms_delay=1))
        root.setLevel(logging.INFO)
        logging.info("order paid")
        logging.shutdown()
        root.addHandler(logging.NullHandler())  # it takes them
        logging.getLogger("ringdispatch").warning("not shown")
        say(*(handler.suppressed for handler in root.handlers[:2]))
        """,
        stderr=r"ringdispatch\[fail\]: dispatch failed \(1 entry\): "
        r"ConnectionError\('down'\)\nTraceback .*: down",
    )
