"""C16: the end of a loop takes the time that it has, in real seconds: 4 and 5."""

from __future__ import annotations

import pytest

from loops import LOOPS
from subprocesses import run_snippet

pytestmark = pytest.mark.nightly


@pytest.mark.parametrize("loop_name", LOOPS)
def test_calls_have_four_seconds_and_pending_entries_the_fifth(
    loop_name: str,
) -> None:  # C16
    """Each dispatcher has one slot, a call in flight, and an entry behind it."""
    outcome = run_snippet(
        """
        ended = []
        def since():
            return time.monotonic() - ended[0]
        def expect(what, low, seconds=1.0):  # a busy machine comes late, never early
            took = since()
            assert low - 0.05 <= took <= low + seconds, (what, took)
            say(what)
        async def slow(batch):
            if batch == [1]:
                await asyncio.sleep(3.5)
                expect("slow: the call returned", 3.5)
            else:
                say("slow: the pending entry was sent")
        async def hung(batch):
            try:
                if batch == [1]:
                    await asyncio.sleep(3600)
                await asyncio.sleep(0.3)
                expect("hung: the pending entry was sent", 4.3, 0.7)
            except asyncio.CancelledError:
                expect("hung: the call was cancelled", 4.0)
                raise
        async def stuck(batch):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                expect(f"stuck: call {batch[0]} was cancelled", 3.0 + batch[0])
                raise
        dispatchers = [
            BackgroundDispatcher(function, ms_delay=60_000, max_batch=1)
            for function in (slow, hung, stuck)
        ]
        async def main():
            for dispatcher in dispatchers:
                dispatcher.enqueue(1)
                dispatcher.enqueue(2)
            while not all(d.statistics().in_flight for d in dispatchers):
                await asyncio.sleep(0.001)
            assert [d.pending for d in dispatchers] == [1, 1, 1]
            ended.append(time.monotonic())
        run(main())
        expect("ended", 5.0, 2.0)
        for dispatcher in dispatchers:
            books(dispatcher)
        """,
        loop=loop_name,
        debug=False,
        stderr=r"(ringdispatch\[(hung|stuck)\]: .* 4 s were not enough\n){2}"
        r"ringdispatch\[stuck\]: closed; before that 2 batches failed \(2 entries\)",
    )
    at_once = ["hung: the call was cancelled", "stuck: call 1 was cancelled"]
    assert sorted(outcome.lines[2:4]) == at_once
    assert outcome.lines[:2] + outcome.lines[4:] == [
        "slow: the call returned",
        "slow: the pending entry was sent",
        "hung: the pending entry was sent",
        "stuck: call 2 was cancelled",
        "ended",
        "accepted=2 dispatched=2",
        "accepted=2 dispatched=1 failed=1",
        "accepted=2 failed=2",
    ]
