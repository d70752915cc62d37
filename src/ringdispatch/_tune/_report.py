"""Writes a run as one page of HTML: no script, no network, no other file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ._figures import (
    BASELINE,
    batch_figures,
    end_to_end_figures,
    memory_figures,
    ours,
    price_figures,
)
from ._format import number, short
from ._grid import grid_figures, variant_figures
from ._over_time import over_time_figures
from ._results import Price, Results
from ._tables import (
    Table,
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

# Names come from users and their files: autoescape keeps them text.
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["short"] = short


def write(results: Results, path: Path) -> None:
    """Write the report, without the parts that were not measured.

    Args:
        results: The suite's or the tuner's.
        path: Of the page; missing folders are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results), encoding="utf-8")


def page(results: Results) -> str:
    """The whole page."""
    machine, cells = results.machine, results.cells
    predicted = [one for one in cells if one.predicted]
    return TEMPLATES.get_template("page.html").render(
        title=TITLES.get(results.kind, results.kind),
        run=[
            str(machine[name])
            for name in ("date", "cpu", "python", "commit")
            if machine.get(name)
        ],
        recommendation=results.recommendation,
        findings=_findings(results),
        machine=machine_facts(results),
        cells=cells,
        over_time=cells and over_time_figures(cells, _age_budget(machine)),
        grid=cells and grid_figures(cells, results.expected),
        expected=results.expected,
        variants=cells and variant_figures(cells),
        memory=results.memory and memory_figures(results.memory),
        prices=results.prices and price_figures(results.prices),
        batches=batch_figures(results.batches),
        end_to_end=results.end_to_end and end_to_end_figures(results.end_to_end),
        versus=versus_table(cells),
        measured=cells and measured_table(cells),
        model=model_table(cells),
        predicted=predicted and predicted_table(predicted),
        remarks=remarks(cells),
        others=_other_tables(results),
    )


def _age_budget(machine: Mapping[str, Any]) -> float | None:
    """The limit of ages that the user gave."""
    budgets = machine.get("budgets")
    return budgets.get("age") if isinstance(budgets, Mapping) else None


def _findings(results: Results) -> list[tuple[str, str]]:
    """The findings: subject and words."""
    found = [(one.name, one.verdict) for one in results.memory]
    found += _call_in_words(results.prices)
    if model := model_in_words(results.cells):
        found.append(("Predicted against measured", model))
    return found


def _call_in_words(prices: Sequence[Price]) -> list[tuple[str, str]]:
    """The cost of our cheapest call, and the others that are cheaper."""
    alike = [one for one in prices if one.threads == 1 and not one.full]
    own = [one for one in alike if ours(one.name)]
    if not own:
        return []
    best = min(own, key=lambda one: one.ns_median)
    cheaper = sorted(
        (one for one in alike if not ours(one.name) and one.ns_median < best.ns_median),
        key=lambda one: one.ns_median,
    )
    names = ", ".join(f"{one.name} ({number(one.ns_median)} ns)" for one in cheaper)
    rivals = f"cheaper than it: {names}" if names else "none of the others is cheaper"
    price = f"{number(best.ns_median)} ns a call, {number(best.ratio)} times {BASELINE}"
    return [(best.name, f"{price}; {rivals}")]


def _other_tables(results: Results) -> list[Table]:
    tables = []
    if results.runs:
        tables.append(plain_table(results.runs, "The runs, in their order"))
    if results.memory:
        tables.append(memory_table(results.memory))
    if results.prices:
        tables.append(price_table(results.prices))
    if results.batches:
        tables.append(plain_table(results.batches, "Taking a batch"))
    if results.end_to_end:
        tables.append(plain_table(results.end_to_end, "End to end"))
    return tables
