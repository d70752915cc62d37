"""Dispatchers whose entries lie in a file: what stays in it, and when it goes."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from forking import each_fork, forked
from loops import eventually
from ringdispatch import BackgroundDispatcher, Bytes
from ringdispatch._batcher import Batcher
from ringdispatch._ring_files import RingFiles
from ringdispatch._spool_file import SpoolFile
from ringdispatch._spool_place import is_locked
from spools import adopted, needs_spools, take_all
from subprocesses import run_snippet

pytestmark = needs_spools

MADE = """
from ringdispatch import Bytes
def made(function, **options):
    layout = Bytes(spool={folder!r})
    options = dict(name="audit", ms_delay=1, layout=layout) | options
    return BackgroundDispatcher(function, **options)
"""


def spooled(function: Any, folder: Path, **options: Any) -> BackgroundDispatcher[Any]:
    given: dict[str, Any] = {"ms_delay": 1, "name": "audit", **options}
    return BackgroundDispatcher(function, layout=Bytes(spool=folder), **given)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def left(folder: Path) -> list[bytes]:
    """What the next process finds; it adopts every file."""
    # A worker thread may be touching the pages still, in a process that goes on.
    eventually(lambda: not any(is_locked(path) for path in files(folder)))
    entries = []
    while file := adopted(folder / "audit"):
        assert not file.is_damaged
        entries += take_all(file)
        Path(file.path).unlink()
    assert files(folder) == []
    return entries


def test_entries_go_out_and_a_close_leaves_no_file(tmp_path: Path) -> None:  # C23
    got: list[bytes] = []

    async def send(batch: Any) -> None:
        got.extend(batch)

    async def main() -> None:
        dispatcher = spooled(send, tmp_path, max_batch=7)
        for turn in range(2):  # it may be opened again
            async with dispatcher:
                for number in range(100):
                    assert dispatcher.enqueue(b"%d %d" % (turn, number))
                assert len(files(tmp_path)) == 1
            assert files(tmp_path) == []
        seen = dispatcher.statistics()
        assert (seen.accepted, seen.dispatched, seen.left) == (200, 200, 0)

    asyncio.run(main())
    assert got == [b"%d %d" % (turn, n) for turn in range(2) for n in range(100)]


def test_pages_are_touched_when_there_is_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched: list[str] = []

    def populate(self: Any, file: SpoolFile, workers: Any) -> None:
        touched.append(file.path)
        whole(self, file, workers)

    whole = RingFiles.populate
    monkeypatch.setattr(RingFiles, "populate", populate)
    dispatcher = spooled(lambda batch: None, tmp_path)
    assert touched == []
    with dispatcher:
        assert dispatcher.enqueue(b"entry")
        eventually(lambda: touched == [str(path) for path in files(tmp_path)])
    assert files(tmp_path) == []


def test_a_close_from_another_thread_leaves_no_file(tmp_path: Path) -> None:
    dispatcher = spooled(lambda batch: None, tmp_path)
    for _ in range(20):
        with dispatcher:
            assert dispatcher.enqueue(b"entry")
            assert len(files(tmp_path)) == 1
        assert files(tmp_path) == []
    assert dispatcher.statistics().dispatched == 20


def test_a_close_from_the_dispatch_function_leaves_no_file(tmp_path: Path) -> None:
    closed: list[bool] = []

    async def send(batch: Any) -> None:
        closed.append(await dispatcher.aclose())
        assert len(files(tmp_path)) == 1

    dispatcher = spooled(send, tmp_path, max_in_flight=2)
    assert dispatcher.enqueue(b"entry")
    eventually(lambda: closed == [True] and files(tmp_path) == [])
    assert dispatcher.statistics().dispatched == 1


def test_what_a_close_cuts_short_is_left_and_the_log_says_where(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # C23
    errors: list[Any] = []
    began = asyncio.Event()

    async def send(batch: Any) -> None:
        began.set()
        await asyncio.sleep(60)

    async def main() -> None:
        dispatcher = spooled(
            send, tmp_path, max_batch=2, on_error=lambda *given: errors.append(given)
        )
        for number in range(5):
            assert dispatcher.enqueue(b"%d" % number)
        await began.wait()
        (path,) = files(tmp_path)
        assert not await dispatcher.aclose(0.01)
        (message,) = caplog.messages
        assert message.endswith(
            f"2 entries in flight and 3 entries pending left in {path}"
        )
        seen = dispatcher.statistics()
        assert (seen.accepted, seen.left, seen.pending, seen.in_flight) == (5, 5, 0, 0)
        assert (seen.dispatched, seen.failed, seen.abandoned) == (0, 0, 0)
        assert len(errors) == 1

    asyncio.run(main())
    assert left(tmp_path) == [b"0", b"1", b"2", b"3", b"4"]


def test_after_a_close_cut_short_it_goes_on_in_a_file_of_its_own(
    tmp_path: Path,
) -> None:
    async def send(batch: Any) -> None:
        if b"0" in batch[:]:
            await asyncio.sleep(60)

    async def main() -> None:
        dispatcher = spooled(send, tmp_path, max_batch=1)
        async with dispatcher:
            assert dispatcher.enqueue(b"0")
            assert dispatcher.enqueue(b"1")
            assert not await dispatcher.aclose(0.05)
        async with dispatcher:
            assert dispatcher.enqueue(b"2")
            assert len(files(tmp_path)) == 2
        seen = dispatcher.statistics()
        assert (seen.accepted, seen.dispatched, seen.left) == (3, 1, 2)

    asyncio.run(main())
    assert left(tmp_path) == [b"0", b"1"]


def test_a_batch_that_failed_is_settled(tmp_path: Path) -> None:
    layout = Bytes(spool=tmp_path, dead_letters=False)

    async def send(batch: Any) -> None:
        raise ConnectionError

    async def main() -> None:
        async with BackgroundDispatcher(send, ms_delay=1, layout=layout) as dispatcher:
            assert dispatcher.enqueue(b"entry")
            assert await dispatcher.aflush()
            seen = dispatcher.statistics()
            assert (seen.failed, seen.kept) == (1, 0)

    asyncio.run(main())
    assert files(tmp_path) == []


@pytest.mark.parametrize("entries", [0, 2])
def test_a_dispatcher_collected_unclosed_leaves_what_was_pending(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    entries: int,
) -> None:
    # As if no loop ever ran.
    monkeypatch.setattr(Batcher, "wake_home", lambda self, home: False)
    dispatcher = spooled(lambda batch: None, tmp_path)
    for _ in range(entries):
        assert dispatcher.enqueue(b"entry")
    gone = weakref.ref(dispatcher)
    del dispatcher
    gc.collect()
    assert gone() is None
    if entries:
        assert "collected without close: 0 entries in flight and 2" in caplog.text
    assert left(tmp_path) == entries * [b"entry"]


@pytest.mark.parametrize("how", ["killed", "exit"])
def test_what_a_process_had_pending_and_in_flight_is_left(
    tmp_path: Path, how: str
) -> None:  # C23
    outcome = run_snippet(
        MADE.format(folder=str(tmp_path))
        + f"""
