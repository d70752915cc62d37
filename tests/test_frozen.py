"""F42: a process that is stopped, and goes on or not."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from signal import SIGCONT, SIGKILL

import pytest

from loops import LOOPS
from serving import serve
from subprocesses import PRELUDE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")


@pytest.mark.parametrize("home", [*LOOPS, "thread"])
def test_f42_overdue_window_goes_out_once_after_a_stop(
    home: str, tmp_path: Path
) -> None:  # C2, C4, C8
    """One call in flight, one window open."""
    program = """
from served import note
async def send(batch):
    if batch == ["/in-flight"]:
        began.set()
        while not stopped:
            await asyncio.sleep(0.001)
    dispatched_at.append(time.monotonic())
    note(*batch)
began, stopped, dispatched_at = threading.Event(), [], []
dispatcher = BackgroundDispatcher(send, ms_delay=2500, max_in_flight=2)
def stop():
    assert began.wait(10)
    dispatcher.enqueue("/a")
    dispatcher.enqueue("/b")
    os.kill(os.getpid(), signal.SIGSTOP)
    stopped.append(time.monotonic())
def check():
    seen = dispatcher.statistics()
    assert seen.accepted == seen.dispatched == 3 and seen.batches == 2, seen
    assert dispatched_at[-1] - stopped[0] < 2.4, "the delay began again"
async def main():
    dispatcher.enqueue("/in-flight")
    flush = asyncio.ensure_future(dispatcher.aflush(20))
    while not began.is_set():
        await asyncio.sleep(0)
    stop()
    assert await flush
    while dispatcher.statistics().dispatched < 3:
        await asyncio.sleep(0.001)
    check()
    assert await dispatcher.aclose()
if os.environ["TEST_LOOP"] == "thread":
    dispatcher.enqueue("/in-flight")
    threading.Thread(target=dispatcher.flush, args=(20,)).start()
    stop()
    eventually(lambda: dispatcher.statistics().dispatched == 3)
    check()
    assert dispatcher.close()
else:
    run(main())
books(dispatcher)
"""
    with serve(["-c", PRELUDE + program], tmp_path, TEST_LOOP=home) as server:
        server.wait_until_stopped()
        assert server.delivered() == ()
        time.sleep(2.8)  # longer than the delay: the stop is what is tested
        assert server.delivered() == ()
        server.signal(SIGCONT)
        assert server.wait() == "accepted=3 dispatched=3\n"
        assert sorted(server.delivered()) == ["/a", "/b", "/in-flight"]


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("how", ["wait_until", "aflush", "nothing"])
def test_f42_frozen_after_the_answer_and_never_thawed(
    how: str, loop_name: str, tmp_path: Path
) -> None:  # C15
    """A serverless runtime: it stops the process once all its promises have ended.

    Then it goes on for the next request, and in the end is killed where it stands.
    """
    program = f"""
from served import send
dispatcher = BackgroundDispatcher(send, ms_delay=30)
class Context:
    def __init__(self):
        self.promises = []
        self.wait_until = self.promises.append
async def handler(request, context):
    for number in range(3):
        entry = f"/{{request}}-{{number}}"
        dispatcher.enqueue(entry, context if {how!r} == "wait_until" else None)
    if {how!r} == "aflush":
        assert await dispatcher.aflush()
async def main():
    for request in range(3):
        context = Context()
        await handler(request, context)
        await asyncio.gather(*context.promises)
        os.kill(os.getpid(), signal.SIGSTOP)
run(main())
"""
    with serve(["-c", PRELUDE + program], tmp_path, TEST_LOOP=loop_name) as server:
        for _ in range(2):
            server.wait_until_stopped()
            server.signal(SIGCONT)
        server.wait_until_stopped()
        server.signal(SIGKILL)
        server.wait()
        entries = tuple(f"/{request}-{n}" for request in range(3) for n in range(3))
        assert server.delivered() == (entries if how != "nothing" else ())
