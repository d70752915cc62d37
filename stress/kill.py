"""Kill processes that spool, at drawn moments, and account for every entry.

    python stress/kill.py [--kills 60] [--seed 1] [--folder DIRECTORY]

Processes with producer threads share one spool, one or two at a time; each is killed by
SIGKILL while it starts, in traffic, or while it recovers what others left. The last one
dispatches what is left and ends. Exits with 1 unless

- every entry whose `enqueue` returned True was given to a dispatch function that
  returned, or raised,
- nothing else was, but for one entry per thread, accepted and killed before it counted,
- what was given twice was in flight when a process died, at most `max_in_flight`
  batches each, not settled before, and came with the id of the first time,
- with one call at a time, the entries of a thread come in order, doubles aside,
- the last process leaves no file, and no file was damaged.

It asks for a minimum of entries and of doubles, so that it can't pass on nothing.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kill_worker import NAME, PRODUCERS

WORKER = Path(__file__).with_name("kill_worker.py")
SINKS = ["good", "good", "slow", "hanging", "failing"]
START_SECONDS = 30.0
MOST_DEATHS = 5
# So many at least, for each kill.
ENTRIES_A_KILL = 50
DOUBLES_A_KILL = 0.1


class WrongError(Exception):
    """What the judge has found."""


@dataclass
class Process:
    """One that was killed, and how it was made."""

    number: int
    sink: str
    max_in_flight: int


@dataclass
class Call:
    """One call of a dispatch function, as its sink noted it."""

    process: int
    batch_id: str
    recovered: bool
    attempts: int
    entries: list[bytes]
    is_done: bool = False  # it returned, or raised
    is_settled: bool = False  # the process noted something after that


@dataclass
class Verdict:
    """What an inspection has counted."""

    kills: int
    accepted: int
    doubles: int
    own: int  # the last process's, and what that recovered
    recovered: int
    kept: int

    def demand_enough(self, doubles_a_kill: float = DOUBLES_A_KILL) -> None:
        """Raise where so little happened that nothing was tested."""
        if self.accepted < ENTRIES_A_KILL * self.kills:
            raise WrongError(f"only {self.accepted} entries were accepted")
        if self.doubles < doubles_a_kill * self.kills:
            raise WrongError(f"only {self.doubles} batches came twice")


class Trial:
    """A folder, the processes that were killed in it, and what they noted."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.processes: list[Process] = []
        self.books = 0, 0  # the last process's, own and recovered
        self._drawn = random.Random(seed)

    # ---- killing

    def round(self) -> None:
        """Start one or two processes, and kill each."""
        drawn = self._drawn
        running = [self._start() for _ in range(drawn.choice([1, 1, 2]))]
        for process in running:
            if drawn.random() < 0.2:  # while it starts, or finds what others left
                time.sleep(drawn.uniform(0, 0.3))
            else:
                self._await_ready(process)
                time.sleep(drawn.uniform(0, drawn.choice([0.01, 0.1, 0.4])))
            if process.poll() is not None:
                raise WrongError(f"a process ended by itself: {process.returncode}")
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        number = len(self.processes) + 1
        made = Process(number, self._drawn.choice(SINKS), self._drawn.choice([1, 1, 4]))
        self.processes.append(made)
        self._accepted(number).write_bytes(bytes(8 * PRODUCERS))
        return self._run(made)

    def _run(self, made: Process) -> subprocess.Popen[str]:
        options = [
            str(self.folder),
            str(made.number),
            made.sink,
            f"{made.max_in_flight}",
        ]
        return subprocess.Popen(
            [sys.executable, str(WORKER), *options],
            stdout=subprocess.PIPE,
            text=True,
        )

    def _await_ready(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        if line != "ready\n":
            raise WrongError(f"a process did not start: {line!r}, {process.wait()}")

    def _accepted(self, number: int) -> Path:
        return self.folder / f"accepted.{number}"

    def finish(self) -> Verdict:
        """Have a last process dispatch what is left; judge all that was noted."""
        last = self._run(Process(0, "good", 1))
        out, _ = last.communicate()
        if last.returncode:
            raise WrongError(f"the last process ended with {last.returncode}")
        own, recovered = map(int, out.split())
        self.books = own, recovered
        return self.judge()

    # ---- judging

    def _judge_files(self) -> int:
        kept = 0
        for path in (self.folder / "spool" / NAME).iterdir():
            if path.suffix == ".spool":
                raise WrongError(f"the last process has left {path}")
            kept += path.suffix == ".bad"
        for path in self.folder.glob("log.*"):
            text = path.read_text()
            if "is damaged" in text or "intact" in text or "Traceback" in text:
                if "ConnectionError" in text and "intact" not in text:
                    continue  # a failing sink's
                raise WrongError(f"{path}: {text[:2000]}")
        return kept

    def _calls(self) -> list[Call]:
        """Every call, in order; the last process's at the end."""
        calls = []
        numbers = [process.number for process in self.processes]
        for number in [*numbers, 0]:
            path = self.folder / f"calls.{number}"
            lines = path.read_bytes().splitlines() if path.exists() else []
            if lines and not lines[-1].endswith(b" ."):
                lines.pop()  # killed within the write
            calls += _calls_of(number, lines)
        return calls

    def judge(self) -> Verdict:
        """Judge what all have noted."""
        own, recovered = self.books
        kept = self._judge_files()
        calls = self._calls()
        ids: dict[bytes, set[str]] = defaultdict(set)
        for call in calls:
            for entry in call.entries:
                ids[entry].add(call.batch_id)
        accepted = self._judge_entries(ids, own)
        for entry, seen in ids.items():
            if len(seen) > 1:
                raise WrongError(f"{entry!r} came with the ids {sorted(seen)}")
        doubles = self._judge_doubles(calls)
        self._judge_order(calls)
        there = sum(len(call.entries) for call in calls if call.process == 0)
        if there != own + recovered:
            raise WrongError(
                f"the last: {there} noted, {own} + {recovered} in its books"
            )
        return Verdict(len(self.processes), accepted, doubles, own, recovered, kept)

    def _judge_entries(self, ids: dict[bytes, set[str]], own: int) -> int:
        known = {b"0.0.%d" % number for number in range(own)}
        total = 0
        for process in self.processes:
            data = self._accepted(process.number).read_bytes()
            for which, count in enumerate(memoryview(data).cast("Q")):
                total += count
                mine = [b"%d.%d.%d" % (process.number, which, n) for n in range(count)]
                lost = [entry for entry in mine if entry not in ids]
                if lost:
                    raise WrongError(f"{len(lost)} entries were lost: {lost[:10]!r}")
                known.update(mine)
                # Accepted, and killed before it was counted.
                known.add(b"%d.%d.%d" % (process.number, which, count))
        unknown = ids.keys() - known
        if unknown:
            raise WrongError(
                f"{len(unknown)} were never accepted: {sorted(unknown)[:10]}"
            )
        return total

    def _judge_doubles(self, calls: list[Call]) -> int:
        """Count the batches that came again; only one in flight at a death may."""
        times = Counter(call.batch_id for call in calls)
        order: dict[str, list[Call]] = defaultdict(list)
        for call in calls:
            order[call.batch_id].append(call)
        again: Counter[int] = Counter()
        for batch_id, seen in order.items():
            if not any(call.is_done for call in seen) and len(seen) < MOST_DEATHS:
                raise WrongError(f"no call of {batch_id} has returned: {seen[-1]}")
            if len({call.process for call in seen}) < len(seen):
                raise WrongError(f"{batch_id} came twice in one process")
            by_attempts = sorted(seen, key=lambda call: call.attempts)
            for call in by_attempts[:-1]:
                again[call.process] += 1
                if call.is_settled:
                    raise WrongError(f"{batch_id} came again, and was settled: {call}")
            if len(seen) > MOST_DEATHS:
                raise WrongError(f"{batch_id} was called for {len(seen)} times")
        for process in self.processes:
            if again[process.number] > process.max_in_flight:
                raise WrongError(
                    f"{again[process.number]} batches of {process} came again"
                )
        if again[0]:
            raise WrongError("what the last process dispatched came again")
        return sum(count - 1 for count in times.values())

    def _judge_order(self, calls: list[Call]) -> None:
        one_call = {p.number for p in self.processes if p.max_in_flight == 1}
        newest: dict[tuple[bytes, bytes], int] = {}
        seen: set[str] = set()
        # Recovered by others than its own process, a file's come after the others.
        for call in sorted(calls, key=lambda call: call.recovered):
            if call.batch_id in seen:
                continue
            seen.add(call.batch_id)
            for entry in call.entries:
                process, which, number = entry.split(b".")
                if int(process) not in one_call or call.recovered:
                    continue
                if int(number) <= newest.get((process, which), -1):
                    raise WrongError(f"{entry!r} came after a later one")
                newest[process, which] = int(number)


def _calls_of(process: int, lines: list[bytes]) -> list[Call]:
    running: dict[str, Call] = {}
    calls = []
    before: Call | None = None  # it is done, and nothing was noted since
    for line in lines:
        what, batch_id, *fields, end = line.decode().split(" ")
        if end != ".":
            raise WrongError(f"process {process}: {line!r}")
        if before is not None:
            before.is_settled = True
        before = None
        if what == "done":
            before = running.pop(batch_id)
            before.is_done = True
            continue
        recovered, attempts, entries = fields
        call = running[batch_id] = Call(
            process,
            batch_id,
            recovered == "1",
            int(attempts),
            entries.encode().split(b","),
        )
        calls.append(call)
    return calls


def fail(why: object) -> NoReturn:
    """Say what is wrong."""
    raise SystemExit(f"stress/kill.py: {why}")


def run(trial: Trial, kills: int, doubles_a_kill: float = DOUBLES_A_KILL) -> Verdict:
    """Kill so many processes at least, and judge."""
    while len(trial.processes) < kills:
        trial.round()
    verdict = trial.finish()
    verdict.demand_enough(doubles_a_kill)
    return verdict


def main() -> None:
    """Run as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    seed = time.time_ns() % 1_000_000 if given.seed is None else given.seed
    print("seed", seed, flush=True)
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    began = time.monotonic()
    try:
        verdict = run(Trial(folder, seed), given.kills)
    except WrongError as error:
        fail(f"seed {seed}: {error}; see {folder}")
    shutil.rmtree(folder)
    print(verdict, f"in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
