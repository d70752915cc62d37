"""The compiled ring against the plain one, step by step."""

from __future__ import annotations

import sys

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ring_sides import Compiled, Modelled, Plan, Side
from ringdispatch._producer import POLICIES

STATE = [
    "capacity",
    "head",
    "tail",
    "closed",
    "has_room",
    "telling",
    "opened",
    "places",
]

# What an entry does to the ring when it is freed, and a hook when it is called.
plans: st.SearchStrategy[Plan] = st.one_of(
    st.just(("enqueue",)),
    st.just(("offer",)),
    st.tuples(st.just("take"), st.integers(1, 9)),
    st.just(("abandon",)),
    st.just(("close",)),
)
hooks = st.sampled_from(["now", "opened", "reached", "dropped"])
any_take = st.integers(0, 99)  # one of the batches that are out


class RingMachine(RuleBasedStateMachine):
    """Does the same to both rings, and compares all there is to see after each step."""

    @initialize(
        capacity=st.integers(1, 9),
        max_batch=st.integers(1, 9),
        on_full=st.sampled_from(sorted(POLICIES)),
    )
    def start(self, capacity: int, max_batch: int, on_full: str) -> None:
        max_batch = min(max_batch, capacity)
        self.compiled = Compiled(capacity, max_batch, on_full)
        self.modelled = Modelled(capacity, max_batch, on_full)
        self.sides: tuple[Side, ...] = (self.modelled, self.compiled)

    # ---- entries come in

    @rule(times=st.integers(1, 12))
    def enqueue(self, times: int) -> None:
        for side in self.sides:
            for _ in range(times):
                side.put("enqueue", None)

    @rule(how=st.sampled_from(["enqueue", "offer"]), plan=plans)
    def put_entry_with_a_plan(self, how: str, plan: Plan) -> None:
        for side in self.sides:
            side.put(how, plan, "context")

    @rule()
    def offer(self) -> None:
        for side in self.sides:
            side.put("offer", None, None)

    @rule()
    def wait_in_vain(self) -> None:
        for side in self.sides:
            side.reject()

    @rule(hook=hooks, plan=plans)
    def ambush(self, hook: str, plan: Plan) -> None:
        for side in self.sides:
            side.ambushes[hook] = plan

    @rule()
    def interrupt_the_next_opening(self) -> None:
        for side in self.sides:
            side.ambushes["opened"] = ("raise",)

    # ---- batches go out

    @rule(most=st.integers(1, 12))
    def take(self, most: int) -> None:
        assert len({side.take(most) for side in self.sides}) == 1

    @precondition(lambda self: self.compiled.takes)
    @rule(which=any_take, failed=st.booleans(), seconds=st.sampled_from([0.0, 0.25]))
    def settle(self, which: int, failed: bool, seconds: float) -> None:
        for side in self.sides:
            side.settle(which, failed=failed, seconds=seconds)

    @precondition(lambda self: self.compiled.takes)
    @rule(which=any_take)
    def let_go(self, which: int) -> None:
        for side in self.sides:
            side.let_go(which)

    @rule()
    def abandon(self) -> None:
        for side in self.sides:
            side.carry_out(("abandon",))

    # ---- what a dispatcher does besides

    @rule(max_in_flight=st.integers(1, 3))
    def reserve(self, max_in_flight: int) -> None:
        assert len({side.ring.reserve(max_in_flight) for side in self.sides}) == 1

    @precondition(lambda self: self.compiled.ring.places)
    @rule()
    def release(self) -> None:
        for side in self.sides:
            side.ring.release()

    @rule(seconds=st.sampled_from([0.25, 1.0]))
    def time_passes(self, seconds: float) -> None:
        for side in self.sides:
            side.clock += seconds

    @rule()
    def reopen(self) -> None:
        assert len({side.ring.reopen(side.clock) for side in self.sides}) == 1

    @rule()
    def forsake(self) -> None:
        for side in self.sides:
            side.ring.forsake()

    @rule()
    def told(self) -> None:
        for side in self.sides:
            side.ring.told()

    @rule()
    def close(self) -> None:
        for side in self.sides:
            side.ring.close()

    @rule()
    def fork(self) -> None:  # C17
        self.modelled.forgotten.update(self.modelled.ring.pending)
        for side in self.sides:
            side.ring.reset()

    # ---- what must be the same

    @invariant()
    def same_events(self) -> None:  # C5, C9, C18
        assert self.compiled.log == self.modelled.log

    @invariant()
    def same_books(self) -> None:  # C8
        assert self.compiled.snapshot() == self.modelled.snapshot()

    @invariant()
    def oldest_entry_is_no_older_than_told(self) -> None:
        if self.modelled.ring.pending:
            came = self.modelled.came[self.modelled.ring.pending[0]]
            told = self.compiled.snapshot()["oldest_age_seconds"]
            assert told >= self.modelled.clock - came

    @invariant()
    def same_state(self) -> None:
        for name in STATE:
            mine = getattr(self.compiled.ring, name)
            assert mine == getattr(self.modelled.ring, name), name
        assert self.compiled.ring.pending == len(self.modelled.ring.pending)

    @invariant()
    def same_entries_alive(self) -> None:
        assert self.compiled.alive() == self.modelled.alive()

    def teardown(self) -> None:
        """A ring that is freed frees what is pending, and only that."""
        if sys.exception() is not None or not hasattr(self, "compiled"):
            return  # failed already, and the traceback keeps everything
        entries, forgotten = self.compiled.entries, self.modelled.forgotten
        del self.compiled, self.sides
        found = [ref() for ref in entries]
        assert {e.number for e in found if e is not None} == forgotten


TestRing = RingMachine.TestCase
TestRing.settings = settings(
    max_examples=400, stateful_step_count=40, deadline=None, print_blob=True
)
