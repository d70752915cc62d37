"""What the blocks of the pages need and should have done; for test_docs.py."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import sqlite3
import urllib.error
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import log_pages
import ringdispatch
import web_pages
from collecting import Collector
from loops import eventually
from pages import ADDRESSES, ROOT, Block
from recovering import orphan
from ringdispatch import BackgroundDispatcher
from ringdispatch.sinks import SinkError
from web_pages import serve_and_ask

PRELUDES = {
    **web_pages.PRELUDES,
    ("docs/logging.md", "Logging"): """
import logging
logging.getLogger("httpx").setLevel(logging.INFO)
""",
}


# Which block goes on from which, as its page says.
GOES_ON = {
    ("docs/logging.md", "By dictConfig"): "Logging",
    ("docs/logging.md", "structlog"): "Logging",
    ("docs/index.md", "Check the counts"): "Without an event loop",
    ("docs/index.md", "When the other side is down"): "Without an event loop",
}


class Run:
    """A page's names, the server that it posts to, and what it printed."""

    def __init__(self, collector: Collector, logged: list[logging.LogRecord]) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.collector = collector
        self.logged = logged
        self.printed = ""

    def of(self, block: Block) -> None:
        prelude = PRELUDES.get((block.page, block.heading), "")
        for text, line in ((prelude, 1), (block.source, block.line)):
            # So many lines down that a traceback shows the page's own.
            source = "\n" * (line - 1) + ADDRESSES.sub(self.collector.url, text)
            path = str(ROOT / block.page)
            code = compile(source, path, "exec", dont_inherit=True)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, self.names)
            self.printed = out.getvalue()


class Request:
    url = "/orders/1"


class Context:
    def wait_until(self, awaitable: Awaitable[object]) -> None:
        self.awaitable = awaitable


Check = Callable[[Run], None]


def ported_from_typescript(run: Run) -> None:
    async def main() -> None:
        context = Context()
        answer = await run.names["handler"](Request(), context)
        assert answer == "Hello World!"
        assert await run.names["dispatcher"].aclose()
        await context.awaitable
        await run.names["client"].aclose()

    asyncio.run(main())
    assert run.collector.entries == [{"message": "new request on /orders/1"}]


def first_example(run: Run) -> None:
    assert run.printed == "1000 entries in one call\n"


def service(run: Run) -> None:
    """Under a real uvicorn, asked by a real client; and again, as tests begin anew."""
    answers = [serve_and_ask(run.names["app"], "a") for _ in range(2)]
    urls = [url for url, _ in answers]
    assert {answer for _, answer in answers} == {b"Hello World!"}
    messages = [{"message": f"new request on {url}"} for url in urls]
    assert run.collector.entries == messages


def copied(run: Run) -> None:
    assert run.printed.splitlines() == [
        "{'status': 'paid'}",
        "{'status': 'new'}",
        "{'status': 'new'}",
    ]


def ordinary_function(run: Run) -> None:
    assert run.collector.entries == [{"order": number} for number in range(1000)]


def shown_live(run: Run) -> None:
    assert run.collector.entries == [{"order": number} for number in range(500)]


def hooks(run: Run) -> None:
    run.collector.failures = 1
    dispatcher = run.names["dispatcher"]
    dispatcher.enqueue({"order": 1})
    assert dispatcher.close()
    assert dispatcher.statistics().failed == 1
    assert any(record.name == "shipping" for record in run.logged)
    for record in run.logged:
        if record.exc_info and isinstance(record.exc_info[1], urllib.error.HTTPError):
            record.exc_info[1].close()  # from 3.14 on it warns


def retried(run: Run) -> None:
    assert run.collector.entries == [{"order": 1}]
    assert len(run.collector.refused) == 2
    posts = [*run.collector.refused, *run.collector.posts]
    assert len({post.headers["idempotency-key"] for post in posts}) == 1


def posted_by_a_sink(run: Run) -> None:
    assert run.collector.entries == [{"order": 1, "status": "paid"}]


def posted_by_own_session(run: Run) -> None:
    sink = run.names["sink"]

    async def main() -> None:
        await sink([1])
        await sink.aclose()

    asyncio.run(main())
    assert run.collector.entries == [1]


def stored(run: Run) -> None:
    rows = run.printed.splitlines()
    assert rows == ["('/orders/1', 200, 0.25)", "('/orders/2', 404, None)"]


def log_records(run: Run) -> None:
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

    (post,) = run.collector.posts
    assert post.path == "/v1/logs"
    request = logs_service_pb2.ExportLogsServiceRequest.FromString(post.body)
    (record,) = request.resource_logs[0].scope_logs[0].log_records
    assert record.body.string_value == "order paid"
    assert {each.key for each in record.attributes} == {"order", "items"}


def own_sink(run: Run) -> None:
    bad = run.names["LineSink"]()
    layout = ringdispatch.Bytes()
    with pytest.raises(TypeError, match="LineSink takes lists"):
        ringdispatch.BackgroundDispatcher(bad, ms_delay=1, layout=layout)
    asyncio.run(breaking(bad))


