"""The report of a run: one page that needs nothing else, with what was measured."""

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from ringdispatch._tune._format import number, plain, share, short, size
from ringdispatch._tune._plots import Axis, Line, LinePlot, Point, apart, spread, thin
from ringdispatch._tune._report import TEMPLATES, page, write
from ringdispatch._tune._results import (
    Cell,
    Expected,
    Measured,
    Memory,
    Moment,
    Predicted,
    Price,
    Results,
    Setting,
)

HOSTILE = '<script>alert("1 & 2")</script>'
MIB = 1024 * 1024
VOID = {"br", "col", "meta"}


class Page(HTMLParser):
    """Checks that what opens is closed, and collects what is there."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.words)


def cell(asked: float | None, delay: float, sink: float | None, **changed: Any) -> Cell:
    names = ("layout", "capacity", "max_batch", "max_in_flight")
    own = {name: changed.pop(name) for name in names if name in changed}
    seen = {
        "rate": asked or 1e6,
        "held": True,
        "batches": 100,
        "entries_per_batch": 100.0,
        "calls_per_second": 98.0,
        "age_p50": 5.1,
        "age_p99": 10.4,
        "age_max": 12.0,
        "stall_max": 1.0,
        "request_p99": 2.0,
        "cpu_seconds_per_million": 1.1,
        "sink_mean": 5.0,
        "peak_pending": 120,
        "rss_growth": 3 * MIB,
        "dropped": 0,
    }
    saturated = changed.pop("saturated", False)
    said = Predicted(100.0, 99.0, 5.0, 20.8, 130.0, 3.0 * MIB, saturated)
    return Cell(Setting(asked, delay, sink, **own), Measured(**seen | changed), said)


def memory(name: str = "ringdispatch", *, died: bool = False) -> Memory:
    points = [(at / 10, at * MIB) for at in range(1000)]
    verdict = "out of memory" if died else "bounded at 21 MiB after 0.7 s"
    bound = None if died else 21.0 * MIB
    return Memory(name, points, MIB, bound, bound, 0.7, 99 * MIB, died, verdict)


def price(name: str, nanoseconds: float) -> Price:
    return Price(
        name, 1, False, nanoseconds, nanoseconds, 2 * nanoseconds, nanoseconds / 20
    )


def everything(name: str = "ringdispatch, objects") -> Results:
    return Results(
        "suite",
        machine={"cpu": name, "packages": {"numpy": name}, "commit": None},
        prices=[price(name, 25.0), price("deque.append", 20.0)],
        batches=[
            {"name": name, "entries": size, "ns_per_entry": 0.3}
            for size in (1000, 2000)
        ],
        end_to_end=[
            {
                "name": name,
                "producers": 2,
                "million_per_second": 3.5,
                "million_per_cpu_second": 2.5,
            }
        ],
        cells=[
            *(cell(rate, delay, 5) for rate in (100, None) for delay in (10, 100)),
            cell(100, 10, 5, layout="bytes"),
        ],
        memory=[memory(name), memory("a list", died=True)],
        recommendation={"sentence": f"Set {name}.", "reasons": [f"For {name}."]},
    )


def plots(text: str) -> Iterator[ET.Element]:
    for drawing in re.findall(r"<svg .*?</svg>", text, re.DOTALL):
        yield ET.fromstring(drawing)


def test_the_page_is_well_formed_and_so_is_every_plot() -> None:
    text = page(everything())
    seen = Page(text)
    assert text.startswith("<!doctype html>\n")
    assert seen.tags[:2] == ["html", "head"]
    drawn = [one for one in plots(text) if one.get("role") == "img"]
    assert (
        len(drawn) == 8 + 3 + 2 + 1 + 1 + 1
    )  # grid, layouts, memory, calls, batches, end to end
    for one in drawn:
        assert len(one.get("aria-label", "")) > 20


def test_it_needs_nothing_from_outside_and_runs_nothing() -> None:
    text = page(everything())
    seen = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(seen.tags)
    assert not {"src", "href"} & {name for name, _ in seen.attributes}
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_what_comes_from_outside_stays_text() -> None:
    results = everything(HOSTILE)
    results.machine[HOSTILE] = [HOSTILE]
    results.prices.append(price(HOSTILE, 30.0))
    results.memory[0] = replace(results.memory[0], verdict=HOSTILE)
    results.cells.append(cell(None, 100, 5, layout=HOSTILE))
    text = page(results)
    seen = Page(text)
    assert set(seen.tags) == set(Page(page(everything())).tags)
    assert seen.text.count(HOSTILE) > 20
    assert HOSTILE not in text
    assert [one for one in plots(text) if HOSTILE in one.get("aria-label", "")]


HEADINGS = {
    "In short": "memory",
    "What was run": "machine",
    "The delay, and what it buys": "cells",
    "Measured against predicted": "cells",
    "10 ms against 100 ms": "cells",
    "Memory over time, with a sink slower than the load": "memory",
    "Cost of enqueue": "prices",
    "Taking a batch": "batches",
    "End to end": "end_to_end",
    "Set ringdispatch, objects.": "recommendation",
}


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_part_is_there_with_its_data_only(heading: str) -> None:
    name = HEADINGS[heading]
    bare = Results("tune", {})
    assert heading not in Page(page(bare)).words
    setattr(bare, name, getattr(everything(), name))
    assert heading in Page(page(bare)).words


def test_the_same_results_make_the_same_page(tmp_path: Path) -> None:
    write(everything(), tmp_path / "new" / "first.html")
    everything().write(tmp_path / "results.json")
    write(Results.read(tmp_path / "results.json"), tmp_path / "second.html")
    first = (tmp_path / "new" / "first.html").read_bytes()
    assert first == (tmp_path / "second.html").read_bytes()


def test_predictions_stand_beside_what_was_measured_and_are_judged() -> None:
    cells = [
        cell(100, 10, 5),
        cell(200, 10, 5, batches=29),
        cell(300, 10, 5, saturated=True, dropped=7),
        cell(400, 10, 5, held=False, rate=390.0),
    ]
    seen = Page(page(Results("suite", {}, cells=cells)))
    assert "+100.0%" in seen.words  # 20.8 ms predicted, 10.4 measured
    assert "too few" in seen.words
    assert "saturated" in seen.words
    assert "390, not held" in seen.words
    assert "age p99 within 10% in 0 of 1 cells" in seen.text
    assert "1 too few, 1 saturated, 1 rate not held" in seen.text


def test_recorded_arrivals_are_drawn_over_time_with_the_age_of_each_delay() -> None:
    moments = [
        Moment(0.5, 100.0, 12.0),
        Moment(1.5, 0.0, 0.0),
        Moment(2.5, 900.0, 80.0),
    ]
    cells = [
        Cell(
            cell(333, delay, None).setting,
            cell(333, delay, 5, moments=moments).measured,
        )
        for delay in (10, 100)
    ]
    results = Results("tune", {"budgets": {"age": 60.0}}, cells=cells)
    text = page(results)
    seen = Page(text)
    assert "Arrivals and age over time" in seen.words
    labels = [one.get("aria-label", "") for one in plots(text)]
    assert "Arrivals over 2.50 s: at most 900 entries/s, at 2.50 s." in labels
    assert [one for one in labels if "100 ms: 80.0 ms at 2.50 s" in one]
    assert "--budget-age 60" in seen.words
    assert "10 ms, 2.50 s: 80.0 ms" in seen.words
    assert "10 ms, 1.50 s: 0.00 ms" not in seen.words  # nothing arrived then
    results.machine["budgets"] = "none"
    assert "--budget-age 60" not in Page(page(results)).words


def test_moments_survive_being_written(tmp_path: Path) -> None:
    first = cell(333, 10, None, moments=[Moment(0.5, 100.0, 12.0)])
    Results("tune", {}, cells=[first]).write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json").cells == [first]


def test_calls_that_failed_have_columns_only_where_there_are_any() -> None:
    fine, broken = cell(100, 10, 5), cell(100, 100, 5, failed=5, lost=321)
    assert "lost by it" not in Page(page(Results("tune", {}, cells=[fine]))).words
    seen = Page(page(Results("tune", {}, cells=[fine, broken])))
    assert "lost by it" in seen.words
    assert {"321", "4.90"} <= set(seen.words)


def test_a_cell_without_a_prediction_is_drawn_too() -> None:
    bare = cell(100, 10, 5)
    alone = Cell(bare.setting, bare.measured)
    seen = Page(page(Results("tune", {}, cells=[alone])))
    assert "Measured" in seen.words
    assert "Measured against predicted" not in seen.words


def test_figures_of_nothing_are_drawn_too() -> None:
    nothing = cell(None, 10, None, rss_growth=-4096, stall_max=0.0, calls_per_second=0)
    assert Page(page(Results("tune", {}, cells=[nothing]))).tags


def test_a_rival_that_wins_is_shown_winning() -> None:
    results = Results("suite", {}, prices=everything().prices)
    text = page(results)
    names = re.findall(r'class="name">([^<]*)<', text)
    assert names == ["deque.append", "ringdispatch, objects"]
    assert text.count('class="row ours"') == 1
    assert "cheaper than it: deque.append (20.0 ns)" in text


def test_a_point_that_is_pointed_at_shows_its_figures() -> None:
    text = page(everything())
    said = re.findall(r'class="end said">([^<]*)<', text)
    assert "100/s, 10 ms: 10.4 ms, predicted 20.8" in said
    assert "the most, 100 ms: 2.00 ms" in said  # of requests nothing is predicted
    assert "p99 50.0 ns" in said
    assert text.count('class="spot"') == len(said) - 2  # prices say it in their row


def test_with_one_delay_there_are_no_charts_of_one_dot() -> None:
    cells = [cell(100, 10, 5), cell(200, 10, 5), cell(200, 10, 5, layout="bytes")]
    results = Results("tune", {}, cells=cells, batches=everything().batches[:1])
    text = page(results)
    assert not list(plots(text))
    assert "One delay was tried" in Page(text).text
    assert {"Measured", "Measured against predicted"} <= set(Page(text).words)
    results.cells.append(cell(200, 100, 5))
    text = page(results)
    assert "One delay was tried" not in Page(text).text
    assert len([one for one in plots(text) if one.get("role") == "img"]) == 8 + 3


def test_other_delays_are_drawn_dashed_from_their_replay(tmp_path: Path) -> None:
    measured = cell(100, 97, None, max_in_flight=2)
    learned = [cell(100, delay, None) for delay in (90, 91)]
    results = Results("tune", {}, cells=[measured, *learned])
    said = measured.predicted
    assert said is not None
    results.expected = [
        Expected(replace(measured.setting, delay=delay), said)
        for delay in (2.0, 20.0, 200.0)
    ]
    text = page(results)
    assert "Dashed: what the replay says of other delays" in Page(text).text
    first = next(one for one in plots(text) if one.get("role") == "img")
    [path] = [
        one.get("d", "") for one in first.iter() if one.get("class") == "line predicted"
    ]
    assert path.count("L") == 3  # with the measured one, four points
    assert "97 ms" in (first.get("aria-label") or "")
    assert "90 ms" not in (first.get("aria-label") or "")
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json").expected == results.expected


def test_a_sink_that_was_tried_with_one_delay_has_no_panel() -> None:
    cells = [cell(100, 10, 5), cell(100, 100, 5), cell(100, 10, 50)]
    text = page(Results("suite", {}, cells=cells))
    assert len([one for one in plots(text) if one.get("role") == "img"]) == 8
    assert "the sink takes 50 ms" not in text


def test_memory_has_its_limit_and_a_cross_where_it_ended() -> None:
    text = page(Results("suite", {}, memory=[memory(), memory("a list", died=True)]))
    assert text.count('class="cross"') == 1
    assert "limit 99.0 MiB" in text
    assert "bounded at 21 MiB after 0.7 s" in text


# ---- plots


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(
    "values",
    [[], [0.0], [7.0], [3.0, 3.1], [0.004, 90.0], [1, 1e9], [-5.0, 4.0], [-5.0]],
)
def test_every_axis_has_round_ticks_within(values: list[float], *, log: bool) -> None:
    axis = Axis.over(values, "ms", log=log)
    ticks = axis.ticks(6)
    assert 1 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    for tick in ticks:
        assert axis.low <= tick <= axis.high
        assert 0 <= axis.place(tick, 0, 100) <= 100
        assert len(short(tick)) <= 7


def test_a_plot_stays_within_its_frame() -> None:
    line = Line("a", [Point(1, 0.0), Point(10, 5.0), Point(100, 70.0)], 0)
    axis = Axis.over([1, 100], "ms", log=True)
    plot = LinePlot("a", [line], axis, Axis.over([5, 70], "ms", log=True))
    shown = plot.shown(line)
    assert len(shown) == 2  # zero has no place on a logarithmic axis
    path = plot.path(shown).removeprefix("M")
    places = [tuple(map(float, one.split())) for one in path.split("L")]
    assert all(0 <= across <= 360 and 0 <= down <= 240 for across, down in places)


def test_options_that_are_not_usual_stand_beside_those_that_are() -> None:
    """Each where it was measured: at one rate, of two."""
    results = everything()
    results.cells += [
        cell(100, 100, 5, max_batch=2_000, max_in_flight=4),
        cell(None, 10, 5, capacity=9_000),
    ]
    text = Page(page(results)).text
    assert "objects, at most 2,000 a call, 4 calls at once" in text
    assert "objects, capacity 9,000" in text
    headings = re.findall(r"<h4>([^<]*)</h4>", page(results))
    assert {"100/s, the sink takes 5 ms", "the most it holds, the sink takes 5 ms"} <= {
        *headings
    }


def test_memory_that_is_all_bounded_is_drawn_once() -> None:
    results = everything()
    results.memory = [memory()]
    assert "Bounded runs, enlarged" in Page(page(everything())).text
    assert "Bounded runs, enlarged" not in Page(page(results)).text


def test_facts_of_the_machine_may_be_several() -> None:
    results = everything()
    results.machine["peers"] = ["janus", "culsans"]
    assert "janus, culsans" in Page(page(results)).text


@pytest.mark.parametrize(("width", "count"), [(360, 9), (5, 3)])
def test_ticks_are_as_few_as_their_figures_need(width: int, count: int) -> None:
    axis = Axis.over([1, 10_000], "ms", log=True)
    assert len(apart(axis, width)) == count


def test_labels_are_moved_apart_and_stay_inside() -> None:
    places = spread([10, 11, 12, 200, 204], 20, 208)
    assert places == [20, 33, 46, 195, 208]


def test_thinning_keeps_the_end() -> None:
    points = [Point(at, at) for at in range(10_001)]
    kept = thin(points)
    assert len(kept) <= 202
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]


# ---- words


def test_figures_read_well() -> None:
    assert [number(one) for one in (7, 0.0, 0.01234, 12.34, 123456, None)] == [
        "7",
        "0",
        "0.0123",
        "12.3",
        "123,456",
        "\u2013",
    ]
    assert [number(one) for one in (float("nan"), -1.5)] == ["\u2013", "\u22121.50"]
    assert [size(one) for one in (512, 2048, 3 * MIB)] == [
        "512 B",
        "2.00 KiB",
        "3.00 MiB",
    ]
    assert [share(0.0312), share(-0.00001)] == ["+3.1%", "+0.0%"]
    assert [plain(50_000), short(50_000)] == ["50,000", "50k"]


def test_text_and_attributes_are_escaped() -> None:
    made = TEMPLATES.from_string(
        '{% from "tables.html" import text %}<p title="{{ one }}">{{ text(one) }}</p>'
    ).render(one='"<&')
    assert made == '<p title="&#34;&lt;&amp;">&#34;&lt;&amp;</p>'
