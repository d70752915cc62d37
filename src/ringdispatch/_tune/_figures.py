"""Plots of memory over time, of what calls cost, and of the whole way."""

from collections.abc import Sequence
from typing import Any

from ._html import TIMES, Html, number, plain, size, tag
from ._model import MIB
from ._plots import Axis, Bar, Line, bar_plot, key, line_plot, thin
from ._results import Memory, Price

OURS = ("ringdispatch", "Objects", "Records", "Bytes")
BASELINE = "deque.append"

# ---- memory over time


def memory_figures(memory: Sequence[Memory]) -> Html:
    """Memory over time: all of them, and those that are bounded once more, closer."""
    limits = sorted({one.limit for one in memory if one.limit is not None})
    bounded = [one for one in memory if not one.died and one.bound is not None]
    panels = [_memory_panel("All, and what the process was allowed", memory, limits)]
    if bounded and len(bounded) < len(memory):
        panels.append(_memory_panel("What is bounded, closer", bounded, [], memory))
    words = [
        tag("li", key(style), " ", tag("b", one.name), tag("br"), one.verdict)
        for style, one in enumerate(memory)
    ]
    legend = tag("ul", *words, class_="keys told")
    return tag("div", legend, *panels, class_="figures small")


def _memory_panel(
    title: str,
    shown: Sequence[Memory],
    limits: list[int],
    everything: Sequence[Memory] | None = None,
) -> Html:
    order = list(everything or shown)
    lines, levels = [], [(limit / MIB, f"limit {size(limit)}") for limit in limits]
    for one in shown:
        style = order.index(one)
        points = [(across, up / MIB) for across, up in thin(one.points)]
        lines.append(
            Line(one.name, points, style, labelled=False, plain=True, died=one.died)
        )
        if everything and one.predicted_bound:
            said = one.predicted_bound / MIB
            ends = [(points[0][0], said), (points[-1][0], said)] if points else []
            lines.append(Line(one.name, ends, style, dashed=True))
    points = [point for line in lines for point in line.points]
    x = Axis.over((across for across, _ in points), "seconds", log=False)
    tops = [up for _, up in points] + [value for value, _ in levels]
    y = Axis.over(tops, "MiB above the start", log=False)
    words = " ".join(f"{one.name}: {one.verdict}." for one in shown)
    lines.sort(key=lambda line: not line.dashed)
    plot = line_plot(f"Memory over time. {title}", words, lines, x, y, levels=levels)
    return tag("figure", tag("figcaption", title), plot)


# ---- bars


def condition(price: Price) -> str:
    """Under which conditions a call was measured, as a heading."""
    threads = "one thread" if price.threads == 1 else f"{price.threads} threads"
    return f"{threads}, {'no room' if price.full else 'with room'}"


def ours(name: str) -> bool:
    """Whether a row is this library's."""
    return name.startswith(OURS)


def price_figures(prices: Sequence[Price]) -> Html:
    """Bars: nanoseconds for each call, the cheapest first."""
    every = [value for one in prices for value in (one.ns_median, one.ns_p99)]
    axis = Axis.over(
        every, "ns a call, logarithmic; the thin line ends at p99", log=True
    )
    drawn = []
    for heading in dict.fromkeys(condition(one) for one in prices):
        shown = sorted(
            (one for one in prices if condition(one) == heading),
            key=lambda one: one.ns_median,
        )
        bars = [
            Bar(
                one.name,
                one.ns_median,
                f"{number(one.ns_median)} ns, {number(one.ratio)}{TIMES}",
                one.ns_p99,
                ours(one.name),
            )
            for one in shown
        ]
        words = "; ".join(f"{bar.name}: {bar.said}" for bar in bars)
        plot = bar_plot(f"The producer's call, {heading}", words, bars, axis)
        drawn.append(tag("figure", tag("figcaption", heading.capitalize()), plot))
    return tag("div", *drawn, class_="figures two")


def whole_way_figures(rows: Sequence[dict[str, Any]]) -> Html:
    """Bars: million entries a second, the most first, for each number of producers."""
    rates = [one["million_per_second"] for one in rows]
    axis = Axis.over(rates, "million entries a second", log=False)
    drawn = []
    for heading in dict.fromkeys(_producers(one) for one in rows):
        shown = [one for one in rows if _producers(one) == heading]
        shown.sort(key=lambda one: -one["million_per_second"])
        bars = [
            Bar(
                one["name"],
                one["million_per_second"],
                f"{number(one['million_per_second'])} M/s",
                ours=ours(one["name"]),
            )
            for one in shown
        ]
        words = "; ".join(f"{bar.name}: {bar.said}" for bar in bars)
        plot = bar_plot(f"The whole way, {heading}", words, bars, axis)
        title = tag("figcaption", heading[:1].upper() + heading[1:])
        drawn.append(tag("figure", title, plot))
    return tag("div", *drawn, class_="figures small")


def _producers(row: dict[str, Any]) -> str:
    count = row["producers"]
    words = "one producer" if count == 1 else f"{count} producers"
    return f"{words}, a delay of {plain(row['delay'])} ms" if "delay" in row else words


def take_figures(rows: Sequence[dict[str, Any]]) -> Html:
    """Nanoseconds for each entry against the size of the batch."""
    names = list(dict.fromkeys(one["name"] for one in rows))
    lines = [
        Line(
            name,
            [
                (one["entries"], one["ns_per_entry"])
                for one in rows
                if one["name"] == name
            ],
            style,
            labelled=False,
        )
        for style, name in enumerate(names)
    ]
    points = [point for line in lines for point in line.points]
    x = Axis.over((across for across, _ in points), "entries in the batch", log=True)
    y = Axis.over((up for _, up in points), "ns an entry", log=True)
    words = "; ".join(
        f"{line.label}: "
        + ", ".join(f"{number(up)} ns in {plain(across)}" for across, up in line.points)
        for line in lines
    )
    plot = line_plot("Taking a batch", words, lines, x, y)
    keys = [tag("li", key(style), " ", name) for style, name in enumerate(names)]
    legend = tag("ul", *keys, class_="keys told")
    return tag("div", legend, tag("figure", plot), class_="figures small")