async def breaking(sink: Any) -> None:
    """Break a sink's connection, which it must not keep."""

    def abort(_: object, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def send() -> None:
        while True:
            await sink(["line"])

    async with await asyncio.start_server(abort, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()[:2]
        reader, sink.writer = await asyncio.open_connection(*address)
        assert await reader.read() == b""
        with pytest.raises(SinkError, match="line service"):
            await send()
        assert sink.writer is None


def sent_again(run: Run) -> None:
    assert len(run.collector.refused) == 1
    assert run.collector.entries == [{"order": 1}]
    assert not run.names["DEAD"].exists()


def compressed(run: Run) -> None:
    assert [entry["order"] for entry in run.collector.entries] == [*range(1000)]
    assert sum(len(post.body) for post in run.collector.posts) < 10_000


def by_kind(run: Run) -> None:
    kinds = {post.path: post.entries for post in run.collector.posts}
    assert kinds == {
        "/access": [{"url": "/orders/1"}],
        "/audit": [{"user": 1, "action": "paid"}],
        "/metering": [{"tenant": 7, "bytes": 512}],
    }


def traced(run: Run) -> None:
    assert run.collector.entries == [{"message": "order 1 paid"}]


def queued(run: Run) -> None:
    assert [entry["order"] for entry in run.collector.entries] == [*range(100)]


def layouts(run: Run) -> None:
    assert run.printed


def rode_it_out(run: Run) -> None:
    assert len(run.collector.refused) == 2
    posts = [*run.collector.refused, *run.collector.posts]
    assert len({post.headers["idempotency-key"] for post in posts[:3]}) == 1
    assert [entry["order"] for entry in run.collector.entries] == [*range(500)]
    assert list(Path("spool/orders").iterdir()) == []


def stored_once(run: Run) -> None:
    """Also where a process dies after it has stored a batch."""
    place = Path("spool")
    (place / "store").rmdir()
    path = orphan(place, b"double", b"too", name="store", taken=(2,))
    file = path.read_bytes()
    for _ in range(2):
        path.write_bytes(file)
        path.chmod(0o600)
        with BackgroundDispatcher(
            run.names["store"], ms_delay=1, name="store", layout=run.names["layout"]
        ) as dispatcher:
            dispatcher.enqueue("a window")
            # A disk may stand still for seconds.
            eventually(lambda: dispatcher.statistics().recovered == 2, 60)
        eventually(lambda: not path.exists())  # the name is to be used again
    with contextlib.closing(sqlite3.connect("orders.db")) as database:
        rows = [row for (row,) in database.execute("SELECT entry FROM entries")]
    assert rows[:1000] == [f"order {number}".encode() for number in range(1000)]
    assert sorted(rows[1000:]) == [b"a window", b"a window", b"double", b"too"]


def double_dropped(run: Run) -> None:
    store = run.names["store"]
    store([b'{"order": 1}', b'{"order": 2}'], ["a/0", "a/1"])
    store([b'{"order": 2}', b'{"order": 3}'], ["a/1", "a/2"])
    with contextlib.closing(sqlite3.connect("entries.db")) as connection:
        found = connection.execute("SELECT * FROM entries ORDER BY id").fetchall()
    assert found == [(f"a/{n}", f'{{"order": {n + 1}}}') for n in range(3)]


def under_trio(run: Run) -> None:
    assert run.collector.entries == [{"order": 1}]


CHECKS: dict[tuple[str, str], Check] = {
    ("README.md", "ringdispatch"): first_example,
    ("README.md", "Coming from TypeScript"): ported_from_typescript,
    ("docs/collector.md", "Start in five minutes"): shown_live,
    ("docs/durability.md", "Ride out an outage"): rode_it_out,
    ("docs/durability.md", "At least once"): stored_once,
    ("docs/index.md", "A service that ships an entry per request"): service,
    ("docs/index.md", "An entry that changes after `enqueue`"): copied,
    ("docs/index.md", "Without an event loop"): ordinary_function,
    ("docs/index.md", "When the other side is down"): hooks,
    ("docs/layouts.md", "Records"): layouts,
    ("docs/layouts.md", "Bytes"): layouts,
    ("docs/migrating.md", "From the TypeScript object"): ported_from_typescript,
    ("docs/migrating.md", "From OpenTelemetry's processors"): traced,
    ("docs/migrating.md", "From a hand-written asyncio queue"): queued,
    ("docs/recipes.md", "Retry"): retried,
    ("docs/recipes.md", "Dead letters"): sent_again,
    ("docs/recipes.md", "Compression"): compressed,
    ("docs/recipes.md", "Several dispatchers in a dict"): by_kind,
    ("docs/scale.md", "Each entry once"): double_dropped,
    ("docs/sinks.md", "HttpSink"): posted_by_a_sink,
    ("docs/sinks.md", "Certificates and proxies"): posted_by_own_session,
    ("docs/sinks.md", "SqliteSink"): stored,
    ("docs/sinks.md", "OtlpLogSink"): log_records,
    ("docs/sinks.md", "A sink of your own"): own_sink,
    ("docs/servers.md", "trio"): under_trio,
    **web_pages.CHECKS,
    **log_pages.CHECKS,
}
FAILURES = {
    ("docs/durability.md", "Ride out an outage"): 2,
    ("docs/recipes.md", "Retry"): 2,
    ("docs/recipes.md", "Dead letters"): 1,
}
