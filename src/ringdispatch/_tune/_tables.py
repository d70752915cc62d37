"""The tables of the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any, NamedTuple

from ._figures import condition, ours
from ._format import NONE, TIMES, number, plain, share, size
from ._grid import (
    by_rate,
    function_name,
    rate_name,
    remark,
    variant,
    variant_name,
)
from ._model import LIMITS, errors
from ._results import Cell, Memory, Price, Results

# The judged figures of a cell: title, key in `errors`, limit of the error.
JUDGED = tuple(
    (title, name, LIMITS.get(name))
    for title, name in (
        ("entries per batch", "entries_per_batch"),
        ("calls/s", "calls_per_second"),
        ("age p50, ms", "age_p50"),
        ("age p99, ms", "age_p99"),
        ("peak pending", "peak_pending"),
        ("memory", "memory"),
    )
)
SHORTER, LONGER = 10, 100
LONG = 30  # a fact with more characters gets a line of its own


class Head(NamedTuple):
    """The head of a column, with its unit below."""

    name: str
    unit: str = ""


class Marked(NamedTuple):
    """A text in one of the style sheet's colours: `ours`, `bad`, `off`, `soft`."""

    text: str
    kind: str


Text = str | Marked


class Fact(NamedTuple):
    """A fact about the machine or the run."""

    name: str
    value: str

    @property
    def long(self) -> bool:
        """Whether it takes a line of its own."""
        return len(self.value) > LONG


@dataclass(frozen=True, slots=True)
class Table:
    """A table in a box of its own, which scrolls where the table is too wide.

    Attributes:
        caption: Above the table.
        heads: Of the columns.
        groups: Of rows, set apart by a line; a row of one cell heads the others.
        above: A row of heads over several columns each: the text, how many.
        words: How many columns on the left are words; the others are figures.
    """

    caption: str
    heads: Sequence[Head]
    groups: Sequence[Sequence[Sequence[Text]]]
    above: Sequence[tuple[str, int]] = ()
    words: int = 1


def marked(name: str) -> Text:
    """A name, highlighted where it is ours."""
    return Marked(name, "ours") if ours(name) else name


def machine_facts(results: Results) -> list[Fact]:
    """Name and value of each fact about the machine and the run."""
    return [
        Fact(name.replace("_", " "), _plain(value))
        for name, value in results.machine.items()
    ]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value)
    return NONE if value is None else str(value)


def price_table(prices: Sequence[Price]) -> Table:
    """Every call that was measured, the cheapest first, under its condition."""
    groups: list[list[list[Text]]] = []
    for heading in dict.fromkeys(condition(one) for one in prices):
        shown = [one for one in prices if condition(one) == heading]
        groups.append([[heading]])
        groups.append(
            [
                [
                    marked(one.name),
                    number(one.ns_min),
                    number(one.ns_median),
                    number(one.ns_p99),
                    f"{number(one.ratio)}{TIMES}",
                ]
                for one in sorted(shown, key=lambda one: one.ns_median)
            ]
        )
    heads = [
        Head("call"),
        Head("min", "ns"),
        Head("median", "ns"),
        Head("p99", "ns"),
        Head("ratio", "to deque.append"),
    ]
    return Table("Cost of enqueue", heads, groups)


def plain_table(rows: Sequence[dict[str, Any]], caption: str) -> Table:
    """Rows of any fields, in their order."""
    fields = list(dict.fromkeys(field for row in rows for field in row))
    words = [
        field
        for field in fields
        if any(isinstance(row.get(field), str) for row in rows)
    ]
    order = words + [field for field in fields if field not in words]
    cells = [
        [
            marked(str(row.get(field, "")))
            if field in words
            else number(row.get(field))
            for field in order
        ]
        for row in rows
    ]
    heads = [Head(field.replace("_", " ")) for field in order]
    return Table(caption, heads, [cells], words=max(len(words), 1))


def memory_table(memory: Sequence[Memory]) -> Table:
    """Slope, bound and end of each, beside the prediction."""
    rows = [
        [
            one.name,
            f"{size(one.slope)}/s",
            size(one.bound),
            size(one.predicted_bound),
            share(one.predicted_bound / one.bound - 1)
            if one.bound and one.predicted_bound
            else NONE,
            NONE if one.bounded_after is None else f"{number(one.bounded_after)} s",
            "none" if one.limit is None else size(one.limit),
            Marked("out of memory", "bad") if one.died else "lived",
        ]
        for one in memory
    ]
    heads = [
        Head("holder of the entries"),
        Head("slope", "before the bound"),
        Head("bound", "measured"),
        Head("bound", "predicted"),
        Head("off"),
        Head("bounded", "after"),
        Head("limit", "address space"),
        Head("end"),
    ]
    return Table("Memory under too much load", heads, [rows])


