"""Line plots and bars as SVG, drawn for a column 360 units wide.

Colours, weights and dashes are the style sheet's: the n-th line has the class `s<n>`.
Lines differ in lightness and in the shape of their points too, for grey print and for
who sees no colours.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ._html import Html, join, short, tag

STYLES = 6
WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 68, 24, 36
LABEL_HEIGHT = 13
FEW_TICKS = 2
CHARACTER = 6  # the width of a figure at a tick
LONGEST_NAME = 40  # above a bar
FEW_SHAPES = 5  # along a line of many points

Point = tuple[float, float]

SHAPES = (  # of points, around 0, 0
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "M-3.2-3.2h6.4v6.4h-6.4z",
    "M0-4.4L4.2 3.2H-4.2z",
    "M0-4.6L4.6 0L0 4.6L-4.6 0z",
    "M0 4.4L4.2-3.2H-4.2z",
    "M-1.5-4.2h3v2.7h2.7v3h-2.7v2.7h-3v-2.7h-2.7v-3h2.7z",
)
CROSS = "M-5-5L5 5M5-5L-5 5"


@dataclass(frozen=True, slots=True)
class Line:
    """Points that belong together.

    Attributes:
        label: Its name; stands at the right end where it is `labelled`.
        points: From left to right.
        style: Colour and shape, 0 to 5.
        dashed: Without shapes: predicted.
        plain: So many points that only a few get their shape.
        hollow: Which points are hollow.
        died: Whether a cross ends it.
    """

    label: str
    points: Sequence[Point]
    style: int
    labelled: bool = True
    dashed: bool = False
    plain: bool = False
    hollow: frozenset[Point] = frozenset()
    died: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to places.

    Attributes:
        unit: What its figures are.
        low: Value at `start`; high at `end`.
        log: Whether equal steps are equal ratios.
    """

    unit: str
    low: float
    high: float
    log: bool

    @classmethod
    def over(cls, values: Iterable[float], unit: str, *, log: bool) -> "Axis":
        """An axis with room for these values; one that is not logarithmic has 0 too."""
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
        return start + part * (end - start)

    def shows(self, value: float) -> bool:
        """Whether a value has a place at all."""
        return value > 0 or not self.log

    def ticks(self, most: int) -> list[float]:
        """Round values, at most so many."""
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


def line_plot(
    title: str,
    description: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    levels: Sequence[tuple[float, str]] = (),
) -> Html:
    """Draw lines.

    Args:
        title: For screen readers, as is the description.
        description: What it shows, in words.
        lines: To draw; dashed ones first, so that measured ones lie above them.
        x: The axis below.
        y: The axis on the left.
        levels: Values of y that are a line from left to right, and their names.
    """
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def spot(point: Point) -> Point:
        return x.place(point[0], LEFT, right), y.place(point[1], bottom, TOP)

    parts = [_grid(x, y)]
    for value, name in levels:
        at = y.place(value, bottom, TOP)
        parts.append(tag("path", d=f"M{LEFT} {at:.1f}H{right}", class_="level"))
        parts.append(tag("text", name, x=LEFT + 4, y=f"{at - 5:.1f}", class_="level"))
    wanted: list[tuple[Point, str, int]] = []
    for line in lines:
        shown = [
            point for point in line.points if x.shows(point[0]) and y.shows(point[1])
        ]
        if shown:
            parts.append(_line(line, shown, [spot(point) for point in shown]))
            if line.labelled and not line.dashed:
                wanted.append((spot(shown[-1]), line.label, line.style))
    parts[1:1] = _labels(wanted, right + 15)
    return _drawing(title, description, HEIGHT, parts)


