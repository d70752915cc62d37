"""Gateways, servers and relays that are killed at drawn moments: every entry arrives.

    python stress/fanin.py [--seconds 20] [--seed 1] [--engine nats] [--nodes 3]
                           [--gateways 4] [--relays 2] [--outage 0]
                           [--folder DIRECTORY]

Gateways with a spool accept entries as fast as they can and send them to NATS JetStream
or to Redis, relays take them from there to a service that notes what it gets. Meanwhile
a relay, the leader of the stream, a second node or a gateway is killed by SIGKILL, and
started again; a seed repeats which and when. `--outage` has the service fail for so
many seconds. Exits with 1 unless

- every entry whose `enqueue` returned True has arrived,
- nothing else has, but for one entry of each killed gateway, accepted and not counted,
- what arrived twice came with the id of the first time,
- no message was parked,
- something of each kind was killed, and something arrived.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import helpers_path  # noqa: F401, finds the tests' helpers
from fanin_servers import NatsServers, RedisServers
from fanin_target import RECORD

HERE = Path(__file__).parent
TMPFS = Path("/dev/shm")  # where no store waits for a disk
LEAST = 10_000  # entries, or nothing was shown
SETTLE_SECONDS = 120.0  # that the last entries may take


class WrongError(Exception):
    """Something is not as it has to be."""


@dataclass
class Process:
    """A gateway or a relay; killed, it is followed by another."""

    kind: str
    number: int
    running: subprocess.Popen[bytes] | None = None
    life: int = 0
    again_at: float = 0.0  # when it is started again


@dataclass
class Seen:
    """What the trial has done and found."""

    killed: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)  # of processors, by kind


class Trial:
    """All processes of a run."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.seen = Seen()
        self._drawn = random.Random(options.seed)
        self._seconds, self._outage = options.seconds, options.outage
        (folder / "spool").mkdir()
        self.servers: NatsServers | RedisServers
        if options.engine == "redis":
            self.servers = RedisServers(folder / "redis")
        else:
            self.servers = NatsServers(folder / "nats", options.nodes)
        self.processes = [
            *(Process("gateway", number) for number in range(options.gateways)),
            *(Process("relay", number) for number in range(options.relays)),
        ]

    def run(self) -> None:
        """Kill what is drawn, and then let everything arrive."""
        for each in self.processes:
            self._start(each)
        self._wait_for_traffic()
        began = time.monotonic()
        next_kill = began + 1
        away = self.folder / "away"
        while (now := time.monotonic()) < began + self._seconds:
            if now >= next_kill:
                next_kill = now + self._drawn.uniform(0.5, 2.5)
                self._kill_something(now)
            if self._outage:
                middle = began + (self._seconds - self._outage) / 2
                if middle <= now < middle + self._outage:
                    away.touch()
                else:
                    away.unlink(missing_ok=True)
            self._start_again(now)
            self._look()
            time.sleep(0.02)
        away.unlink(missing_ok=True)
        self._start_again(float("inf"))
        self._drain()

    # ---- processes

    def _wait_for_traffic(self) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while not self.judge().arrived:
            if time.monotonic() > deadline:
                raise WrongError("no entry arrives")
            self._look()
            time.sleep(0.1)

    def _start(self, process: Process, *more: str) -> None:
        process.life += 1
        environment = {**os.environ, "FANIN_FOLDER": str(self.folder)}
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(HERE), os.environ.get("PYTHONPATH", "")]
        )
        if process.kind == "gateway":
            command = [str(HERE / "fanin_gateway.py"), str(self.folder)]
            command += [
                str(process.number),
                str(process.life),
                *self.servers.urls,
                *more,
            ]
        else:
            command = ["-m", "ringdispatch", "relay", "--stream", "S", "--from"]
            command += [",".join(self.servers.urls), "--to", "fanin_target:store"]
            command += ["--ms-delay", "100"]
        log = self.folder / f"log.{process.kind}{process.number}.{process.life}"
        with log.open("wb") as file:
            process.running = subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=file, stderr=file
            )

    def _end(self, process: Process, number: int) -> int:
        """Send a signal, and wait for the end; returns the status."""
        assert process.running is not None
        process.running.send_signal(number)
        return self._await(process)

    def _await(self, process: Process) -> int:
        running, process.running = process.running, None
        assert running is not None
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        self._count(process.kind, usage)
        return running.returncode

    def _count(self, kind: str, usage: resource.struct_rusage) -> None:
        seconds = usage.ru_utime + usage.ru_stime
        self.seen.seconds[kind] = self.seen.seconds.get(kind, 0.0) + seconds

    def _look(self) -> None:
        for each in self.processes:
            if each.running is not None and each.running.poll() is not None:
                log = self.folder / f"log.{each.kind}{each.number}.{each.life}"
                raise WrongError(f"a {each.kind} has ended: {log.read_text()[-2000:]}")

    def _kill_something(self, now: float) -> None:
        what = self._drawn.choice(["relay", "gateway", "leader", "node"])
        back = now + self._drawn.uniform(0.2, 3)
        if what in {"relay", "gateway"}:
            running = [
                each
                for each in self.processes
                if each.kind == what and each.running is not None
            ]
            if not running:
                return
            process = self._drawn.choice(running)
            self._end(process, signal.SIGKILL)
            process.again_at = back
        elif what == "leader":
            if not self.servers.kill_leader():
                return
        elif not self.servers.kill_another(self._drawn):
            return
        self.seen.killed[what] += 1
        for node, when in self.servers.again_at.items():
            self.servers.again_at[node] = when or back

    def _start_again(self, now: float) -> None:
        for node, when in list(self.servers.again_at.items()):
            if now >= when:
                node.start()
                del self.servers.again_at[node]
        for each in self.processes:
            if each.running is None and now >= each.again_at:
                self._start(each)

    def _drain(self) -> None:
        gateways = [each for each in self.processes if each.kind == "gateway"]
        for each in gateways:
            status = self._end(each, signal.SIGTERM)
            if status not in {0, -signal.SIGTERM}:  # that, before it had begun
                raise WrongError(f"gateway {each.number} ended with {status}")
        for each in gateways:
            self._start(each, "--drain")
        for each in gateways:
            if self._await(each):
                raise WrongError(f"gateway {each.number} has not drained its spool")
        deadline = time.monotonic() + SETTLE_SECONDS
        while missing := self.judge().lost:
            if time.monotonic() > deadline:
                raise WrongError(f"{missing:,} entries have not arrived")
            self._look()
            time.sleep(0.5)
        for each in self.processes:
            if each.kind == "relay" and (status := self._end(each, signal.SIGTERM)):
                raise WrongError(f"relay {each.number} ended with {status}")

    def judge(self) -> Judged:
        """Compare what was accepted with what arrived."""
        accepted = {}
        for path in self.folder.glob("accepted.*"):
            _, gateway, life = path.name.split(".")
            (count,) = struct.unpack("<Q", path.read_bytes())
            accepted[int(gateway), int(life)] = count
        files = [np.fromfile(path, RECORD) for path in self.folder.glob("taken.*")]
        return Judged.of(accepted, np.concatenate([np.empty(0, RECORD), *files]))

    def end(self) -> None:
        """End what runs still."""
        for each in self.processes:
            if each.running is not None and each.running.poll() is None:
                each.running.kill()
                each.running.wait()
        self.servers.stop()


