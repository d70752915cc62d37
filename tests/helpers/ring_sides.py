"""The two rings that the tests compare, behind one face: numbers in, a log out.

An entry is a number to the test; what goes into the ring for it is the layout's matter,
and of its choosing how long it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from model import ModelRing
from ringdispatch import Full, Statistics
from ringdispatch._enqueue import EnqueueBase, install_enqueue
from ringdispatch._objects import ObjectRing

Plan = tuple[Any, ...]


class Interrupted(BaseException):
    """What a signal handler may raise inside a hook."""


class Side:
    """One of the two rings; whatever happens to it goes into its log.

    Entries are numbers to the test. Some have a plan for the moment they are freed, and
    a hook may be ambushed with one: then the ring is entered again from within.
    """

    ring: Any
    hand_in: Callable[..., bool | None]  # and keep no reference to the entry
    numbers: Callable[[list[Any]], list[int]]
    discard: Callable[[list[Any]], None]

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}  # of the entries that have one
        self.log: list[tuple[Any, ...]] = []
        self.clock = 0.0
        self.numbers_given = 0
        self.plans: dict[int, Plan] = {}
        self.ambushes: dict[str, Plan] = {}
        self.takes: list[Any] = []
        self.slots: list[Any] = []

    def put(self, how: str, plan: Plan | None, *context: Any, size: int = 0) -> None:
        number = self.numbers_given
        self.numbers_given += 1
        self.sizes[number] = size
        if plan is not None:
            self.plans[number] = plan
        try:
            outcome: Any = self.hand_in(how, number, *context)
        except (Full, Interrupted) as error:
            outcome = type(error).__name__
        self.log.append((how, number, outcome))

    def carry_out(self, plan: Plan | None) -> None:
        match plan:
            case ("enqueue" | "offer",):
                self.put(plan[0], None, "nested", size=self.numbers_given % 7)
            case ("take", most):
                if self.take(most):
                    self.settle(-1, failed=False, seconds=0.5)
                    self.let_go(-1)
            case ("abandon",):
                self.log.append(("abandoned", self.ring.abandon()))
            case ("close",):
                self.ring.close()
            case ("raise",):
                raise Interrupted

    def fork(self) -> None:
        """Begin as in a forked child."""
        self.ring.reset()

    def take(self, most: int, *due: int) -> bool:
        take = self.ring.take(most, *due)
        if take is None:
            return False
        self.takes.append(take)
        self.log.append(("took", take.start, take.end, self.numbers(take.value)))
        return True

    def settle(self, which: int, *, failed: bool, seconds: float) -> None:
        take = self.takes[which % len(self.takes)]
        before = take.settled
        first = take.settle(failed, seconds)
        self.log.append(("settled", take.start, before, first, take.settled))

    def report(self, which: int) -> None:
        self.takes[which % len(self.takes)].reported()

    def let_go(self, which: int) -> None:
        """Drop a batch: one that is not settled has failed."""
        batch = self.takes.pop(which % len(self.takes))
        self.dropped(batch)
        self.discard(batch.value)

    def dropped(self, batch: Any) -> None:
        """See a batch go that the compiled ring sees by itself."""

    # ---- what a listener hears

    def heard(self, hook: str, *what: Any) -> None:
        self.log.append((hook, *what))
        self.carry_out(self.ambushes.pop(hook, None))

    def gone(self, number: int) -> None:
        self.log.append(("freed", number))
        self.carry_out(self.plans.pop(number, None))

    def encode(self, entry: Any) -> Any:
        """Hear of an entry that goes in; not every layout says so."""
        return entry

    def now(self) -> float:
        self.heard("now")
        return self.clock

    def window_opened(self, position: int, context: Any) -> bool:
        self.heard("opened", position, context)
        return True

    def batch_full(self) -> None:
        self.heard("reached")

    def entries_dropped(self) -> None:
        self.heard("dropped")


class Listener:
    """Passes on what a side hears, and does not keep it alive."""

    def __init__(self, side: Side) -> None:
        self.side = weakref.ref(side)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.side(), name)


class Entry:
    """An object that notifies its side when it is freed, if that still exists."""

    __slots__ = ("__weakref__", "number", "side")

    def __init__(self, number: int, side: Side) -> None:
        self.number = number
        self.side = weakref.ref(side)

    def __del__(self) -> None:
        if (side := self.side()) is not None:
            side.gone(self.number)


@install_enqueue
class Compiled(Side, EnqueueBase[Any]):
    def __init__(self, capacity: int, max_batch: int, on_full: str) -> None:
        super().__init__()
        self.ring = ObjectRing(capacity, max_batch)
        self._attach(self.ring, on_full, Listener(self))
        self.entries: list[weakref.ref[Entry]] = []

    def hand_in(self, how: str, number: int, *context: Any) -> bool | None:
        entry = Entry(number, self)
        self.entries.append(weakref.ref(entry))
        if how == "offer":
            return self._offer(entry, *context)
        return self.enqueue(entry, *context)

    def reject(self) -> None:
        self._reject_full()

    def numbers(self, entries: list[Entry]) -> list[int]:
        return [entry.number for entry in entries]

    def discard(self, entries: list[Entry]) -> None:
        entries.clear()

    def alive(self) -> set[int]:
        found = [ref() for ref in self.entries]
        return {entry.number for entry in found if entry is not None}

    def snapshot(self) -> dict[str, Any]:
        return asdict(Statistics(*self.ring.snapshot(self.clock)))


class Modelled(Side):
    def __init__(
        self, capacity: int, max_batch: int, on_full: str, **bounds: Any
    ) -> None:
        super().__init__()
        self.ring = ModelRing(self, capacity, max_batch, on_full, **bounds)
        self.held: set[int] = set()  # by who is just handing them in
        self.came: dict[int, float] = {}
        self.forgotten: set[int] = set()  # in a forked child

    def hand_in(self, how: str, number: int, *context: Any) -> bool | None:
        self.held.add(number)
        self.came[number] = self.clock
        try:
            return self.ring.enqueue(number, *context, waits=how == "offer")
        finally:
            self.held.discard(number)
            self.freed(number)

    def reject(self) -> None:
        self.ring.reject_full()

    def dropped(self, batch: Any) -> None:
        batch.settle(True, 0.0)
        batch.reported()

    def numbers(self, entries: list[int]) -> list[int]:
        return list(entries)

    def discard(self, entries: list[int]) -> None:
        for number in reversed(entries):  # a list lets go of its items last first
            self.freed(number)

    def alive(self) -> set[int]:
        taken = [take.value for take in self.takes]
        return self.forgotten.union(self.held, self.ring.pending, *taken)

    def snapshot(self) -> dict[str, Any]:
        return self.ring.snapshot(self.clock)

    def freed(self, entry: int) -> None:
        if entry not in self.alive():
            self.gone(entry)
