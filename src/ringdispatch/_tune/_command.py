"""`python -m ringdispatch tune`: measures, predicts, recommends, reports."""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ._arguments import UsageError, check, check_memory, parser
from ._arrivals import Arrivals
from ._cell import expected_seconds, measure_apart
from ._check import check_function
from ._entries import CellError, entry_bytes, load_entries, not_made
from ._machine import describe
from ._model import MIB, errors, merged, with_prediction
from ._outlook import outlook
from ._recommend import Budgets, Recommendation, recommend
from ._report import write
from ._results import Cell, Measured, Predicted, Results, Setting
from ._search import LATE, RUNS, Search
from ._tried import Choice

# A producer that was disturbed once gets another try.
TRIES = 2
NO_TERMINAL_WIDTH = 100


# ---- measuring


class _Bars:
    """Progress: bars on a terminal, else a line for each run."""

    def __init__(self, console: Console, seconds: float) -> None:
        self._console = console
        self._began = time.monotonic()
        self._runs = 0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task("in all, at most", total=seconds)
        self._one = self._bars.add_task("", total=1.0)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bars while the runs are measured."""
        with self._bars:
            yield

    def begin(self, words: str) -> None:
        """Begin a run."""
        self._runs += 1
        self._bars.reset(self._one, description=words)
        if not self._console.is_terminal:
            self._console.print(f"run {self._runs}: {words}", highlight=False)

    def advance(self, share: float) -> None:
        """Show what share of the run has passed."""
        self._bars.update(self._one, completed=share)
        self._bars.update(self._all, completed=self.passed)

    @property
    def passed(self) -> float:
        """Seconds since the first run began."""
        return time.monotonic() - self._began


def _entry_bytes(options: argparse.Namespace) -> float:
    """The bytes of one of the user's entries, of which there must be one.

    Raises:
        CellError: there is none.
    """
    source = options.entry
    try:
        entries = load_entries(source, options.layout) if source else None
        return entry_bytes(options.layout, entries)
    except (CellError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise not_made(error) from None


@contextmanager
def _as_file(arrivals: Arrivals | None) -> Iterator[Path | None]:
    """A file of the times, for the processes that measure."""
    if arrivals is None:
        yield None
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "arrivals"
        path.write_bytes(arrivals.times.tobytes())
        yield path


@dataclass(slots=True)
class _Explored:
    """The runs of a search, why each was made, and whether there was time for all."""

    cells: list[Cell]
    whys: list[str] = field(default_factory=list)
    whole: bool = True

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row of a table for each run."""
        return [
            {
                "setting": str(Choice.of(cell.setting)),
                "why": why,
                "entries/s": round(cell.measured.rate),
                "calls/s": cell.measured.calls_per_second,
                "age p99, ms": cell.measured.age_p99,
                "request p99, ms": cell.measured.request_p99,
                "dropped": cell.measured.dropped,
            }
            for cell, why in zip(self.cells, self.whys, strict=True)
        ]


def _explore(
    options: argparse.Namespace, budgets: Budgets, size: float, console: Console
) -> _Explored:
    """Measure what the search asks for, as long as there is time."""
    load = [
        Setting(
            rate=rate,
            delay=0.0,
            sink=options.dry,
            layout=options.layout,
            capacity=options.capacity,
            seconds=options.seconds,
        )
        for rate in options.rate
    ]
    search = Search(load, budgets, size, options.delays, _times(options))
    explored = _Explored(search.cells)
    seconds = 60 * options.minutes
    bars = _Bars(console, seconds)
    with _as_file(options.recorded) as arrivals, bars.shown():
        while (trial := search.next()) is not None:
            setting = trial.setting
            expected = expected_seconds(setting)
            if not search.cells:
                _check_minutes(options, (search.learning + len(load)) * expected)
            elif bars.passed + expected > seconds:
                explored.whole = False
                break
            rate = format(setting.rate, ",.1f" if arrivals else ",.12g")
            bars.begin(f"{Choice.of(setting)} at {rate}/s: {trial.why}")
            run = len(search.cells)
            search.add(setting, _measure(setting, options, run, bars, arrivals))
            explored.whys.append(trial.why)
    return explored


