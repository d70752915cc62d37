"""The charts of the pages, from one run of the suite."""

from dataclasses import replace

from drawing import Row, Series, lines, rows
from plan import ONE
from ringdispatch._tune._advice import figure
from ringdispatch._tune._results import Cell, Results

OURS = ("ringdispatch", "Objects", "Records", "Bytes")
MIB = 1 << 20
TIMES = "\u00d7"
DELAYS = (100.0, 10.0)  # the one that the pages recommend first
SHORT = {  # at the right end of a line there is no room for more
    "ringdispatch, Objects": "Objects",
    "ringdispatch, Records": "Records",
    "ringdispatch, Bytes": "Bytes",
    "list(deque), deque.clear": "deque",
    "SimpleQueue.get_nowait each": "SimpleQueue",
    "asyncio.Queue.get_nowait each": "asyncio.Queue",
    "asyncio.Queue and a task, by hand": "asyncio.Queue",
}


def charts(results: Results) -> dict[str, str]:
    """Every chart, by the name of its file."""
    return {
        "prices.svg": prices(results, full=False),
        "prices-full.svg": prices(results, full=True),
        "batches.svg": batches(results),
        "end-to-end.svg": end_to_end(results),
        **load(results),
        "memory.svg": memory(results),
    }


def is_ours(name: str) -> bool:
    """Whether a row is this library's."""
    return name.startswith(OURS)


def prices(results: Results, *, full: bool) -> str:
    """What one call costs on one thread, the cheapest first."""
    found = [one for one in results.prices if one.threads == 1 and one.full == full]
    return rows(
        f"Cost of enqueue, one thread, {'no room' if full else 'with room'}",
        "ns a call, logarithmic; the line ends at p99",
        [
            Row(
                one.name,
                one.ns_median,
                f"{figure(one.ns_median)} ns, {figure(one.ratio)}{TIMES}",
                is_ours(one.name),
                one.ns_p99,
            )
            for one in sorted(found, key=lambda one: one.ns_median)
        ],
        log=True,
    )


def batches(results: Results) -> str:
    """Nanoseconds for each entry against the size of the batch."""
    names = list(dict.fromkeys(one["name"] for one in results.batches))
    return lines(
        "Taking a batch",
        ("entries in the batch", "ns an entry"),
        [
            Series(
                SHORT.get(name, name),
                [
                    (one["entries"], one["ns_per_entry"])
                    for one in results.batches
                    if one["name"] == name
                ],
                is_ours(name),
            )
            for name in names
        ],
        log=True,
    )


def end_to_end(results: Results) -> str:
    """Million entries in a second of processor time, one producer, the most first."""
    found = [one for one in results.end_to_end if one["producers"] == 1]
    found.sort(key=lambda one: -one["million_per_cpu_second"])
    return rows(
        "End to end, one producer",
        "million entries in a second of processor time",
        [
            Row(
                one["name"],
                one["million_per_cpu_second"],
                f"{figure(one['million_per_cpu_second'])} M/s",
                is_ours(one["name"]),
            )
            for one in found
        ],
        log=False,
    )


def load(results: Results) -> dict[str, str]:
    """What 10 ms and 100 ms do at each rate, with a sink of 5 ms."""
    shown = {
        "batches": (
            "Entries a batch",
            "",
            lambda cell: cell.measured.entries_per_batch,
        ),
        "calls": ("Calls a second", "", lambda cell: cell.measured.calls_per_second),
        "ages": ("Age of an entry, p99", "ms", lambda cell: cell.measured.age_p99),
        "requests": (
            "Requests on the same loop, p99",
            "ms",
            lambda cell: cell.measured.request_p99,
        ),
        "cpu": (
            "Processor time",
            "s per million entries",
            lambda cell: cell.measured.cpu_seconds_per_million,
        ),
        "growth": ("Memory", "MiB", lambda cell: cell.measured.rss_growth / MIB),
    }
    found = {delay: _cells(results, delay) for delay in DELAYS}
    return {
        f"load-{name}.svg": lines(
            title,
            ("entries a second", unit),
            [
                Series(
                    f"{delay:g} ms",
                    [(cell.measured.rate, value(cell)) for cell in found[delay]],
                    ours=True,
                    dashed=delay != DELAYS[0],
                )
                for delay in DELAYS
            ],
            log=True,
        )
        for name, (title, unit, value) in shown.items()
    }


def _cells(results: Results, delay: float) -> list[Cell]:
    """Those of the plain grid with one delay, the slowest rate first."""
    found = [
        cell
        for cell in results.cells
        if replace(cell.setting, rate=ONE.rate, seconds=ONE.seconds)
        == replace(ONE, delay=delay)
    ]
    return sorted(found, key=lambda cell: cell.measured.rate)


def memory(results: Results) -> str:
    """Memory over time, with more load than the sink takes."""
    (limit,) = {one.limit for one in results.memory}
    return lines(
        "Memory, the sink too slow",
        ("seconds", "MiB"),
        [
            Series(
                SHORT.get(one.name, one.name),
                [(across, up / MIB) for across, up in one.points],
                is_ours(one.name),
            )
            for one in results.memory
        ],
        log=False,
        level=(limit / MIB, f"out of memory at {figure(limit / MIB)} MiB"),
    )
