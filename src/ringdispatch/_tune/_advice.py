"""What the grid says about the usual advice: 10 ms for very high traffic, else 100 ms.

`benchmarks/tables.py` writes it into docs/tuning.md.
"""

from collections.abc import Sequence

from ._model import MIB, errors
from ._results import Cell, Measured, Results

SHORT, LONG = 10.0, 100.0
# Entries that make a call worth while: fewer are hardly a batch.
FEW = 3.0
# A prediction that is too low by this share is a sign of other work on the machine.
DISTURBED = 0.25

# Of a figure, as a share: repeats of a cell differ by as much.
ASSUMED_NOISE = 0.2
# Milliseconds, of requests: repeats of a cell differ by less.
REQUEST_GRAIN = 0.25
# Cores: what the probes take without a load is subtracted; it varies by this much.
CPU_NOISE = 0.1

# The figures that are compared, and their names in the table.
FIGURES = (
    ("entries_per_batch", "entries a batch"),
    ("calls_per_second", "calls/s"),
    ("age_p99", "age p99, ms"),
    ("request_p99", "request p99, ms"),
    ("stall_max", "longest stall, ms"),
    ("cpu_seconds_per_million", "CPU s per million"),
    ("rss_growth", "memory, MiB"),
)

# Measured with 10 ms and with 100 ms, all else alike.
Pair = tuple[Measured, Measured]


