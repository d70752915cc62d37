"""The compiled rings against the plain one, step by step."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from extent import extent
from layout_sides import (
    DTYPES,
    CompiledRecords,
    Laid,
    ModelledRecords,
    byte_sides,
)
from ring_sides import Compiled, Modelled, Plan, Side
from ringdispatch import Bytes
from ringdispatch._enqueue import POLICIES
from ringdispatch._ring import DROP_REASONS
from ringdispatch._spool_file import SUPPORTED

STATE = [
    "capacity",
    "head",
    "tail",
    "closed",
    "drop_announced",
    "opened",
    "busy_slots",
]

# What an entry does to the ring when it is freed, and a hook when it is called.
plans: st.SearchStrategy[Plan] = st.one_of(
    st.just(("enqueue",)),
    st.just(("offer",)),
    st.tuples(st.just("take"), st.integers(1, 9)),
    st.just(("abandon",)),
    st.just(("close",)),
)
hooks = st.sampled_from(["now", "opened", "reached", "dropped", "encode"])
policies = st.sampled_from(sorted(POLICIES))
sizes = st.integers(0, 14)
byte_layouts = st.builds(
    lambda separator, most, batch: Bytes(
        separator=separator,
        max_bytes=len(separator) + most,
        max_batch_bytes=batch and len(separator) + min(batch, most),
    ),
    st.sampled_from([b"", b"\n", b"-sep-"]),
    st.integers(1, 60),
    st.none() | st.integers(1, 60),
)
any_take = st.integers(0, 99)  # one of the batches that are out


class RingMachine(RuleBasedStateMachine):
    """Does the same to both rings, and compares all there is to see after each step."""

    modelled: Any
    compiled: Any

    def begin(self, modelled: Side, compiled: Side) -> None:
        self.modelled, self.compiled = modelled, compiled
        self.sides: tuple[Side, ...] = (modelled, compiled)

    # ---- entries come in

    @rule(sizes=st.lists(sizes, min_size=1, max_size=12))
    def enqueue(self, sizes: list[int]) -> None:
        for side in self.sides:
            for size in sizes:
                side.put("enqueue", None, size=size)

    @rule(how=st.sampled_from(["enqueue", "offer"]), plan=plans, size=sizes)
    def put_entry_with_a_plan(self, how: str, plan: Plan, size: int) -> None:
        for side in self.sides:
            side.put(how, plan, "context", size=size)

    @rule(size=sizes)
    def offer(self, size: int) -> None:
        for side in self.sides:
            side.put("offer", None, None, size=size)

    @rule()
    def wait_in_vain(self) -> None:
        for side in self.sides:
            side.reject()

    @rule(hook=hooks, plan=plans)
    def ambush(self, hook: str, plan: Plan) -> None:
        for side in self.sides:
            side.ambushes[hook] = plan

    @rule(hook=st.sampled_from(["opened", "encode"]))
    def interrupt_the_next(self, hook: str) -> None:
        for side in self.sides:
            side.ambushes[hook] = ("raise",)

    # ---- batches go out

    @rule(most=st.integers(1, 12))
    def take(self, most: int) -> None:
        assert len({side.take(most) for side in self.sides}) == 1

    @rule(most=st.integers(1, 12), below=st.integers(-2, 12))
    def take_what_is_due(self, most: int, below: int) -> None:
        due = max(0, self.modelled.ring.head + below)
        assert len({side.take(most, due) for side in self.sides}) == 1

    @precondition(lambda self: self.compiled.takes)
    @rule(which=any_take, failed=st.booleans(), seconds=st.sampled_from([0.0, 0.25]))
    def settle(self, which: int, failed: bool, seconds: float) -> None:
        for side in self.sides:
            side.settle(which, failed=failed, seconds=seconds)

    @precondition(lambda self: self.compiled.takes)
    @rule(which=any_take)
    def report(self, which: int) -> None:
        for side in self.sides:
            side.report(which)

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
    def acquire_slot(self, max_in_flight: int) -> None:
        slots = [side.ring.acquire_slot(max_in_flight) for side in self.sides]
        assert len({slot is None for slot in slots}) == 1
        for side, slot in zip(self.sides, slots, strict=True):
            side.slots += [] if slot is None else [slot]

    @precondition(lambda self: self.compiled.slots)
    @rule(which=any_take, drops=st.booleans())
    def release(self, which: int, drops: bool) -> None:
        which %= len(self.compiled.slots)
        if drops:  # freed unreleased, it releases itself
            self.modelled.slots.pop(which).release()
            del self.compiled.slots[which]
        else:
            assert len({side.slots[which].release() for side in self.sides}) == 1

    @precondition(lambda self: self.compiled.takes and self.compiled.slots)
    @rule(which=any_take, ends=st.booleans())
    def wait_in_a_call(self, which: int, ends: bool) -> None:
        number, which = (
            which % len(self.compiled.slots),
            which % len(self.compiled.takes),
        )
        slot, batch = self.modelled.slots[number], self.modelled.takes[which]
        waits = -1 if ends and slot.waits and batch.excused else 1
        self.compiled.slots[number].excuse(self.compiled.takes[which], waits)
        slot.waits += waits
        batch.excused += waits

    @rule(max_in_flight=st.integers(1, 3))
    def ask_whether_every_slot_waits(self, max_in_flight: int) -> None:
        generation = self.modelled.ring.generation
        slots = [slot for slot in self.modelled.slots if slot.generation == generation]
        waits = [slot.waits > 0 for slot in slots if slot.held]
        expected = len(waits) >= max_in_flight and all(waits)
        assert self.compiled.ring.every_slot_waits(max_in_flight) == expected

    @rule(reason=st.sampled_from(DROP_REASONS), to_log=st.booleans())
    def report_drops(self, reason: str, to_log: bool) -> None:
        assert len({side.ring.take_drops(reason, to_log) for side in self.sides}) == 1

    @rule(seconds=st.sampled_from([0.25, 1.0]))
    def time_passes(self, seconds: float) -> None:
        for side in self.sides:
            side.clock += seconds

    @rule()
    def roll_window(self) -> None:
        assert len({side.ring.roll_window(side.clock) for side in self.sides}) == 1

    @rule(late=st.integers(0, 1))
    def pump(self, late: int) -> None:
        pumps = {side.ring.unclaim_window() - late for side in self.sides}
        assert len(pumps) == 1
        for side in self.sides:
            side.ring.claim_window(*pumps)

    @rule()
    def unclaim(self) -> None:
        assert len({side.ring.unclaim_window() for side in self.sides}) == 1

    @rule()
    def rearm(self) -> None:
        for side in self.sides:
            side.ring.rearm_drop_notice()

    @rule()
    def close(self) -> None:
        for side in self.sides:
            side.ring.close()

    @rule()
    def fork(self) -> None:  # C17
        self.before_fork()
        for side in self.sides:
            side.fork()

    def before_fork(self) -> None: ...

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
            age = self.compiled.snapshot()["oldest_age_seconds"]
            assert age >= self.modelled.clock - came

    @invariant()
    def same_state(self) -> None:
        for name in STATE:
            mine = getattr(self.compiled.ring, name)
            assert mine == getattr(self.modelled.ring, name), name
        assert self.compiled.ring.pending == len(self.modelled.ring.pending)

    @invariant()
    def same_settlement(self) -> None:
        rings = [side.ring for side in self.sides]
        for past in (False, True):
            assert len({ring.settled_end(past) for ring in rings}) == 1
        tail = self.modelled.ring.tail
        for position in range(max(0, tail - 30), tail):
            assert len({ring.is_settled(position) for ring in rings}) == 1

    @invariant()
    def same_batches_wanted(self) -> None:
        head, tail = self.modelled.ring.head, self.modelled.ring.tail
        for skip in range(3):
            for due in (head, head + 2, tail):
                assert len({s.ring.wants_batch(skip, due) for s in self.sides}) == 1


class ObjectMachine(RingMachine):
    @initialize(capacity=st.integers(1, 9), max_batch=st.integers(1, 9), full=policies)
    def start(self, capacity: int, max_batch: int, full: str) -> None:
        max_batch = min(max_batch, capacity)
        self.begin(
            Modelled(capacity, max_batch, full), Compiled(capacity, max_batch, full)
        )

    def before_fork(self) -> None:
        self.modelled.forgotten.update(self.modelled.ring.pending)

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


class LaidMachine(RingMachine):
    """Batches that the receiver keeps, whatever becomes of the ring."""

    modelled: Laid
    compiled: Laid

    def begin(self, modelled: Side, compiled: Side) -> None:
        super().begin(modelled, compiled)
        self.kept: list[tuple[Any, list[Any]]] = []

    @precondition(lambda self: self.compiled.takes)
    @rule(which=any_take)
    def keep(self, which: int) -> None:
        batch = self.compiled.takes[which % len(self.compiled.takes)].value
        self.kept = [*self.kept[-7:], (batch, self.compiled.read(batch))]
        for side in self.sides:
            side.let_go(which)

    @invariant()
    def batches_never_change(self) -> None:  # C7
        for batch, entries in self.kept:
            assert self.compiled.read(batch) == entries
        for mine, its in zip(self.compiled.takes, self.modelled.takes, strict=True):
            entries = self.modelled.read(its.value)
            assert self.compiled.read(mine.value) == entries


class RecordMachine(LaidMachine):
    @initialize(
        capacity=st.integers(1, 9),
        max_batch=st.integers(1, 9),
        full=policies,
        dtype=st.sampled_from(sorted(DTYPES)),
    )
    def start(self, capacity: int, max_batch: int, full: str, dtype: str) -> None:
        options = (DTYPES[dtype], capacity, min(max_batch, capacity), full)
        self.begin(ModelledRecords(*options), CompiledRecords(*options))

    @precondition(lambda self: self.kept)
    @rule(number=st.integers(0, 2**32 - 1))
    def write_to_a_batch(self, number: int) -> None:
        batch, _ = self.kept.pop()
        batch["number"] = number
        batch["name"] = b"mine"
        self.kept.append((batch, batch.tolist()))


class ByteMachine(LaidMachine):
    @initialize(
        capacity=st.integers(1, 9),
        max_batch=st.integers(1, 9),
        full=policies,
        layout=byte_layouts,
        encodes=st.booleans(),
    )
    def start(
        self, capacity: int, max_batch: int, full: str, layout: Bytes, *, encodes: bool
    ) -> None:
        max_batch = min(max_batch, capacity)
        self.begin(*byte_sides(layout, capacity, max_batch, full, encodes=encodes))

    @invariant()
    def batches_keep_their_bounds(self) -> None:  # C6
        most = self.compiled.snapshot()["max_batch_bytes"]
        assert all(take.value.nbytes <= most for take in self.compiled.takes)


class SpoolMachine(ByteMachine):
    """Bytes in a file, which holds what is not settled."""

    @initialize(
        capacity=st.integers(1, 9),
        max_batch=st.integers(1, 9),
        full=st.sampled_from(["drop_newest", "raise"]),
        layout=byte_layouts,
        encodes=st.booleans(),
    )
    def start(
        self, capacity: int, max_batch: int, full: str, layout: Bytes, *, encodes: bool
    ) -> None:
        self.folder = TemporaryDirectory(prefix="ringdispatch-")
        options = capacity, min(max_batch, capacity), full
        folder = Path(self.folder.name)
        self.begin(*byte_sides(layout, *options, encodes=encodes, folder=folder))

    @rule(sizes=st.lists(st.integers(0, 3), min_size=1, max_size=20))
    def enqueue_and_take_each(self, sizes: list[int]) -> None:
        for side in self.sides:
            for size in sizes:
                side.put("enqueue", None, size=size)
                side.take(1)

    def teardown(self) -> None:
        if not hasattr(self, "compiled"):
            return
        ring = self.modelled.ring
        kept = [ring.stored[position] for position in sorted(ring.kept)]
        left = self.compiled.left()
        self.folder.cleanup()
        if sys.exception() is None:  # else failed already
            assert left == self.modelled.read(kept)


def settings_of(examples: int) -> settings:
    return settings(
        max_examples=extent(examples // 2, examples),
        stateful_step_count=40,
        deadline=None,
        print_blob=True,
    )


TestObjectRing = ObjectMachine.TestCase
TestObjectRing.settings = settings_of(200)
TestRecordRing = RecordMachine.TestCase
TestRecordRing.settings = settings_of(100)
TestByteRing = ByteMachine.TestCase
TestByteRing.settings = settings_of(200)
if SUPPORTED:
    TestSpoolRing = SpoolMachine.TestCase
    TestSpoolRing.settings = settings_of(150)
