"""Can the tuner's advice be beaten by hand? An independent judge tries.

    python benchmarks/by_hand.py [--check] [--json FILE]

For each dispatch function, rate and pair of budgets it asks the tuner, as a user would,
tries settings that an engineer would pick, and measures them all in turns under a load
of its own. It shares no measuring code with the tuner. `--check` exits with 1 where a
setting beats the advice by more than 5% of a budget, or where runs of the tuner
disagree by more.

The 45 cases take a quarter of a day. FILE is written after each; cases that it has
already are not judged again.
"""

import argparse
import asyncio
import inspect
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

from sinks import SINKS

HERE = Path(__file__).parent
RATES = (500, 2_000, 10_000)
# Milliseconds of age, calls a second.
BUDGETS = ((30.0, 60.0), (100.0, 30.0), (100.0, 15.0))
ALLOWED = 0.05  # of a budget
SECONDS = 5.0
REPEATS = 3
CAPACITY = 65_536


@dataclass(frozen=True, slots=True)
class Choice:
    """What is set."""

    ms_delay: float
    max_in_flight: int = 1
    max_batch: int | None = None
    capacity: int = CAPACITY

    def __str__(self) -> str:
        words = f"{self.ms_delay:g} ms"
        if self.max_in_flight > 1:
            words += f", {self.max_in_flight} in flight"
        if self.max_batch is not None:
            words += f", batches of {self.max_batch:,}"
        return words


@dataclass(frozen=True, slots=True)
class Outcome:
    """What it does: milliseconds, calls a second, entries."""

    age_p99: float
    calls: float
    lost: int


def by_hand(age: float) -> list[Choice]:
    """What an engineer would try with a budget of age."""
    return [
        Choice(10.0),
        Choice(50.0),
        *(Choice(age - less, slots) for less in (2.0, 5.0, 12.0) for slots in (1, 2)),
        Choice(age - 3.0, 4),
        Choice(age / 2, 4),
    ]


# ---- one measurement, in a process of its own


async def _load(name: str, rate: float, choice: Choice, seed: int) -> Outcome:
    from ringdispatch import BackgroundDispatcher

    function = SINKS[name]
    clock = time.perf_counter
    ages: list[float] = []
    calls: list[float] = []

    def note(batch: list[Any]) -> None:
        now = clock()
        calls.append(now)
        ages.extend([now - entry["due"] for entry in batch])

    if inspect.iscoroutinefunction(function):

        async def send(batch: list[Any]) -> None:
            note(batch)
            await function(batch)

    else:

        def send(batch: list[Any]) -> None:  # type: ignore[misc]
            note(batch)
            function(batch)

    dispatcher = BackgroundDispatcher(send, **asdict(choice))
    chance = random.Random(seed)
    began = due = clock()
    while due < began + SECONDS:
        now = clock()
        while due <= now:
            dispatcher.enqueue({"due": due, "size": 512})
            due += chance.expovariate(rate)
        await asyncio.sleep(max(due - clock(), 0.0))
    ended = clock()
    await dispatcher.aclose(10.0)
    seen = dispatcher.statistics()
    ages.sort()
    within = [moment for moment in calls if moment <= ended]
    return Outcome(
        age_p99=1e3 * ages[int(0.99 * (len(ages) - 1))],
        calls=(len(within) - 1) / (within[-1] - within[0]),
        lost=seen.rejected_full + seen.failed + seen.abandoned,
    )


def measure(name: str, rate: float, choice: Choice, seed: int) -> Outcome:
    """Measure a setting in a fresh process."""
    order = json.dumps([name, rate, asdict(choice), seed])
    command = [sys.executable, __file__, "--one", order]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Outcome(**json.loads(done.stdout))


# ---- the tuner


def advice(case: "Case", minutes: float, seed: int) -> tuple[Choice, bool]:
    """What the tuner recommends on its command line, and whether it meets the budgets.

    Where it says that nothing does, its nearest setting.
    """
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [
            *(sys.executable, "-m", "ringdispatch", "tune", f"sinks:{case.sink}"),
            *("--rate", f"{case.rate}", "--minutes", f"{minutes:g}"),
            *("--budget-age", f"{case.age:g}", "--budget-calls", f"{case.calls:g}"),
            *("--seed", f"{seed}", "--json", str(figures)),
            *("--report", f"{folder}/page.html"),
        ]
        subprocess.run(command, cwd=HERE, stdout=subprocess.DEVNULL, check=True)
        found = json.loads(figures.read_text())["recommendation"]
    names = ("delay", "max_in_flight", "max_batch", "capacity")
    return Choice(*(found[name] for name in names)), found["meets"]


# ---- the verdict


