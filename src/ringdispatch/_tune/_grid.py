"""The grid of a run: its measures against the delay, drawn and in words."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ._figures import Figure, Figures, Key
from ._format import number, plain, short
from ._model import MIB, errors
from ._plots import Axis, Line, LinePlot, Point, RowPlot
from ._results import Cell, Expected, Measured, Predicted, Setting

USUAL_CAPACITY = 65_536

# The lines of a plot: name, style and cells of each. Panels have a heading.
Rows = list[tuple[str, int, list[Cell]]]
Panels = dict[str, Rows]


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of a cell that is drawn against the delay."""

    title: str
    unit: str
    measured: Callable[[Measured], float]
    predicted: Callable[[Predicted], float] | None = None


MEASURES = (
    Measure(
        "Age at dispatch, median",
        "ms",
        lambda seen: seen.age_p50,
        lambda said: said.age_p50,
    ),
    Measure(
        "Age at dispatch, p99",
        "ms",
        lambda seen: seen.age_p99,
        lambda said: said.age_p99,
    ),
    Measure(
        "Entries per batch",
        "entries",
        lambda seen: seen.entries_per_batch,
        lambda said: said.entries_per_batch,
    ),
    Measure(
        "Calls of the dispatch function",
        "calls/s",
        lambda seen: seen.calls_per_second,
        lambda said: said.calls_per_second,
    ),
    Measure(
        "Most entries pending at once",
        "entries",
        lambda seen: seen.peak_pending,
        lambda said: said.peak_pending,
    ),
    Measure(
        "Growth of resident memory",
        "MiB",
        lambda seen: seen.rss_growth / MIB,
        lambda said: said.memory / MIB,
    ),
    Measure("Longest stall of the event loop", "ms", lambda seen: seen.stall_max),
    Measure(
        "Request on the same loop, p99",
        "ms",
        lambda seen: seen.request_p99,
    ),
)
COMPARED = (MEASURES[1], MEASURES[5], MEASURES[6])  # between layouts and options


# ---- what cells have in common


def variant(setting: Setting) -> tuple[str, int, int | None, int]:
    """The options that are not on an axis of the grid."""
    return (
        setting.layout,
        setting.capacity,
        setting.max_batch,
        setting.max_in_flight,
    )


def usual(cells: Iterable[Cell]) -> tuple[str, int, int | None, int]:
    """The options that most cells have."""
    return Counter(variant(cell.setting) for cell in cells).most_common(1)[0][0]


def variant_name(options: tuple[str, int, int | None, int]) -> str:
    """The options in words: objects, at most 2,000 a call."""
    layout, capacity, max_batch, max_in_flight = options
    words = [layout]
    if capacity != USUAL_CAPACITY:
        words.append(f"capacity {plain(capacity)}")
    if max_batch is not None:
        words.append(f"at most {plain(max_batch)} a call")
    if max_in_flight > 1:
        words.append(f"{max_in_flight} calls at once")
    return ", ".join(words)


def rate_name(rate: float | None) -> str:
    """The requested rate, in words."""
    return "the most it holds" if rate is None else f"{plain(rate)}/s"


def sink_name(setting: Setting) -> str:
    """The dispatch function, as a heading."""
    sink = setting.sink
    if sink is None:
        name = function_name(setting)
        return f"the sink `{name}`" if name else "your dispatch function"
    return f"the sink takes {plain(sink)} ms" if sink else "the sink returns at once"


def function_name(setting: Setting) -> str:
    """The dispatch function's name; empty where it is the user's or a stand-in."""
    return setting.function.rpartition(":")[2]


def remark(cell: Cell) -> str:
    """Why a prediction is not judged; empty if it is, or if there is none."""
    found = errors(cell)
    return found if isinstance(found, str) and cell.predicted else ""


def by_rate(cell: Cell) -> tuple[float, float, str, float]:
    """The order of a grid: rate, sink, delay; a missing number is last."""
    setting = cell.setting
    infinite = float("inf")
    return (
        infinite if setting.rate is None else setting.rate,
        infinite if setting.sink is None else setting.sink,
        setting.function,
        setting.delay,
    )


# ---- the grid


def grid_figures(
    cells: Sequence[Cell], expected: Sequence[Expected] = ()
) -> Figures | None:
    """All measures against the delay: a line for each rate, a panel for each sink.

    Of the sinks, those with two delays at one rate: a line takes two points.

    Args:
        cells: What was measured.
        expected: Other delays with the same options, which are those to draw.
    """
    common = variant(expected[0].setting) if expected else usual(cells)
    shown = sorted(
        (one for one in cells if variant(one.setting) == common), key=by_rate
    )
    rates = list(dict.fromkeys(one.setting.rate for one in shown))
    panels: Panels = {}
    for sink in dict.fromkeys(sink_name(one.setting) for one in shown):
        rows = [
            (
                "the most" if rate is None else f"{short(rate)}/s",
                style,
                [one for one in shown if _at(one, rate, sink, variant_name(common))],
            )
            for style, rate in enumerate(rates)
        ]
        if expected or _are_lines(rows):
            panels[sink] = rows
    if not panels:
        return None
    figures = [_figure(measure, panels, expected) for measure in MEASURES]
    return Figures(figures, "" if len(panels) > 1 else "small", _keys(rates))


