"""ringdispatch.testing: the dispatcher that records what users enqueue in a test."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from typing import Any

import pytest

from refused import REFUSED
from ringdispatch import BackgroundDispatcher, Bytes, Records
from ringdispatch.testing import RecordingDispatcher
from support import Application, books_agree

pytest_plugins = ["ringdispatch.testing.plugin"]


def test_entry_is_recorded_when_enqueue_returns() -> None:
    with RecordingDispatcher[Any]() as dispatcher:
        assert Application(dispatcher).handle("/a") == "Hello World!"
        assert dispatcher.batches == [[{"url": "/a"}]]
        Application(dispatcher).handle("/b")
        assert dispatcher.entries == [{"url": "/a"}, {"url": "/b"}]
        assert dispatcher.statistics().batches == 2
        assert dispatcher.pending == 0
        books_agree(dispatcher)
        dispatcher.clear()
        assert dispatcher.batches == []
    assert not dispatcher.enqueue({"url": "/late"})
    assert dispatcher.statistics().rejected_closed == 1


def test_entry_is_recorded_at_once_in_a_coroutine_too() -> None:
    async def main() -> None:
        async with RecordingDispatcher[int]() as dispatcher:
            assert dispatcher.enqueue(1)
            assert dispatcher.entries == [1]
            assert await dispatcher.aenqueue(2)
            assert dispatcher.entries == [1, 2]

    asyncio.run(main())


def test_entries_of_many_threads_are_all_recorded() -> None:
    with RecordingDispatcher[int]() as dispatcher:
        threads = [
            threading.Thread(target=lambda: [*map(dispatcher.enqueue, range(50))])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(dispatcher.entries) == sorted([*range(50)] * 4)


def test_recorder_takes_the_place_of_the_class() -> None:
    async def send(entries: list[Any]) -> None:
        raise AssertionError("nothing is sent in a test")

    with RecordingDispatcher(
        send, ms_delay=100, max_batch=500, home="auto", capacity=1000
    ) as dispatcher:
        assert dispatcher.name.endswith("send")
        assert dispatcher.statistics().capacity == 1000
        dispatcher.enqueue("a")
        assert dispatcher.entries == ["a"]


REFUSED_HERE = [each for each in REFUSED if each[:2] != ("dispatch_function", None)]


@pytest.mark.parametrize(("name", "value", "error"), REFUSED_HERE)
def test_recorder_refuses_what_the_dispatcher_refuses(
    name: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=re.escape(f"{name}={value!r}")):
        RecordingDispatcher(**{name: value})


def test_recorder_encodes_as_its_layout_does() -> None:
    layout = Bytes(encode=lambda entry: json.dumps(entry).encode())
    with RecordingDispatcher(layout=layout) as dispatcher:
        dispatcher.enqueue({"status": 200})
        assert dispatcher.batches[0].payload == b'{"status": 200}\n'
        assert dispatcher.entries == [b'{"status": 200}']
        with pytest.raises(TypeError, match="not JSON serializable"):
            dispatcher.enqueue({"status": object()})


def test_recorder_checks_rows_and_keeps_no_buffer_of_a_whole_ring() -> None:
    numpy = pytest.importorskip("numpy")
    with RecordingDispatcher(layout=Records([("status", "u2")])) as dispatcher:
        dispatcher.enqueue_row(200)
        dispatcher.enqueue((404,))
        with pytest.raises(OverflowError, match="status"):
            dispatcher.enqueue_row(70_000)
        assert numpy.concatenate(dispatcher.batches)["status"].tolist() == [200, 404]
        assert all(batch.base is None for batch in dispatcher.batches)


def test_recorder_notifies_contexts() -> None:
    class Context:
        def __init__(self) -> None:
            self.awaitables: list[Any] = []

        def wait_until(self, awaitable: Any) -> None:
            self.awaitables.append(awaitable)

    async def main() -> None:
        context = Context()
        with RecordingDispatcher[Any]() as dispatcher:
            Application(dispatcher).handle("/a", context)
            assert await context.awaitables[0] is None

    asyncio.run(main())


def test_recorder_used_from_another_dispatchers_dispatch_function() -> None:
    with RecordingDispatcher[int]() as recorder:

        async def send(entries: list[int]) -> None:
            for entry in entries:
                assert recorder.enqueue(entry)

        with BackgroundDispatcher(send, ms_delay=1, home="thread") as dispatcher:
            dispatcher.enqueue(1)
            assert dispatcher.flush()
        assert recorder.flush()
        assert recorder.entries == [1]


def test_fixture(recording_dispatcher: RecordingDispatcher[Any]) -> None:
    Application(recording_dispatcher).handle("/a")
    assert recording_dispatcher.entries == [{"url": "/a"}]


def test_nothing_is_loaded_unless_it_is_named() -> None:
    program = (
        "import sys, ringdispatch\n"
        "assert 'ringdispatch.testing' not in sys.modules\n"
        "import ringdispatch.testing\n"
        "assert 'pytest' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