@dataclass(slots=True)
class Case:
    """A dispatch function, a rate and two budgets, and what was found."""

    sink: str
    rate: int
    age: float
    calls: float
    advised: list[Choice] = field(default_factory=list)
    claims: bool = False  # that the advice meets the budgets
    outcomes: dict[Choice, Outcome] = field(default_factory=dict)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Case":
        """What to_json() saved."""
        advised = [Choice(**one) for one in saved.pop("advised")]
        outcomes = {
            Choice(**one["choice"]): Outcome(**one["outcome"])
            for one in saved.pop("outcomes")
        }
        return cls(**saved, advised=advised, outcomes=outcomes)

    def to_json(self) -> dict[str, Any]:
        """What was found, for from_json()."""
        outcomes = [
            {"choice": asdict(choice), "outcome": asdict(outcome)}
            for choice, outcome in self.outcomes.items()
        ]
        # Not by asdict(self): a dict is no key.
        return {
            "sink": self.sink,
            "rate": self.rate,
            "age": self.age,
            "calls": self.calls,
            "claims": self.claims,
            "advised": [asdict(choice) for choice in self.advised],
            "outcomes": outcomes,
        }

    @property
    def key(self) -> tuple[str, int, float, float]:
        """What is asked."""
        return self.sink, self.rate, self.age, self.calls

    def miss(self, choice: Choice) -> float:
        """By which share of a budget it misses it; without end where entries are lost.

        0 where it meets both.
        """
        seen = self.outcomes[choice]
        over = max(seen.age_p99 / self.age, seen.calls / self.calls) - 1
        return inf if seen.lost else max(over, 0.0)

    def lead_of(self, choice: Choice) -> float:
        """By which share of a budget it beats the advice.

        It meets what the advice misses; or it meets both, and makes fewer calls.
        """
        ours = self.advised[0]
        lead = self.miss(ours) - self.miss(choice) if self.miss(ours) else 0.0
        if not self.miss(choice):
            saved = self.outcomes[ours].calls - self.outcomes[choice].calls
            lead = max(lead, saved / self.calls)
        return lead

    @property
    def best_by_hand(self) -> Choice:
        """The best of what was tried, advice aside."""
        others = [one for one in self.outcomes if one not in self.advised]
        return max(others, key=self.lead_of)

    @property
    def lead(self) -> float:
        """By which share of a budget the best by hand beats the advice."""
        return self.lead_of(self.best_by_hand)

    @property
    def spread(self) -> float:
        """By which share of a budget runs of the tuner differ."""
        found = [self.outcomes[one] for one in self.advised]
        return max(
            _range(one.age_p99 for one in found) / self.age,
            _range(one.calls for one in found) / self.calls,
        )

    def row(self) -> str:
        """A row of the table."""
        advised, best = self.advised[0], self.best_by_hand
        lead = f"{self.lead:.0%}" if self.lead > 0 else "-"
        return (
            f"| {self.sink} | {self.rate:,} | {self.age:g} | {self.calls:g} "
            f"| {advised}{'' if self.claims else ' (nearest)'} "
            f"| {_in_words(self.outcomes[advised])} "
            f"| {best} | {_in_words(self.outcomes[best])} | {lead} "
            f"| {self.spread:.0%} |"
        )


def load(path: Path) -> dict[tuple[str, int, float, float], Case]:
    """The cases of a file, if it is there."""
    if not path.exists():
        return {}
    cases = [Case.from_json(saved) for saved in json.loads(path.read_text())]
    return {case.key: case for case in cases}


HEAD = """\
| sink | entries/s | age, ms | calls/s | advice | does | best by hand | does \
| beats it by | runs differ by |
|---|---|---|---|---|---|---|---|---|---|"""


def _range(values: Iterable[float]) -> float:
    seen = list(values)
    return max(seen) - min(seen)


def _in_words(seen: Outcome) -> str:
    lost = f", {seen.lost:,} lost" if seen.lost else ""
    return f"{seen.age_p99:.1f} ms, {seen.calls:.1f}/s{lost}"


def _pooled(seen: list[Outcome]) -> Outcome:
    """The worst of the losses, the middle of the rest."""
    middle = sorted(seen, key=lambda one: one.age_p99)[len(seen) // 2]
    return Outcome(middle.age_p99, middle.calls, max(one.lost for one in seen))


def judge(case: Case, minutes: float, runs: int) -> None:
    """Ask the tuner, and measure its advice beside what is tried by hand."""
    for run in range(runs):
        choice, meets = advice(case, minutes, seed=run + 1)
        case.advised.append(choice)
        case.claims = meets if run == 0 else case.claims
    choices = dict.fromkeys([*case.advised, *by_hand(case.age)])
    seen: dict[Choice, list[Outcome]] = {choice: [] for choice in choices}
    for repeat in range(REPEATS):
        for choice in choices:
            seen[choice].append(measure(case.sink, case.rate, choice, 100 + repeat))
    case.outcomes = {choice: _pooled(each) for choice, each in seen.items()}


def main() -> int:
    """Judge every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--sinks", default=",".join(SINKS), help="which, with commas")
    parser.add_argument("--rates", default=",".join(map(str, RATES)))
    parser.add_argument("--minutes", type=float, default=1.0, help="for each advice")
    parser.add_argument("--runs", type=int, default=3, help="of the tuner")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.one:
        name, rate, choice, seed = json.loads(options.one)
        outcome = asyncio.run(_load(name, rate, Choice(**choice), seed))
        print(json.dumps(asdict(outcome)))
        return 0
    rates = [int(rate) for rate in options.rates.split(",")]
    known = load(options.json) if options.json else {}
    print(HEAD, flush=True)
    for sink, rate, (age, calls) in product(options.sinks.split(","), rates, BUDGETS):
        case = Case(sink, rate, age, calls)
        if case.key not in known:
            judge(case, options.minutes, options.runs)
            known[case.key] = case
            if options.json:
                saved = [one.to_json() for one in known.values()]
                options.json.write_text(json.dumps(saved, indent=1) + "\n")
        print(known[case.key].row(), flush=True)
    beaten = [case for case in known.values() if case.lead > ALLOWED]
    apart = [case for case in known.values() if case.spread > ALLOWED]
    print(f"\nbeaten by more than {ALLOWED:.0%} of a budget: {len(beaten)}")
    print(f"runs of the tuner that differ by more: {len(apart)}")
    return 1 if options.check and (beaten or apart) else 0


if __name__ == "__main__":
    sys.exit(main())
