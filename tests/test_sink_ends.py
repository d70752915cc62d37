"""C22: a sink is closed after each period of use, on each loop that called it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from loops import BACKGROUND, eventually
from ringdispatch import BackgroundDispatcher, Objects
from ringdispatch._residence import leave_unused
from subprocesses import needs_fork, run_snippet
from support import logged


class Recorder:
    """A sink that notes when it was called and closed, on which loop."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.error: BaseException | None = None
        self.closing_takes = 0.0

    async def __call__(self, batch: list[Any]) -> None:
        self.events.append(list(batch))

    async def aclose(self) -> None:
        self.loops.append(asyncio.get_running_loop())
        if self.closing_takes:
            await asyncio.sleep(self.closing_takes)
        self.events.append("closed")
        if self.error is not None:
            raise self.error


class Ordinary(Recorder):
    """The same, called in a worker thread."""

    def __call__(self, batch: list[Any]) -> None:  # type: ignore[override]
        self.events.append(list(batch))


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110, nothing sets an event
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", [Recorder, Ordinary])
def test_aclose_closes_the_sink_on_its_loop(kind: type[Recorder]) -> None:  # C22
    sink = kind()

    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=60_000)
        dispatcher.enqueue(1)
        assert await dispatcher.aclose()
        assert sink.events == [[1], "closed"]
        assert sink.loops == [asyncio.get_running_loop()]
        assert await dispatcher.aclose()

    asyncio.run(main())
    assert sink.events == [[1], "closed"]


def test_close_from_a_thread_waits_for_the_sink() -> None:  # C22
    sink = Recorder()
    sink.closing_takes = 0.05
    dispatcher = BackgroundDispatcher(sink, ms_delay=60_000)
    dispatcher.enqueue(1)
    assert dispatcher.close()
    assert sink.events == [[1], "closed"]


def test_each_of_several_closes_waits_for_the_sink() -> None:  # C22
    sink = Recorder()
    sink.closing_takes = 0.05
    seen: list[list[Any]] = []

    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=60_000)
        dispatcher.enqueue(1)
        loop = asyncio.get_running_loop()
        dispatcher.bind()

        async def aclose() -> None:
            assert await dispatcher.aclose()
            seen.append(list(sink.events))

        def close() -> None:
            assert dispatcher.close()
            seen.append(list(sink.events))

        await asyncio.gather(aclose(), aclose(), loop.run_in_executor(None, close))

    asyncio.run(main())
    assert seen == [[[1], "closed"]] * 3


def test_sink_that_was_never_called_is_never_closed() -> None:  # C22
    sink = Recorder()

    async def main() -> None:
        async with BackgroundDispatcher(sink, ms_delay=1):
            pass

    asyncio.run(main())
    BackgroundDispatcher(sink, ms_delay=1).close()
    assert sink.events == []


def test_end_of_the_loop_closes_the_sink_after_the_drain() -> None:  # C22
    sink = Recorder()
    dispatcher = BackgroundDispatcher(sink, ms_delay=60_000)

    async def main(number: int) -> None:
        dispatcher.enqueue(number)

    asyncio.run(main(1))
    assert sink.events == [[1], "closed"]
    asyncio.run(main(2))  # called again, on another loop
    assert sink.events == [[1], "closed", [2], "closed"]
    assert sink.loops[0] is not sink.loops[1]
    assert dispatcher.close()
    assert len(sink.events) == 4


def test_entry_that_comes_while_the_sink_is_closed_goes_elsewhere() -> None:  # C16, C22
    class Late(Recorder):
        async def __call__(self, batch: list[Any]) -> None:
            await super().__call__(batch)
            await asyncio.sleep(0.2 if batch == [2] else 0)

        async def aclose(self) -> None:
            if len(self.events) == 1:
                assert dispatcher.enqueue(2)
                await asyncio.sleep(0.05)  # a call that began here would be cut off
            await super().aclose()

    sink = Late()
    dispatcher = BackgroundDispatcher(sink, ms_delay=1)

    async def main() -> None:
        dispatcher.enqueue(1)

    asyncio.run(main())
    assert dispatcher.close()
    assert dispatcher.statistics().dispatched == 2
    assert sorted(map(str, sink.events)) == ["[1]", "[2]", "closed", "closed"]
    assert sink.loops[0] is not sink.loops[1]


