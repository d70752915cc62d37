"""LifespanMiddleware: dispatchers are open as long as the service is."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from asgi_side import Lifespan, Server, body, scope_of, start
from loops import LOOPS, Place, run_on
from ringdispatch import BackgroundDispatcher
from ringdispatch.asgi import (
    AccessLogMiddleware,
    LifespanMiddleware,
    _holders,
    _Lifespan,
)
from ringdispatch.testing import RecordingDispatcher
from serving import needs
from subprocesses import needs_fork, run_snippet
from support import Sink, SteppedLoop

HELPERS = Path(__file__).parent / "helpers"
STARTED, STOPPED = "lifespan.startup.complete", "lifespan.shutdown.complete"


class App:
    """An application with a lifespan; its own code enqueues at both ends."""

    def __init__(self, *dispatchers: BackgroundDispatcher[Any]) -> None:
        self.dispatchers = dispatchers
        self.seen: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        assert (await receive())["type"] == "lifespan.startup"
        self.note("startup")
        await send({"type": STARTED})
        assert (await receive())["type"] == "lifespan.shutdown"
        self.note("shutdown")
        await send({"type": STOPPED})

    def note(self, event: str) -> None:
        for dispatcher in self.dispatchers:
            self.seen.append((event, dispatcher.closed, dispatcher.pending))
            assert dispatcher.enqueue(event)


async def knows_none(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise ValueError(f"can only handle http, not {scope['type']}")
    await send(start())
    await send(body(b"Hello"))


async def ignores_it(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await knows_none(scope, receive, send)


def dispatcher_to(sink: Any, **options: Any) -> BackgroundDispatcher[Any]:
    return BackgroundDispatcher(sink, ms_delay=60_000, **options)


@pytest.mark.parametrize("loop_name", LOOPS)
def test_dispatchers_are_flushed_before_and_closed_after_the_shutdown_code(
    loop_name: str,
) -> None:  # C16
    sinks = Place(), Place()
    dispatchers = [dispatcher_to(sink) for sink in sinks]
    app = App(*dispatchers)

    async def main() -> asyncio.AbstractEventLoop:
        lifespan = Lifespan(LifespanMiddleware(app, dispatchers=dispatchers))
        assert await lifespan.startup() == STARTED
        for dispatcher in dispatchers:
            dispatcher.enqueue("request")
        assert await lifespan.shutdown() == STOPPED
        await lifespan.task
        assert all(dispatcher.closed for dispatcher in dispatchers)
        return asyncio.get_running_loop()

    for _ in range(2):  # as `with TestClient(app)` twice
        loop = run_on(loop_name, main())
        for sink in sinks:
            assert sink.entries == ["startup", "request", "shutdown"]
            assert sink.batches == [["startup", "request"], ["shutdown"]]
            assert {*sink.loops} == {loop}
            sink.batches.clear()
            sink.loops.clear()
    assert {tuple(state[1:]) for state in app.seen} == {(False, 0)}


@pytest.mark.parametrize("app", [knows_none, ignores_it])
def test_middleware_answers_for_an_application_without_a_lifespan(app: Any) -> None:
    sink = Place()
    dispatcher = dispatcher_to(sink)

    async def main() -> None:
        wrapped = LifespanMiddleware(app, dispatchers=[dispatcher])
        lifespan = Lifespan(wrapped)
        assert await lifespan.startup() == STARTED
        server = Server()
        await server.call(wrapped)
        assert server.sent[1]["body"] == b"Hello"
        dispatcher.enqueue("request")
        assert not lifespan.task.done()
        assert await lifespan.shutdown() == STOPPED
        await lifespan.task
        assert dispatcher.closed

    asyncio.run(main())
    assert sink.entries == ["request"]


def test_application_whose_lifespan_ends_after_its_startup() -> None:
    """Its dispatchers stay open until the server's shutdown, which is answered."""
    sink = Place()
    dispatcher = dispatcher_to(sink)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": STARTED})

    async def main() -> None:
        lifespan = Lifespan(LifespanMiddleware(app, dispatchers=[dispatcher]))
        assert await lifespan.startup() == STARTED
        await asyncio.sleep(0)
        assert dispatcher.enqueue("request")
        assert await lifespan.shutdown() == STOPPED
        assert dispatcher.closed

    asyncio.run(main())
    assert sink.entries == ["request"]


