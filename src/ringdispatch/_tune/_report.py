"""Writes a run as one page of HTML that needs nothing else: no script, no network."""

from collections.abc import Sequence
from pathlib import Path

from ._figures import (
    BASELINE,
    memory_figures,
    ours,
    price_figures,
    take_figures,
    whole_way_figures,
)
from ._grid import grid_figures, variant_figures
from ._html import Html, join, number, tag
from ._results import Price, Results
from ._style import STYLE
from ._tables import (
    machine_facts,
    measured_table,
    memory_table,
    model_in_words,
    model_table,
    plain_table,
    predicted_table,
    price_table,
    remarks,
    versus_table,
)

TITLES = {
    "suite": "ringdispatch under load",
    "tune": "Tuning your dispatch function",
}


def write(results: Results, path: Path) -> None:
    """Write the report; what was not measured is left out.

    Args:
        results: Of the suite or of the tuner.
        path: Of the page; missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results), encoding="utf-8")


def page(results: Results) -> str:
    """The whole page."""
    title = TITLES.get(results.kind, results.kind)
    top = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    sections = [
        _beginning(results, title),
        _recommendation(results),
        _findings(results),
        _machine(results),
        _grid(results),
        _memory(results),
        _calls(results),
        _tables(results),
    ]
    main = tag("main", *(one for one in sections if one))
    whole = tag("html", top, tag("body", main), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _beginning(results: Results, title: str) -> Html:
    told = [
        str(results.machine[name])
        for name in ("date", "cpu", "python", "commit")
        if results.machine.get(name)
    ]
    return tag("header", tag("h1", title), tag("p", " · ".join(told), class_="soft"))


def _recommendation(results: Results) -> Html | None:
    found = results.recommendation
    if not found:
        return None
    reasons = [tag("li", str(one)) for one in found.get("reasons", [])]
    return tag(
        "section",
        tag("p", found["sentence"], class_="sentence"),
        *([tag("ul", *reasons)] if reasons else []),
        class_="recommendation",
    )


def _findings(results: Results) -> Html | None:
    """What was found, in words."""
    said = [join([tag("b", one.name), ": ", one.verdict]) for one in results.memory]
    said += _call_in_words(results.prices)
    if model := model_in_words(results.cells):
        said.append(join([tag("b", "Predicted against measured"), ": ", model]))
    if not said:
        return None
    points = (tag("li", one) for one in said)
    return tag("section", tag("h2", "In short"), tag("ul", *points, class_="findings"))


def _call_in_words(prices: Sequence[Price]) -> list[Html]:
    """What our cheapest call costs, and who is cheaper."""
    alike = [one for one in prices if one.threads == 1 and not one.full]
    own = [one for one in alike if ours(one.name)]
    if not own:
        return []
    best = min(own, key=lambda one: one.ns_median)
    cheaper = sorted(
        (one for one in alike if not ours(one.name) and one.ns_median < best.ns_median),
        key=lambda one: one.ns_median,
    )
    price = (
        f": {number(best.ns_median)} ns a call, {number(best.ratio)} times {BASELINE}; "
    )
    names = ", ".join(f"{one.name} ({number(one.ns_median)} ns)" for one in cheaper)
    rivals = f"cheaper than it: {names}" if names else "none of the others is cheaper"
    return [join([tag("b", best.name), price, rivals])]


def _machine(results: Results) -> Html | None:
    if not results.machine:
        return None
    return tag("section", tag("h2", "What was run"), machine_facts(results))


def _grid(results: Results) -> Html | None:
    if not results.cells:
        return None
    parts: list[Html] = [
        tag("h2", "The delay, and what it buys"),
        tag(
            "p",
            "Every point is a run of its own. Entries arrive on a schedule, and an age "
            "counts from an entry's scheduled arrival until its call begins, so that "
            "a stall is charged to all that waited. Both axes are logarithmic.",
        ),
        grid_figures(results.cells),
    ]
    variants = variant_figures(results.cells)
    if variants:
        parts += [tag("h3", "Layouts and options, under the same load"), variants]
    return tag("section", *parts)


def _memory(results: Results) -> Html | None:
    if not results.memory:
        return None
    return tag(
        "section",
        tag("h2", "Memory over time, with a sink slower than the load"),
        tag("p", "A cross marks where a process ran out of memory. Dashed: predicted."),
        memory_figures(results.memory),
    )


def _calls(results: Results) -> Html | None:
    parts: list[Html] = []
    if results.prices:
        told = "The cheapest first; ours are highlighted, wherever they stand."
        parts += [tag("h2", "The producer's call"), tag("p", told)]
        parts.append(price_figures(results.prices))
    if results.takes:
        told = "What the dispatcher does once for each call, by the batch's size."
        parts += [tag("h2", "Taking a batch"), tag("p", told)]
        parts.append(take_figures(results.takes))
    if results.whole_way:
        told = "Make the entry, enqueue, batch, dispatch, free; the fastest first."
        parts += [tag("h2", "The whole way"), tag("p", told)]
        parts.append(whole_way_figures(results.whole_way))
    return tag("section", *parts) if parts else None


def _tables(results: Results) -> Html | None:
    parts: list[Html | None] = []
    if results.cells:
        parts += [versus_table(results.cells), measured_table(results.cells)]
    if any(one.predicted for one in results.cells):
        told = [model_table(results.cells), _not_judged(results)]
        told.append(predicted_table(results.cells))
        parts.append(tag("div", *(one for one in told if one), class_="predictions"))
    if results.memory:
        parts.append(memory_table(results.memory))
    if results.prices:
        parts.append(price_table(results.prices))
    if results.takes:
        parts.append(plain_table(results.takes, "Taking a batch"))
    if results.whole_way:
        parts.append(plain_table(results.whole_way, "The whole way"))
    shown = [part for part in parts if part]
    return (
        tag("section", tag("h2", "All figures"), *shown, class_="wide")
        if shown
        else None
    )


def _not_judged(results: Results) -> Html | None:
    left_out = remarks(results.cells)
    if not left_out:
        return None
    told = (
        "A figure of fewer than 30 batches is not judged, nor is one of a saturated "
        f"cell: {left_out}. Red: beyond the limit."
    )
    return tag("p", told, class_="soft")
