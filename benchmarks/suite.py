"""Gathers what the benchmarks measure, and makes the results of a run of it."""

from dataclasses import dataclass, field
from functools import cache
from statistics import median
from typing import Any

from peers import PEERS, Deque, EmptyLoop
from plan import ONE, SEED, is_repeated
from ringdispatch._tune._entries import entry_bytes
from ringdispatch._tune._machine import describe
from ringdispatch._tune._model import merged, with_prediction
from ringdispatch._tune._recommend import Budgets, recommend
from ringdispatch._tune._recording import percentile
from ringdispatch._tune._results import (
    Cell,
    Measured,
    Memory,
    Price,
    Results,
    Setting,
)

Case = tuple[str, int, bool]  # a peer's name, threads, whether it is full


@dataclass
class Suite:
    """What has been measured so far.

    Attributes:
        mode: One of plan.MODES.
        missing: Packages that are not installed, and why.
        samples: Nanoseconds of a call in each round, the loop around it included.
        said: What the last measurement found, in words, for its line of progress.
    """

    mode: str
    samples: dict[Case, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    end_to_end: list[dict[str, Any]] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    said: str = ""

    @property
    def quick(self) -> bool:
        """Whether there is about a minute."""
        return self.mode == "quick"

    def has_base(self, name: str, threads: int, _: bool = False) -> bool:
        """Whether there is what a price is compared with."""
        bases = ((base, threads, False) for base in (EmptyLoop.name, Deque.name))
        return name != EmptyLoop.name and all(base in self.samples for base in bases)

    def price(self, name: str, threads: int, full: bool) -> Price:
        """What a call costs, without the empty loop's time.

        Raises:
            KeyError: the empty loop or an append was not measured in this run.
        """
        samples = sorted(self.samples[name, threads, full])
        empty = self.samples[EmptyLoop.name, threads, False]
        append = self.samples[Deque.name, threads, False]
        loop = min(empty)  # the same off each figure, or noise turns their order
        return Price(
            name=name,
            threads=threads,
            full=full,
            ns_min=samples[0] - loop,
            ns_median=median(samples) - loop,
            ns_p99=percentile(samples, 99) - loop,
            ratio=(median(samples) - loop) / (median(append) - loop),
        )

    def add_cell(self, setting: Setting, seen: Measured) -> None:
        """Keep what a cell did."""
        self.cells.append(Cell(setting, seen))

    def recommendation(self) -> dict[str, Any] | None:
        """What the tuner would say of the one setting that is measured repeatedly."""
        alike = [cell for cell in self.cells if is_repeated(cell.setting)]
        if not alike:
            return None
        size = bytes_of(ONE.layout)
        return recommend(alike, Budgets(), entry_bytes=size).as_dict()

    def results(self) -> Results | None:
        """All of it; None if nothing was measured."""
        prices = [self.price(*case) for case in self.samples if self.has_base(*case)]
        if not (prices or self.batches or self.end_to_end or self.cells or self.memory):
            return None
        packages = sorted({peer.package for peer in PEERS if peer.package})
        machine = describe(seed=SEED, mode=self.mode, peers=packages)
        machine["not installed"] = sorted(self.missing)
        return Results(
            kind="suite",
            machine=machine,
            prices=prices,
            batches=self.batches,
            end_to_end=self.end_to_end,
            cells=[predicted(cell) for cell in merged(self.cells)],
            memory=self.memory,
            recommendation=self.recommendation(),
        )


def predicted(cell: Cell) -> Cell:
    """A cell, beside what is predicted of it."""
    size = bytes_of(cell.setting.layout)
    return with_prediction(cell.setting, cell.measured, size)


@cache
def bytes_of(layout: str) -> float:
    """What a pending entry takes."""
    return entry_bytes(layout)
