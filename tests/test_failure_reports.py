"""C11: what the log says of failed dispatches."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest

from loops import LOOPS, run_on
from subprocesses import run_snippet
from support import Sink, SteppedLoop, logged

# What is logged of a failure; test_letters has what is kept of it.
pytestmark = pytest.mark.usefixtures("in_memory")

OURS = "ringdispatch[n1]"


def log_of(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str, bool]]:
    """The project's lines: level, text, and whether a traceback comes with it."""
    return [
        (record.levelno, record.getMessage(), bool(record.exc_info))
        for record in caplog.records
        if record.name == "ringdispatch"
    ]


def test_first_failure_warns_with_traceback_repeats_debug_until_recovery(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C11
    caplog.set_level(logging.DEBUG, "ringdispatch")

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, name="n1")
        for fails in (True, True, True, False, True, True):
            sink.error = ValueError("no") if fails else None
            dispatcher.enqueue("a")
            await stepped.advance(0.2)
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())
    failure = f"{OURS}: dispatch failed (1 entry): ValueError('no')"
    recovery = (
        f"{OURS}: dispatches succeed again; before that 3 batches failed (3 entries)"
    )
    close = f"{OURS}: closed; before that 2 batches failed (2 entries)"
    assert log_of(caplog) == [
        (logging.WARNING, failure, True),
        (logging.DEBUG, failure, False),
        (logging.DEBUG, failure, False),
        (logging.INFO, recovery, False),
        (logging.DEBUG, failure, False),  # at most one line in ten seconds
        (logging.DEBUG, failure, False),
        (logging.WARNING, close, False),
    ]


def test_sink_that_fails_for_long_makes_one_line_per_period(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C11
    """Each with the numbers since the last, and a traceback for what is new."""
    caplog.set_level(logging.INFO, "ringdispatch")

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=1000, name="n1")
        for second in range(36):
            sink.error = ValueError("no") if second < 15 else KeyError("no")
            if second == 35:
                sink.error = None
            dispatcher.enqueue("a")
            dispatcher.enqueue("b")
            await stepped.advance(1.001)
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())
    several = f"{OURS}: 10 batches failed (20 entries), the last with "
    again = (
        f"{OURS}: dispatches succeed again; before that 35 batches failed (70 entries)"
    )
    assert log_of(caplog) == [
        (
            logging.WARNING,
            f"{OURS}: dispatch failed (2 entries): ValueError('no')",
            True,
        ),
        (logging.WARNING, several + "ValueError('no')", False),
        (logging.WARNING, several + "KeyError('no')", True),
        (logging.WARNING, several + "KeyError('no')", False),
        (logging.INFO, again, False),
    ]


def test_sink_that_fails_every_second_time_makes_few_lines(
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C11
    caplog.set_level(logging.INFO, "ringdispatch")

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, name="n1")
        for number in range(600):
            sink.error = None if number % 2 else ValueError("no")
            dispatcher.enqueue("a")
            await stepped.advance(0.1001)
        assert dispatcher.statistics().failed == 300
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())
    assert 6 <= len(logged(caplog, logging.WARNING)) <= 7
    assert 6 <= len(logged(caplog, logging.INFO)) <= 7


@pytest.mark.parametrize("kind", [KeyError, asyncio.CancelledError])
def test_error_without_a_repr_is_logged_by_its_type(
    kind: type[BaseException],
    stepped: SteppedLoop,
    sink: Sink,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C11
    class Mute(Exception):
        def __repr__(self) -> str:
            raise kind("no words")

        __str__ = object.__str__

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, name="n1")
        sink.error = Mute()
        dispatcher.enqueue("a")
        await stepped.advance(0.2)
        assert await dispatcher.aclose()
        assert dispatcher.statistics().failed == 1

    stepped.run_until_complete(main())
    assert logged(caplog, logging.WARNING) == [
        f"{OURS}: dispatch failed (1 entry): Mute ({kind.__name__} in its repr)"
    ]