def _check_minutes(options: argparse.Namespace, least: float) -> None:
    if 60 * options.minutes < least:
        raise UsageError(
            f"--minutes {options.minutes:g}: is too short to learn how long calls take "
            "and to measure one setting: give it --minutes "
            f"{math.ceil(least / 6) / 10:g}, or shorter runs by --seconds"
        )


def _left_out(
    options: argparse.Namespace, budgets: Budgets, *, whole: bool
) -> list[str]:
    """What was not measured, and why."""
    why = []
    old = [f"{one:g}" for one in options.delays or () if one + LATE > budgets.age]
    if old:
        why.append(
            f"--delays {','.join(old)}: not tried, as an entry that waits so long, and "
            f"for a late timer, is older than --budget-age {budgets.age:g}"
        )
    if not whole:
        why.append(
            f"--minutes {options.minutes:g}: the time was up before the search had "
            "ended; more may find fewer calls"
        )
    return why


def _times(options: argparse.Namespace) -> list[float] | None:
    """When recorded entries arrived, milliseconds."""
    played: Arrivals | None = options.recorded
    return None if played is None else [1e3 * time for time in played.times]


def _predicted(
    options: argparse.Namespace, cells: Sequence[Cell], size: float
) -> list[Cell]:
    """The cells, each with what is predicted for the same arrivals."""
    times = _times(options)
    return [with_prediction(one.setting, one.measured, size, times) for one in cells]


def _measure(
    setting: Setting,
    options: argparse.Namespace,
    run: int,
    bars: _Bars,
    arrivals: Path | None,
) -> Measured:
    for attempt in range(TRIES):
        measured = measure_apart(
            setting,
            seed=options.seed + TRIES * run + attempt,
            target=options.target if options.dry is None else None,
            entry=options.entry,
            arrivals=arrivals,
            on_progress=bars.advance,
        )
        if measured.held:
            return measured
    raise _not_held(setting, measured, options)


def _not_held(
    setting: Setting, measured: Measured, options: argparse.Namespace
) -> UsageError:
    assert setting.rate is not None
    if options.recorded is None:
        load = f"--rate {setting.rate:.12g}"
        way_out = f"--rate {max(1.0, _less(measured.rate)):.12g}"
    else:
        load = f"--arrivals {options.arrivals}, {setting.rate:,.1f}/s"
        speed = (options.speed or 1.0) * measured.rate / setting.rate
        way_out = f"--speed {_less(speed):.3g}"
    return UsageError(
        f"{load}: the producer did not hold it with a delay of {setting.delay:g} ms; "
        f"it reached {measured.rate:,.0f} entries/s, and entries enqueued late would "
        f"count as old: try {way_out}"
    )


def _less(reached: float) -> float:
    """About four fifths of it, to one figure."""
    unit = math.pow(10, math.floor(math.log10(max(0.8 * reached, 1e-3))))
    return math.floor(0.8 * reached / unit) * unit


# ---- showing


HEADS = (
    "entries\na second",
    "delay\nms",
    "in\nflight",
    "entries\na batch",
    "calls\na second",
    "age p50\nms",
    "age p99\nms",
    "most\npending",
    "\nMiB",
    "request\np99 ms",
    "off by",
)


# Columns that a narrow terminal leaves out, the least needed first.
SPARED = ("age p50\nms", "most\npending", "entries\na batch", "\nMiB")
UNBOUNDED = 10_000