# ---- the grid


def measured_table(cells: Sequence[Cell]) -> Table:
    """All measured figures of each cell."""
    columns: list[tuple[Head, Callable[[Cell], Text]]] = [
        (Head("arrived", "entries/s"), _arrived),
        (Head("batches"), lambda one: number(one.measured.batches)),
        (Head("batch", "entries"), lambda one: number(one.measured.entries_per_batch)),
        (Head("calls/s"), lambda one: number(one.measured.calls_per_second)),
        (Head("age", "p50, ms"), lambda one: number(one.measured.age_p50)),
        (Head("age", "p99, ms"), lambda one: number(one.measured.age_p99)),
        (Head("age", "max, ms"), lambda one: number(one.measured.age_max)),
        (Head("stall", "max, ms"), lambda one: number(one.measured.stall_max)),
        (Head("request", "p99, ms"), lambda one: number(one.measured.request_p99)),
        (Head("CPU", "s/million"), _processor),
        (Head("call", "ms, mean"), lambda one: number(one.measured.sink_mean)),
        (Head("peak", "pending"), lambda one: number(one.measured.peak_pending)),
        (Head("RSS", "growth"), lambda one: size(one.measured.rss_growth)),
        (Head("dropped", "entries"), _dropped),
    ]
    if any(one.measured.failed for one in cells):
        columns += [
            (Head("failed", "calls/s"), _failed),
            (Head("lost by it", "entries"), lambda one: number(one.measured.lost)),
        ]
    names = [Head("rate"), Head("sink", "ms"), Head("delay", "ms")]
    heads = [*names, *(name for name, _ in columns)]
    groups = _grouped(cells, lambda one: [read(one) for _, read in columns])
    return Table("Measured", heads, groups)


def _arrived(cell: Cell) -> Text:
    seen = number(cell.measured.rate)
    return seen if cell.measured.held else Marked(f"{seen}, not held", "bad")


def _processor(cell: Cell) -> str:
    return number(cell.measured.cpu_seconds_per_million)


def _dropped(cell: Cell) -> Text:
    dropped = cell.measured.dropped
    return Marked(number(dropped), "bad") if dropped else "0"


def _failed(cell: Cell) -> Text:
    seen = number(cell.measured.failures_per_second)
    return Marked(seen, "bad") if cell.measured.failed else "0"


def predicted_table(cells: Sequence[Cell]) -> Table:
    """Measured and predicted figures side by side, and the difference.

    Args:
        cells: Each with a prediction.
    """
    heads = [Head("rate"), Head("sink", "ms"), Head("delay", "ms")]
    for _ in JUDGED:
        heads += [Head("measured"), Head("predicted"), Head("off")]
    above = [("", 3), *((name, 3) for name, _, _ in JUDGED)]
    groups = _grouped(cells, _beside)
    return Table("Measured against predicted", heads, groups, above)


def _beside(cell: Cell) -> list[Text]:
    off = errors(cell)
    beside: list[Text] = []
    for _, name, limit in JUDGED:
        write = size if name == "memory" else number
        seen = "rss_growth" if name == "memory" else name
        if isinstance(off, str):
            judged: Text = Marked(off, "soft")
        elif name not in off:
            judged = NONE
        elif limit is not None and abs(off[name]) > limit:
            judged = Marked(share(off[name]), "off")
        else:
            judged = share(off[name])
        beside += [
            write(getattr(cell.measured, seen)),
            write(getattr(cell.predicted, name)),
            judged,
        ]
    return beside


def _grouped(
    cells: Sequence[Cell], read: Callable[[Cell], list[Text]]
) -> list[list[list[Text]]]:
    """Rows, those of one rate and sink together, under their options."""
    variants = _variants(cells)
    groups: list[list[list[Text]]] = []
    for options in variants:
        alike = [one for one in cells if variant(one.setting) == options]
        if len(variants) > 1:
            groups.append([[variant_name(options)]])
        ranked = sorted(alike, key=by_rate)
        for _, several in groupby(ranked, key=lambda one: by_rate(one)[:3]):
            groups.append([_names(one) + read(one) for one in several])
    return groups


