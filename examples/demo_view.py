"""The demo's live view: a panel, or lines where nobody looks."""

import argparse
import time
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SAMPLES_PER_SECOND = 4
BARS = " ▁▂▃▄▅▆▇█"
# The statistics that count entries which the sink did not get.
LOSSES = (
    "failed",
    "evicted",
    "abandoned",
    "rejected_full",
    "rejected_closed",
    "rejected_oversized",
)

Statistics = dict[str, float]


@dataclass(frozen=True)
class Sample:
    """The state of things at one moment."""

    at: float
    answered: int
    memory: int
    statistics: Statistics

    @property
    def taken(self) -> float:
        seen = self.statistics
        return seen["dispatched"] + seen["failed"] + seen["in_flight"]

    @property
    def dropped(self) -> float:
        return sum(self.statistics[name] for name in LOSSES)


class View:
    """What is shown while the traffic runs: a panel, or lines where nobody looks."""

    FORMATS: ClassVar = {
        "requests/s": "{:,.0f}",
        "entries/batch": "{:,.1f}",
        "calls/s": "{:,.1f}",
        "oldest entry": "{:,.1f} ms",
        "pending": "{:,.0f}",
        "memory": "{:,.1f} MB",
        "drops": "{:,.0f}",
    }

    def __init__(self, console: Console, options: argparse.Namespace) -> None:
        self.console = console
        self.options = options
        self.samples: deque[Sample] = deque(maxlen=SAMPLES_PER_SECOND + 1)
        self.now = dict.fromkeys(self.FORMATS, 0.0)
        self.highest = dict.fromkeys(self.FORMATS, 0.0)
        self.rates: deque[float] = deque(maxlen=60)
        self.lines = 0
        self.began = time.monotonic()

    def forget(self) -> None:
        """Begin anew, with another process."""
        self.samples.clear()
        self.now = dict.fromkeys(self.FORMATS, 0.0)

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        first = self.samples[0]
        seconds = sample.at - first.at
        if not seconds:
            return
        batches = sample.statistics["batches"] - first.statistics["batches"]
        self.now = {
            "requests/s": (sample.answered - first.answered) / seconds,
            "entries/batch": (sample.taken - first.taken) / batches if batches else 0.0,
            "calls/s": batches / seconds,
            "oldest entry": 1000 * sample.statistics["oldest_age_seconds"],
            "pending": sample.statistics["pending"],
            "memory": sample.memory / 1e6,
            "drops": sample.dropped,
        }
        for name, value in self.now.items():
            self.highest[name] = max(self.highest[name], value)
        self.rates.append(self.now["requests/s"])

    def line(self, elapsed: float) -> str:
        shown = (f"{n} {form.format(self.now[n])}" for n, form in self.FORMATS.items())
        return f"{elapsed:5.1f} s   " + "   ".join(shown)

    def panel(self, elapsed: float) -> Panel:
        options = self.options
        table = Table(box=None, expand=True)
        table.add_column("", style="dim")
        table.add_column("now", justify="right", style="bold")
        table.add_column("highest", justify="right", style="dim")
        for name, form in self.FORMATS.items():
            style = "red" if name == "drops" and self.now[name] else ""
            table.add_row(
                name,
                form.format(self.now[name]),
                form.format(self.highest[name]),
                style=style,
            )
        top = max(self.rates, default=0.0) or 1.0
        bars = "".join(BARS[round(rate / top * (len(BARS) - 1))] for rate in self.rates)
        progress = ProgressBar(
            options.seconds, min(elapsed, options.seconds), width=len(BARS) * 6
        )
        return Panel(
            Group(table, Text(), Text(bars, style="cyan"), progress),
            title=f"{options.delay:g} ms · {options.clients} clients · "
            f"{options.entries} to a request · {options.layout}",
            width=64,
        )

    def show(self, elapsed: float, live: Live | None) -> None:
        if live is not None:
            live.update(self.panel(elapsed), refresh=True)
        elif elapsed >= self.lines + 1:
            self.lines = int(elapsed)
            print(self.line(elapsed), flush=True)
