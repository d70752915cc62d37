"""Processes that are killed while they use a file lose and invent nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spools import adopted, needs_spools, spool_of, take_all

pytestmark = needs_spools

KILLS = int(os.environ.get("RINGDISPATCH_TEST_KILLS", "6"))
GENERATIONS = 6

HELPERS = Path(__file__).parent / "helpers"

# One process of a service: adopts what the last one left, and accepts more. It notes an
# entry once it is accepted, and a batch's before it is settled, each by one write(2).
SERVICE = f"""
import os, random, sys
sys.path.insert(0, {str(HELPERS)!r})
from pathlib import Path
from spools import adopted, made, spool_of, take

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
drawn = random.Random(seed)
flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
accepted = os.open(folder / "accepted", flags)
dispatched = os.open(folder / "dispatched", flags)

def dispatch(file):
    batch = take(file, drawn.randint(1, 9))
    if batch is not None:
        for entry in batch.entries:
            os.write(dispatched, entry.partition(b" ")[0] + b"\\n")
        file.settle(batch.start, batch.end)
    return batch is not None

print("ready", flush=True)
number = 0
file = None
while True:
    if file is None or drawn.random() < 0.01:
        file = made(folder, cells=64, arena_bytes=4096)
        orphan = adopted(folder)
        while orphan is not None and dispatch(orphan):
            pass
        if orphan is not None:
            spool_of(folder).remove(orphan)
    entry = b"%d-%d " % (seed, number) + b"x" * drawn.randrange(200)
    if drawn.random() < 0.6 and file.append(entry + b"\\n"):
        os.write(accepted, entry.partition(b" ")[0] + b"\\n")
        number += 1
    elif drawn.random() < 0.5:
        dispatch(file)
"""


def read(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_killed_again_and_again_it_loses_nothing(tmp_path: Path) -> None:
    seed = time.time_ns() % 1_000_000
    print("seed", seed)
    drawn = random.Random(seed)
    for generation in range(GENERATIONS):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(tmp_path), str(seed + generation)],
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(drawn.uniform(0.0, 0.1))
            process.kill()
    rest: list[str] = []
    while (file := adopted(tmp_path)) is not None:
        assert not file.is_damaged
        rest += [entry.partition(b" ")[0].decode() for entry in take_all(file, 5)]
        assert not file.is_damaged
        spool_of(tmp_path).remove(file)
    accepted = read(tmp_path / "accepted")
    arrived = read(tmp_path / "dispatched") + rest
    assert len(accepted) > 200
    assert set(accepted) <= set(arrived)
    # Accepted, but killed before it could note that: at most one each time.
    assert len(set(arrived) - set(accepted)) <= GENERATIONS
    assert not [path.name for path in tmp_path.iterdir() if path.suffix == ".bad"]


# A process that does little but enqueue, so that it is killed inside of that; how many
# were accepted is in shared memory. Batches are noted before they are settled.
BUSY = f"""
import mmap, os, sys
sys.path.insert(0, {str(HELPERS)!r})
from pathlib import Path
from ringdispatch._enqueue import EnqueueBase, install_enqueue
from ringdispatch._spool_ring import SpoolRing
from spools import made

@install_enqueue
class Enqueuer(EnqueueBase):
    pass

folder = Path(sys.argv[1])
with open(folder / "accepted", "r+b") as opened:
    accepted = memoryview(mmap.mmap(opened.fileno(), 8)).cast("Q")
dispatched = os.open(folder / "dispatched", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
sizes = 512, 100, None, b"\\n", 100_000, 100_000
ring = SpoolRing(*sizes, made(folder, 1024, 200_000), None)
enqueuer = Enqueuer()
enqueuer._attach(ring, "drop_newest")
enqueue, payload, number = enqueuer.enqueue, b"x" * 150, 0
print("ready", flush=True)
while True:
    for _ in range(400):
        enqueue(b"%d " % number + payload[: number % 150])
        number += 1
        accepted[0] = number
    while batch := ring.take(100):
        os.write(dispatched, b"%d %d\\n" % (batch.start, batch.end))
        batch.settle(False, 0.0)
"""


def test_killed_in_an_enqueue_it_loses_and_invents_nothing(tmp_path: Path) -> None:
    seed = time.time_ns() % 1_000_000
    print("seed", seed)
    drawn = random.Random(seed)
    total = 0
    for generation in range(KILLS):
        folder = tmp_path / str(generation)
        folder.mkdir()
        (folder / "accepted").write_bytes(bytes(8))
        process = subprocess.Popen(
            [sys.executable, "-c", BUSY, str(folder)], stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(drawn.uniform(0.02, 0.1))
            process.kill()
        count = int.from_bytes((folder / "accepted").read_bytes(), "little")
        noted = [tuple(map(int, line.split())) for line in read(folder / "dispatched")]
        dispatched = noted[-1][1] if noted else 0
        following = adopted(folder)
        rest = [] if following is None else take_all(following)
        assert following is None or not following.is_damaged
        first = int(rest[0].split()[0]) if rest else dispatched
        assert first <= dispatched
        # Without a gap, from what was dispatched to at most one that was not counted.
        numbers = range(first, first + len(rest))
        assert rest == [b"%d " % n + b"x" * (n % 150) for n in numbers]
        assert count <= numbers.stop <= count + 1
        total += count
    assert total > 10_000
