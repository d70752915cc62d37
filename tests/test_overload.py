"""F26, F30: more comes in than goes out, and what has stood still goes on."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import soak
from loops import LOOPS, comes_true, eventually, run_on
from ringdispatch import BackgroundDispatcher, Full
from support import Sink, SteppedLoop, books_agree

STRESS = Path(__file__).parents[1] / "stress"
POLICIES = ["drop_newest", "drop_oldest", "raise"]

on_each_loop = pytest.mark.parametrize("loop_name", LOOPS)
each_policy = pytest.mark.parametrize("on_full", POLICIES)


def put(dispatcher: BackgroundDispatcher[int], numbers: range) -> list[int]:
    """Enqueue from a thread of its own; returns what was accepted."""
    accepted: list[int] = []

    def produce() -> None:
        for number in numbers:
            with contextlib.suppress(Full):
                if dispatcher.enqueue(number):
                    accepted.append(number)

    thread = threading.Thread(target=produce)
    thread.start()
    thread.join()
    return accepted


@on_each_loop
@each_policy
def test_f26_blocked_home_keeps_what_fits_then_goes_by_on_full(
    loop_name: str, on_full: str, dispatcher_class: type
) -> None:  # C6, C7, C10
    got: list[int] = []

    async def sink(batch: list[int]) -> None:
        got.extend(batch)

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=5, capacity=100, on_full=on_full)
        dispatcher.bind()
        # The join blocks the home's thread until the producer is through.
        assert put(dispatcher, range(100)) == list(range(100))
        assert got == []
        await comes_true(lambda: len(got) == 100)
        assert got == list(range(100))
        got.clear()
        accepted = put(dispatcher, range(150))
        kept = range(50, 150) if on_full == "drop_oldest" else range(100)
        assert len(accepted) == (150 if on_full == "drop_oldest" else 100)
        await comes_true(lambda: len(got) == 100)
        assert got == list(kept)
        seen = dispatcher.statistics()
        assert (seen.rejected_full, seen.evicted) == (
            (0, 50) if on_full == "drop_oldest" else (50, 0)
        )
        assert await dispatcher.aclose()
        books_agree(dispatcher)

    run_on(loop_name, main())


@on_each_loop
def test_f26_home_of_its_own_dispatches_while_the_callers_loop_is_blocked(
    loop_name: str,
    dispatcher_class: type,
) -> None:  # C13
    got: list[int] = []

    async def sink(batch: list[int]) -> None:
        got.extend(batch)

    async def main() -> None:
        dispatcher = dispatcher_class(sink, ms_delay=1, capacity=100, home="thread")
        for number in range(500):
            eventually(lambda: dispatcher.pending < 100)  # this loop stands still
            assert dispatcher.enqueue(number)
        eventually(lambda: len(got) == 500)
        assert got == list(range(500))
        assert await dispatcher.aclose()

    run_on(loop_name, main())


@each_policy
def test_f30_all_is_well_two_windows_after_the_sink_returns(
    stepped: SteppedLoop, sink: Sink, on_full: str, dispatcher_class: type
) -> None:  # C6, C7, C11
    async def main() -> None:
        dispatcher = dispatcher_class(
            sink, ms_delay=100, capacity=10, on_full=on_full, dispatch_timeout=None
        )
        sink.hold()
        number = 0
        for _ in range(600):  # a minute
            for _ in range(7):
                number += 1
                with contextlib.suppress(Full):
                    dispatcher.enqueue(number)
            await stepped.advance(0.1)
        assert len(sink.batches) == 1
        assert dispatcher.pending == 10
        sink.release()
        await stepped.advance(0.0)
        assert dispatcher.enqueue("after")
        await stepped.advance(0.2)
        seen = dispatcher.statistics()
        assert (seen.pending, seen.in_flight) == (0, 0)
        assert sink.entries[-1] == "after"
        assert len(sink.batches) == 3
        assert seen.accepted == seen.dispatched + seen.evicted
        assert seen.rejected_full + seen.evicted == number + 1 - seen.dispatched
        assert await dispatcher.aclose()

    stepped.run_until_complete(main())


# Objects only: the programs have layouts of their own.
@pytest.mark.counts_memory
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        *((policy, "objects") for policy in POLICIES),
        pytest.param("drop_oldest", "records", marks=pytest.mark.in_whole),
        ("drop_oldest", "bytes"),
    ],
)
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(["overload.py", "--seconds", "1"], id="overload"),
        pytest.param(["soak.py", "--entries", "200000"], id="soak"),
    ],
)
def test_f30_in_short(program: list[str], policy: str, kind: str) -> None:  # C7, C10
    """The two programs find nothing wrong; they run for minutes when called alone."""
    name, *options = program
    options += ["--policy", policy, "--layout", kind]
    outcome = subprocess.run(
        [sys.executable, STRESS / name, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_soak_finds_what_grows_in_each_round(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes no offence at what an allocator keeps once."""
    monkeypatch.setattr(soak, "WARM_UP", 1000)
    seen: list[soak.Size] = []
    really = soak.Size.now

    def now(loop: asyncio.AbstractEventLoop) -> soak.Size:
        looks = min(len(seen), rounds * soak.LOOKS)
        memory = looks * soak.SLACK.memory
        seen.append(dataclasses.replace(really(loop), memory=memory))
        return seen[-1]

    monkeypatch.setattr(soak.Size, "now", staticmethod(now))
    wrong = soak.soak(1000, "drop_oldest", "objects")
    assert len(seen) == 1 + soak.LOOKS * min(rounds + 1, soak.ROUNDS)
    assert [what.split(":")[0] for what in wrong] == ["memory"] * (rounds == 3)
