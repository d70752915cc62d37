"""Where the marks of a plot lie, in a column 360 units wide; plots.html draws them.

Colours, weights and dashes are the style sheet's: the n-th line has the class `s<n>`.
Lines differ in lightness and in the shape of their points too, for grey print and for
colour-blind readers. docs/rationale.md says why no library draws them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

from ._format import short

WIDTH = 360
LABEL_HEIGHT = 13
FEW_TICKS = 2
CHARACTER = 6  # the width of a figure at a tick
LONGEST_NAME = 40  # above a row
FEW_SHAPES = 5  # along a line of many points


class Point(NamedTuple):
    """A pair of values, and the text shown when a reader points at it."""

    x: float
    y: float
    words: str = ""
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """Points that belong together.

    Attributes:
        label: Its name; stands at the right end where it is `labelled`.
        points: From left to right.
        style: Colour and shape; there are six.
        dashed: Without shapes: predicted.
        plain: So many points that only a few get their shape.
        died: Whether a cross ends it.
    """

    label: str
    points: Sequence[Point]
    style: int
    labelled: bool = True
    dashed: bool = False
    plain: bool = False
    died: bool = False

    def marked(self, shown: Sequence[Point]) -> Sequence[Point]:
        """The points that get their shape."""
        step = math.ceil(len(shown) / FEW_SHAPES) if self.plain else 1
        return [] if self.dashed else shown[step // 2 :: step]


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to places.

    Attributes:
        unit: Of its figures.
        low: Value at `start`; high at `end`.
        log: Whether equal steps are equal ratios.
    """

    unit: str
    low: float
    high: float
    log: bool

    @classmethod
    def over(cls, values: Iterable[float], unit: str, *, log: bool) -> "Axis":
        """An axis with room for these values; a linear one also has 0."""
        seen = [value for value in values if value > 0 or not log]
        if not seen:
            return cls(unit, 1, 10, log)
        low, high = min(seen), max(seen)
        if not log:
            return cls(unit, min(low, 0), 1.06 * max(high, 0) or 1, log)
        room = max((high / low) ** 0.06, 1.25)
        return cls(unit, low / room, high * room, log)

    def place(self, value: float, start: float, end: float) -> float:
        """Where a value lies between two places."""
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return round(start + part * (end - start), 1)

    def shows(self, value: float) -> bool:
        """Whether a value has a place on the axis."""
        return value > 0 or not self.log

    def ticks(self, most: int) -> list[float]:
        """Round values, at most `most` of them."""
        if not self.log:
            return self._linear(most)
        decades = range(
            math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        )
        for steps in ((1, 2, 5), (1, 3), (1,)):
            ticks = [step * 10.0**power for power in decades for step in steps]
            inside = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(inside) <= most:
                return inside if len(inside) >= FEW_TICKS else self._linear(most)
        return inside[:: math.ceil(len(inside) / most)]

    def _linear(self, most: int) -> list[float]:
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * by for by in (1, 2, 5, 10) if power * by >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(count * step, 12) for count in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class LinePlot:
    """Lines on two axes.

    Attributes:
        words: The plot in words, for screen readers.
        lines: To draw; dashed ones first, so that measured ones lie above them.
        x: The axis below.
        y: The axis on the left.
        levels: Values of y that are a line from left to right, and their names.
    """

    left: ClassVar[int] = 44
    right: ClassVar[int] = WIDTH - 68
    top: ClassVar[int] = 24
    bottom: ClassVar[int] = 204
    height: ClassVar[int] = 240

    words: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    levels: Sequence[tuple[float, str]] = ()

    def across(self, value: float) -> float:
        """The place of a value of x."""
        return self.x.place(value, self.left, self.right)

    def down(self, value: float) -> float:
        """The place of a value of y."""
        return self.y.place(value, self.bottom, self.top)

    def shown(self, line: Line) -> list[Point]:
        """The points of a line that have a place."""
        return [
            one for one in line.points if self.x.shows(one.x) and self.y.shows(one.y)
        ]

    def path(self, points: Sequence[Point]) -> str:
        """The path from point to point."""
        return "M" + "L".join(f"{self.across(x)} {self.down(y)}" for x, y, *_ in points)

    def x_ticks(self) -> list[float]:
        """As many as have room for their figures side by side."""
        return apart(self.x, self.right - self.left)

    def labels(self) -> list[tuple[Line, Point, float]]:
        """Lines with a name, their last points, and where to write the name."""
        ends = [
            (line, shown[-1])
            for line in self.lines
            if line.labelled and not line.dashed and (shown := self.shown(line))
        ]
        ends.sort(key=lambda end: self.down(end[1].y))
        wanted = [self.down(point.y) for _, point in ends]
        places = spread(wanted, self.top, self.bottom + 4)
        return [(*end, place) for end, place in zip(ends, places, strict=True)]


def apart(x: Axis, width: int) -> list[float]:
    """As many ticks as have room for their figures side by side."""
    for most in range(9, 2, -1):
        ticks = x.ticks(most)
        places = [x.place(tick, 0, width) for tick in ticks]
        halves = [CHARACTER * (len(short(tick)) + 1) / 2 for tick in ticks]
        if all(
            second - first >= half + other
            for (first, second), (half, other) in zip(
                pairwise(places), pairwise(halves), strict=True
            )
        ):
            break
    return ticks


def spread(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Places at least a label apart, near those wanted, which go down in order."""
    places: list[float] = []
    for down in wanted:
        places.append(max(down, places[-1] + LABEL_HEIGHT if places else top))
    limit = bottom
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = round(places[index] - LABEL_HEIGHT, 1)
    return places


def thin(points: Sequence[Point], most: int = 200) -> list[Point]:
    """About `most` points of a long series, with the last one."""
    step = max(len(points) // most, 1)
    kept = list(points[::step])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


# ---- rows


@dataclass(frozen=True, slots=True)
class Row:
    """A value, with its name and figures.

    Attributes:
        name: Above the mark, on the left.
        value: Where the mark is, or ends.
        figure: Above the mark, on the right.
        reach: Where a thin line from the mark ends: the 99th percentile.
        reach_figure: The same as text, shown when a reader points at the row.
        ours: Whether to highlight it.
    """

    name: str
    value: float
    figure: str
    reach: float | None = None
    reach_figure: str = ""
    ours: bool = False

    def short_name(self) -> str:
        """The name, cut to the room there is."""
        if len(self.name) <= LONGEST_NAME:
            return self.name
        return f"{self.name[: LONGEST_NAME - 1]}…"


@dataclass(frozen=True, slots=True)
class RowPlot:
    """Rows, one below the other: bars, or dots where the axis has no zero.

    Attributes:
        words: The plot in words, for screen readers.
        rows: From top to bottom.
        axis: From left to right.
    """

    right: ClassVar[int] = WIDTH - 8
    top: ClassVar[int] = 22
    step: ClassVar[int] = 27

    words: str
    rows: Sequence[Row]
    axis: Axis

    @property
    def bottom(self) -> int:
        """Where the figures of the axis begin."""
        return self.top + self.step * len(self.rows) + 4

    def across(self, value: float) -> float:
        """The place of a value, within the plot."""
        return self.axis.place(max(value, self.axis.low), 1, self.right)
