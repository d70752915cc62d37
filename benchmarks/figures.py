"""Tables of what was measured: as Markdown for the pages, as text for the terminal."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ringdispatch._tune._advice import figure
from ringdispatch._tune._model import LIMITS, errors
from ringdispatch._tune._results import Cell, Price, Results, Setting


@dataclass(frozen=True)
class Table:
    """A table: the first column is words, the others are figures."""

    heads: list[str]
    rows: list[list[str]]

    def markdown(self) -> list[str]:
        """Its lines in Markdown, and an empty one."""
        ruled = [self.heads, ["---", *["---:"] * (len(self.heads) - 1)], *self.rows]
        return ["| " + " | ".join(line) + " |" for line in ruled] + [""]

    def text(self) -> list[str]:
        """Its lines, aligned, and an empty one."""
        lines = [
            [cell.replace("`", "").replace("**", "") for cell in row]
            for row in [self.heads, *self.rows]
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return [
            "  ".join(
                cell.ljust(width) if first == 0 else cell.rjust(width)
                for first, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in lines
        ] + [""]


# ---- numbers in words


def size(count: float) -> str:
    """Bytes."""
    if count < 1 << 20:
        return f"{figure(count / 1024)} KiB"
    return f"{figure(count / (1 << 20))} MiB"


# ---- the tables


def peers(results: Results, *, full: bool) -> Table:
    """The cost of `enqueue`, cheapest first."""
    threads = sorted({price.threads for price in results.prices})
    found = {
        (price.name, price.threads): price
        for price in results.prices
        if price.full == full
    }
    names = {name: None for name, _ in found}

    def rank(name: str) -> float:
        return next(found[name, n].ns_median for n in threads if (name, n) in found)

    heads = ["full" if full else "with room"]
    for count in threads:
        who = "one thread" if count == 1 else f"{count} threads"
        heads += [f"{who}: min", "median", "p99", "ratio"]
    rows = []
    for name in sorted(names, key=rank):
        row = [name]
        for count in threads:
            row += _price(found.get((name, count)))
        rows.append(row)
    return Table(heads, rows)


def _price(price: Price | None) -> list[str]:
    if price is None:
        return [""] * 4
    times = price.ns_min, price.ns_median, price.ns_p99
    return [*map(figure, times), figure(price.ratio)]


def batches(results: Results) -> Table:
    """Nanoseconds for each entry of a batch, by its size."""
    return _by(
        results.batches,
        "entries",
        lambda entries: [f"{entries:,}"],
        lambda one: [figure(one["ns_per_entry"])],
        "ns for each entry, batch of",
    )


def end_to_end(results: Results) -> Table:
    """Million entries in a second of either kind, by how many produce."""
    return _by(
        results.end_to_end,
        "producers",
        lambda count: [f"{count} producer{'s' * (count > 1)}: clock", "processor"],
        lambda one: [
            figure(one["million_per_second"]),
            figure(one["million_per_cpu_second"]),
        ],
        "million entries a second",
    )


def _by(
    found: list[dict[str, Any]],
    column: str,
    heads: Callable[[Any], list[str]],
    cells: Callable[[dict[str, Any]], list[str]],
    corner: str,
) -> Table:
    """A row for each name, one or more columns for each value of one thing."""
    columns = {one: heads(one) for one in sorted({one[column] for one in found})}
    several = len({one.get("delay") for one in found}) > 1
    rows: dict[str, dict[Any, list[str]]] = {}
    for one in found:
        name = one["name"] + (f", {one['delay']} ms" if several else "")
        rows.setdefault(name, {})[one[column]] = cells(one)
    none = {one: [""] * len(named) for one, named in columns.items()}
    return Table(
        [corner, *chain(*columns.values())],
        [[name, *chain(*(none | row).values())] for name, row in rows.items()],
    )


MEASURED = [
    "entries per batch",
    "calls/s",
    "age p50",
    "p99",
    "max",
    "longest stall",
    "request p99",
    "CPU s per million",
    "peak pending",
    "memory",
    "dropped",
]


def cells(
    chosen: Iterable[Cell], heads: list[str], words: Callable[[Setting], list[str]]
) -> Table:
    """What was measured of each cell; ages, stalls and requests in milliseconds."""
    rows = []
    for cell in chosen:
        seen = cell.measured
        said = words(cell.setting)
        if not seen.held:
            said[0] += f" (not held: {seen.rate:,.0f}/s)"
        elif cell.setting.rate is None:
            said[0] += f" ({seen.rate:,.0f}/s)"
        times = (seen.age_p50, seen.age_p99, seen.age_max)
        times += (seen.stall_max, seen.request_p99)
        rows.append(
            [
                *said,
                figure(seen.entries_per_batch),
                figure(seen.calls_per_second),
                *map(figure, times),
                figure(seen.cpu_seconds_per_million),
                f"{seen.peak_pending:,}",
                size(seen.rss_growth),
                f"{seen.dropped:,}",
            ]
        )
    return Table([*heads, *MEASURED], rows)


def memory(results: Results) -> Table:
    """What memory did under too much load."""
    rows = [
        [
            one.name,
            one.verdict,
            f"{size(one.slope)}/s",
            "" if one.bound is None else size(one.bound),
            "" if one.predicted_bound is None else size(one.predicted_bound),
            "" if one.bounded_after is None else f"{figure(one.bounded_after)} s",
            "" if one.limit is None else size(one.limit),
        ]
        for one in results.memory
    ]
    heads = ["held by", "verdict", "slope", "bound", "predicted", "after", "limit"]
    return Table(heads, rows)


def off(results: Results) -> Table:
    """How far off each prediction was."""
    rows = []
    for cell in results.cells:
        found = errors(cell)
        said = [words(cell.setting)]
        if isinstance(found, str):
            rows.append([*said, found, *[""] * (len(LIMITS) - 1)])
        else:
            rows.append([*said, *(_error(found, figure) for figure in LIMITS)])
    heads = ["setting", "entries per batch", "calls/s", "age p99", "memory"]
    return Table(heads, rows)


def _error(found: dict[str, float], figure: str) -> str:
    if figure not in found:
        return ""
    within = abs(found[figure]) <= LIMITS[figure]
    return f"{found[figure]:+.0%}" if within else f"**{found[figure]:+.0%}**"


def words(setting: Setting) -> str:
    """A setting in words."""
    rate = "all it holds" if setting.rate is None else f"{setting.rate:,.0f}/s"
    sink = f"{setting.sink:g} ms" if setting.sink is not None else setting.function
    said = f"{rate}, {setting.delay:g} ms, sink {sink.rpartition(':')[2]}"
    if setting.layout != "objects":
        said += f", {setting.layout}"
    if setting.max_batch is not None:
        said += f", max_batch {setting.max_batch:,}"
    return said


def accuracy(results: Results) -> list[str]:
    """For each figure that is predicted: how often within its limit, and the worst."""
    found = [errors(cell) for cell in results.cells]
    compared = [one for one in found if not isinstance(one, str)]
    said = []
    for predicted, limit in LIMITS.items():
        seen = [one[predicted] for one in compared if predicted in one]
        if seen:
            within = sum(abs(each) <= limit for each in seen)
            name = predicted.replace("_", " ")
            said.append(
                f"{name}: {within} of {len(seen)} within {limit:.0%}, "
                f"the worst {max(seen, key=abs):+.0%}"
            )
    return said


def sections(results: Results) -> dict[str, Table]:
    """All that was measured, by what the terminal heads it with."""
    found = {
        "Cost of enqueue, nanoseconds": (
            results.prices,
            lambda: peers(results, full=False),
        ),
        "The same where there is no room": (
            [price for price in results.prices if price.full],
            lambda: peers(results, full=True),
        ),
        "Taking a batch": (results.batches, lambda: batches(results)),
        "End to end": (results.end_to_end, lambda: end_to_end(results)),
        "Under load, milliseconds": (
            results.cells,
            lambda: cells(results.cells, ["setting"], lambda one: [words(one)]),
        ),
        "Memory under too much load": (results.memory, lambda: memory(results)),
        "Predicted beside measured": (results.cells, lambda: off(results)),
    }
    return {head: table() for head, (there, table) in found.items() if there}


def summary(results: Results) -> list[str]:
    """What the terminal shows at the end."""
    lines = []
    for head, table in sections(results).items():
        lines += [head, *table.text()]
    lines += [*accuracy(results), ""]
    if results.recommendation is not None:
        lines += ["Recommended", results.recommendation["sentence"]]
        lines += [f"- {reason}" for reason in results.recommendation["reasons"]]
    return [*lines, ""]
