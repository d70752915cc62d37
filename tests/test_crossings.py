"""Another thread comes in between two steps of a move, a close or a reopening."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from loops import BACKGROUND, Place, comes_true, eventually
from recovering import letters_in, orphan, spooled
from ringdispatch import BackgroundDispatcher, Bytes, _batcher, _call, _close
from ringdispatch._batcher import Batcher
from ringdispatch._call import Call
from ringdispatch._reports import Reports
from ringdispatch._ring_files import RingFiles
from ringdispatch._sink import SinkUse
from ringdispatch._waiting import SettlementQueue
from spools import needs_spools
from subprocesses import run_snippet


class Held:
    """A function that waits, the first time it is called, until it may go on."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        owner: Any,
        name: str,
        *,
        before: bool = True,
        when: Callable[..., bool] = lambda *_: True,
    ) -> None:
        self.there, self.may_go = threading.Event(), threading.Event()
        function = getattr(owner, name)

        def hold() -> None:
            self.there.set()
            assert self.may_go.wait(20)

        def held(*args: Any, **options: Any) -> Any:
            first = not self.there.is_set() and when(*args)
            if first and before:
                hold()
            outcome = function(*args, **options)
            if first and not before:
                hold()
            return outcome

        monkeypatch.setattr(owner, name, held)

    @contextmanager
    def crossed_by(self, step: Callable[[], object]) -> Iterator[None]:
        """Run `step` in a thread up to there; it goes on after the block."""
        thread = threading.Thread(target=step, daemon=True)
        thread.start()
        assert self.there.wait(20)
        yield
        self.may_go.set()
        thread.join(20)
        assert not thread.is_alive()


Hold = Callable[..., Held]


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """Make a Held, which goes on when the test ends: others need its thread."""
    made: list[Held] = []

    def make(owner: Any, name: str, **options: Any) -> Held:
        made.append(Held(monkeypatch, owner, name, **options))
        return made[-1]

    yield make
    for held in made:
        held.may_go.set()


def has_left_the_background(dispatcher: BackgroundDispatcher[Any]) -> bool:
    return not any(home.background for home in dispatcher._batcher.homes)


def test_window_on_another_loop_keeps_its_timer(
    hold: Hold,
) -> None:  # C1, C14
    """The home before it comes late to the timer, and puts its own in the place."""
    keeper: BackgroundDispatcher[int] = BackgroundDispatcher(Place(), ms_delay=1)
    keeper.enqueue(0)  # the background thread runs, and does not end in between
    assert keeper.flush()
    sink = Place()
    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(sink, ms_delay=2_000)
    mine = dispatcher._batcher  # the other one may have a pump left
    held = hold(
        Batcher, "_keep_timer", when=lambda who, home: who is mine and home.background
    )

    async def main() -> None:
        assert dispatcher.enqueue(2)
        loop = asyncio.get_running_loop()
        await comes_true(lambda: dispatcher._batcher._timer is not None)
        assert dispatcher._batcher.home is not None
        assert dispatcher._batcher.home.loop is loop
        held.may_go.set()
        await comes_true(lambda: sink.entries == [1, 2])
        assert dispatcher.enqueue(3)
        await comes_true(lambda: sink.entries == [1, 2, 3])
        assert await dispatcher.aclose()

    dispatcher.enqueue(1)
    assert held.there.wait(20)
    asyncio.run(main())


@needs_spools
def test_nothing_recovered_is_called_once_a_close_is_over(
    hold: Hold, tmp_path: Path
) -> None:  # C15, C23
    path = orphan(tmp_path, b"one", b"two")
    held = hold(RingFiles, "adopt", before=False)
    called: list[Any] = []
    dispatcher = spooled(called.append, tmp_path)
    dispatcher._batcher.wake()
    assert held.there.wait(20)
    assert dispatcher.close()
    held.may_go.set()
    eventually(lambda: has_left_the_background(dispatcher))
    assert called == []
    assert path.exists()
    assert dispatcher.statistics().recovered == 0