def test_dispatcher_that_moves_closes_the_sink_where_it_was() -> None:  # C22
    sink = Recorder()
    dispatcher = BackgroundDispatcher(sink, ms_delay=1)
    dispatcher.enqueue(1)
    assert dispatcher.flush()

    async def main() -> None:
        dispatcher.enqueue(2)
        assert await dispatcher.aflush()
        assert await dispatcher.aclose()

    asyncio.run(main())
    assert sorted(map(str, sink.events)) == ["[1]", "[2]", "closed", "closed"]
    assert sink.loops[0] is not sink.loops[1]
    eventually(  # and the thread that it left ends
        lambda: (
            gc.collect() >= 0
            and BACKGROUND not in [each.name for each in threading.enumerate()]
        )
    )


def test_sink_is_closed_after_its_last_call_has_ended() -> None:  # C22
    class Stubborn(Recorder):
        async def __call__(self, batch: list[Any]) -> None:
            self.events.append("begun")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)  # it cleans up
            self.events.append("ended")

    sink = Stubborn()

    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=1)
        dispatcher.enqueue(1)
        assert not await dispatcher.aclose(timeout=0.05)
        await until(lambda: sink.events == ["begun", "ended", "closed"])

    asyncio.run(main())


def test_close_in_a_call_leaves_the_sink_to_the_calls_end() -> None:  # C22
    class Closing(Recorder):
        dispatcher: BackgroundDispatcher[int]

        async def __call__(self, batch: list[Any]) -> None:
            await self.dispatcher.aclose(timeout=5)
            self.events.append("called")

    sink = Closing()

    async def main() -> None:
        sink.dispatcher = BackgroundDispatcher(sink, ms_delay=1)
        sink.dispatcher.enqueue(1)
        await until(lambda: sink.events == ["called", "closed"])

    asyncio.run(main())


def test_loop_that_is_closed_without_its_shutdown_closes_no_sink(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:  # C22
    sink = Recorder()
    dispatcher = BackgroundDispatcher(sink, ms_delay=1)
    loop = asyncio.new_event_loop()

    async def main(number: int) -> None:
        dispatcher.enqueue(number)
        assert await dispatcher.aflush()

    loop.run_until_complete(main(1))
    loop.close()
    assert dispatcher.close()
    assert sink.events == [[1]]

    # Nor is one missed that is being closed there.
    dispatcher = BackgroundDispatcher(second := Recorder(), ms_delay=1)
    monkeypatch.setattr("ringdispatch._sink._LEAST_SECONDS", 60.0)
    second.closing_takes = 60
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main(2))

    async def begin() -> None:
        await dispatcher.aclose(timeout=0.05)
        await until(lambda: second.loops == [loop])

    loop.run_until_complete(begin())
    loop.close()
    gc.collect()
    assert dispatcher.close()
    assert second.events == [[2]]
    assert logged(caplog, logging.ERROR) == []


def test_sink_that_is_called_while_it_is_closed_is_closed_again() -> None:  # C22
    class Gated(Recorder):
        async def aclose(self) -> None:
            self.loops.append(asyncio.get_running_loop())
            await until(lambda: [2] in self.events, 4.0)  # an end has five seconds
            self.events.append("closed")

    sink = Gated()

    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=1)
        dispatcher.enqueue(1)
        assert await dispatcher.aflush()
        batcher = dispatcher._engine
        batcher.home = None  # it goes elsewhere
        leave_unused(batcher)
        await until(lambda: sink.loops)  # it is being closed
        dispatcher.enqueue(2)
        assert await dispatcher.aclose()

    asyncio.run(main())
    assert sink.events == [[1], [2], "closed", "closed"]


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_dispatcher_that_opens_again_ends_the_wait_for_its_sink(
    timeout: float | None,
) -> None:  # C15, C22
    class Gated(Recorder):
        async def aclose(self) -> None:
            self.loops.append(asyncio.get_running_loop())
            await gate.wait()
            self.events.append("closed")

    gate = asyncio.Event()
    sink = Gated()

    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=1)
        dispatcher.enqueue(1)
        closing = asyncio.create_task(dispatcher.aclose(timeout))
        await until(lambda: sink.loops)  # it is being closed
        async with dispatcher:
            async with asyncio.timeout(4):
                assert await closing
            dispatcher.enqueue(2)
            assert await dispatcher.aflush()
            gate.set()
        assert sink.events == [[1], [2], "closed", "closed"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "error", [OSError("no"), asyncio.CancelledError(), KeyboardInterrupt()]
)
def test_what_aclose_raises_is_logged_and_changes_nothing(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:  # C22
    sink = Recorder()
    sink.error = error

    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=1)
        dispatcher.enqueue(1)
        assert await dispatcher.aclose()
        assert dispatcher.statistics().failed == 0

    asyncio.run(main())
    (line,) = logged(caplog, logging.ERROR)
    assert line == "ringdispatch[Recorder]: the sink's aclose raised"


