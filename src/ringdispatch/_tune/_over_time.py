"""Draws recorded arrivals over time, and how old entries got."""

from collections.abc import Sequence

from ._figures import Figure, Figures, Key
from ._format import number, plain
from ._plots import Axis, Line, LinePlot, Point
from ._results import Cell
from ._tried import Choice


def over_time_figures(cells: Sequence[Cell], budget: float | None) -> Figures | None:
    """Arrivals over time, and below them the oldest entries with each delay.

    Args:
        cells: Of which those are drawn that have moments.
        budget: Milliseconds that entries may be old; None: no limit.
    """
    shown = [one for one in cells if one.measured.moments]
    if not shown:
        return None
    first = shown[0].measured.moments
    x = Axis.over((one.at for one in first), "seconds", log=False)
    rates = [
        Point(one.at, one.rate, f"{number(one.at)} s: {number(one.rate)} entries/s")
        for one in first
    ]
    y = Axis.over((one.rate for one in first), "entries/s", log=False)
    most = max(first, key=lambda one: one.rate)
    words = (
        f"Arrivals over {number(first[-1].at)} s: at most {number(most.rate)} "
        f"entries/s, at {number(most.at)} s."
    )
    line = Line("arrivals", rates, 5, labelled=False, plain=True)
    figures = [Figure("Arrivals", [("", LinePlot(words, [line], x, y))])]
    figures.append(_ages(shown, x, budget))
    keys = [Key(style, str(Choice.of(one.setting))) for style, one in enumerate(shown)]
    return Figures(figures, "small", keys)


def _ages(cells: Sequence[Cell], x: Axis, budget: float | None) -> Figure:
    lines, words = [], []
    for style, cell in enumerate(cells):
        name = str(Choice.of(cell.setting))
        points = [
            Point(one.at, one.age, f"{name}, {number(one.at)} s: {number(one.age)} ms")
            for one in cell.measured.moments
            if one.rate
        ]
        lines.append(Line(name, points, style, labelled=False, plain=True))
        oldest = max(points, key=lambda one: one.y)
        words.append(f"{name}: {number(oldest.y)} ms at {number(oldest.x)} s")
    levels = [] if budget is None else [(budget, f"--budget-age {plain(budget)}")]
    tops = [one.y for line in lines for one in line.points]
    y = Axis.over([*tops, *(value for value, _ in levels)], "ms", log=False)
    said = f"Oldest entries over time, at most with {'; '.join(words)}."
    plot = LinePlot(said, lines, x, y, levels=levels)
    return Figure("Oldest entry that arrived then", [("", plot)])