@pytest.mark.parametrize("on_file", [False, pytest.param(True, marks=needs_spools)])
def test_close_that_timed_out_gives_up_nothing_of_what_is_open_again(
    hold: Hold, on_file: bool, tmp_path: Path
) -> None:  # C15
    called, slow = threading.Event(), threading.Event()
    got: list[bytes] = []

    def send(batch: Any) -> None:
        if batch[0] == b"old":
            called.set()
            assert slow.wait(20)
        got.extend(batch)
        if batch[0] == b"refused":
            raise ValueError("refused")

    held = hold(_close, "give_up")
    layout = Bytes(spool=tmp_path) if on_file else Bytes()
    dispatcher: BackgroundDispatcher[bytes] = BackgroundDispatcher(
        send, ms_delay=1, layout=layout, max_batch=1, max_in_flight=2, name="audit"
    )
    dispatcher.enqueue(b"old")
    assert called.wait(20)
    with held.crossed_by(lambda: dispatcher.close(0.01)):
        dispatcher.__enter__()
        for entry in (b"new", b"refused", b"newer"):
            assert dispatcher.enqueue(entry)
    slow.set()
    assert dispatcher.close(20)
    assert sorted(got) == [b"new", b"newer", b"old", b"refused"]
    seen = dispatcher.statistics()
    assert (seen.dispatched, seen.failed, seen.abandoned, seen.left) == (3, 1, 0, 0)
    assert [each.payload for each in letters_in(tmp_path)] == [b"refused\n"] * on_file


def test_sink_is_closed_where_it_was_called_before_the_reopening(
    hold: Hold,
) -> None:  # C15, C22
    seen: list[tuple[str, str]] = []

    class Closing:
        async def __call__(self, batch: Any) -> None:
            seen.append(("call", threading.current_thread().name))

        async def aclose(self) -> None:
            seen.append(("aclose", threading.current_thread().name))

    held = hold(SinkUse, "limit")
    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(Closing(), ms_delay=1)
    dispatcher.enqueue(1)
    assert dispatcher.flush()

    async def main() -> None:
        async with dispatcher:
            held.may_go.set()
            dispatcher.enqueue(2)
            await comes_true(lambda: ("aclose", BACKGROUND) in seen)
            assert await dispatcher.aclose(20)

    with held.crossed_by(dispatcher.close):
        asyncio.run(main())
    here = threading.current_thread().name
    assert sorted(seen) == sorted(
        (what, where) for what in ("call", "aclose") for where in (BACKGROUND, here)
    )


@pytest.mark.parametrize("goes_on", ["nowhere", "loop"])
def test_no_thread_stays_for_a_call_that_outlived_the_close(goes_on: str) -> None:
    """C16: it ended after a reopening, when the dispatcher had no home."""
    called, slow, ended = threading.Event(), threading.Event(), threading.Event()

    def send(batch: list[int]) -> None:
        if batch == [1]:
            called.set()
            assert slow.wait(20)
            ended.set()

    async def main() -> None:
        async with dispatcher:
            dispatcher.enqueue(2)

    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(send, ms_delay=1)
    dispatcher.enqueue(1)
    assert called.wait(20)
    assert not dispatcher.close(0.01)
    dispatcher.__enter__()
    slow.set()
    assert ended.wait(20)
    eventually(lambda: not dispatcher._batcher.calls)
    if goes_on == "loop":
        asyncio.run(main())
    eventually(lambda: has_left_the_background(dispatcher))


def test_thread_that_was_started_for_nothing_ends() -> None:
    """C13, C16: a loop was quicker to be the home."""
    outcome = run_snippet(
        """
        from ringdispatch import _batcher
        there, may_go = threading.Event(), threading.Event()
        really = _batcher.background_home
        def held():
            home = really()
            there.set()
            assert may_go.wait(20)
            return home
        _batcher.background_home = held
        async def send(batch):
            say(*batch)
        dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
        thread = threading.Thread(target=dispatcher.enqueue, args=(1,))
        thread.start()
        assert there.wait(20)
        async def main():
            dispatcher.enqueue(2)
            may_go.set()
            await asyncio.to_thread(thread.join)
            assert await dispatcher.aclose()
        run(main())
        eventually(lambda: threading.active_count() == 1)
        """
    )
    assert outcome.lines == ["1 2"]


