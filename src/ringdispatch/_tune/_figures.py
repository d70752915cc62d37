"""The figures of the report: memory over time, cost of calls, and end to end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._format import TIMES, number, plain, size
from ._model import MIB
from ._plots import (
    Axis,
    Line,
    LinePlot,
    Point,
    Row,
    RowPlot,
    thin,
)
from ._results import Memory, Price

OURS = ("ringdispatch", "Objects", "Records", "Bytes")
BASELINE = "deque.append"


@dataclass(frozen=True, slots=True)
class Key:
    """A piece of a line, to stand beside its name in the text.

    Attributes:
        style: The line's.
        name: The line's.
        kind: How it is drawn: `"measured"`, `"hollow"`, or `"predicted"`.
        verdict: The finding, in words.
    """

    style: int
    name: str
    kind: str = "measured"
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """Plots under one title, each with its heading, or none."""

    title: str
    panels: list[tuple[str, LinePlot | RowPlot]]


@dataclass(frozen=True, slots=True)
class Figures:
    """Several figures, and the key to their lines.

    Attributes:
        layout: A class of the style sheet: `""`, `"small"`, or `"two"`.
        keys: To the lines, by their style.
        keys_beside: Whether the keys stand beside the plots, not above them.
    """

    figures: list[Figure]
    layout: str = "small"
    keys: Sequence[Key] = ()
    keys_beside: bool = False


def ours(name: str) -> bool:
    """Whether a row is this library's."""
    return name.startswith(OURS)


# ---- memory over time


def memory_figures(memory: Sequence[Memory]) -> Figures:
    """Memory over time: all runs, and the bounded ones again, enlarged."""
    limits = sorted({one.limit for one in memory if one.limit is not None})
    bounded = [one for one in memory if not one.died and one.bound is not None]
    figures = [_memory_figure("All runs, with their limit", memory, limits)]
    if bounded and len(bounded) < len(memory):
        figures.append(_memory_figure("Bounded runs, enlarged", bounded, [], memory))
    keys = [
        Key(style, one.name, verdict=one.verdict) for style, one in enumerate(memory)
    ]
    return Figures(figures, keys=keys, keys_beside=True)


def _memory_figure(
    title: str,
    shown: Sequence[Memory],
    limits: list[int],
    everything: Sequence[Memory] | None = None,
) -> Figure:
    order = list(everything or shown)
    lines, levels = [], [(limit / MIB, f"limit {size(limit)}") for limit in limits]
    for one in shown:
        style = order.index(one)
        points = [
            Point(at, up / MIB, f"{one.name}, {number(at)} s: {size(up)}")
            for at, up in one.points
        ]
        points = thin(points)
        lines.append(
            Line(one.name, points, style, labelled=False, plain=True, died=one.died)
        )
        if everything and one.predicted_bound and points:
            said = one.predicted_bound / MIB
            ends = [Point(points[0].x, said), Point(points[-1].x, said)]
            lines.append(Line(one.name, ends, style, dashed=True))
    every = [point for line in lines for point in line.points]
    x = Axis.over((one.x for one in every), "seconds", log=False)
    tops = [one.y for one in every] + [value for value, _ in levels]
    y = Axis.over(tops, "MiB above the start", log=False)
    words = " ".join(f"{one.name}: {one.verdict}." for one in shown)
    lines.sort(key=lambda line: not line.dashed)
    plot = LinePlot(f"Memory over time. {title}. {words}", lines, x, y, levels=levels)
    return Figure(title, [("", plot)])


# ---- rows


def condition(price: Price) -> str:
    """The conditions under which a call was measured, as a heading."""
    threads = "one thread" if price.threads == 1 else f"{price.threads} threads"
    return f"{threads}, {'no room' if price.full else 'with room'}"


def price_figures(prices: Sequence[Price]) -> Figures:
    """Nanoseconds for each call, the cheapest first."""
    every = [value for one in prices for value in (one.ns_median, one.ns_p99)]
    axis = Axis.over(every, "ns a call, logarithmic; the line ends at p99", log=True)
    figures = []
    for heading in dict.fromkeys(condition(one) for one in prices):
        rows = [
            Row(
                one.name,
                one.ns_median,
                f"{number(one.ns_median)} ns, {number(one.ratio)}{TIMES}",
                one.ns_p99,
                f"p99 {number(one.ns_p99)} ns",
                ours(one.name),
            )
            for one in sorted(prices, key=lambda one: one.ns_median)
            if condition(one) == heading
        ]
        figures.append(_rows(f"Cost of enqueue, {heading}", heading, rows, axis))
    return Figures(figures, "two")


def end_to_end_figures(measured: Sequence[dict[str, Any]]) -> Figures:
    """Million entries in a second of processor time, by producers, the most first."""
    figures = []
    rates = [one["million_per_cpu_second"] for one in measured]
    axis = Axis.over(rates, "million entries in a second of processor time", log=False)
    for heading in dict.fromkeys(_producers(one) for one in measured):
        rows = [
            Row(
                one["name"],
                one["million_per_cpu_second"],
                f"{number(one['million_per_cpu_second'])} M/s, "
                f"{number(one['million_per_second'])} by the clock",
                ours=ours(one["name"]),
            )
            for one in sorted(measured, key=lambda one: -one["million_per_cpu_second"])
            if _producers(one) == heading
        ]
        figures.append(_rows(f"End to end, {heading}", heading, rows, axis))
    return Figures(figures)


def _rows(title: str, heading: str, rows: list[Row], axis: Axis) -> Figure:
    words = "; ".join(f"{row.name}: {row.figure}" for row in rows)
    plot = RowPlot(f"{title}. {words}.", rows, axis)
    return Figure(heading[:1].upper() + heading[1:], [("", plot)])


def _producers(row: dict[str, Any]) -> str:
    count = row["producers"]
    words = "one producer" if count == 1 else f"{count} producers"
    return f"{words}, a delay of {plain(row['delay'])} ms" if "delay" in row else words


# ---- taking a batch


def batch_figures(rows: Sequence[dict[str, Any]]) -> Figures | None:
    """Nanoseconds for each entry against the size of the batch, where there are two."""
    names = list(dict.fromkeys(one["name"] for one in rows))
    lines = [
        Line(
            name,
            [_batch_point(one) for one in rows if one["name"] == name],
            style,
            labelled=False,
        )
        for style, name in enumerate(names)
    ]
    every = [point for line in lines for point in line.points]
    if len({one.x for one in every}) < 2:
        return None
    x = Axis.over((one.x for one in every), "entries in the batch", log=True)
    y = Axis.over((one.y for one in every), "ns an entry", log=True)
    words = "; ".join(
        f"{line.label}: "
        + ", ".join(f"{number(one.y)} ns in {plain(one.x)}" for one in line.points)
        for line in lines
    )
    plot = LinePlot(f"Taking a batch. {words}.", lines, x, y)
    keys = [Key(style, name) for style, name in enumerate(names)]
    return Figures([Figure("", [("", plot)])], keys=keys, keys_beside=True)


def _batch_point(row: dict[str, Any]) -> Point:
    words = f"{row['name']}, {plain(row['entries'])}: {number(row['ns_per_entry'])} ns"
    return Point(row["entries"], row["ns_per_entry"], words)