def test_startup_that_fails_closes() -> None:
    sink = Place()
    dispatcher = dispatcher_to(sink)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        dispatcher.enqueue("startup")
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise ConnectionError("no database")

    async def main() -> None:
        lifespan = Lifespan(LifespanMiddleware(app, dispatchers=[dispatcher]))
        assert await lifespan.startup() == "lifespan.startup.failed"
        with pytest.raises(ConnectionError, match="no database"):
            await lifespan.task
        assert dispatcher.closed

    asyncio.run(main())
    assert sink.entries == ["startup"]


@pytest.mark.parametrize("sends", [True, False])
def test_shutdown_that_raises_closes(sends: bool) -> None:
    sink = Place()
    dispatcher = dispatcher_to(sink)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": STARTED})
        await receive()
        dispatcher.enqueue("shutdown")
        if sends:
            await send({"type": "lifespan.shutdown.failed", "message": ""})
        raise ConnectionError("too late")

    async def main() -> None:
        lifespan = Lifespan(LifespanMiddleware(app, dispatchers=[dispatcher]))
        await lifespan.startup()
        await lifespan.shutdown()
        with pytest.raises(ConnectionError, match="too late"):
            await lifespan.task
        assert dispatcher.closed

    asyncio.run(main())
    assert sink.entries == ["shutdown"]


def test_lifespan_that_breaks_off_leaves_the_dispatcher_open() -> None:
    """A server may go on serving then; the end of the loop delivers."""
    sink = Place()
    dispatcher = dispatcher_to(sink)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise RuntimeError("the lifespan is broken")

    async def main() -> None:
        lifespan = Lifespan(LifespanMiddleware(app, dispatchers=[dispatcher]))
        assert await lifespan.startup() is None
        with pytest.raises(RuntimeError, match="is broken"):
            await lifespan.task
        assert dispatcher.enqueue("request")

        async with dispatcher:  # another lifespan, which is the last
            pass
        lifespan = Lifespan(LifespanMiddleware(knows_none, dispatchers=[dispatcher]))
        await lifespan.startup()
        await lifespan.shutdown()
        assert dispatcher.closed

    asyncio.run(main())
    assert sink.entries == ["request"]


def test_cancelled_lifespan_leaves_the_dispatcher_to_the_end_of_the_loop() -> None:
    sink = Place()
    dispatcher = dispatcher_to(sink)

    async def main() -> None:
        lifespan = Lifespan(LifespanMiddleware(App(), dispatchers=[dispatcher]))
        await lifespan.startup()
        lifespan.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lifespan.task
        assert dispatcher.enqueue("request")

    asyncio.run(main())
    assert sink.entries == ["request"]


def test_last_of_several_lifespans_closes() -> None:
    sink = Place()
    dispatcher = dispatcher_to(sink)

    async def main() -> None:
        apps = [LifespanMiddleware(App(), dispatchers=[dispatcher]) for _ in range(3)]
        lifespans = [Lifespan(app) for app in apps]
        for lifespan in lifespans:
            assert await lifespan.startup() == STARTED
        for number, lifespan in enumerate(lifespans):
            assert dispatcher.enqueue(number)
            assert await lifespan.shutdown() == STOPPED
            assert sink.entries == [*range(number + 1)]  # each flushes
        assert dispatcher.closed

    asyncio.run(main())