def test_bind_wins_over_a_thread_that_had_found_the_loop_stopped(
    hold: Hold,
) -> None:  # C13
    held = hold(_batcher, "background_home", before=False)
    sink = Place()
    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
        sink, ms_delay=1, home="thread"
    )
    loop = asyncio.new_event_loop()

    async def bind() -> None:
        dispatcher.bind()

    async def bind_again(thread: threading.Thread) -> None:
        dispatcher.bind()
        held.may_go.set()
        await asyncio.to_thread(thread.join)
        home = dispatcher._batcher.home
        assert home is not None
        assert home.loop is loop
        assert dispatcher.enqueue(2)
        assert await dispatcher.aclose()

    def enqueue() -> None:
        dispatcher.enqueue(1)
        assert dispatcher.flush(20)

    loop.run_until_complete(bind())
    thread = threading.Thread(target=enqueue, daemon=True)
    thread.start()
    assert held.there.wait(20)
    loop.run_until_complete(bind_again(thread))
    loop.close()
    assert sink.entries == [1, 2]
    assert set(sink.loops) == {loop}


def test_drops_are_told_after_a_move() -> None:  # C10
    """A timer for them is awaited on the home before, which may have ended."""
    told: list[int] = []
    may_end = threading.Event()
    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
        lambda _: may_end.wait(20),
        ms_delay=60_000,
        capacity=2,
        on_drop=lambda reason, count: told.append(count),
    )

    def fill() -> None:
        while dispatcher.enqueue(1):
            pass

    may_end.set()
    dispatcher.enqueue(1)
    assert dispatcher.flush(20)
    dispatcher._batcher.drops._due_at = math.inf
    dispatcher._reject_full()
    eventually(lambda: told == [1])

    async def main() -> None:
        may_end.clear()
        fill()
        await comes_true(lambda: sum(told) == 2)  # by the call that has begun
        fill()
        await comes_true(lambda: sum(told) == 3)
        may_end.set()
        assert await dispatcher.aclose()

    asyncio.run(main())


def test_call_that_runs_out_of_time_is_cancelled_where_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C11: by a home that it does not run on, where its own is blocked
    cancelled_in: list[threading.Thread] = []
    cancel = _call.cancel

    def note(call: Call) -> None:
        cancelled_in.append(threading.current_thread())
        cancel(call)

    monkeypatch.setattr(_call, "cancel", note)
    blocked, may_go = threading.Event(), threading.Event()

    async def block(batch: Any) -> None:
        blocked.set()
        assert may_go.wait(20)

    async def hang(batch: Any) -> None:
        await asyncio.sleep(60)

    with BackgroundDispatcher[int](block, ms_delay=1, home="thread") as other:
        dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
            hang, ms_delay=1, dispatch_timeout=60
        )
        dispatcher.enqueue(1)
        eventually(lambda: dispatcher.statistics().in_flight == 1)
        other.enqueue(1)
        assert blocked.wait(20)
        call = dispatcher._batcher.calls.first()
        assert call is not None
        call.deadline = -math.inf

        async def main() -> None:
            dispatcher.enqueue(2)
            while not dispatcher.statistics().failed:
                await asyncio.sleep(0.01)
                dispatcher._batcher.wake()
            assert cancelled_in == []
            may_go.set()
            await comes_true(lambda: cancelled_in)

        asyncio.run(main())
        dispatcher.close(0)
    assert cancelled_in[0].name == BACKGROUND


