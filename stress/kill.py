"""Kill processes that spool, at drawn moments, and account for every entry.

    python stress/kill.py [--kills 60] [--seed 1] [--folder DIRECTORY]

One to four processes at once share a spool, each with producer threads, one or two
dispatchers and a sink that is good, slow, hangs or fails. Each is killed by SIGKILL
while it starts, in traffic, while it recovers what others left, while it writes a dead
letter, while it closes, or some time after SIGTERM. Some have forked, and the children
go on, to leave by `os._exit` or be killed. A seed repeats these plans. The last process
dispatches what is left and ends. Exits with 1 unless

- every entry whose `enqueue` returned True was given to a dispatch function that
  returned, or is a dead letter,
- nothing else was, but for one entry per thread, accepted and killed before it counted,
- what was given twice was in flight when a process ended, at most `max_in_flight`
  batches each, not settled before, and came with the id and the entries of the first
  time,
- the batches of a file cover it, each thread's entries lie there in order, and each
  process begins its batches in this order,
- the statistics of a process that could close are what was seen,
- the last process leaves no file, and no file was damaged.

A trial kills 120 at most; more kills are several trials, each with the next seed. Each
asks for a minimum of entries, of doubles, and of kills in each moment, so that it can't
pass on nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from kill_judge import MOST_DEATHS, Judge, Verdict, WrongError, read_process
from kill_plan import Drawer, Plan

WORKER = Path(__file__).with_name("kill_worker.py")
TMPFS = Path("/dev/shm")  # where no store waits for a disk
MOST_KILLS = 120  # of a trial
MOST_SECONDS = 90.0  # that a process may live
ENDS = {0, -signal.SIGKILL}


class Trial:
    """A folder, and the processes that have ended in it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.ended: list[tuple[Plan, bool]] = []  # and whether it was killed
        self.kills = 0
        self._drawer = Drawer(seed)
        self._number = 0
        # Their children may live.
        self._parents: list[subprocess.Popen[bytes]] = []

    def round(self) -> None:
        """Start some processes at once, and wait until they have ended."""
        drawn = self._drawer.random
        plans = [self._next() for _ in range(drawn.choice([1, 1, 2, 3, 4]))]
        running = [(plan, self._start(plan)) for plan in plans]
        outlive = drawn.uniform(0, 0.3)  # what the children of the last round do
        time.sleep(outlive)
        self.end_children()
        for plan, process in running:
            self._await(plan, process)

    def _next(self) -> Plan:
        self._number += 1
        return self._drawer.plan(self._number)

    def _start(self, plan: Plan) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-W", "ignore", str(WORKER)]
        with self._errors(plan).open("wb") as errors:
            return subprocess.Popen(
                [*command, str(self.folder), plan.dumps()],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    def _errors(self, plan: Plan) -> Path:
        return self.folder / f"log.{plan.number}.errors"

    def _await(self, plan: Plan, process: subprocess.Popen[bytes]) -> int:
        """Wait until it has ended; it stays a zombie, and its group is known by it."""
        deadline = time.monotonic() + MOST_SECONDS
        how = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while (ended := os.waitid(os.P_PID, process.pid, how)) is None:
            if time.monotonic() > deadline:
                process.kill()
                raise WrongError(f"{plan} hangs")
            time.sleep(0.002)
        self._parents.append(process)
        killed = ended.si_code != os.CLD_EXITED
        status = -ended.si_status if killed else ended.si_status
        if status not in ENDS:
            said = self._errors(plan).read_text()
            raise WrongError(f"{plan} ended with {status}: {said}")
        self.ended.append((plan, killed))
        self.kills += killed
        if plan.fork:
            self.ended.append((plan.child, True))
        return status

    def end_children(self) -> None:
        """Kill what the processes that have ended have left."""
        for process in self._parents:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._parents = []

    def finish(self) -> Verdict:
        """Have a last process dispatch what is left; judge all that was noted."""
        poisons = sum(plan.moment == "poison" for plan, _ in self.ended)
        for _ in range(1 + MOST_DEATHS * poisons):
            self.end_children()
            self._number += 1
            last = Plan(str(self._number))
            if self._await(last, self._start(last)) == 0:
                self.end_children()
                return self.judge()
        raise WrongError("the last process is always killed")

    def judge(self) -> Verdict:
        """Judge what all have noted."""
        return Judge(
            self.folder,
            [
                read_process(self.folder, plan, is_killed=killed)
                for plan, killed in self.ended
            ],
        ).verdict()


def fail(why: object) -> NoReturn:
    """Say what is wrong."""
    raise SystemExit(f"stress/kill.py: {why}")


def run(trial: Trial, kills: int) -> Verdict:
    """Kill so many processes at least, and judge."""
    try:
        while trial.kills < kills:
            trial.round()
        return trial.finish()
    finally:
        trial.end_children()


def main() -> None:
    """Run as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    if given.folder is None and os.access(TMPFS, os.W_OK):
        given.folder = TMPFS
    seed = time.time_ns() % 1_000_000 if given.seed is None else given.seed
    print("seed", seed, flush=True)
    kills = 0
    while kills < given.kills:
        # Each trial has a folder of its own, so that its judge has no more to remember.
        began = time.monotonic()
        folder = Path(tempfile.mkdtemp(dir=given.folder))
        try:
            verdict = run(Trial(folder, seed), min(MOST_KILLS, given.kills - kills))
            verdict.demand_enough()
        except WrongError as error:
            fail(f"seed {seed}: {error}; see {folder}")
        shutil.rmtree(folder)
        print(f"{verdict} in {time.monotonic() - began:.1f} s", flush=True)
        kills += verdict.kills
        seed += 1


if __name__ == "__main__":
    main()
