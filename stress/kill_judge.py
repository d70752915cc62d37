"""Accounts for every entry of stress/kill.py, from what its processes have noted."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kill_letters import read_letters
from kill_plan import (
    CLOSING,
    DIED,
    FORKS,
    MAIN,
    MAKING,
    NAMES,
    PRODUCERS,
    READY,
    Plan,
    Shared,
)

MOST_DEATHS = 5
# So many at least, for each kill; and for so many kills, one in each moment.
ENTRIES_A_KILL = 50
DOUBLES_A_KILL = 0.1
EXPECTED = f"^ConnectionError: drawn|{DIED}"
KILLS_FOR_EACH = 60
PHASES = ["start", "traffic", "recovery", "letter", "close"]


class WrongError(Exception):
    """What the judge has found."""


@dataclass
class Call:
    """One call of a dispatch function, as its sink noted it."""

    process: Process = field(repr=False)
    batch_id: str
    when: int
    name: str
    recovered: bool
    attempts: int
    entries: list[str] = field(repr=False)
    outcome: str = ""  # or "done", or "fail"
    is_settled: bool = False  # the process noted something after that
    is_late: bool = False  # it ended while a close may have given it up

    @property
    def file(self) -> str:
        """The uuid of its file."""
        return self.batch_id.rsplit("-", 2)[0]

    @property
    def start(self) -> int:
        """Where it begins in its file."""
        return int(self.batch_id.rsplit("-", 2)[1])

    @property
    def end(self) -> int:
        """Where it ends there."""
        return self.start + int(self.batch_id.rsplit("-", 2)[2])


@dataclass
class Process:
    """One that has ended, and what it noted."""

    plan: Plan
    is_killed: bool
    accepted: list[int]
    stage: int
    calls: list[Call] = field(default_factory=list)
    books: dict[str, dict[str, int]] = field(default_factory=dict)
    died: Counter[str] = field(default_factory=Counter)  # entries, by dispatcher
    last: str = ""  # what its last note was

    @property
    def name(self) -> str:
        """Its number."""
        return self.plan.number

    @property
    def phase(self) -> str:
        """Where it was when it died; "" if it ended by itself."""
        running = [call for call in self.calls if not call.outcome]
        if not self.is_killed:
            return ""
        if self.stage <= MAKING:
            return "start"
        if self.stage == CLOSING:
            return "close"
        if self.last == "fail":
            return "letter"
        recovers = any(call.recovered for call in running)
        return "recovery" if recovers else "traffic"

    def entries(self, name: str | None = None) -> Iterator[str]:
        """Each entry that was counted, of one dispatcher or of all."""
        for which, count in enumerate(self.accepted):
            if name is None or name == name_of(which):
                for number in range(count):
                    yield f"{self.name}.{which}.{number}"


def name_of(which: int) -> str:
    """The name of the dispatcher that a thread enqueues to."""
    return NAMES[0] if which == MAIN else NAMES[which // PRODUCERS]


def read_process(folder: Path, plan: Plan, *, is_killed: bool) -> Process:
    """Read what a process has noted."""
    shared = Shared(folder, plan.number)
    process = Process(plan, is_killed, list(shared.words[: MAIN + 1]), shared.stage)
    path = folder / f"calls.{plan.number}"
    lines = path.read_text().split("\n") if path.exists() else [""]
    if lines.pop() and not is_killed:  # else it was killed within the write
        raise WrongError(f"process {plan.number}: its last note was cut short")
    running: dict[str, Call] = {}
    closes = False
    before: Call | None = None  # it is done, and nothing was noted since
    for line in lines:
        what, *fields, end = line.split(" ")
        if end != ".":
            raise WrongError(f"process {plan.number}: {line!r}")
        if what == "closes":  # by another thread than all else
            closes = True
            continue
        if before is not None:
            before.is_settled = True
        before = None
        process.last = what
        if what == "books":
            process.books[fields[0]] = json.loads(fields[1])
        elif what == "died":
            process.died[fields[0]] += int(fields[1])
        elif what == "call":
            call = _call(process, *fields)
            if call.batch_id in running:
                raise WrongError(f"{call.batch_id} came twice in one process")
            running[call.batch_id] = call
            process.calls.append(call)
        else:
            call = running[fields[0]]
            call.outcome, call.is_late = what, closes
            if what == "done":
                before = call
    return process


def _call(
    process: Process,
    batch_id: str,
    when: str,
    name: str,
    recovered: str,
    attempts: str,
    entries: str,
) -> Call:
    return Call(
        process,
        batch_id,
        int(when),
        name,
        recovered == "1",
        int(attempts),
        entries.split(","),
    )


@dataclass
class Verdict:
    """What an inspection has counted."""

    kills: int = 0
    accepted: int = 0
    doubles: int = 0
    letters: int = 0
    deadly: int = 0  # batches that five processes have died of
    closed: int = 0  # processes that ended by themselves
    left: int = 0  # entries
    phases: Counter[str] = field(default_factory=Counter)
    children: Counter[str] = field(default_factory=Counter)

    def demand_enough(self) -> None:
        """Raise where so little happened that nothing was tested."""
        if self.accepted < ENTRIES_A_KILL * self.kills:
            raise WrongError(f"only {self.accepted} entries were accepted")
        each = self.kills // KILLS_FOR_EACH
        if each and self.doubles < DOUBLES_A_KILL * self.kills:
            raise WrongError(f"only {self.doubles} batches came twice")
        for phase in PHASES:
            if self.phases[phase] < each:
                raise WrongError(f"only {self.phases[phase]} were killed in {phase}")
        for way in FORKS:
            if self.children[way] < each:
                raise WrongError(f"only {self.children[way]} children by {way}")
        if min(self.letters, self.closed, self.left, self.deadly) < each:
            raise WrongError(f"too little has happened: {self}")


class Judge:
    """Judges what the processes have noted; the last of them ended by itself."""

    def __init__(self, folder: Path, processes: list[Process]) -> None:
        self._folder = folder
        self._processes = processes
        self._calls = sorted(
            (call for process in processes for call in process.calls),
            key=lambda call: call.when,
        )
        self._by_batch: dict[str, list[Call]] = defaultdict(list)
        for call in self._calls:
            self._by_batch[call.batch_id].append(call)

    def verdict(self) -> Verdict:
        """Count, and raise at the first thing that is wrong."""
        self._judge_logs()
        verdict = self._counted()
        self._judge_ids()
        verdict.letters, verdict.deadly = self._judge_letters()
        self._judge_entries()
        verdict.doubles = self._judge_doubles()
        self._judge_files()
        for process in self._processes:
            self._judge_order(process)
            self._judge_books(process)
        return verdict

    def _counted(self) -> Verdict:
        verdict = Verdict()
        for process in self._processes:
            verdict.accepted += sum(process.accepted)
            verdict.closed += bool(process.books)
            verdict.left += sum(books["left"] for books in process.books.values())
            if process.plan.moment != "child":
                verdict.phases.update([process.phase] * process.is_killed)
            elif any(process.accepted) or (
                process.plan.fork == "_Fork" and process.stage == READY
            ):
                verdict.children[process.plan.fork] += 1
        verdict.kills = verdict.phases.total()
        return verdict

    def _judge_logs(self) -> None:
        for kind in ("spool", "bad"):
            for path in self._folder.glob(f"spool/*/*.{kind}"):
                raise WrongError(f"the last process has left {path}")
        for path in self._folder.glob("log.*"):
            for line in path.read_text(errors="replace").splitlines():
                wrong = any(word in line for word in ("intact", "damaged", "rror: "))
                if wrong and not re.search(EXPECTED, line):
                    raise WrongError(f"{path}: {line}")

    def _judge_ids(self) -> None:
        """Whether each entry came with one id, and none twice with one."""
        ids: dict[str, str] = {}
        for batch_id, calls in self._by_batch.items():
            entries = calls[0].entries
            if len(entries) != calls[0].end - calls[0].start:
                raise WrongError(f"{len(entries)} entries came as {batch_id}")
            for call in calls:
                if call.entries != entries:
                    raise WrongError(f"{batch_id} came with other entries")
            for entry in entries:
                if ids.setdefault(entry, batch_id) != batch_id:
                    other = sorted([ids[entry], batch_id])
                    raise WrongError(f"{entry} came with the ids {other}")

    def _judge_letters(self) -> tuple[int, int]:
        """Judge what failed, and what processes died of."""
        letters = read_letters(self._folder)
        if strange := letters.keys() - self._by_batch.keys():
            raise WrongError(f"letters of batches that never came: {strange}")
        self._kept = {*letters}
        failed = deadly = 0
        for batch_id, calls in self._by_batch.items():
            fails = [call for call in calls if call.outcome == "fail"]
            if calls[-1].outcome == "fail":
                failed += 1
                if batch_id not in letters:
                    raise WrongError(f"{calls[-1]} has failed, and is no dead letter")
            for letter in letters[batch_id]:
                died = DIED in letter.reason
                deadly += died
                if letter.entries != calls[0].entries:
                    raise WrongError(f"the letter of {batch_id} has other entries")
                if not died and len(letters[batch_id]) > len(fails):
                    raise WrongError(f"a letter of {batch_id}, which has not failed")
                if died and calls[-1].outcome:
                    raise WrongError(f"{calls[-1]} has ended, not {letter.reason}")
        return failed, deadly

    def _judge_entries(self) -> None:
        """Whether each entry that was accepted has arrived, and no other."""
        arrived: set[str] = set()
        for batch_id, calls in self._by_batch.items():
            if batch_id in self._kept or any(call.outcome == "done" for call in calls):
                arrived.update(calls[0].entries)
            elif not calls[-1].process.is_killed:
                raise WrongError(f"no call of {batch_id} has returned: {calls[-1]}")
        known: set[str] = set()
        for process in self._processes:
            mine = set(process.entries())
            if lost := mine - arrived:
                few = sorted(lost)[:10]
                raise WrongError(f"{len(lost)} entries were lost: {few}")
            known |= mine
            for which, count in enumerate(process.accepted):
                # Accepted, and killed before it was counted.
                known.add(f"{process.name}.{which}.{count}")
        seen = {
            entry for calls in self._by_batch.values() for entry in calls[0].entries
        }
        if unknown := seen - known:
            few = sorted(unknown)[:10]
            raise WrongError(f"{len(unknown)} were never accepted: {few}")

    def _judge_doubles(self) -> int:
        """Count the calls that were for nothing; one in flight at an end may be."""
        again: Counter[str] = Counter()
        for batch_id, calls in self._by_batch.items():
            if len({call.process.name for call in calls}) < len(calls):
                raise WrongError(f"{batch_id} came twice in one process")
            if len(calls) > MOST_DEATHS + sum(
                not call.process.is_killed for call in calls
            ):
                raise WrongError(f"{batch_id} was called for {len(calls)} times")
            if [call.attempts for call in calls] != sorted(
                call.attempts for call in calls
            ):
                raise WrongError(f"the attempts of {batch_id} fell")
            if any(call.recovered == (at == 0) for at, call in enumerate(calls[1:], 1)):
                raise WrongError(f"{batch_id} came again as its own process's")
            for call in calls[:-1]:
                again[call.process.name] += 1
                if call.is_settled and not call.is_late:
                    where = f"of {call.process.plan}"
                    raise WrongError(f"{call} {where} came again, and was settled")
        for process in self._processes:
            most = process.plan.max_in_flight * len(process.plan.names)
            if again[process.name] > most:
                raise WrongError(
                    f"{again[process.name]} batches of {process.plan} came again"
                )
        return sum(again.values())

    def _judge_files(self) -> None:
        """Whether each thread's entries lie in a file in order, without gaps."""
        files: dict[str, list[Call]] = defaultdict(list)
        for calls in self._by_batch.values():
            files[calls[0].file].append(calls[0])
        for batches in files.values():
            batches.sort(key=lambda call: call.start)
            end = 0
            newest: dict[str, int] = {}
            for call in batches:
                if call.start != end:
                    raise WrongError(f"{call.batch_id} begins not at {end}")
                end = call.end
                for entry in call.entries:
                    thread, _, number = entry.rpartition(".")
                    if newest.setdefault(thread, int(number) - 1) != int(number) - 1:
                        raise WrongError(f"{entry} came after {newest[thread]}")
                    newest[thread] = int(number)

    def _judge_order(self, process: Process) -> None:
        """Whether the batches of a file began in its order."""
        newest: dict[str, int] = {}
        for call in process.calls:
            if call.start < newest.get(call.file, 0):
                raise WrongError(f"{call} began after a later one")
            newest[call.file] = call.end

    def _judge_books(self, process: Process) -> None:
        """Whether the statistics of one that ended by itself are what was seen."""
        if not process.is_killed and len(process.books) < len(process.plan.names):
            raise WrongError(f"process {process.name} has noted no books")
        for name, books in process.books.items():
            own = [call for call in process.calls if call.name == name]
            theirs = [call for call in own if call.recovered]
            own = [call for call in own if not call.recovered]
            accepted = sum(1 for _ in process.entries(name))
            dispatched, failed = self._settled(own, "done"), self._settled(own, "fail")
            seen = {
                "accepted": accepted,
                "dispatched": dispatched,
                "failed": failed,
                "left": accepted - dispatched - failed,
                "recovered": self._settled(theirs, "done"),
                "recovered_failed": self._settled(theirs, "fail") + process.died[name],
                "kept_dropped": 0,
                "abandoned": 0,
                "evicted": 0,
                "pending": 0,
                "in_flight": 0,
            }
            seen["kept"] = seen["failed"] + seen["recovered_failed"]
            for key, value in seen.items():
                if books[key] != value:
                    raise WrongError(
                        f"the books of process {process.name} say {key}={books[key]}, "
                        f"seen were {value}"
                    )

    def _settled(self, calls: list[Call], outcome: str) -> int:
        """How many entries came to that end for good; a close may have left others."""
        return sum(
            len(call.entries)
            for call in calls
            if call.outcome == outcome
            and (not call.is_late or self._by_batch[call.batch_id][-1] is call)
        )