from ringdispatch import _process
_process.END_SECONDS = 0.2
logging.basicConfig(format="%(message)s")
accepted = threading.Event()
async def send(batch):
    if b"2" in batch[:]:
        say("in flight")
        accepted.wait(60)
        if {how == "killed"}:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(60)
dispatcher = made(send, max_batch=2, ms_delay=60_000)  # each batch is full
for number in range(7):
    assert dispatcher.enqueue(b"%d" % number)
accepted.set()
eventually(lambda: dispatcher.statistics().in_flight == 2
           and dispatcher.statistics().dispatched == 2)
""",
        code=-9 if how == "killed" else 0,
        stderr=""
        if how == "killed"
        else r".*the process ended: 2 entries in flight "
        r"and 3 entries pending left in .*",
    )
    assert outcome.lines == ["in flight"]
    assert left(tmp_path) == [b"2", b"3", b"4", b"5", b"6"]


def test_an_exit_that_delivers_all_leaves_no_file(tmp_path: Path) -> None:
    run_snippet(
        MADE.format(folder=str(tmp_path))
        + """
async def send(batch):
    say(len(batch))
dispatcher = made(send, ms_delay=60_000)
assert dispatcher.enqueue(b"entry")
"""
    )
    assert files(tmp_path) == []


@each_fork
def test_a_child_has_a_file_of_its_own(tmp_path: Path, fork: str) -> None:  # C17
    outcome = forked(
        MADE.format(folder=str(tmp_path)).replace("\n", "\n    ")
        + """
    async def send(batch):
        say(name, batch[:])
    def found():
        return sum(name.endswith(".spool") for name in os.listdir(folder))
    dispatcher = made(send, ms_delay=60_000)
    folder = os.path.join(dispatcher._batcher.options.layout.spool, "audit")
    for number in range(3):
        assert dispatcher.enqueue(b"%d" % number)
    def body():
        assert dispatcher.pending == 0
        assert found() == 1
        assert dispatcher.enqueue(b"mine")
        assert found() == 2
        assert dispatcher.flush()
        assert dispatcher.close()
        assert found() == 1
        books(dispatcher)
    join(child(body))
    def killed():
        assert dispatcher.enqueue(b"the child's")
        assert dispatcher.enqueue(b"too")
    join(child(killed))
    assert found() == 2
    def untouched():
        assert dispatcher.close()
    join(child(untouched))
    assert found() == 2
    assert dispatcher.close()
    assert found() == 1
    books(dispatcher)
    """,
        fork=fork,
    )
    assert outcome.lines == [
        "child [b'mine']",
        "accepted=1 dispatched=1",
        "parent [b'0', b'1', b'2']",
        "accepted=3 dispatched=3",
    ]
    assert left(tmp_path) == [b"the child's", b"too"]


@each_fork
def test_a_child_that_can_make_no_file_refuses_and_tries_again(
    tmp_path: Path, fork: str
) -> None:
    outcome = forked(
        MADE.format(folder=str(tmp_path)).replace("\n", "\n    ")
        + """
    from ringdispatch import _ring_files
    _ring_files._AGAIN_SECONDS = 60
    logging.basicConfig(format="%(levelname)s %(message)s")
    async def send(batch):
        say(name, batch[:])
    dispatcher = made(send)
    place = dispatcher._batcher.options.layout.spool
    assert dispatcher.enqueue(b"0")
    assert dispatcher.flush()
    def body():
        moved = place + "-moved"
        os.rename(place, moved)
        open(place, "x").close()
        assert not dispatcher.enqueue(b"1")
        assert not dispatcher.enqueue(b"2")
        assert dispatcher.statistics().rejected_full == 2
        os.unlink(place)
        os.rename(moved, place)
        assert not dispatcher.enqueue(b"3")  # it is tried now and then
        dispatcher._batcher.ring.files._again_at = 0.0
        assert dispatcher.enqueue(b"4")
        assert dispatcher.close()
    join(child(body))
    assert dispatcher.close()
    """,
        fork=fork,
        stderr=r"ERROR ringdispatch\[audit\]: entries are refused, there is no file "
        r"for them: [^\n]*must be a directory[^\n]*\n"
        r"WARNING [^\n]* rejected_full[^\n]*",
    )
    assert outcome.lines == ["parent [b'0']", "child [b'4']"]
    assert files(tmp_path) == []


def test_the_log_names_the_reason_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = spooled(lambda batch: None, tmp_path)
    assert dispatcher.close()
    tmp_path.joinpath("audit").rmdir()
    tmp_path.joinpath("audit").touch()
    with dispatcher:
        for _ in range(3):
            assert not dispatcher.enqueue(b"entry")
            time.sleep(0.001)
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 1
    assert re.search("no file for them: .*File exists", errors[0].getMessage())
    assert dispatcher.statistics().rejected_full == 3


def test_the_log_names_the_slow_call_behind_which_the_file_is_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def send(batch: Any) -> None:
        if batch[0] == b"0":
            await slow.wait()

    slow = asyncio.Event()

    async def main() -> None:
        dispatcher = spooled(send, tmp_path, capacity=2, max_batch=1, max_in_flight=2)
        accepted = 0
        for number in range(20):
            accepted += dispatcher.enqueue(b"%d" % number)
            await asyncio.sleep(0.01)  # all but the first are settled
        assert accepted == 4
        slow.set()
        assert await dispatcher.aflush()
        assert dispatcher.enqueue(b"it goes on")
        assert await dispatcher.aclose()
        assert dispatcher.statistics().rejected_full == 16

    asyncio.run(main())
    (message, *_) = caplog.messages
    assert "its file is full behind the call that has entries 0 to 0," in message