def test_close_knows_what_another_one_gave_up(
    hold: Hold,
) -> None:  # C15
    slow = threading.Event()
    outcomes: dict[str, bool] = {}

    def close(name: str, timeout: float) -> None:
        outcomes[name] = dispatcher.close(timeout)

    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
        lambda _: slow.wait(20), ms_delay=1, max_batch=1, name="audit"
    )
    for number in range(3):
        dispatcher.enqueue(number)
    eventually(lambda: dispatcher.statistics().in_flight == 1)
    patient = threading.Thread(target=close, args=("patient", 20), daemon=True)
    patient.start()
    eventually(lambda: dispatcher.closed)
    held = hold(Call, "fail", when=lambda call, *_: not slow.is_set())
    with held.crossed_by(lambda: close("hasty", 0.01)):
        slow.set()
        patient.join(20)
    assert outcomes == {"patient": False, "hasty": False}
    assert dispatcher.statistics().abandoned == 2


def test_opener_whose_batch_failed_while_it_was_taken_is_told(
    hold: Hold,
) -> None:  # C13
    receipts: list[Any] = []

    class Context:
        def wait_until(self, receipt: Any) -> None:
            receipts.append(receipt)

    async def received() -> None:
        async with asyncio.timeout(20):
            await receipts[0]

    taking, logging = hold(SettlementQueue, "move_openers"), hold(Reports, "log")
    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(
        lambda _: None, ms_delay=1, home="thread", name="audit"
    )
    dispatcher.enqueue(0, Context())
    assert taking.there.wait(20)
    with logging.crossed_by(lambda: dispatcher.close(0.01)):
        taking.may_go.set()
        eventually(lambda: not dispatcher._batcher.calls)
    asyncio.run(received())


def test_aenqueue_encodes_what_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """C15: it was closed when it looked, and open when it stored."""
    dispatcher: BackgroundDispatcher[str] = BackgroundDispatcher(
        lambda batch: got.append(batch.payload),
        ms_delay=1,
        layout=Bytes(lambda entry: entry.upper().encode()),
    )
    got: list[bytes] = []
    whole = type(dispatcher).enqueue

    def reopen_first(self: Any, *args: Any) -> Any:
        _close.reopen(self._batcher)
        return whole(self, *args)

    async def main() -> None:
        await dispatcher.aclose()
        monkeypatch.setattr(type(dispatcher), "enqueue", reopen_first)
        assert await dispatcher.aenqueue("secret")
        assert await dispatcher.aclose()

    asyncio.run(main())
    assert got == [b"SECRET\n"]


def test_loop_that_stands_still_is_asked_once_to_close_a_sink(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # C22
    """However often the dispatcher is opened and closed elsewhere."""

    class Closing:
        async def __call__(self, batch: Any) -> None: ...
        async def aclose(self) -> None: ...

    asked: list[Any] = []
    dispatcher: BackgroundDispatcher[int] = BackgroundDispatcher(Closing(), ms_delay=1)
    loop = asyncio.new_event_loop()

    async def send() -> None:
        dispatcher.bind()
        dispatcher.enqueue(1)
        assert await dispatcher.aflush()

    loop.run_until_complete(send())
    home = dispatcher._batcher.home
    assert home is not None
    whole = home.post

    def post(callback: Any) -> bool:
        asked.append(callback)
        return whole(callback)

    monkeypatch.setattr(home, "post", post)
    for number in range(20):
        with dispatcher:
            dispatcher.enqueue(number)
            assert dispatcher.flush(20)
    assert len([each for each in asked if isinstance(each, partial)]) == 1
    loop.close()


def test_end_of_a_loop_does_not_wait_for_traffic() -> None:  # C16
    """Threads go on with entries for several dispatchers that live there."""
    outcome = run_snippet(
        """
        from ringdispatch._batcher import Batcher
        drains = []
        really_drain = Batcher.drain
        async def drain(self, *args, **options):
            drains.append(self)
            await really_drain(self, *args, **options)
            one.enqueue("late")  # as another thread does
            two.enqueue("late")
        Batcher.drain = drain
        async def send(batch):
            await asyncio.sleep(0.001)
        one, two = (BackgroundDispatcher(send, ms_delay=60_000) for _ in range(2))
        async def main():
            one.enqueue("a")
            two.enqueue("b")
        run(main())
        assert len(drains) <= 6, len(drains)
        assert one.close() and two.close()
        say(one.statistics().failed, two.statistics().failed)
        """
    )
    assert outcome.lines == ["0 0"]
