"""How a dispatcher is named in the log, and told apart from others."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import sys
import threading
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher
from ringdispatch._names import unique_name
from subprocesses import run_snippet
from support import logged


async def post(batch: list[Any]) -> None:
    raise ConnectionError


class Service:
    async def post(self, batch: list[Any]) -> None:
        pass


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Other tests may have left dispatchers to the garbage collector."""
    gc.collect()


def make(name: str | None = None) -> BackgroundDispatcher[Any]:
    return BackgroundDispatcher(post, ms_delay=1, name=name)


def test_a_number_tells_those_of_one_function_apart() -> None:
    made = [make() for _ in range(4)]
    assert [one.name for one in made] == ["post", "post-2", "post-3", "post-4"]
    assert repr(made[1]) == "<BackgroundDispatcher 'post-2' open, 0 pending>"
    assert made[1].close()
    assert make().name == "post-5", "a closed one keeps its name"
    del made[1:3]
    assert make().name == "post-2", "the lowest that is free"
    again = [make(), make(), make()]
    assert [one.name for one in again] == ["post-2", "post-3", "post-5"]
    made.clear()
    again.clear()
    assert make().name == "post"


def test_a_given_name_gets_a_number_too() -> None:
    given = "given here alone"  # others may live with the names of pages
    made = [make(given), make(given), make("post"), make()]
    assert [one.name for one in made] == [given, f"{given}-2", "post", "post-2"]
    del made[0]
    assert make(given).name == given


def test_the_name_is_the_functions_qualified_one() -> None:
    service = Service()
    for function in (service.post, functools.partial(service.post)):
        assert BackgroundDispatcher(function, ms_delay=1).name == "Service.post"


def test_a_refused_dispatcher_takes_no_name() -> None:
    kept = []
    for options in ({"home": "x"}, {"capacity": 2**62}, {"layout": 1}):
        given: Any = {"ms_delay": 1, **options}
        with pytest.raises((ValueError, TypeError, MemoryError)) as caught:
            BackgroundDispatcher(post, **given)
        kept.append(caught)  # with its traceback, and all that its frames hold
    assert make().name == "post"


def test_threads_that_make_dispatchers_at_once_get_a_name_each() -> None:
    made: list[BackgroundDispatcher[Any]] = []
    together = threading.Barrier(4)

    def work() -> None:
        together.wait(10)
        made.extend(make() for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.name for one in made}) == 800
    made.clear()
    assert make().name == "post"


def test_a_number_is_found_at_once_however_many_are_taken() -> None:  # C21
    owners = [Service() for _ in range(500)]
    for owner in owners:
        unique_name("busy", owner)
    del owners[0], owner
    owners.append(Service())
    assert unique_name("busy", owners[-1]) == "busy"
    steps: list[str] = []
    sys.setprofile(lambda _, event, __: steps.append(event))
    try:
        name = unique_name("busy", owners[0])  # given another
    finally:
        sys.setprofile(None)
    assert name == "busy-501"
    assert len(steps) < 30


def test_lines_begin_with_the_library_and_the_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reported: list[str] = []

    class Context:
        def log(self, line: str) -> None:
            reported.append(line)

    async def main() -> None:
        first, second = make(), make()
        for dispatcher in (second, first):
            dispatcher.enqueue("a", Context())
            assert await dispatcher.aclose()

    asyncio.run(main())
    lines = [
        f"ringdispatch[{name}]: dispatch failed (1 entry): ConnectionError()"
        for name in ("post-2", "post")
    ]
    assert logged(caplog, logging.WARNING) == lines
    assert reported == lines


def test_lines_name_the_library_where_logging_was_not_configured() -> None:
    run_snippet(
        """
        async def send(batch):
            raise ValueError("no")
        first = BackgroundDispatcher(send, ms_delay=1, dispatch_timeout=None)
        second = BackgroundDispatcher(send, ms_delay=1)
        second.enqueue("a")
        assert second.close()
        assert not second.enqueue("late")
        """,
        stderr=r"(?s)ringdispatch\[send-2\]: dispatch failed \(1 entry\): ValueError.*"
        r"\nringdispatch\[send-2\]: 1 entry rejected_closed; .*",
    )