@pytest.mark.parametrize("kind", [OSError, asyncio.CancelledError])
def test_log_handler_that_raises_is_shown_on_stderr_and_ends_nothing(
    kind: type[BaseException],
    stepped: SteppedLoop,
    sink: Sink,
    capsys: pytest.CaptureFixture[str],
    dispatcher_class: type,
) -> None:  # C11
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise kind("no room for a log")

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=100, capacity=1)
        for error in (ValueError("no"), None):
            sink.error = error
            for _ in range(2):  # the drop is logged when the batch is taken
                dispatcher.enqueue("a")
            await stepped.advance(0.2)
        books = dispatcher.statistics()
        assert (books.failed, books.dispatched, books.rejected_full) == (1, 1, 2)
        assert await dispatcher.aclose()

    handler = Broken()
    logging.getLogger("ringdispatch").addHandler(handler)
    try:
        stepped.run_until_complete(main())
    finally:
        logging.getLogger("ringdispatch").removeHandler(handler)
    assert f"{kind.__name__}: no room for a log" in capsys.readouterr().err


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("loop_name", LOOPS)
def test_generator_exit_of_a_dispatch_function_is_reported_once(
    loop_name: str,
    is_async: bool,
    waits: bool,
    caplog: pytest.LogCaptureFixture,
    dispatcher_class: type,
) -> None:  # C11
    """Python complains of a task whose exception nothing fetches."""

    async def send(batch: list[Any]) -> None:
        if waits:
            await asyncio.sleep(0)
        raise GeneratorExit

    def send_in_a_thread(batch: list[Any]) -> Any:
        if waits:
            return send(batch)
        raise GeneratorExit

    async def main() -> None:
        function = send if is_async else send_in_a_thread
        dispatcher = dispatcher_class(function, ms_delay=1, name="n1")
        dispatcher.enqueue("a")
        assert await dispatcher.aflush()
        assert dispatcher.statistics().failed == 1
        assert await dispatcher.aclose()

    run_on(loop_name, main())
    gc.collect()
    assert logged(caplog, logging.WARNING) == [
        f"{OURS}: dispatch failed (1 entry): GeneratorExit()"
    ]
    assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.parametrize("lost", ["sys.stderr.close()", "sys.stderr = None"])
@pytest.mark.parametrize("function", ["send", "send_in_a_thread"])
def test_lost_stderr_ends_no_report(function: str, lost: str) -> None:  # C11
    """Neither logging's last resort nor the traceback of a handler has a place."""
    outcome = run_snippet(
        f"""
        class Broken(logging.Handler):
            def emit(self, record):
                raise ValueError("a handler")
        async def send(batch):
            raise OSError("down")
        def send_in_a_thread(batch):
            raise OSError("down")
        dispatcher = BackgroundDispatcher(
            {function},
            ms_delay=60_000,
            capacity=2,
            on_error=lambda error, batch: say("on_error", batch),
            on_drop=lambda reason, count: say("on_drop", reason, count),
        )
        {lost}
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: say("asyncio", context))
            for number in range(3):
                dispatcher.enqueue(number)
            say(await dispatcher.aflush())
        asyncio.run(main())
        logging.getLogger("ringdispatch").addHandler(Broken())
        dispatcher.enqueue(3)
        say(dispatcher.close())
        books(dispatcher)
        """
    )
    assert outcome.lines == [
        "on_drop rejected_full 1",
        "on_error [0, 1]",
        "True",
        "on_error [3]",
        "True",
        "accepted=3 failed=3 rejected_full=1",
    ]


def test_wrong_arity_behind_a_decorator_fails_at_the_first_batch_and_is_counted(
    stepped: SteppedLoop, caplog: pytest.LogCaptureFixture, dispatcher_class: type
) -> None:
    async def main() -> None:
        def takes_two(one: Any, two: Any) -> None:
            pass

        async def decorated(*given: Any) -> None:
            takes_two(*given)

        def ordinary(*given: Any) -> None:
            takes_two(*given)

        for function in (decorated, ordinary):
            dispatcher = dispatcher_class(function, ms_delay=100)
            for _ in range(3):
                dispatcher.enqueue("a")
                assert not await stepped.run_in_executor(None, lambda: None)
                await stepped.advance(0.2)
                await dispatcher.aflush(None)
            assert dispatcher.statistics().failed == 3
            assert await dispatcher.aclose()

    stepped.run_until_complete(main())
    stepped.run_until_complete(stepped.shutdown_default_executor())
    lines = logged(caplog, logging.WARNING)
    assert len(lines) == 4  # of each the first at once, and the sum at its close
    for first, at_close in (lines[:2], lines[2:]):
        assert "dispatch failed (1 entry): TypeError" in first
        assert at_close.endswith("3 batches failed (3 entries)")