def _table(cells: Sequence[Cell], spared: Sequence[str] = ()) -> Table:
    """The measured figures, and the predicted ones in the line below."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown = [head not in spared for head in HEADS]
    for head in compress(HEADS, shown):
        table.add_column(head, justify="right", no_wrap=True)
    for cell in cells:
        seen, said = cell.measured, cell.predicted
        row = (
            f"{seen.rate:,.0f}",
            f"{cell.setting.delay:g}",
            f"{cell.setting.max_in_flight}",
            *_figures(seen),
            f"{seen.rss_growth / MIB:.1f}",
            f"{seen.request_p99:.1f}",
            _lost(seen) or _off(cell),
        )
        table.add_row(*compress(row, shown))
        if said is not None:
            row = (
                "",
                "replay",
                "",
                *_figures(said),
                f"{said.memory / MIB:.1f}",
                "",
                "",
            )
            table.add_row(*compress(row, shown), style="cyan", end_section=True)
    return table


def _fitting_table(cells: Sequence[Cell], console: Console) -> Table:
    """A table with as many columns as there is room for."""
    table = _table(cells)
    wide = console.options.update(width=UNBOUNDED)
    for count in range(1, len(SPARED) + 1):
        if console.measure(table, options=wide).maximum <= console.width:
            break
        table = _table(cells, SPARED[:count])
    return table


def _figures(one: Measured | Predicted) -> list[str]:
    """The figures that are both measured and predicted."""
    return [
        f"{one.entries_per_batch:,.1f}",
        f"{one.calls_per_second:,.1f}",
        f"{one.age_p50:,.1f}",
        f"{one.age_p99:,.1f}",
        f"{one.peak_pending:,.0f}",
    ]


def _lost(seen: Measured) -> str:
    """Entries that found no room, or were in calls that failed."""
    words = [f"{seen.dropped:,} dropped"] if seen.dropped else []
    if seen.lost:
        words.append(f"{seen.lost:,} failed")
    return ",\n".join(words)


def _off(cell: Cell) -> str:
    """The largest relative error of the figures that have a limit."""
    off = errors(cell)
    if isinstance(off, str):
        return off
    worst = max(
        abs(off[name]) for name in off if name not in {"age_p50", "peak_pending"}
    )
    return f"{worst:.0%}"


def _show(console: Console, cells: Sequence[Cell], found: Recommendation) -> None:
    console.print(_fitting_table(cells, console))
    console.print(found.sentence, style="bold", highlight=False)
    for reason in found.reasons:
        console.print(Padding(reason, (0, 0, 0, 2)), highlight=False)


def _results(
    options: argparse.Namespace,
    budgets: Budgets,
    cells: list[Cell],
    found: Recommendation,
) -> Results:
    dry = options.dry
    stand_in = None if dry is None else f"none: a stand-in that takes {dry:g} ms"
    measured = {
        "dispatch_function": stand_in or options.target,
        "entries": options.entry or "dicts or rows of four fields",
        "arrivals": _arrivals_in_words(options),
        "layout": options.layout,
        "capacity": options.capacity,
        "budgets": budgets.given or "none",
    }
    machine = describe(seed=options.seed, mode="tune")
    results = Results("tune", measured | machine, cells=cells)
    results.recommendation = found.as_dict()
    return results


def _arrivals_in_words(options: argparse.Namespace) -> str:
    recorded = options.recorded
    return f"{recorded.read}; {recorded.played}" if recorded else "drawn, Poisson"


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file that can't be written: the error of a full disk does not."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {error.strerror}") from None


def _tune(options: argparse.Namespace) -> None:
    budgets = check(options)
    console = Console()
    if not console.is_terminal:
        console = Console(width=NO_TERMINAL_WIDTH)
    size = _entry_bytes(options)
    check_memory(options, size)
    if options.dry is None:
        check_function(options.target)
    if options.recorded is not None:
        console.print(options.recorded.read, highlight=False)
        console.print(options.recorded.played, highlight=False)
    explored = _explore(options, budgets, size, console)
    found = recommend(explored.cells, budgets, entry_bytes=size, least_runs=RUNS)
    found.reasons += _left_out(options, budgets, whole=explored.whole)
    cells = _predicted(options, merged(explored.cells), size)
    _show(console, cells, found)
    results = _results(options, budgets, cells, found)
    results.runs = explored.rows
    results.expected = outlook(found, explored.cells, size, _times(options))
    with _named(options.json):
        results.write(options.json)
    with _named(options.report):
        write(results, options.report)
    console.print(f"\nreport: {options.report}, figures: {options.json}")


def main(arguments: Sequence[str]) -> int:
    """Run the tuner; returns the exit status."""
    try:
        _tune(parser().parse_args(arguments))
    except (UsageError, CellError, ImportError, OSError) as error:
        sys.stderr.write(f"ringdispatch tune: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("ringdispatch tune: interrupted, nothing was written\n")
        return 130
    return 0
