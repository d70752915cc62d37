"""The tables of the report."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from statistics import median
from typing import Any

from ._figures import condition, ours
from ._grid import by_rate, rate_name, remark, variant, variant_name
from ._html import NONE, TIMES, Html, join, number, plain, share, size, table, tag
from ._model import LIMITS, errors
from ._results import Cell, Memory, Price, Results

# What is said of a cell: its name, its place in `errors`, how far off it may be.
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


def head(name: str, unit: str = "") -> Html:
    """The head of a column, with its unit below."""
    return join([name, tag("small", unit)]) if unit else join([name])


def marked(name: str) -> object:
    """A name, highlighted where it is ours."""
    return tag("span", name, class_="ours") if ours(name) else name


def machine_facts(results: Results) -> Html:
    """Name and value of all that a reader must know of the machine and the run."""
    rows = []
    for name, value in results.machine.items():
        text = _plain(value)
        fact = tag("dt", name.replace("_", " ")), tag("dd", text)
        rows.append(tag("div", *fact, class_="long" if len(text) > LONG else None))
    return tag("dl", *rows, class_="facts")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value)
    return NONE if value is None else str(value)


def price_table(prices: Sequence[Price]) -> Html:
    """Every call that was measured, the cheapest first, under its condition."""
    groups: list[list[list[object]]] = []
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
    heads: list[object] = [
        "call",
        head("min", "ns"),
        head("median", "ns"),
        head("p99", "ns"),
        head("ratio", "to deque.append"),
    ]
    return table(heads, groups, caption="The producer's call")


def plain_table(rows: Sequence[dict[str, Any]], caption: str) -> Html:
    """Rows of any fields, as they come."""
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
    heads: list[object] = [field.replace("_", " ") for field in order]
    return table(heads, [cells], words=max(len(words), 1), caption=caption)


def memory_table(memory: Sequence[Memory]) -> Html:
    """Slope, bound and end of each, beside what was predicted."""
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
            tag("span", "out of memory", class_="bad") if one.died else "lived",
        ]
        for one in memory
    ]
    heads: list[object] = [
        "what held the entries",
        head("slope", "before the bound"),
        head("bound", "measured"),
        head("bound", "predicted"),
        "off",
        head("bounded", "after"),
        head("limit", "address space"),
        "end",
    ]
    return table(heads, [rows], caption="Memory under too much load")


# ---- the grid


def measured_table(cells: Sequence[Cell]) -> Html:
    """All that was measured in each cell."""
    columns: list[tuple[Html, Callable[[Cell], object]]] = [
        (head("arrived", "entries/s"), _arrived),
        (head("batches"), lambda one: number(one.measured.batches)),
        (head("batch", "entries"), lambda one: number(one.measured.entries_per_batch)),
        (head("calls/s"), lambda one: number(one.measured.calls_per_second)),
        (head("age", "p50, ms"), lambda one: number(one.measured.age_p50)),
        (head("age", "p99, ms"), lambda one: number(one.measured.age_p99)),
        (head("age", "max, ms"), lambda one: number(one.measured.age_max)),
        (head("stall", "max, ms"), lambda one: number(one.measured.stall_max)),
        (head("request", "p99, ms"), lambda one: number(one.measured.request_p99)),
        (head("CPU", "s/million"), _processor),
        (head("call", "ms, mean"), lambda one: number(one.measured.sink_mean)),
        (head("peak", "pending"), lambda one: number(one.measured.peak_pending)),
        (head("RSS", "growth"), lambda one: size(one.measured.rss_growth)),
        (head("dropped", "entries"), _dropped),
    ]
    names = ["rate", head("sink", "ms"), head("delay", "ms")]
    heads = [*names, *(name for name, _ in columns)]
    groups = _grouped(cells, lambda one: [read(one) for _, read in columns])
    return table(heads, groups, words=1, caption="Measured")


def _arrived(cell: Cell) -> object:
    seen = number(cell.measured.rate)
    return (
        seen if cell.measured.held else tag("span", f"{seen}, not held", class_="bad")
    )


def _processor(cell: Cell) -> str:
    return number(cell.measured.cpu_seconds_per_million)


def _dropped(cell: Cell) -> object:
    dropped = cell.measured.dropped
    return tag("span", number(dropped), class_="bad") if dropped else "0"


def predicted_table(cells: Sequence[Cell]) -> Html:
    """Measured and predicted side by side, and how far apart."""
    heads: list[object] = ["rate", head("sink", "ms"), head("delay", "ms")]
    for _ in JUDGED:
        heads += ["measured", "predicted", "off"]
    above = [("", 3), *((name, 3) for name, _, _ in JUDGED)]
    groups = _grouped([one for one in cells if one.predicted], _beside)
    caption = "Measured against predicted"
    return table(heads, groups, above=above, words=1, caption=caption)


def _beside(cell: Cell) -> list[object]:
    off = errors(cell)
    beside: list[object] = []
    for _, name, limit in JUDGED:
        write = size if name == "memory" else number
        seen = "rss_growth" if name == "memory" else name
        if isinstance(off, str):
            judged: object = tag("span", off, class_="soft")
        elif name not in off:
            judged = NONE
        elif limit is not None and abs(off[name]) > limit:
            judged = tag("span", share(off[name]), class_="off")
        else:
            judged = share(off[name])
        beside += [
            write(getattr(cell.measured, seen)),
            write(getattr(cell.predicted, name)),
            judged,
        ]
    return beside


def _grouped(
    cells: Sequence[Cell], read: Callable[[Cell], list[object]]
) -> Iterable[list[list[object]]]:
    """Rows, those of one rate and sink together, under their options."""
    variants = _variants(cells)
    for options in variants:
        alike = [one for one in cells if variant(one.setting) == options]
        if len(variants) > 1:
            yield [[variant_name(options)]]
        ranked = sorted(alike, key=by_rate)
        for _, several in groupby(ranked, key=lambda one: by_rate(one)[:2]):
            yield [_names(one) + read(one) for one in several]


def _variants(cells: Sequence[Cell]) -> list[tuple[str, int, int | None, int]]:
    """The options of the cells, the most frequent first."""
    names = [variant(one.setting) for one in cells]
    return sorted(dict.fromkeys(names), key=lambda one: (-names.count(one), str(one)))


def _names(cell: Cell) -> list[object]:
    setting = cell.setting
    rate: object = "most" if setting.rate is None else rate_name(setting.rate)
    sink = "yours" if setting.sink is None else plain(setting.sink)
    return [rate, sink, plain(setting.delay)]


def versus_table(cells: Sequence[Cell]) -> Html | None:
    """The delays 10 and 100 ms side by side, wherever both were measured."""
    by_delay: dict[tuple[Any, ...], dict[float, Cell]] = {}
    for one in sorted(cells, key=by_rate):
        place = (one.setting.rate, one.setting.sink, variant(one.setting))
        by_delay.setdefault(place, {})[one.setting.delay] = one
    pairs = [
        (both[SHORTER], both[LONGER])
        for both in by_delay.values()
        if SHORTER in both and LONGER in both
    ]
    if not pairs:
        return None
    columns: list[tuple[str, Callable[[Cell], object]]] = [
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
    heads: list[object] = ["rate", head("sink", "ms")]
    heads += [f"{delay} ms" for _ in columns for delay in (SHORTER, LONGER)]
    above = [("", 2), *((name, 2) for name, _ in columns)]
    return table(heads, groups, above=above, caption="10 ms against 100 ms")


def model_table(cells: Sequence[Cell]) -> Html | None:
    """How far off the model is, over all cells that are judged."""
    judged = [found for one in cells if isinstance(found := errors(one), dict)]
    if not judged:
        return None
    rows: list[list[object]] = []
    for title, name, limit in JUDGED:
        off = [abs(one[name]) for one in judged if name in one]
        if off:
            middle, worst = f"{100 * median(off):.1f} %", f"{100 * max(off):.1f} %"
            within = _within(off, limit)
            rows.append([title.removesuffix(", ms"), middle, worst, within])
    heads: list[object] = ["figure", "median", "worst", "within the limit"]
    counted = f"How far off the model is, in {len(judged)} cells"
    return table(heads, [rows], caption=counted)


def _within(off: list[float], limit: float | None) -> str:
    if limit is None:
        return "no limit"
    met = sum(one <= limit for one in off)
    return f"{met} of {len(off)} within {100 * limit:.0f} %"


def model_in_words(cells: Sequence[Cell]) -> str:
    """How often the model is within its limits; empty where nothing is judged."""
    judged = [found for one in cells if isinstance(found := errors(one), dict)]
    said = []
    for title, name, limit in JUDGED:
        off = [abs(one[name]) for one in judged if name in one]
        if off and limit is not None:
            met = sum(one <= limit for one in off)
            within = f"within {100 * limit:.0f} % in {met} of {len(off)} cells"
            said.append(f"{title.removesuffix(', ms')} {within}")
    return "; ".join(said)


def remarks(cells: Sequence[Cell]) -> str:
    """Which cells are not judged, and why: 3 saturated, 2 too few."""
    why = [remark(one) for one in cells if remark(one)]
    return ", ".join(f"{why.count(one)} {one}" for one in dict.fromkeys(why))
