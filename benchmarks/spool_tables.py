"""The tables of what a spool costs."""

import json
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

import spool_disk
import spool_price as price
from figures import Table
from ringdispatch._tune._advice import figure
from runs import RESULTS, name, runs


def prices() -> list[str]:
    """Instructions of an enqueue into a file, and their ratio to one in memory."""
    sizes = [price.of(size) for size in price.SIZES]
    lines = []
    for run in runs("spool"):
        line = [name(run)]
        for size in sizes:
            memory, file = (
                run["prices"][where(size)] for where in (price.memory, price.spool)
            )
            line.append(f"{memory:,.0f}, {file:,.0f} ({figure(file / memory)})")
        lines.append(line)
    *limits, last = map(str, price.SIZES.values())
    return [
        *Table(
            ["CPython", *(f"an entry of {size}" for size in sizes)], lines
        ).markdown(),
        *paragraph(
            "Instructions of one `enqueue` with `Bytes`: in memory, in a spool's file "
            "on tmpfs, and in brackets their ratio. `make spool-price` counts them, "
            f"and fails above {', '.join(limits)} and {last}. The more bytes, the more "
            "of it is the checksum."
        ),
    ]


def figures() -> list[str]:
    """All that spool_price.py measures, beside its limits."""
    measured = runs("spool")
    of_each = [list(figures_of(run)) for run in measured]
    lines = [
        [words, *(figure(row[line][1]) for row in of_each), limit]
        for line, (words, _, limit) in enumerate(of_each[0])
    ]
    return [
        *Table(["", *map(name, measured), "limit"], lines).markdown(),
        *paragraph(
            "What has no unit is the ratio of a file to memory, first of instructions, "
            "then of processor time. What is recovered is what a process left, "
            f"{price.ORPHAN:,} entries of {price.SIZE} B. Of times the best of "
            f"{price.ROUNDS} processes counts, since other work on the machine makes "
            "them longer: even so they differ from run to run."
        ),
    ]


def figures_of(run: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
    """What each figure is, the figure, and its limit in words."""
    limits = {case: (against, most) for case, against, most, _ in price.LIMITS}
    counted = {
        f"`enqueue`, {size:,} B": price.spool(price.of(size)) for size in price.SIZES
    }
    counted |= {
        "take, settle and release a batch of one": price.spool(price.ONE),
        f"the same of a batch of {price.BATCH:,}": price.spool(price.MANY),
        f"from `enqueue` to the settled batch, {price.SIZE} B": price.spool(price.ALL),
        "take and settle a recovered entry, to an `enqueue`": price.RECOVERY,
    }
    for words, case in counted.items():
        in_memory = case.replace(price.spool(""), price.memory(""))
        against, most = limits.get(case, (in_memory, None))
        limit = "" if most is None else f"{most:.2f}"
        yield words, run["prices"][case] / run["prices"][against], limit
    timed = {
        "ns": "processor time from `enqueue` to the settled batch",
        "stall": f"the loop's longest turn, {price.ENTRIES:,} entries pending",
    }
    rate, recovery = run["full rate"], run["recovery"]
    for key, words in timed.items():
        ratio = rate["file"][key] / rate["memory"][key]
        yield words, ratio, f"{price.RATIOS[key]:.2f}"
    recovered = "million entries recovered in a second of processor time"
    yield recovered, 1e3 / recovery["ns"], f"at least {price.RATE_LIMIT:g}"
    turn = f"ms of the loop's longest turn meanwhile, `max_batch={price.BATCH:_}`"
    yield turn, recovery["stall"] / 1e6, ""
    yield "ms of it that adopting the file takes", recovery["adopt"] / 1e6, ""


def on_disk() -> list[str]:
    """How long an enqueue takes where a disk is busy."""
    found = json.loads((RESULTS / "spool_disk.json").read_text())
    heads = [f"{key}, {unit}" for key, (unit, _) in spool_disk.SHOWN.items()]
    lines = [
        [case, *(figure(one[key] / ns) for key, (_, ns) in spool_disk.SHOWN.items())]
        for case, one in found["cases"].items()
    ]
    return [
        *Table(["a spool", *heads], lines).markdown(),
        *paragraph(
            f"How long one `enqueue` took by the clock: {spool_disk.RATE:,} a second "
            f"of {spool_disk.SIZE} B, `ms_delay=100`, for {found['seconds']:g} s each, "
            f"on CPython {found['python']}, Linux {found['kernel']}, "
            f"{found['file_system']}. The program wrote and synced "
            f"{found['writer_mb_per_second']:,.0f} MB/s. What is long in memory, too, "
            "is other work on the machine. `make spool-disk` measures it where you run "
            "it, and has no limit."
        ),
    ]


def paragraph(text: str) -> list[str]:
    """Its lines, and an empty one."""
    return [*wrap(text, 88, break_on_hyphens=False), ""]