def advice(results: Results) -> list[str]:
    """Return Markdown: what each delay does and costs, and from which rate it pays.

    Args:
        results: A suite's, with both delays at several rates and sinks.
    """
    pairs = _pairs(results.cells)
    if not pairs:
        return ["The grid has no cells with both delays.", ""]
    disturbed = sum(_is_disturbed(cell) for cell in results.cells)
    sinks = sorted({sink for sink, _ in pairs})
    one = sinks[len(sinks) // 2]
    alike = {rate: pairs[sink, rate] for sink, rate in pairs if sink == one}
    lines = _table(f"With a sink that takes {one:g} ms", alike)
    lines += ["What the whole grid says of the advice:", ""]
    if disturbed:
        lines += [f"- {_warning(disturbed, len(results.cells))}"]
    lines += [f"- {line}" for line in _findings(pairs)]
    return [*lines, ""]


def versus(name: str, cells: Sequence[Cell]) -> list[str]:
    """Return Markdown: the two delays with one dispatch function.

    Args:
        name: Of the function, as the beginning of a sentence.
        cells: Its own, with both delays at each rate.
    """
    found: dict[float | None, dict[float, Measured]] = {}
    for cell in cells:
        found.setdefault(cell.setting.rate, {})[cell.setting.delay] = cell.measured
    return _table(name, {rate: (two[SHORT], two[LONG]) for rate, two in found.items()})


def _is_disturbed(cell: Cell) -> bool:
    """Whether entries got older than the delay and the sink explain."""
    off = errors(cell)
    return not isinstance(off, str) and off["age_p99"] < -DISTURBED


def _warning(disturbed: int, cells: int) -> str:
    return (
        f"Read with care: in {disturbed} of {cells} cells entries got older than delay "
        "and sink explain, by more than a third. The machine had other work to do, and "
        "what follows may be its noise."
    )


def _pairs(cells: Sequence[Cell]) -> dict[tuple[float, float | None], Pair]:
    """By sink and rate; the fastest rate, which is None, last."""
    found: dict[tuple[float, float | None], dict[float, Measured]] = {}
    for cell in cells:
        one = cell.setting
        plain = one.layout == "objects" and one.max_batch is None
        if plain and one.sink is not None and one.delay in {SHORT, LONG}:
            found.setdefault((one.sink, one.rate), {})[one.delay] = cell.measured
    both = {key: two for key, two in found.items() if len(two) == 2}
    ordered = sorted(both, key=lambda key: (key[0], key[1] is None, key[1] or 0.0))
    return {key: (both[key][SHORT], both[key][LONG]) for key in ordered}


def _table(name: str, pairs: dict[float | None, Pair]) -> list[str]:
    """A row for each rate: with 10 ms, then with 100 ms."""
    lines = [
        f"{name}, {SHORT:g} ms → {LONG:g} ms:",
        "",
        "| entries/s | " + " | ".join(words for _, words in FIGURES) + " |",
        "|---" * (1 + len(FIGURES)) + "|",
    ]
    for rate, pair in pairs.items():
        cells = [_rate(rate, pair)]
        for key, _ in FIGURES:
            unit = MIB if key == "rss_growth" else 1
            short, long = (figure(getattr(one, key) / unit) for one in pair)
            cells.append(f"{short} → {long}")
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def figure(value: float) -> str:
    """Three digits, or all before the point; at most two after it."""
    for digits, limit in ((2, 9.995), (1, 99.95)):
        if abs(value) < limit:
            return f"{value:,.{digits}f}"
    return f"{value:,.0f}"


def _rate(rate: float | None, pair: Pair) -> str:
    if rate is not None:
        return f"{rate:,.0f}"
    return f"all it holds: {min(one.rate for one in pair):,.0f} or more"


def _findings(pairs: dict[tuple[float, float | None], Pair]) -> list[str]:
    sinks = sorted({sink for sink, _ in pairs})
    return [
        *(
            _pays(sink, {r: pairs[s, r] for s, r in pairs if s == sink})
            for sink in sinks
        ),
        *_price(pairs),
        *_slow_sinks(pairs),
        *_hardly_batches(pairs),
    ]


def _pays(sink: float, pairs: dict[float | None, Pair]) -> str:
    """From which rate on 10 ms serves requests faster, at every higher rate too."""
    first = None
    for rate, pair in reversed(pairs.items()):
        if not _slower(pair):
            break
        first = rate, pair
    where = f"Sink of {sink:g} ms:"
    if first is None:
        _, (short, long) = list(pairs.items())[-1]
        return (
            f"{where} {SHORT:g} ms does not serve requests faster at any rate, beyond "
            f"the noise; at the highest their p99 is {figure(short.request_p99)} ms "
            f"with {SHORT:g} ms and {figure(long.request_p99)} ms with {LONG:g} ms."
        )
    rate, (short, long) = first
    said = f"from {rate:,.0f}/s on" if rate is not None else "only at the highest rate"
    return (
        f"{where} {SHORT:g} ms pays {said}: requests take "
        f"{figure(short.request_p99)} ms at p99 instead of "
        f"{figure(long.request_p99)} ms."
    )


def _slower(pair: Pair) -> bool:
    """Whether requests are slower with the longer delay, beyond the noise."""
    short, long = pair
    noise = max(REQUEST_GRAIN, ASSUMED_NOISE * short.request_p99)
    return long.request_p99 > short.request_p99 + noise


def _price(pairs: dict[tuple[float, float | None], Pair]) -> list[str]:
    """The costs of the shorter and of the longer delay, where the sink is fast."""
    fast = min(sink for sink, _ in pairs)
    lines = []
    for (sink, rate), (short, long) in pairs.items():
        if sink != fast or rate is None:
            continue
        calls = short.calls_per_second / long.calls_per_second
        more = round((long.rss_growth - short.rss_growth) / MIB, 1)
        lines.append(
            f"At {rate:,.0f}/s, {SHORT:g} ms makes {calls:.1f} times the calls, at "
            f"{_processor_time(short, long)}; "
            f"with {LONG:g} ms entries get {long.age_p99:,.0f} ms old (p99) instead of "
            f"{short.age_p99:,.0f}{_growth(more)}."
        )
    return lines


def _growth(mebibytes: float) -> str:
    if not mebibytes:
        return ", and memory is the same"
    more = "more" if mebibytes > 0 else "less"
    return f", and memory grows by {abs(mebibytes):,.1f} MiB {more}"


def _processor_time(short: Measured, long: Measured) -> str:
    cores = 1e-6 * (
        short.rate * short.cpu_seconds_per_million
        - long.rate * long.cpu_seconds_per_million
    )
    if abs(cores) < CPU_NOISE:
        return f"a difference of less than {CPU_NOISE:g} of a core"
    return f"{abs(cores):.1f} of a core {'more' if cores > 0 else 'less'}"


def _slow_sinks(pairs: dict[tuple[float, float | None], Pair]) -> list[str]:
    """Where a call takes longer than the short delay, the call sets the pace."""
    slow = [key for key in pairs if key[0] > SHORT and key[1] is not None]
    if not slow:
        return []
    sink, (short, _) = slow[-1][0], pairs[slow[-1]]
    line = (
        f"A sink that takes {sink:g} ms sets the pace, not {SHORT:g} ms: with one call "
        f"at a time there are {figure(short.calls_per_second)} calls/s, and entries "
        f"get {figure(short.age_p99)} ms old (p99), as with a delay of {sink:g} ms."
    )
    return [line]


def _hardly_batches(pairs: dict[tuple[float, float | None], Pair]) -> list[str]:
    """The highest rate at which 10 ms hardly makes batches."""
    few = [
        (rate, short)
        for (sink, rate), (short, _) in pairs.items()
        if rate is not None and sink <= SHORT and short.entries_per_batch < FEW
    ]
    if not few:
        return []
    rate, short = max(few, key=lambda one: one[0])
    line = (
        f"At {rate:,.0f}/s and below, {SHORT:g} ms hardly makes batches: "
        f"{short.entries_per_batch:.1f} entries to a call."
    )
    return [line]
