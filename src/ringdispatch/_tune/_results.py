"""Measurements as plain data: written as JSON, read by reports and tables."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ._recording import Recorded


@dataclass(frozen=True, slots=True)
class Setting:
    """The conditions of one cell.

    Attributes:
        rate: Entries per second that arrive; None: as many as the machine holds.
        delay: The dispatcher's `ms_delay`, milliseconds.
        sink: How long a call of the dispatch function takes, milliseconds; None: a
            function of its own, whose latency is measured.
        function: That function, as "package.module:name", where there are several;
            else it is the user's.
        layout: `"objects"`, `"records"` or `"bytes"`.
        capacity: The dispatcher's.
        max_batch: The dispatcher's.
        max_in_flight: The dispatcher's.
        seconds: How long load was offered, without the warm-up.
    """

    rate: float | None
    delay: float
    sink: float | None
    layout: str = "objects"
    capacity: int = 65_536
    max_batch: int | None = None
    max_in_flight: int = 1
    seconds: float = 3.0
    function: str = ""


class Moment(NamedTuple):
    """A moment of a run.

    Attributes:
        at: Its middle, seconds from the start.
        rate: Entries a second that arrived.
        age: How old the oldest of them was when its call began, milliseconds.
    """

    at: float
    rate: float
    age: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures measured in one cell.

    Attributes:
        rate: Entries per second that arrived.
        held: Whether the producer held the requested rate.
        batches: Calls of the dispatch function.
        entries_per_batch: Their mean size.
        calls_per_second: How many of them there were a second.
        age_p50: Median age of an entry when its call began, from its scheduled
            arrival on, milliseconds; age_p99, age_max alike.
        stall_max: The longest that the event loop stood still, milliseconds.
        request_p99: 99th percentile of the duration of requests served by the same
            loop, from their sending on, milliseconds.
        cpu_seconds_per_million: Processor time per million entries: making and
            enqueuing them, dispatching them, and the sink's work in this process.
        sink_mean: Mean time of a call, milliseconds.
        peak_pending: Most entries pending at once.
        rss_growth: Most resident bytes, above those before the dispatcher was made,
            without what the harness notes of the run.
        dropped: Entries that no call received: rejected for lack of room or as
            oversized, evicted, or abandoned.
        sink_max: The longest call, milliseconds.
        slow_calls: Batches that began more than 3 ms after their delay: they waited
            for a call, or for the loop. An age above the delay hangs on as many.
        recorded: The calls' times and the entries' ages; None: not kept.
        failed: Calls that failed.
        lost: Entries in these calls.
        failure: How the first of them failed, in one line.
        moments: The run over time, where arrivals were recorded ones.
    """

    rate: float
    held: bool
    batches: int
    entries_per_batch: float
    calls_per_second: float
    age_p50: float
    age_p99: float
    age_max: float
    stall_max: float
    request_p99: float
    cpu_seconds_per_million: float
    sink_mean: float
    peak_pending: int
    rss_growth: int
    dropped: int
    sink_max: float = 0.0
    slow_calls: int = 0
    recorded: Recorded | None = None
    failed: int = 0
    lost: int = 0
    failure: str = ""
    moments: list[Moment] = field(default_factory=list)

    @property
    def failures_per_second(self) -> float:
        """Calls a second that failed."""
        return self.calls_per_second * self.failed / max(1, self.batches)

    @classmethod
    def read(cls, seen: dict[str, Any]) -> "Measured":
        """Read what was written as JSON."""
        moments = [Moment(*one) for one in seen.get("moments", ())]
        recorded = seen.get("recorded")
        return cls(
            **seen
            | {
                "moments": moments,
                "recorded": recorded and Recorded.read(recorded),
            }
        )


@dataclass(frozen=True, slots=True)
class Predicted:
    """The figures predicted for a cell; units as in Measured.

    Attributes:
        memory: Bytes at the peak: the ring, pending entries, entries in calls.
        saturated: Whether more arrives than calls can take, or than there is room for.
        dropped: Entries that find no room.
        slow_calls: Batches that begin more than 3 ms after their delay.
    """

    entries_per_batch: float
    calls_per_second: float
    age_p50: float
    age_p99: float
    peak_pending: float
    memory: float
    saturated: bool
    dropped: float = 0.0
    slow_calls: float = 0.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a grid."""

    setting: Setting
    measured: Measured
    predicted: Predicted | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """A setting that was not measured, and what is predicted for it."""

    setting: Setting
    predicted: Predicted


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory over time, under a load that exceeds the sink.

    Attributes:
        name: The holder of the entries.
        points: (seconds, bytes above the start).
        slope: Bytes a second, fitted to the part before the bound.
        bound: Bytes at which it levelled off; None: it did not.
        predicted_bound: Of the model; None: there is none.
        bounded_after: Seconds until it levelled off.
        limit: Bytes that the process might take above its start; None: any.
        died: Whether it ran out of memory.
        verdict: All of that in words.
    """

    name: str
    points: list[tuple[float, float]]
    slope: float
    bound: float | None
    predicted_bound: float | None
    bounded_after: float | None
    limit: int | None
    died: bool
    verdict: str


@dataclass(frozen=True, slots=True)
class Price:
    """The cost of `enqueue` or its like.

    Attributes:
        name: Of the call.
        threads: How many threads called at once.
        full: Whether there was no room.
        ns_min: Nanoseconds; ns_median and ns_p99 alike.
        ratio: Of the medians, to `collections.deque.append` in the same run.
    """

    name: str
    threads: int
    full: bool
    ns_min: float
    ns_median: float
    ns_p99: float
    ratio: float


@dataclass(slots=True)
class Results:
    """A whole run.

    Attributes:
        kind: `"suite"` or `"tune"`.
        machine: Name and value of each fact about the machine and the run: CPU, cores,
            memory, system, Python, versions of packages, commit, seed, date, mode.
        prices: Of `enqueue` and its like.
        batches: Of taking a batch: `{"entries": 10_000, "ns_per_entry": 0.2}`.
        end_to_end: `{"name": ..., "producers": 1, "million_per_second": ...,
            "million_per_cpu_second": ...}`.
        cells: Of the grid.
        memory: Under too much load.
        recommendation: With `sentence` and `reasons`; None: there is none.
        runs: Of a search, in their order, and why each was made.
        expected: Of the recommended options with other delays.
    """

    kind: str
    machine: dict[str, Any]
    prices: list[Price] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    end_to_end: list[dict[str, Any]] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    recommendation: dict[str, Any] | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    expected: list[Expected] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the results as JSON, without what the cells recorded."""
        path.parent.mkdir(parents=True, exist_ok=True)
        written = asdict(self)
        for cell in written["cells"]:
            del cell["measured"]["recorded"]
        path.write_text(json.dumps(written, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read results that `write` wrote."""
        seen = json.loads(path.read_text())
        seen["prices"] = [Price(**one) for one in seen["prices"]]
        seen["cells"] = [_cell(one) for one in seen["cells"]]
        seen["expected"] = [_expected(one) for one in seen.get("expected", ())]
        seen["memory"] = [Memory(**one) for one in seen["memory"]]
        return cls(**seen)


def _cell(seen: dict[str, Any]) -> Cell:
    predicted = seen["predicted"]
    return Cell(
        Setting(**seen["setting"]),
        Measured.read(seen["measured"]),
        None if predicted is None else Predicted(**predicted),
    )


def _expected(seen: dict[str, Any]) -> Expected:
    return Expected(Setting(**seen["setting"]), Predicted(**seen["predicted"]))