def test_lifespan_that_starts_while_the_last_one_closes_opens_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sink = Place()
    dispatcher = dispatcher_to(sink)
    app = LifespanMiddleware(App(), dispatchers=[dispatcher])
    whole = _Lifespan._spend
    starting: list[asyncio.Task[str | None]] = []
    spent = 0

    async def start_another_first(self: Any, calls: Any) -> None:
        nonlocal second, spent
        spent += 1
        if spent == 2:  # the first were the flushes
            second = Lifespan(app)
            starting.append(asyncio.create_task(second.startup()))
            for _ in range(10):
                await asyncio.sleep(0)
        await whole(self, calls)

    async def main() -> None:
        first = Lifespan(app)
        assert await first.startup() == STARTED
        monkeypatch.setattr(_Lifespan, "_spend", start_another_first)
        assert await first.shutdown() == STOPPED
        assert await starting[0] == STARTED
        assert dispatcher.enqueue("served")
        assert await second.shutdown() == STOPPED
        assert dispatcher.closed

    second: Lifespan
    asyncio.run(main())
    assert sink.entries == ["served"]


def test_lifespan_waits_no_longer_than_a_close_may_take() -> None:
    """The loop that was to close it may stand still for ever."""
    dispatcher = dispatcher_to(Place())
    _holders.remove(dispatcher)

    async def main() -> None:
        lifespan = Lifespan(
            LifespanMiddleware(App(), dispatchers=[dispatcher], timeout=0.05)
        )
        assert await lifespan.startup() == STARTED
        assert dispatcher.enqueue("served")
        assert await lifespan.shutdown() == STOPPED

    asyncio.run(main())


def test_nested_middlewares_share_a_dispatcher() -> None:
    dispatcher: RecordingDispatcher[Any] = RecordingDispatcher()
    app = App(dispatcher)

    async def main() -> None:
        inner = AccessLogMiddleware(app, dispatcher=dispatcher)
        lifespan = Lifespan(LifespanMiddleware(inner, dispatchers=[dispatcher]))
        assert await lifespan.startup() == STARTED
        assert await lifespan.shutdown() == STOPPED
        assert dispatcher.closed

    for _ in range(2):
        asyncio.run(main())
    assert dispatcher.entries == ["startup", "shutdown"] * 2


def test_home_thread_stays_on_the_background_thread() -> None:
    sink = Place()
    dispatcher = dispatcher_to(sink, home="thread")

    async def main() -> None:
        lifespan = Lifespan(LifespanMiddleware(App(), dispatchers=[dispatcher]))
        await lifespan.startup()
        dispatcher.enqueue("request")
        await lifespan.shutdown()

    asyncio.run(main())
    assert sink.threads == ["ringdispatch"]


def test_timeout_covers_flushes_and_closes_together(
    stepped: SteppedLoop, sink: Sink
) -> None:
    async def main() -> None:
        sink.hold()
        dispatchers = [dispatcher_to(sink) for _ in range(3)]
        app = LifespanMiddleware(App(), dispatchers=dispatchers, timeout=2)
        lifespan = Lifespan(app)
        await lifespan.startup()
        for dispatcher in dispatchers:
            dispatcher.enqueue("request")
        begun = stepped.time()
        stopping = asyncio.ensure_future(lifespan.shutdown())
        await stepped.advance(1.9)
        assert not stopping.done()
        await stepped.advance(0.2)
        assert await stopping == STOPPED
        assert stepped.time() - begun == pytest.approx(2.1)
        for dispatcher in dispatchers:
            assert dispatcher.closed
            assert dispatcher.statistics().failed == 1

    stepped.run_until_complete(main())


def test_applications_own_shutdown_takes_nothing_of_the_timeout(
    stepped: SteppedLoop, sink: Sink
) -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": STARTED})
            await receive()
            await asyncio.sleep(60)
            dispatcher.enqueue("shutdown")
            await send({"type": STOPPED})

        async def slow(batch: list[Any]) -> None:
            await asyncio.sleep(1)
            await sink(batch)

        dispatcher = dispatcher_to(slow)
        wrapped = LifespanMiddleware(app, dispatchers=[dispatcher], timeout=2)
        lifespan = Lifespan(wrapped)
        await lifespan.startup()
        stopping = asyncio.ensure_future(lifespan.shutdown())
        await stepped.advance(59)
        assert not dispatcher.closed
        await stepped.advance(3)
        assert await stopping == STOPPED
        assert sink.entries == ["shutdown"]

    stepped.run_until_complete(main())


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_all_else_passes_through_untouched(kind: str) -> None:
    given: list[Any] = []

    async def app(*arguments: Any) -> None:
        given.append(arguments)

    wrapped = LifespanMiddleware(app, dispatchers=[])
    arguments = (scope_of(type=kind), object(), object())
    asyncio.run(wrapped(*arguments))  # type: ignore[arg-type]
    assert all(a is b for a, b in zip(given[0], arguments, strict=True))


