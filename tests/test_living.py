"""Which dispatchers there are, and in whose batch the running code is."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

import ringdispatch
from ringdispatch import BackgroundDispatcher
from subprocesses import needs_fork, run_snippet

pytestmark = pytest.mark.usefixtures("no_others")

Sending = BackgroundDispatcher[Any]


async def post(batch: list[Any]) -> None:
    pass


def ours(made: list[Sending]) -> list[Sending]:
    return [each for each in ringdispatch.dispatchers() if each in made]


def test_dispatchers_are_those_not_collected_in_order() -> None:
    made: list[Sending] = [BackgroundDispatcher(post, ms_delay=1) for _ in range(3)]
    assert ours(made) == made
    assert made[0].close()
    assert ours(made) == made, "a closed one has counts to read"
    names = [each.name for each in ringdispatch.dispatchers()]
    assert len(set(names)) == len(names)
    before = len(ringdispatch.dispatchers())
    del made[1]
    assert ours(made) == made
    assert len(ringdispatch.dispatchers()) == before - 1


def test_subclass_that_compares_as_it_likes_is_among_them() -> None:
    class Own(BackgroundDispatcher[Any]):
        def __eq__(self, other: object) -> bool:
            return True

        def __bool__(self) -> bool:
            return False

        __hash__ = None  # type: ignore[assignment]

    own = Own(post, ms_delay=1)
    assert any(each is own for each in ringdispatch.dispatchers())


def test_refused_dispatcher_is_not_among_them() -> None:
    before = len(ringdispatch.dispatchers())
    with pytest.raises(ValueError, match="ms_delay=-1"):
        BackgroundDispatcher(post, ms_delay=-1)
    assert len(ringdispatch.dispatchers()) == before


def test_threads_make_and_drop_them_while_others_look() -> None:
    ending = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not ending.is_set():
                BackgroundDispatcher(post, ms_delay=1, capacity=8)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 0.5
    looks = 0
    while time.monotonic() < deadline or looks < 100:
        assert all(each.name for each in ringdispatch.dispatchers())
        looks += 1
    ending.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_current_dispatcher_is_that_of_the_batch() -> None:
    assert ringdispatch.current_dispatcher() is None
    seen: dict[str, Any] = {}

    async def send(batch: list[Any]) -> None:
        seen["batch"] = ringdispatch.current_dispatcher()
        seen["thread"] = await asyncio.to_thread(ringdispatch.current_dispatcher)
        await inner.aenqueue("b")
        assert await inner.aflush()
        seen["after"] = ringdispatch.current_dispatcher()

    def write(batch: list[Any]) -> None:
        seen["ordinary"] = ringdispatch.current_dispatcher()

    outer: Sending = BackgroundDispatcher(send, ms_delay=1)
    inner: Sending = BackgroundDispatcher(write, ms_delay=1)

    async def main() -> None:
        outer.enqueue("a")
        assert ringdispatch.current_dispatcher() is None
        assert await outer.aclose()
        assert await inner.aclose()
        assert ringdispatch.current_dispatcher() is None

    asyncio.run(main())
    assert outer.statistics().dispatched == inner.statistics().dispatched == 1
    assert seen == {
        "batch": outer,
        "thread": outer,
        "ordinary": inner,
        "after": outer,
    }


def test_what_a_batch_started_belongs_to_it_after_its_end() -> None:
    """A client's task that reads answers outlives the batch that connected."""
    found: list[Any] = []

    async def main() -> None:
        woken = asyncio.Event()

        async def read() -> None:
            await woken.wait()
            found.append(ringdispatch.current_dispatcher())

        async def send(batch: list[Any]) -> None:
            readers.append(asyncio.ensure_future(read()))

        readers: list[Any] = []
        sending: Sending = BackgroundDispatcher(send, ms_delay=1)
        sending.enqueue("a")
        assert await sending.aflush()
        woken.set()
        await readers[0]
        assert found == [sending]
        assert await sending.aclose()

    asyncio.run(main())


def test_hooks_are_in_no_batch() -> None:  # C19
    found: list[Any] = []

    async def fail(batch: list[Any]) -> None:
        raise ConnectionError

    def on_error(error: BaseException, batch: Any) -> None:
        found.append(ringdispatch.current_dispatcher())

    sending: Sending = BackgroundDispatcher(fail, ms_delay=1, on_error=on_error)
    sending.enqueue("a")
    assert sending.close()
    assert found == [None]


@needs_fork
def test_forked_child_has_the_dispatchers_and_no_batch() -> None:
    run_snippet(
        """
        import ringdispatch

        async def send(batch):
            pid = os.fork()
            if pid == 0:
                assert ringdispatch.dispatchers() == [dispatcher]
                assert dispatcher.statistics().accepted == 0
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            say(len(batch))

        dispatcher = BackgroundDispatcher(send, ms_delay=1, home="thread")
        dispatcher.enqueue("a")
        assert dispatcher.close()
        assert ringdispatch.current_dispatcher() is None
        """,
        warnings=("ignore:.*multi-threaded.*:DeprecationWarning",),
    )