def _line(line: Line, points: list[Point], spots: list[Point]) -> Html:
    path = "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in spots)
    kind = "predicted" if line.dashed else "measured"
    parts = [tag("path", d=path, class_=f"line {kind}")]
    if not line.dashed:
        step = math.ceil(len(points) / FEW_SHAPES) if line.plain else 1
        marked = list(zip(points, spots, strict=True))[step // 2 :: step]
        for point, (across, down) in marked:
            parts.append(
                tag(
                    "path",
                    d=SHAPES[line.style % STYLES],
                    transform=f"translate({across:.1f} {down:.1f})",
                    class_="point hollow" if point in line.hollow else "point",
                )
            )
    if line.died:
        across, down = spots[-1]
        moved = f"translate({across:.1f} {down:.1f})"
        parts.append(tag("path", d=CROSS, transform=moved, class_="cross"))
    return tag("g", *parts, class_=f"s{line.style % STYLES}")


def _grid(x: Axis, y: Axis) -> Html:
    """Both axes: ticks, lines behind the plot, units."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in y.ticks(6):
        down = y.place(value, bottom, TOP)
        parts.append(tag("path", d=f"M{LEFT} {down:.1f}H{right}", class_="grid"))
        place = {"x": LEFT - 6, "y": f"{down + 4:.1f}"}
        parts.append(
            tag("text", short(value), class_="tick", text_anchor="end", **place)
        )
    for value in _apart(x, right - LEFT):
        across = f"{x.place(value, LEFT, right):.1f}"
        parts.append(tag("path", d=f"M{across} {bottom}v4", class_="axis"))
        place = {"x": across, "y": f"{bottom + 16}"}
        parts.append(
            tag("text", short(value), class_="tick", text_anchor="middle", **place)
        )
    parts.append(tag("path", d=f"M{LEFT} {bottom}H{right}", class_="axis"))
    parts.append(tag("text", y.unit, class_="unit", x=2, y=11))
    middle = {"x": (LEFT + right) // 2, "y": HEIGHT - 4, "text_anchor": "middle"}
    parts.append(tag("text", x.unit, class_="unit", **middle))
    return join(parts)


def _apart(x: Axis, width: int) -> list[float]:
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


def _labels(wanted: list[tuple[Point, str, int]], left: int) -> list[Html]:
    """The names of lines, right of their ends, moved apart where they would collide."""
    wanted.sort(key=lambda one: one[0][1])
    places = spread([down for (_, down), _, _ in wanted], TOP, HEIGHT - BOTTOM + 4)
    parts = []
    for ((across, down), text, style), place in zip(wanted, places, strict=True):
        leader = f"M{across:.1f} {down:.1f}L{left - 4} {place:.1f}"
        parts.append(
            tag(
                "g",
                tag("path", d=leader, class_="leader"),
                tag("text", text, x=left, y=f"{place + 4:.1f}", class_="label"),
                class_=f"s{style % STYLES}",
            )
        )
    return parts


def spread(wanted: list[float], top: float, bottom: float) -> list[float]:
    """Places at least a label apart, near those wanted, which go down in order."""
    places: list[float] = []
    for down in wanted:
        places.append(max(down, places[-1] + LABEL_HEIGHT if places else top))
    limit = bottom
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - LABEL_HEIGHT
    return places


# ---- bars


@dataclass(frozen=True, slots=True)
class Bar:
    """A value, with its name and what is said of it.

    Attributes:
        name: Above the bar, on the left.
        value: Where the bar ends.
        said: Above the bar, on the right.
        reach: Where a thin line from the bar's end ends: the 99th percentile.
        ours: Whether to highlight it.
    """

    name: str
    value: float
    said: str
    reach: float | None = None
    ours: bool = False


def bar_plot(title: str, description: str, bars: Sequence[Bar], axis: Axis) -> Html:
    """Draw bars, one below the other, each under its name."""
    row, top = 27, 22
    right = WIDTH - 8
    bottom = top + row * len(bars) + 4
    parts = []
    for value in axis.ticks(7):
        across = f"{axis.place(value, 1, right):.1f}"
        parts.append(tag("path", d=f"M{across} {top}V{bottom}", class_="grid"))
        place = {"x": across, "y": bottom + 13}
        parts.append(
            tag("text", short(value), class_="tick", text_anchor="middle", **place)
        )
    for index, bar in enumerate(bars):
        parts.append(_bar(bar, axis, top + row * index, right))
    parts.append(tag("text", axis.unit, class_="unit", x=1, y=11))
    return _drawing(title, description, bottom + 20, parts)


def _bar(bar: Bar, axis: Axis, top: int, right: int) -> Html:
    end = axis.place(max(bar.value, axis.low), 1, right)
    parts = [
        tag("text", _cut(bar.name), x=1, y=top + 12, class_="name"),
        tag("text", bar.said, x=right, y=top + 12, class_="said", text_anchor="end"),
        tag("path", d=f"M1 {top + 16}H{end:.1f}v7H1z", class_="bar"),
    ]
    if bar.reach is not None:
        reach = axis.place(max(bar.reach, axis.low), 1, right)
        path = f"M{end:.1f} {top + 19.5}H{reach:.1f}M{reach:.1f} {top + 16}v7"
        parts.append(tag("path", d=path, class_="reach"))
    return tag("g", *parts, class_="ours" if bar.ours else "theirs")


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def key(style: int, *, dashed: bool = False, hollow: bool = False) -> Html:
    """A piece of a line, to stand beside its name in the text."""
    kind = "predicted" if dashed else "measured"
    parts = [tag("path", d="M0 6H24", class_=f"line {kind}")]
    if not dashed:
        shape = SHAPES[style % STYLES]
        kind = "point hollow" if hollow else "point"
        parts.append(tag("path", d=shape, transform="translate(12 6)", class_=kind))
    group = tag("g", *parts, class_=f"s{style % STYLES}")
    return tag("svg", group, viewBox="0 0 24 12", class_="key", aria_hidden="true")


def thin(points: Sequence[Point], most: int = 200) -> list[Point]:
    """At most about so many points of a long series, the last one among them."""
    step = max(len(points) // most, 1)
    kept = list(points[::step])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def _drawing(title: str, description: str, height: float, parts: list[Html]) -> Html:
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *parts,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=f"{title}. {description}",
        class_="plot",
    )