def test_aclose_has_what_is_left_of_the_time(
    caplog: pytest.LogCaptureFixture,
) -> None:  # C22
    sink = Recorder()
    sink.closing_takes = 60

    async def main() -> None:
        dispatcher = BackgroundDispatcher(sink, ms_delay=1)
        dispatcher.enqueue(1)
        began = time.monotonic()
        assert await dispatcher.aclose(timeout=0.3)
        assert 0.29 <= time.monotonic() - began < 5
        await until(lambda: logged(caplog, logging.ERROR))

    asyncio.run(main())
    (line,) = logged(caplog, logging.ERROR)
    assert "the sink's aclose was not done within 0." in line


def test_aclose_runs_in_an_empty_context() -> None:  # C19
    request = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    class Seeing(Recorder):
        async def aclose(self) -> None:
            seen.append(request.get())

    async def main() -> None:
        request.set("a request")
        dispatcher = BackgroundDispatcher(Seeing(), ms_delay=1)
        dispatcher.enqueue(1)
        assert await dispatcher.aclose()

    asyncio.run(main())
    assert seen == ["none"]


def test_only_the_object_itself_is_a_sink() -> None:  # C22
    sinks = [Recorder() for _ in range(3)]

    async def main() -> None:
        functions = [
            functools.partial(sinks[0]),
            sinks[1].__call__,
            functools.wraps(Recorder.__call__)(lambda batch: sinks[2](batch)),
        ]
        for function in functions:
            dispatcher = BackgroundDispatcher(function, ms_delay=1)
            dispatcher.enqueue(1)
            assert await dispatcher.aclose()

    asyncio.run(main())
    assert [sink.events for sink in sinks] == [[[1]]] * 3


def test_sink_of_two_dispatchers_is_refused() -> None:  # C22
    sink = Recorder()
    first = BackgroundDispatcher(sink, ms_delay=1, name="audit")
    with pytest.raises(ValueError, match=r"belongs to the dispatcher 'audit', which"):
        BackgroundDispatcher(sink, ms_delay=1)
    del first
    gc.collect()
    BackgroundDispatcher(sink, ms_delay=1)


def test_prepare_sees_the_options_and_refuses() -> None:  # C22
    class Choosy(Recorder):
        def prepare(self, layout: object, dispatch_timeout: float | None) -> None:
            self.events.append((layout, dispatch_timeout))
            if dispatch_timeout is None:
                raise LookupError("no timeout")

    sink = Choosy()
    with pytest.raises(LookupError, match="no timeout"):
        BackgroundDispatcher(sink, ms_delay=1, dispatch_timeout=None)
    BackgroundDispatcher(sink, ms_delay=1, dispatch_timeout=7)
    assert sink.events == [(Objects(), None), (Objects(), 7.0)]


@needs_fork
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_forked_child_closes_only_what_it_opened(loop: str) -> None:  # C22
    ended = run_snippet(
        """
        class Sink:
            async def __call__(self, batch):
                say(os.getpid() == parent, "called with", *batch)
            async def aclose(self):
                say(os.getpid() == parent, "closed")

        parent = os.getpid()
        dispatcher = BackgroundDispatcher(Sink(), ms_delay=1)
        dispatcher.enqueue(1)
        assert dispatcher.flush()
        for number in (0, 2):
            child = os.fork()
            if child == 0:
                if number:
                    dispatcher.enqueue(number)
                assert dispatcher.close()
                os._exit(0)
            os.waitpid(child, 0)
        assert dispatcher.close()
        """,
        loop=loop,
    )
    assert ended.stdout.splitlines() == [
        "True called with 1",
        "False called with 2",
        "False closed",
        "True closed",
    ]
    assert ended.stderr == ""


def test_exit_closes_the_sink_on_the_background_thread() -> None:  # C22
    ended = run_snippet(
        """
        class Sink:
            async def __call__(self, batch):
                say("called with", *batch)
            async def aclose(self):
                await asyncio.sleep(0.01)
                say("closed")

        dispatcher = BackgroundDispatcher(Sink(), ms_delay=60_000)
        dispatcher.enqueue(1)
        """
    )
    assert ended.stdout.splitlines() == ["called with 1", "closed"]
    assert ended.stderr == ""
