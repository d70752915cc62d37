"""F29: processes that gevent has patched, and greenlets in those it has not."""

from __future__ import annotations

import pytest

from serving import needs
from subprocesses import PRELUDE, run_snippet

PATCH = {
    "before": ("from gevent import monkey; monkey.patch_all()", ""),
    "after": ("", "from gevent import monkey; monkey.patch_all()"),
    "never": ("", ""),
}


def run_greenlets(patched: str, snippet: str) -> list[str]:
    before, after = PATCH[patched]
    program = f"{before}\n{PRELUDE}{after}\nimport gevent\n{snippet}"
    # What gevent says of itself, of what was imported before, and of newer Pythons.
    warnings = ("default::Warning:gevent", "ignore:Monkey-patching")
    return run_snippet(program, prelude=False, warnings=warnings).lines


@needs("gevent")
@pytest.mark.parametrize("patched", PATCH)
@pytest.mark.parametrize("kind", ["async", "ordinary"])
def test_f29_enqueue_flush_and_close_from_greenlets(
    patched: str, kind: str
) -> None:  # C16, C18
    """What is still pending goes out at exit."""
    lines = run_greenlets(
        patched,
        f"""
async def send(batch):
    await asyncio.sleep(0.01)
    got.extend(batch)
def ordinary(batch):
    time.sleep(0.01)
    got.extend(batch)
got = []
function = send if {kind!r} == "async" else ordinary
dispatcher = BackgroundDispatcher(function, ms_delay=20)
def produce(mine):
    for number in range(100):
        assert dispatcher.enqueue((mine, number))
        gevent.sleep(0)
    assert dispatcher.flush()
    assert (mine, 99) in got
gevent.joinall([gevent.spawn(produce, n) for n in range(8)], raise_error=True)
for mine in range(8):
    assert [n for who, n in got if who == mine] == list(range(100))
dispatcher.enqueue("window")
deadline = time.monotonic() + 10
while "window" not in got:
    assert time.monotonic() < deadline
    gevent.sleep(0.001)
def close():
    dispatcher.enqueue("last")
    return dispatcher.close()
assert gevent.spawn(close).get(timeout=10)
books(dispatcher)
unclosed = BackgroundDispatcher(lambda batch: say(*batch), ms_delay=60_000)
unclosed.enqueue("exit")
""",
    )
    assert lines == ["accepted=802 dispatched=802", "exit"]


@needs("gevent")
def test_f29_greenlet_may_flush_while_the_function_waits_as_greenlets_do() -> None:
    """Its task has not ended then, and the loop is another greenlet's."""
    lines = run_greenlets(
        "before",
        """
async def send(batch):
    if not begun.is_set():
        begun.set()
        goes_on.wait(10)
    say(*batch)
begun, goes_on = gevent.event.Event(), gevent.event.Event()
dispatcher = BackgroundDispatcher(send, ms_delay=1)
dispatcher.enqueue("first")
assert begun.wait(10)
def other():
    dispatcher.enqueue("second")
    gevent.spawn_later(0.01, goes_on.set)
    return dispatcher.flush()
assert gevent.spawn(other).get(timeout=10)
assert dispatcher.close()
""",
    )
    assert lines == ["first", "second"]


@needs("gevent")
@pytest.mark.parametrize("patched", PATCH)
def test_f29_loops_of_other_greenlets_are_left_alone(
    patched: str,
) -> None:  # C13: no loop seems to run where none does
    lines = run_greenlets(
        patched,
        """
async def send(batch):
    await asyncio.sleep(0.01)
    say(*batch)
dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
dispatcher.enqueue("first")
assert dispatcher.flush()
assert dispatcher.enqueue("second")
gevent.sleep(0.05)  # the background thread now waits for its window to end
try:
    asyncio.get_running_loop()
except RuntimeError:
    say("no loop runs here")
async def main():
    loop = asyncio.get_running_loop()
    reached.set()
    for _ in range(10):
        await asyncio.sleep(0.005)
        assert asyncio.get_running_loop() is loop
    return "a loop of its own"
reached = gevent.event.Event()
greenlet = gevent.spawn(asyncio.run, main())
assert reached.wait(10)
for each in dispatcher, BackgroundDispatcher(send, ms_delay=60_000):
    each.enqueue("third")
    assert each.close()
say(greenlet.get(timeout=10))
""",
    )
    assert lines[:2] == ["first", "no loop runs here"]
    assert lines[2:] == ["second third", "third", "a loop of its own"]


@needs("gevent")
@pytest.mark.parametrize("patched", ["before", "after"])
def test_f29_end_of_the_process_while_another_greenlet_runs_a_loop(
    patched: str,
) -> None:  # C16
    lines = run_greenlets(
        patched,
        """
async def send(batch):
    await asyncio.sleep(0.01)
    say(*batch)
dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
async def main():
    dispatcher.enqueue("left")
    reached.set()
    await asyncio.sleep(60)
reached = gevent.event.Event()
greenlet = gevent.spawn(asyncio.run, main())
assert reached.wait(10)
""",
    )
    assert lines == ["left"]


@needs("gevent")
@pytest.mark.parametrize("patched", PATCH)
@pytest.mark.parametrize("call", ["enqueue", "flush"])
def test_f29_greenlet_that_opens_while_another_one_chooses_a_home_is_served(
    patched: str, call: str
) -> None:  # C18
    """By the other's wake-up; where it flushes, by a home that it chooses itself."""
    run_greenlets(
        patched,
        f"""
from ringdispatch._background import _Background
start, starts = _Background.start, []
def start_later(background):
    starts.append(background)
    if len(starts) == 1:
        gevent.spawn(other).get()
    start(background)
_Background.start = start_later
def other():
    assert dispatcher.enqueue("other")
    if {call!r} == "flush":
        assert dispatcher.flush(timeout=None)
        assert got == ["outer", "other"], got
got = []
dispatcher = BackgroundDispatcher(got.extend, ms_delay=1)
assert dispatcher.enqueue("outer")
assert len(starts) == (1 if {call!r} == "enqueue" else 2)
deadline = time.monotonic() + 10
while len(got) < 2:
    assert time.monotonic() < deadline
    gevent.sleep(0.001)
assert dispatcher.close()
""",
    )
