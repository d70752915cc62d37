"""Writes the tables and charts of the README and of docs/ from what was measured.

    python benchmarks/enqueue_price.py --json benchmarks/results/enqueue/3.13.json
    python benchmarks/record_price.py --json benchmarks/results/records/3.13.json
    python benchmarks/spool_price.py --json benchmarks/results/spool/3.13.json
    python benchmarks/spool_disk.py --json benchmarks/results/spool_disk.json
    python benchmarks/end_to_end.py --json benchmarks/results/end_to_end.json
    make figures  # the suite, into suite.json and sinks.json there, and then this
    make fanin-costs ARGS="--json benchmarks/results/scale_nats.json"
    make ends  # the servers, into benchmarks/results/servers.json, and then this
    python benchmarks/tables.py [--check]

`--check` changes nothing and exits with 1 where a page is out of step.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import figures
import scale_tables
import server_table
import spool_tables
from charts import charts
from drawing import STYLE
from peers import PEERS
from plan import DELAYS, FUNCTIONS, ONE, RATES
from promises import table as promises
from ringdispatch._tune._advice import advice, figure, versus
from ringdispatch._tune._grid import function_name
from ringdispatch._tune._results import Cell, Results, Setting
from runs import RESULTS, name, runs
from sinks import SINKS

ROOT = Path(__file__).resolve().parent.parent

COLUMNS = {
    "enqueue(entry)": "`enqueue(entry)`",
    "enqueue(entry, context)": "with a context",
    "full, drop_newest": "ring full",
    "SimpleQueue.put": "`SimpleQueue.put`",
    "asyncio.Queue.put_nowait": "`asyncio.Queue.put_nowait`",
}


def rows(heads: list[str], cells: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    ruled = [heads, ["---"] * len(heads), *cells]
    return ["| " + " | ".join(line) + " |" for line in ruled] + [""]


def enqueue_range() -> list[str]:
    """The cheapest and the dearest of the interpreters, in a sentence."""
    found = [run["prices"] for run in runs("enqueue")]
    prices = [one["enqueue(entry)"] for one in found]
    ratios = [one["enqueue(entry)"] / one["deque.append"] for one in found]
    took = f"{min(prices):,.0f} to {max(prices):,.0f} instructions"
    ratio = f"{figure(min(ratios))} to {figure(max(ratios))}"
    return [
        f"`enqueue` takes {took}, {ratio} times `deque.append` in the same",
        "interpreter ([all versions](docs/benchmarks.md#instructions-of-one-call)).",
        "",
    ]


def enqueue_prices() -> list[str]:
    """Instructions of an enqueue, and their ratio to an append."""
    cells = []
    for run in runs("enqueue"):
        prices = run["prices"]
        append = prices["deque.append"]
        ratios = [f"{prices[c]:,.0f} ({figure(prices[c] / append)})" for c in COLUMNS]
        cells.append([name(run), f"{append:,.0f}", *ratios])
    return [
        *rows(["CPython", "`deque.append`", *COLUMNS.values()], cells),
        "Instructions per call, as callgrind counts them around the loop alone, the",
        "empty loop taken off; in brackets the ratio to `deque.append` in the same",
        "interpreter.",
        "",
    ]


def layout_prices() -> list[str]:
    """End to end, stalls and memory, and instructions of a row."""
    found = json.loads((RESULTS / "end_to_end.json").read_text())
    delays = [group for group in found if group.endswith(" ms")]
    cells = []
    columns = {
        "million_per_second": "clock",
        "million_per_cpu_second": "processor",
        "longest_stall_ms": "longest stall, ms",
    }
    for case in found[delays[0]]:
        line = [case]
        for delay in delays:
            one = found[delay][case]
            line += [figure(one[column]) for column in columns]
        cells.append(line)
    heads = ["million entries a second"]
    for delay in delays:
        first, *others = columns.values()
        heads += [f"{delay}: {first}", *others]
    at_once = [
        [
            case,
            figure(one["longest_stall_ms"]),
            figure(found["memory"][case]["bytes_per_entry"]),
        ]
        for case, one in found["at once"].items()
    ]
    prices = [
        [name(run), *(f"{price:,.0f}" for price in run["prices"].values())]
        for run in runs("records")
    ]
    cases = [f"`{case}`" for case in runs("records")[0]["prices"]]
    return [
        f"End to end, on CPython {found['python']}: one thread makes entries of four",
        "numbers and enqueues them at full rate on the event loop; they are batched,",
        "dispatched to a function that counts or encodes them, and freed. Rates are by",
        "the clock and by the processor time of all threads, until the last entry was",
        "dispatched. A stall is the longest time that the loop was blocked while the",
        "thread made entries.",
        "",
        *rows(heads, cells),
        "A million pending entries that go out at once, and the resident memory of a",
        "full ring of a million, for each entry (of records, in both buffers):",
        "",
        *rows(["", "longest stall, ms", "memory, B"], at_once),
        "Instructions of one call, for a row of four numbers or a line of 61 bytes:",
        "",
        *rows(["CPython", *cases], prices),
        "`benchmarks/end_to_end.py` and `benchmarks/record_price.py` measure them.",
        "",
    ]


@cache
def suite() -> Results:
    """One run of the suite."""
    return Results.read(RESULTS / "suite.json")


def machine() -> list[str]:
    """Where the figures of the suite come from."""
    seen = suite().machine
    packages = [
        f"{name} {version}"
        for name, version in seen["packages"].items()
        if version != "not installed"
    ]
    lines = [
        f"{seen['cpu']}, {seen['cores']} cores, {seen['memory']} of memory;",
        f"{seen['system']}; Python {seen['python']};",
        f"commit {seen['commit']}, seed {seen['seed']}, {seen['date']};",
        f"mode: {seen['mode']}.",
        f"Packages: {', '.join(packages)}.",
    ]
    if seen["not installed"]:
        lines.append(f"Not installed: {', '.join(seen['not installed'])}.")
    return [*lines, ""]


def peers() -> list[str]:
    """The cost of `enqueue`."""
    return [
        *figures.peers(suite(), full=False).markdown(),
        *figures.peers(suite(), full=True).markdown(),
    ]


def more() -> list[str]:
    """What each peer does beyond storing an entry."""
    named = [peer for peer in PEERS if peer.more]
    return rows(["", "does more than ours"], [[one.name, one.more] for one in named])


def grid() -> list[str]:
    """10 ms against 100 ms."""
    lines = []
    for rate in RATES:
        chosen = cells(lambda one, rate=rate: one.rate == rate and is_plain(one))
        if chosen:
            said = "All it holds" if rate is None else f"{rate:,.0f} entries a second"
            lines += [f"{said}:", "", *table(chosen, "sink, delay", sink_and_delay)]
    return lines


def delays() -> list[str]:
    """Every delay at one rate."""
    chosen = cells(lambda one: alike(one, delay=ONE.delay))
    chosen.sort(key=lambda cell: cell.setting.delay)
    return table(chosen, "delay", lambda one: f"{one.delay:g} ms")


def variants() -> list[str]:
    """The layouts, and small batches, at one rate."""
    chosen = cells(
        lambda one: (
            alike(one, delay=ONE.delay, layout=ONE.layout, max_batch=None)
            and one.delay in DELAYS
        )
    )
    return table(chosen, "layout, delay", layout_and_delay)


def is_plain(one: Setting) -> bool:
    """Whether it is of the grid of the two delays."""
    return one.delay in DELAYS and one.layout == "objects" and one.max_batch is None


def alike(one: Setting, **apart: Any) -> bool:
    """Whether it is the one setting, apart from some of its options."""
    return replace(one, seconds=ONE.seconds, **apart) == ONE


def cells(wanted: Callable[[Setting], bool]) -> list[Cell]:
    """The cells whose setting is wanted."""
    return [cell for cell in suite().cells if wanted(cell.setting)]


def sink_and_delay(one: Setting) -> str:
    """What differs at one rate."""
    sink = f"`{function_name(one)}`" if one.sink is None else f"{one.sink:g} ms"
    return f"{sink}, {one.delay:g} ms"


def layout_and_delay(one: Setting) -> str:
    """What differs between variants."""
    small = "" if one.max_batch is None else f", `max_batch={one.max_batch:_}`"
    return f"{one.layout}, {one.delay:g} ms{small}"


def table(chosen: list[Cell], head: str, words: Callable[[Setting], str]) -> list[str]:
    """What was measured of some cells."""
    return figures.cells(chosen, [head], lambda one: [words(one)]).markdown()


def predictions() -> list[str]:
    """How far off the model is."""
    lines = [f"- {line}" for line in figures.accuracy(suite())]
    return [*lines, "", *figures.off(suite()).markdown()]


def functions() -> list[str]:
    """10 ms against 100 ms, with dispatch functions as services have them."""
    path = RESULTS / "sinks.json"
    measured = Results.read(path).cells
    lines = []
    for function in FUNCTIONS:
        chosen = [cell for cell in measured if cell.setting.function == function]
        does = (SINKS[function_name(chosen[0].setting)].__doc__ or "").split(".")[0]
        lines += versus(does, chosen)
    return lines


def recommended() -> list[str]:
    """What the tuner says of the delays."""
    found = suite().recommendation
    if found is None:
        return ["Not asked.", ""]
    return [found["sentence"], "", *(f"- {why}" for why in found["reasons"]), ""]


PAGES: dict[str, dict[str, Callable[[], list[str]]]] = {
    "README.md": {"price": enqueue_range},
    "docs/benchmarks.md": {
        "machine": machine,
        "prices": enqueue_prices,
        "spool": spool_tables.figures,
        "peers": peers,
        "more": more,
        "batches": lambda: figures.batches(suite()).markdown(),
        "end-to-end": lambda: figures.end_to_end(suite()).markdown(),
        "grid": grid,
        "delays": delays,
        "variants": variants,
        "memory": lambda: figures.memory(suite()).markdown(),
        "predictions": predictions,
        "recommended": recommended,
    },
    "docs/durability.md": {
        "spool-disk": spool_tables.on_disk,
        "spool-prices": spool_tables.prices,
    },
    "docs/guarantees.md": {"tests": promises},
    "docs/layouts.md": {"layouts": layout_prices},
    "docs/scale.md": {"costs": scale_tables.costs, "fleets": scale_tables.fleets},
    "docs/servers.md": {
        "ends": server_table.ends,
        "in-task": server_table.in_task,
        "with-spool": server_table.with_spool,
        "how": server_table.how,
    },
    "docs/tuning.md": {"advice": lambda: advice(suite()), "sinks": functions},
}
IMAGES = ROOT / "docs" / "images"
DRAWN = ("way", "ring", "objects", "records", "bytes")


def pictures() -> dict[str, Callable[[], str]]:
    """The charts, and the pictures drawn by hand in the one style of all."""
    made = {name: lambda text=text: text for name, text in charts(suite()).items()}
    made |= {f"{name}.svg": lambda name=name: restyled(name) for name in DRAWN}
    made["scale.svg"] = scale_tables.picture
    return {f"docs/images/{name}": make for name, make in made.items()}


def restyled(name: str) -> str:
    """A picture as it is drawn, with the style of today."""
    before, rest = (IMAGES / f"{name}.svg").read_text().split("<style>")
    return f"{before}<style>{STYLE}</style>{rest.split('</style>')[1]}"


def with_tables(text: str, tables: dict[str, Callable[[], list[str]]]) -> str:
    """A page with its tables made anew."""
    for marker, make in tables.items():
        begin, end = f"<!-- {marker}:begin -->\n", f"<!-- {marker}:end -->\n"
        before, rest = text.split(begin)
        text = before + begin + "\n".join(make()) + end + rest.split(end)[1]
    return text


def main() -> int:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    options = parser.parse_args()
    behind = 0
    for page, make in {**PAGES, **pictures()}.items():
        path = ROOT / page
        text = path.read_text() if path.exists() else ""
        try:
            fresh = make() if callable(make) else with_tables(text, make)
        except FileNotFoundError as error:
            print(f"{page}: {error.filename} is missing: see benchmarks/tables.py")
            behind += 1
            continue
        if options.check and fresh != text:
            print(f"{page} is out of step: run benchmarks/tables.py")
            behind += 1
        elif fresh != text:
            path.write_text(fresh)
    return min(behind, 1)


if __name__ == "__main__":
    sys.exit(main())