def _variants(cells: Sequence[Cell]) -> list[tuple[str, int, int | None, int]]:
    """The options of the cells, the most frequent first."""
    names = [variant(one.setting) for one in cells]
    return sorted(dict.fromkeys(names), key=lambda one: (-names.count(one), str(one)))


def _names(cell: Cell) -> list[Text]:
    setting = cell.setting
    rate = "most" if setting.rate is None else rate_name(setting.rate)
    if setting.sink is None:
        sink = function_name(setting) or "yours"
    else:
        sink = plain(setting.sink)
    return [rate, sink, plain(setting.delay)]


def versus_table(cells: Sequence[Cell]) -> Table | None:
    """The delays 10 and 100 ms side by side, wherever both were measured."""
    by_delay: dict[tuple[Any, ...], dict[float, Cell]] = {}
    for one in sorted(cells, key=by_rate):
        setting = one.setting
        place = (setting.rate, setting.sink, setting.function, variant(setting))
        by_delay.setdefault(place, {})[one.setting.delay] = one
    pairs = [
        (both[SHORTER], both[LONGER])
        for both in by_delay.values()
        if SHORTER in both and LONGER in both
    ]
    if not pairs:
        return None
    columns: list[tuple[str, Callable[[Cell], Text]]] = [
        ("entries per batch", lambda one: number(one.measured.entries_per_batch)),
        ("calls/s", lambda one: number(one.measured.calls_per_second)),
        ("age p99, ms", lambda one: number(one.measured.age_p99)),
        ("longest stall, ms", lambda one: number(one.measured.stall_max)),
        ("request p99, ms", lambda one: number(one.measured.request_p99)),
        ("CPU, s/million", _processor),
        ("RSS growth", lambda one: size(one.measured.rss_growth)),
    ]
    rows = [
        [
            *_names(first)[:2],
            *(read(one) for _, read in columns for one in (first, second)),
        ]
        for first, second in pairs
        if variant(first.setting) == _variants(cells)[0]
    ]
    groups = [list(several) for _, several in groupby(rows, key=lambda row: row[0])]
    heads = [Head("rate"), Head("sink", "ms")]
    heads += [Head(f"{delay} ms") for _ in columns for delay in (SHORTER, LONGER)]
    above = [("", 2), *((name, 2) for name, _ in columns)]
    return Table("10 ms against 100 ms", heads, groups, above)


def model_table(cells: Sequence[Cell]) -> Table | None:
    """The errors of the model, over all judged cells."""
    judged = [found for one in cells if isinstance(found := errors(one), dict)]
    if not judged:
        return None
    rows: list[list[Text]] = []
    for title, name, limit in JUDGED:
        off = [abs(one[name]) for one in judged if name in one]
        if off:
            middle, worst = f"{100 * median(off):.1f}%", f"{100 * max(off):.1f}%"
            within = _within(off, limit)
            rows.append([title.removesuffix(", ms"), middle, worst, within])
    heads = [Head("figure"), Head("median"), Head("worst"), Head("within the limit")]
    return Table(
        f"How far off the model is, in {len(judged)} cell{'s' * (len(judged) > 1)}",
        heads,
        [rows],
    )


def _within(off: list[float], limit: float | None) -> str:
    if limit is None:
        return "no limit"
    met = sum(one <= limit for one in off)
    return f"{met} of {len(off)} within {100 * limit:.0f}%"


def model_in_words(cells: Sequence[Cell]) -> str:
    """How often the model is within its limits; empty where nothing is judged."""
    judged = [found for one in cells if isinstance(found := errors(one), dict)]
    said = []
    for title, name, limit in JUDGED:
        off = [abs(one[name]) for one in judged if name in one]
        if off and limit is not None:
            met = sum(one <= limit for one in off)
            within = f"within {100 * limit:.0f}% in {met} of {len(off)} cells"
            said.append(f"{title.removesuffix(', ms')} {within}")
    return "; ".join(said)


def remarks(cells: Sequence[Cell]) -> str:
    """How many cells are not judged, and why: 3 saturated, 2 too few."""
    why = [remark(one) for one in cells if remark(one)]
    return ", ".join(f"{why.count(one)} {one}" for one in dict.fromkeys(why))