@needs("trio")
def test_startup_under_trio_is_refused() -> None:
    import trio

    sink = Place()
    dispatcher = dispatcher_to(sink)
    app = LifespanMiddleware(App(), dispatchers=[dispatcher])
    with pytest.raises(RuntimeError, match="needs a running asyncio loop"):
        trio.run(app, {"type": "lifespan"}, None, None)


@needs_fork
def test_lifespan_of_a_forked_child_counts_none_of_its_parents() -> None:  # C17
    outcome = run_snippet(
        f"""
        sys.path.insert(0, {str(HELPERS)!r})
        from asgi_side import Lifespan
        from ringdispatch.asgi import LifespanMiddleware
        async def send(batch):
            say(os.getpid() == parent, *batch)
        async def app(scope, receive, send):
            raise ValueError
        parent = os.getpid()
        dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
        async def serve(entry, then):
            lifespan = Lifespan(LifespanMiddleware(app, dispatchers=[dispatcher]))
            await lifespan.startup()
            dispatcher.enqueue(entry)
            then()
            await lifespan.shutdown()
            say(os.getpid() == parent, dispatcher.closed)
        def in_child():
            child = os.fork()
            if child:
                os.waitpid(child, 0)
            else:
                asyncio._set_running_loop(None)
                asyncio.run(serve("child", lambda: None))
                os._exit(0)
        asyncio.run(serve("parent", in_child))
        """,
        warnings=("ignore:.*multi-threaded:DeprecationWarning",),
    )
    assert outcome.lines == ["False child", "False True", "True parent", "True True"]


@pytest.mark.parametrize(
    ("dispatchers", "message"),
    [
        ([object()], "dispatchers=<object.*>: must be a BackgroundDispatcher"),
        ([BackgroundDispatcher], "dispatchers=<class .*>: must be a Background"),
        (None, "dispatchers=None: must be a list, such as"),
        (
            RecordingDispatcher(),
            "dispatchers=<RecordingDispatcher .*>: must be a list, such as",
        ),
    ],
)
def test_dispatcher_that_is_none_is_refused(dispatchers: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        LifespanMiddleware(App(), dispatchers=dispatchers)


def test_application_that_is_none_is_refused() -> None:
    app: Any = None
    with pytest.raises(TypeError, match="app=None: must be the application to wrap"):
        LifespanMiddleware(app, dispatchers=[])


@pytest.mark.parametrize(
    ("timeout", "kind"),
    [("5", TypeError), (True, TypeError), (-1, ValueError), (math.nan, ValueError)],
)
def test_timeout_that_is_none_is_refused(timeout: Any, kind: Any) -> None:
    with pytest.raises(kind, match=f"timeout={timeout!r}: must be a number of seconds"):
        LifespanMiddleware(App(), dispatchers=[], timeout=timeout)


@pytest.mark.parametrize("timeout", [None, math.inf, 10**400, 0, 1.5])
def test_timeout_may_be_any_number_or_none(timeout: Any) -> None:
    sink = Place()
    dispatcher = dispatcher_to(sink)

    async def main() -> None:
        app = LifespanMiddleware(App(), dispatchers=[dispatcher], timeout=timeout)
        lifespan = Lifespan(app)
        assert await lifespan.startup() == STARTED
        assert await lifespan.shutdown() == STOPPED
        assert dispatcher.closed

    asyncio.run(main())