@dataclass
class Judged:
    """What was accepted, and what of it arrived."""

    accepted: int
    arrived: int  # without doubles
    lost: int
    doubles: int
    other_ids: int  # doubles that came with another id
    unknown: int  # that were not accepted
    ages: np.ndarray[Any, Any]

    @classmethod
    def of(
        cls, accepted: dict[tuple[int, int], int], taken: np.ndarray[Any, Any]
    ) -> Judged:
        """Judge the rows that the service has noted."""
        seen = cls(sum(accepted.values()), 0, 0, 0, 0, 0, taken["age"])
        lives = taken["gateway"].astype("u8") << 16 | taken["life"]
        for (gateway, life), count in accepted.items():
            rows = taken[lives == (gateway << 16 | life)]
            numbers, first, times = np.unique(
                rows["number"], return_index=True, return_counts=True
            )
            known = int((numbers < count).sum())
            seen.arrived += known
            seen.lost += count - known
            # One may be accepted, and its process killed before it counted.
            seen.unknown += int((numbers > count).sum())
            seen.doubles += int(times.sum() - len(numbers))
            ids = dict(zip(numbers.tolist(), rows["id"][first].tolist(), strict=True))
            if len(rows) > len(numbers):
                again = np.repeat(times > 1, times)
                order = np.argsort(rows["number"], kind="stable")[again]
                for row in rows[order]:
                    seen.other_ids += ids[int(row["number"])] != int(row["id"])
        known_lives = {gateway << 16 | life for gateway, life in accepted}
        seen.unknown += int((~np.isin(lives, list(known_lives))).sum())
        return seen


