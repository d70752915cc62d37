"""The tuner's command line, and the checks of its options."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ._arrivals import UNITS, Arrivals, load_arrivals
from ._entries import LAYOUTS
from ._load import FEWEST_ENTRIES
from ._machine import memory
from ._model import MIB, fixed_bytes
from ._recommend import BUDGETS, Budgets
from ._results import Setting
from ._search import LATE

DESCRIPTION = """\
Run your own dispatch function under open-loop load with the settings that promise to
meet your limits, and recommend the one with the fewest calls."""
EPILOG = """\
example: python -m ringdispatch tune shop.logs:send --rate 2000 --budget-age 100
docs/tuning.md says how to read the result."""

# Of load in each run, and of recorded arrivals: bursts take more.
SECONDS, RECORDED_SECONDS = 5.0, 10.0
# For the whole search.
MINUTES = 5.0
# Milliseconds: timers of an event loop are no finer, so no entry is sure to be younger.
LEAST_AGE = 1.0
MOST_CAPACITY = 100_000_000
FOLDER = Path(".benchmarks")


class UsageError(Exception):
    """The options can't be used; one line says why, and the way out."""


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise UsageError(f"{message}; --help lists the options")


def _positive(words: str) -> float:
    value = float(words)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError
    return value


def _amount(what: str) -> Callable[[str], float]:
    """A type for argparse: a number > 0 of something."""

    def parse(words: str) -> float:
        try:
            return _positive(words)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{words!r}: must be a number of {what} > 0"
            ) from None

    return parse


def _delays(words: str) -> list[float]:
    try:
        return sorted({_positive(word) for word in words.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{words!r}: must be numbers of milliseconds > 0, such as 10,100"
        ) from None


def _latency(words: str) -> float:
    try:
        if 0 <= (value := float(words)) < math.inf:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"{words!r}: must be a number of milliseconds >= 0"
    )


