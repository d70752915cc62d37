"""Draws charts as SVG files for the pages: 360 units wide, so that a phone shows them.

One style for them and for the pictures in docs/images that are drawn by hand: light or
dark as the reader has it, no text below 12 units.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 360
ROW = 31  # a dot or a bar, under its name
TOP, BOTTOM, LEFT, RIGHT = 28, 38, 46, 104  # around the lines of a chart
HEIGHT = 240
LABEL = 15  # from one name at the right to the next
LINE = 17  # of a terminal, to the next
COLUMNS = 48  # of a terminal

# name: what it fills or strokes, on a light page, on a dark one
COLOURS = {
    "text": ("fill", "#1a1c1f", "#e6e8eb"),
    ".soft": ("fill", "#555b64", "#a9b0ba"),
    ".ours": ("fill", "#0b5cad", "#7db8f5"),
    ".paper": ("fill", "#ffffff", "#1e2129"),
    ".tint": ("fill", "#eef1f4", "#2b303b"),
    ".full": ("fill", "#0b5cad", "#7db8f5"),
    ".other": ("fill", "#1b7340", "#79cf9c"),
    ".on": ("fill", "#ffffff", "#10131a"),
    ".theirs": ("fill", "#6d747e", "#8d95a0"),
    ".grid": ("stroke", "#e1e4e8", "#363c48"),
    ".line": ("stroke", "#1a1c1f", "#e6e8eb"),
    ".our-line": ("stroke", "#0b5cad", "#7db8f5"),
    ".their-line": ("stroke", "#6d747e", "#8d95a0"),
    ".gap": ("stroke", "#ffffff", "#1e2129"),
}


def _rules(column: int) -> str:
    return " ".join(
        f"{name} {{ {colour[0]}: {colour[column]}; }}"
        for name, colour in COLOURS.items()
    )


STYLE = f"""
text {{ font: 12px system-ui, "Segoe UI", Roboto, Arial, sans-serif; }}
.bold {{ font-weight: 600; }}
.middle {{ text-anchor: middle; }} .end {{ text-anchor: end; }}
.code {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
path {{ fill: none; }} .dashed {{ stroke-dasharray: 5 4; }}
.line, .our-line, .their-line {{ stroke-width: 1.6; }}
{_rules(1)}
@media (prefers-color-scheme: dark) {{ {_rules(2)} }}
"""

Point = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """A value under its name; `reach` is where a thin line from it ends."""

    name: str
    value: float
    said: str
    ours: bool
    reach: float | None = None


@dataclass(frozen=True)
class Series:
    """Points that belong together, from left to right; dots, if not at these."""

    name: str
    points: Sequence[Point]
    ours: bool
    dashed: bool = False
    dots: Sequence[Point] | None = None


@dataclass(frozen=True)
class Axis:
    """From values to places; `log`: equal steps are equal ratios."""

    low: float
    high: float
    log: bool

    @classmethod
    def over(cls, values: Iterable[float], *, log: bool) -> "Axis":
        """An axis with room for these values, and for 0 where it is linear."""
        seen = list(values)
        low, high = min(seen), max(seen)
        return cls(low / 1.3, high * 1.3, log) if log else cls(0, high * 1.06, log)

    def place(self, value: float, start: float, end: float) -> float:
        """Where a value lies between two places."""
        if self.log:
            value = max(value, self.low)
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return start + part * (end - start)

    def ticks(self, most: int) -> list[float]:
        """Round values, at most so many."""
        if self.log:
            powers = range(
                math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1
            )
            for steps in ((1, 2, 5), (1, 3), (1,)):
                every = [step * 10.0**power for power in powers for step in steps]
                inside = [tick for tick in every if self.low <= tick <= self.high]
                if len(inside) <= most:
                    return inside
            return inside[:: math.ceil(len(inside) / most)]
        rough = self.high / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * by for by in (1, 2, 5, 10) if power * by >= rough)
        return [step * count for count in range(math.floor(self.high / step) + 1)]


def _tag(name: str, content: str = "", **attributes: object) -> str:
    given = "".join(
        f' {key.rstrip("_")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value != ""
    )
    return f"<{name}{given}>{content}</{name}>"


def _text(words: str, x: float, y: float, class_: str = "") -> str:
    place = {"x": round(x, 1), "y": round(y, 1)}
    return _tag("text", escape(words), **place, class_=class_)


def _path(d: str, class_: str) -> str:
    return _tag("path", d=d, class_=class_)


def _tick(value: float) -> str:
    for power, letter in ((6, "M"), (3, "k")):
        if value >= 10**power and value >= 10_000:
            return f"{value / 10**power:g}{letter}"
    return f"{value:,.10g}"


def _svg(title: str, words: str, height: float, parts: Iterable[str]) -> str:
    paper = _tag("rect", width=WIDTH, height=height, rx=6, class_="paper")
    lines = [_tag("title", escape(title)), _tag("desc", escape(words)), paper, *parts]
    box = f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img">'
    return "\n".join([head, f"<style>{STYLE}</style>", *lines, "</svg>", ""])


def terminal(title: str, words: str, shown: Sequence[tuple[str, str, str]]) -> str:
    """Lines of a terminal under its title: words, a number at the right, their class.

    Raises:
        ValueError: a line is too wide.
    """
    parts = [
        _tag("rect", width=WIDTH, height=26, rx=6, class_="tint"),
        _text(title, WIDTH / 2, 17, "soft middle"),
    ]
    for index, (line, number, class_) in enumerate(shown):
        if len(line) + len(number) > COLUMNS:
            raise ValueError(f"{line!r}: is wider than {COLUMNS} columns")
        down = 46 + LINE * index
        indent = len(line) - len(line.lstrip())
        parts.append(
            _text(line.strip(), 7 + 7.2 * indent, down, f"code {class_}".strip())
        )
        if number:
            parts.append(_text(number, WIDTH - 8, down, "code bold end"))
    return _svg(title, words, 46 + LINE * len(shown) - 4, parts)


def rows(title: str, unit: str, shown: Sequence[Row], *, log: bool) -> str:
    """Rows, one below the other: dots on a logarithmic axis, bars on a linear one."""
    axis = Axis.over(
        [end for row in shown for end in (row.value, row.reach or row.value)], log=log
    )
    left, right = 6.0, WIDTH - 8.0
    top, bottom = 26, 26 + ROW * len(shown) + 6
    parts = [_text(title, 2, 14, "bold")]
    for value in axis.ticks(6):
        across = axis.place(value, left, right)
        parts.append(_path(f"M{across:.1f} {top}V{bottom}", "grid"))
        if left < across < right - 10:
            parts.append(_text(_tick(value), across, bottom + 15, "soft middle"))
    for index, row in enumerate(shown):
        parts += _row(row, axis, top + ROW * index, left, right)
    parts.append(_text(unit, WIDTH / 2, bottom + 33, "soft middle"))
    words = "; ".join(f"{row.name}: {row.said}" for row in shown)
    return _svg(title, words, bottom + 40, parts)


def _row(row: Row, axis: Axis, top: float, left: float, right: float) -> list[str]:
    owner = "ours" if row.ours else "theirs"
    at = axis.place(row.value, left, right)
    down = top + 24
    parts = [
        _text(row.name, 2, top + 13, "ours" if row.ours else ""),
        _text(row.said, WIDTH - 2, top + 13, "ours end" if row.ours else "end"),
    ]
    if not axis.log:
        shape = {"x": left, "y": down - 3, "width": f"{at - left:.1f}", "height": 7}
        return [*parts, _tag("rect", **shape, class_=owner)]
    parts.append(_tag("circle", cx=f"{at:.1f}", cy=down, r=4.5, class_=owner))
    if row.reach is not None:
        end = axis.place(row.reach, left, right)
        stroke = "our-line" if row.ours else "their-line"
        parts.append(
            _path(f"M{at:.1f} {down}H{end:.1f}M{end:.1f} {down - 4}v8", stroke)
        )
    return parts


def lines(
    title: str,
    units: tuple[str, str],
    shown: Sequence[Series],
    *,
    log: bool,
    level: tuple[float, str] | None = None,
) -> str:
    """Lines, named at their right ends; a level is a line right across.

    Args:
        title: Above it, with the unit of what goes up.
        units: Of what goes right, and of what goes up.
        shown: The lines.
        log: Whether both axes are logarithmic.
        level: Its value and its name.
    """
    points = [point for series in shown for point in series.points]
    x = Axis.over([across for across, _ in points], log=log)
    y = Axis.over([up for _, up in points] + ([level[0]] if level else []), log=log)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def spot(point: Point) -> Point:
        return x.place(point[0], LEFT, right), y.place(point[1], bottom, TOP)

    parts = [_text(f"{title}, {units[1]}" if units[1] else title, 2, 14, "bold")]
    for value in y.ticks(6):
        down = spot((x.high, value))[1]
        parts.append(_path(f"M{LEFT} {down:.1f}H{right}", "grid"))
        parts.append(_text(_tick(value), LEFT - 6, down + 4, "soft end"))
    for value in x.ticks(5):
        across = spot((value, y.high))[0]
        parts.append(_path(f"M{across:.1f} {bottom}v4", "line"))
        parts.append(_text(_tick(value), across, bottom + 17, "soft middle"))
    parts.append(_path(f"M{LEFT} {bottom}H{right}", "line"))
    parts.append(_text(units[0], (LEFT + right) / 2, HEIGHT - 6, "soft middle"))
    if level:
        down = spot((x.high, level[0]))[1]
        parts.append(_path(f"M{LEFT} {down:.1f}H{right}", "line dashed"))
        parts.append(_text(level[1], LEFT + 4, down - 5, "soft"))
    for series in shown:
        few = series.points if len(series.points) <= 10 else series.points[-1:]
        dots = few if series.dots is None else series.dots
        parts += _series(series, [*map(spot, series.points)], [*map(spot, dots)])
    parts += _names(shown, [spot(series.points[-1]) for series in shown], right)
    words = "; ".join(
        f"{series.name}: from {_said(series.points[0])} to {_said(series.points[-1])}"
        for series in shown
    )
    up = units[1] or title
    return _svg(title, f"{up} against {units[0]}. {words}", HEIGHT, parts)


def _said(point: Point) -> str:
    return f"{point[1]:,.3g} at {point[0]:,.6g}"


def _series(series: Series, spots: Sequence[Point], dots: Sequence[Point]) -> list[str]:
    path = "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in spots)
    stroke = "our-line" if series.ours else "their-line"
    dashed = " dashed" if series.dashed else ""
    return [
        _path(path, stroke + dashed),
        *(
            _tag(
                "circle",
                cx=f"{across:.1f}",
                cy=f"{down:.1f}",
                r=3,
                class_="ours" if series.ours else "theirs",
            )
            for across, down in dots
        ),
    ]


def _names(shown: Sequence[Series], ends: Sequence[Point], right: float) -> list[str]:
    """The names of lines, right of their ends, moved apart where they would collide."""
    parts = []
    lowest = float(HEIGHT - BOTTOM + 4)
    order = sorted(range(len(ends)), key=lambda index: -ends[index][1])
    for place, index in enumerate(order):
        above = len(order) - 1 - place
        down = min(ends[index][1] + 4, lowest)
        down = max(down, TOP + 4 + LABEL * above)
        lowest = down - LABEL
        name = "ours bold" if shown[index].ours else ""
        parts.append(_text(shown[index].name, right + 8, down, name))
    return parts