def report(trial: Trial, options: argparse.Namespace) -> bool:
    """Print what was found; returns whether it is as it has to be."""
    judged, seen = trial.judge(), trial.seen
    messages, parked = trial.servers.messages()
    killed = ", ".join(f"{kind} {count}" for kind, count in sorted(seen.killed.items()))
    p50, p99 = np.percentile(judged.ages, [50, 99])
    per_second = messages / options.seconds
    people = f"{options.gateways} gateways, {options.relays} relays"
    nodes = "Redis" if options.engine == "redis" else f"{options.nodes} of NATS"
    begin = f"seed {options.seed}: {nodes}, {people}, "
    lines = [f"{begin}{options.seconds:g} s; killed: {killed or 'none'}"]
    arrived = f"accepted {judged.accepted:,}, arrived {judged.arrived:,}, "
    arrived += f"lost {judged.lost:,}, not accepted {judged.unknown:,}"
    lines.append(f"  {arrived}, parked {parked:,}")
    others = f"of these with another id {judged.other_ids:,}"
    lines.append(f"  doubles {judged.doubles:,}, {others}")
    size = f"of {judged.accepted / messages:,.0f} entries"
    rate = f"{judged.accepted / options.seconds:,.0f} entries/s"
    lines.append(f"  {messages:,} messages, {per_second:,.0f}/s, {size}; {rate}")
    lines.append(f"  age p50 {p50:.2f} s, p99 {p99:.2f} s")
    for kind, seconds in sorted(seen.seconds.items()):
        each = seconds / judged.accepted * 1e6
        lines.append(f"  processor time per entry, {kind}s: {each:.2f} µs")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    wrong = judged.lost or judged.other_ids or judged.unknown or parked
    return not wrong and judged.arrived >= LEAST and bool(seen.killed)


@contextlib.contextmanager
def room(given: Path | None) -> Iterator[Path]:
    """A folder in memory, removed unless it was given."""
    if given is not None:
        given.mkdir(parents=True)
        yield given
        return
    where = TMPFS if TMPFS.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="fanin", dir=where))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Run one trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", default="nats", choices=["nats", "redis"])
    parser.add_argument("--nodes", type=int, default=3, choices=[1, 3])
    parser.add_argument("--gateways", type=int, default=4)
    parser.add_argument("--relays", type=int, default=2)
    parser.add_argument("--outage", type=float, default=0.0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with room(options.folder) as folder:
        trial = Trial(folder, options)
        try:
            trial.run()
            return 0 if report(trial, options) else 1
        except WrongError as error:
            print(f"seed {options.seed}: {error}", file=sys.stderr)
            return 1
        finally:
            trial.end()


if __name__ == "__main__":
    sys.exit(main())