def variant_figures(cells: Sequence[Cell]) -> Figures | None:
    """Layouts and options side by side, where some share rate and sink."""
    common = usual(cells)
    others = [one for one in cells if variant(one.setting) != common]
    loads = {_load(one.setting) for one in others}
    shown = [one for one in cells if _load(one.setting) in loads]
    names = [variant_name(common)]
    names += [variant_name(variant(one.setting)) for one in others]
    names = list(dict.fromkeys(names))
    panels: Panels = {}
    for rate, sink in dict.fromkeys(
        _load(one.setting) for one in sorted(shown, key=by_rate)
    ):
        rows = [
            (name, style, [one for one in shown if _at(one, rate, sink, name)])
            for style, name in enumerate(names)
        ]
        if _are_lines(rows):
            panels[f"{rate_name(rate)}, {sink}"] = rows
    if not panels:
        return None
    figures = [_figure(measure, panels, of_rates=False) for measure in COMPARED]
    keys = [Key(style, name) for style, name in enumerate(names)]
    return Figures(figures, "small", keys)


def _load(setting: Setting) -> tuple[float | None, str]:
    return setting.rate, sink_name(setting)


def _at(cell: Cell, rate: float | None, sink: str, name: str) -> bool:
    setting = cell.setting
    return (*_load(setting), variant_name(variant(setting))) == (rate, sink, name)


def _are_lines(rows: Rows) -> bool:
    """Whether one of them has at least two delays: else there is no line to draw."""
    return any(len({one.setting.delay for one in cells}) > 1 for _, _, cells in rows)


def _figure(
    measure: Measure,
    panels: Panels,
    expected: Sequence[Expected] = (),
    *,
    of_rates: bool = True,
) -> Figure:
    """One measure: a panel for each heading, all on the same axes."""
    lines = {
        heading: [
            line
            for name, style, cells in rows
            for line in _lines(measure, name, style, cells, expected, of_rates=of_rates)
        ]
        for heading, rows in panels.items()
    }
    points = [
        point for several in lines.values() for one in several for point in one.points
    ]
    x = Axis.over((one.x for one in points), "delay, ms", log=True)
    y = Axis.over((one.y for one in points), measure.unit, log=True)
    drawn: list[tuple[str, LinePlot | RowPlot]] = []
    for heading, several in lines.items():
        words = f"{measure.title}: {heading}. {_in_words(measure, several)}"
        several.sort(key=lambda line: not line.dashed)
        shown = heading if len(lines) > 1 or not of_rates else ""
        drawn.append((shown, LinePlot(words, several, x, y)))
    return Figure(measure.title, drawn)


def _lines(
    measure: Measure,
    name: str,
    style: int,
    cells: list[Cell],
    expected: Sequence[Expected],
    *,
    of_rates: bool,
) -> list[Line]:
    if not cells:
        return []
    cells = sorted(cells, key=lambda one: one.setting.delay)
    points = [_point(measure, name, one) for one in cells]
    lines = [Line(name, points, style, labelled=of_rates)]
    if of_rates and measure.predicted:
        rate = cells[0].setting.rate
        known: list[Cell | Expected] = [*cells]
        known += [one for one in expected if one.setting.rate == rate]
        said = [
            Point(one.setting.delay, measure.predicted(one.predicted))
            for one in sorted(known, key=lambda one: one.setting.delay)
            if one.predicted
        ]
        lines.append(Line(name, said, style, dashed=True))
    return lines


def _point(measure: Measure, name: str, cell: Cell) -> Point:
    """A cell, and the text shown when a reader points at it."""
    delay, seen = cell.setting.delay, float(measure.measured(cell.measured))
    words = f"{name}, {plain(delay)} ms: {number(seen)} {measure.unit}"
    if measure.predicted and cell.predicted:
        words += f", predicted {number(measure.predicted(cell.predicted))}"
    return Point(delay, seen, words, hollow=bool(remark(cell)))


def _in_words(measure: Measure, lines: list[Line]) -> str:
    """A plot in words, for screen readers."""
    parts = [
        f"{line.label}: "
        + ", ".join(
            f"{number(one.y)} {measure.unit} at {plain(one.x)} ms"
            for one in line.points
        )
        for line in lines
        if not line.dashed
    ]
    return "Against the delay, both axes logarithmic. " + "; ".join(parts) + "."


def _keys(rates: list[float | None]) -> list[Key]:
    """The key to all plots of the grid."""
    last = len(rates) - 1
    return [
        *(Key(style, rate_name(rate)) for style, rate in enumerate(rates)),
        Key(last, "predicted", "predicted"),
        Key(last, "not judged: saturated, too few batches, or rate not held", "hollow"),
    ]