def _count(words: str) -> int:
    try:
        if 1 <= (value := int(words)) <= MOST_CAPACITY:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"{words!r}: must be an integer from 1 to {MOST_CAPACITY}"
    )


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line; its errors are UsageErrors."""
    found = _Parser(prog="python -m ringdispatch", description=DESCRIPTION)
    tune = found.add_subparsers(
        dest="command", required=True, metavar="tune"
    ).add_parser(
        "tune",
        help="recommend the delay for a dispatch function",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tune.add_argument(
        "target",
        nargs="?",
        metavar="package.module:function",
        help="the dispatch function; not needed with --dry",
    )
    _add_load(tune.add_argument_group("the load").add_argument)
    _add_arrivals(tune.add_argument_group("a recorded load").add_argument)
    _add_dispatcher(tune.add_argument_group("the dispatcher").add_argument)
    _add_budgets(tune.add_argument_group("your limits").add_argument)
    _add_output(tune.add_argument_group("the output").add_argument)
    return found


def _add_load(add: Callable[..., object]) -> None:
    add(
        "--rate",
        type=_amount("entries a second"),
        action="append",
        metavar="N",
        help="entries a second; may be given several times (default: 1000)",
    )
    add(
        "--entry",
        metavar="FILE|MODULE:FACTORY",
        help="the entries: JSON samples (an array, or one a line), or a "
        "function that returns an entry (default: dicts of four numbers)",
    )
    add(
        "--seconds",
        type=_amount("seconds"),
        metavar="S",
        help=f"of load in a run, at least (default: {SECONDS:g}; of recorded arrivals "
        f"the busiest {RECORDED_SECONDS:g})",
    )
    add(
        "--minutes",
        type=_amount("minutes"),
        default=MINUTES,
        metavar="M",
        help=f"for the whole search, at most (default: {MINUTES:g})",
    )
    add(
        "--dry",
        type=_latency,
        metavar="MS",
        help="replace the dispatch function by a stand-in that takes MS milliseconds",
    )
    add("--seed", type=int, default=1, metavar="N", help="of the arrivals (default: 1)")


def _add_arrivals(add: Callable[..., object]) -> None:
    add(
        "--arrivals",
        type=Path,
        metavar="FILE",
        help="recorded arrivals: a time a line, or a CSV or JSON lines with a column",
    )
    add("--column", metavar="NAME", help="the column with the times")
    add(
        "--unit",
        choices=UNITS,
        help="of numbers (default: guessed by their size or span, and printed)",
    )
    add(
        "--speed",
        type=_amount("times"),
        metavar="X",
        help="play them X times as fast (default: 1)",
    )
    add("--sort", action="store_true", help="take times that are out of order")


def _add_dispatcher(add: Callable[..., object]) -> None:
    add(
        "--delays",
        type=_delays,
        metavar="MS,MS",
        help="the only delays to try, milliseconds (default: any)",
    )
    add(
        "--layout",
        choices=LAYOUTS,
        default="objects",
        help="how entries lie in the ring (default: objects)",
    )
    add(
        "--capacity",
        type=_count,
        default=65_536,
        metavar="N",
        help="most entries pending while measuring (default: 65536)",
    )


def _add_budgets(add: Callable[..., object]) -> None:
    add(
        "--budget-age",
        type=_amount("milliseconds"),
        metavar="MS",
        help="how old entries may be when their call begins (99th percentile)",
    )
    add(
        "--budget-memory",
        type=_amount("MiB"),
        metavar="MIB",
        help="how much memory may grow",
    )
    add(
        "--budget-calls",
        type=_amount("calls a second"),
        metavar="N",
        help="how many calls of the dispatch function a second",
    )
    add(
        "--budget-request",
        type=_amount("milliseconds"),
        metavar="MS",
        help="how long requests on the same loop may take (99th percentile; default: "
        "5 ms more than with the fastest setting)",
    )


def _add_output(add: Callable[..., object]) -> None:
    add(
        "--report",
        type=Path,
        default=FOLDER / "tune.html",
        metavar="FILE",
        help=f"the report, a page of HTML (default: {FOLDER}/tune.html)",
    )
    add(
        "--json",
        type=Path,
        default=FOLDER / "tune.json",
        metavar="FILE",
        help=f"the figures (default: {FOLDER}/tune.json)",
    )


def _read_arrivals(options: argparse.Namespace) -> Arrivals | None:
    """Read the recorded arrivals, and set rate and seconds to theirs."""
    if options.arrivals is None:
        for name in ("column", "unit", "speed", "sort"):
            if value := getattr(options, name):
                raise UsageError(
                    f"--{name}{'' if value is True else f' {value}'}: is of recorded "
                    "arrivals: name their file with --arrivals"
                )
        options.seconds = options.seconds or SECONDS
        return None
    if options.rate:
        raise UsageError(
            f"--arrivals {options.arrivals} and --rate {options.rate[0]:.12g} "
            "contradict: give one of them; --speed scales recorded arrivals"
        )
    found = load_arrivals(
        options.arrivals,
        column=options.column,
        unit=options.unit,
        speed=options.speed or 1.0,
        seconds=options.seconds or RECORDED_SECONDS,
        sort=options.sort,
        seed=options.seed,
    )
    options.rate, options.seconds = [found.rate], found.seconds
    return found


def check(options: argparse.Namespace) -> Budgets:
    """Check that the options fit together, and read recorded arrivals.

    Raises:
        UsageError: they do not.
        CellError: the file of arrivals can't be played.
    """
    if options.target is None and options.dry is None:
        raise UsageError(
            "no dispatch function: name one as package.module:function, or try --dry 5"
        )
    options.recorded = _read_arrivals(options)
    options.rate = sorted(set(options.rate or [1000.0]))
    if options.recorded is None and options.rate[0] * options.seconds < FEWEST_ENTRIES:
        raise UsageError(
            f"--rate {options.rate[0]:.12g} and --seconds {options.seconds:g} make "
            f"fewer than {FEWEST_ENTRIES} entries, too few to measure: give "
            f"it --seconds {math.ceil(FEWEST_ENTRIES / options.rate[0])}"
        )
    budgets = Budgets(
        **{
            name: value
            for name in BUDGETS
            if (value := getattr(options, f"budget_{name}")) is not None
        }
    )
    if budgets.age < LEAST_AGE:
        raise UsageError(
            f"--budget-age {budgets.age:g}: must be {LEAST_AGE:g} ms or more: the "
            "timers of an event loop, which end a delay, are no finer"
        )
    if options.delays is not None and budgets.age < options.delays[0] + LATE:
        raise UsageError(
            f"--budget-age {budgets.age:g} and --delays contradict: an entry may wait "
            f"the whole delay and a timer's lateness, and the shortest is "
            f"{options.delays[0]:g} ms; try --delays {budgets.age / 2:g}, or leave it "
            "out"
        )
    # Recorded arrivals may pause: that takes fewer calls.
    drawn = options.recorded is None
    if drawn and budgets.age < math.inf and budgets.calls < math.inf:
        gap = 1000 / options.rate[-1]
        least = 990 / (budgets.age + gap)  # one entry in a hundred may be older
        if budgets.calls < least:
            raise UsageError(
                f"--budget-age {budgets.age:g} and --budget-calls {budgets.calls:g} "
                f"contradict: at {options.rate[-1]:,.12g} entries/s it takes "
                f"{math.ceil(least)} calls/s for none to be older than that; raise the "
                f"age to {math.ceil(1000 / budgets.calls - gap)} or the calls to "
                f"{math.ceil(least)}"
            )
    for path in (options.report, options.json):
        _check_writable(path)
    same = options.report.resolve() == options.json.resolve()
    if same and (options.json.is_file() or not options.json.exists()):
        raise UsageError(
            f"--report {options.report} and --json {options.json}: must be two files"
        )
    return budgets


def check_memory(options: argparse.Namespace, entry_bytes: float) -> None:
    """Check that the machine and the budget have room for an empty ring.

    Raises:
        UsageError: one has not.
    """
    setting = Setting(
        rate=options.rate[-1],
        delay=0.0,
        sink=None,
        layout=options.layout,
        capacity=options.capacity,
        seconds=options.seconds,
    )
    fixed = fixed_bytes(setting, entry_bytes) / MIB
    free = memory("available")
    if free is not None and fixed * MIB > free:
        raise UsageError(
            f"--capacity {options.capacity}: a ring of {options.layout} takes "
            f"{fixed:,.0f} MiB, and {free / MIB:,.0f} are free; lower the capacity"
        )
    if options.budget_memory is not None and options.budget_memory < fixed:
        raise UsageError(
            f"--budget-memory {options.budget_memory:g} and --capacity "
            f"{options.capacity} contradict: a ring of {options.layout} takes "
            f"{fixed:.3g} MiB by itself; lower the capacity or raise the budget"
        )


def _check_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path if path.exists() else path.parent, os.W_OK)
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {error.strerror}") from None
    if path.is_dir() or not writable:
        raise UsageError(f"{path}: can't be written: name a file in a folder that can")
