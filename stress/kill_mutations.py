"""Whether stress/kill.py finds what it is for: it runs with builds that lose entries.

    python stress/kill_mutations.py [--only NAME] [--seed 1]

Builds the package of this checkout once for each fault below, and runs the harness with
it. Exits with 1 where it finds nothing, or nothing of that kind; the package as it is
must pass first.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
HARNESS = Path(__file__).with_name("kill.py")
PARTS = ["src", "setup.py", "pyproject.toml", "README.md", "LICENSE"]
BUILD_SECONDS = 1200.0
KILLS = 60
MOST_TRIALS = 5  # of so many kills, until it is found


@dataclass(frozen=True)
class Mutation:
    """A fault: in which file, what is there and what is put there; how it shows."""

    file: str = ""
    before: str = ""
    after: str = ""
    found: str = ""

    def apply(self, folder: Path) -> None:
        """Put it into a copy of the package."""
        path = folder / "src" / "ringdispatch" / self.file
        text = path.read_text()
        if text.count(self.before) != 1:
            raise SystemExit(
                f"{self.file} has changed: write this mutation anew: {self}"
            )
        path.write_text(text.replace(self.before, self.after))


MUTATIONS = {
    "none": Mutation("__init__.py"),
    "tail before the bytes": Mutation(
        "_spool_map.pxd",
        "    cdef char *arena = map.base + map.arena_at\n"
        "    cdef uint64_t at = map.byte_tail % map.arena_bytes\n",
        "    store_twice(map, TAIL_AT, map.tail + 1)\n"
        "    cdef char *arena = map.base + map.arena_at\n"
        "    cdef uint64_t at = map.byte_tail % map.arena_bytes\n",
        "intact",
    ),
    "released at the take": Mutation(
        "_batch.pyx",
        "            mark_taken(state.file, self.start, self.end - self.start, 1)\n",
        "            mark_taken(state.file, self.start, self.end - self.start, 1)\n"
        "            settle_mark(state.file, self.start, self.end - self.start)\n",
        "has returned|entries were lost|is no dead letter",
    ),
    "settled before the letter": Mutation(
        "_batch.pyx",
        "                self.owes_letter = True\n",
        "                self.owes_letter = True\n"
        "                settle_mark(file, self.start, count)\n",
        "is no dead letter",
    ),
    "one file for two dispatchers": Mutation(
        "_ring_files.py",
        "        return self._make(0, clean=True)\n",
        "        folder = make_folder(self._directory, self._name)\n"
        "        self._spool = Spool(folder, BYTES, self._separator, self._warn)\n"
        "        given = vars(RingFiles)\n"
        "        if 'given' not in given:\n"
        "            RingFiles.given = self._make(0, clean=True)\n"
        "        return RingFiles.given\n",
        "came twice in one process|entries were lost|begins not at|came after",
    ),
}


def build(mutation: Mutation, folder: Path) -> Path:
    """Build the package with the fault; the folder to import it from."""
    source, built = folder / "source", folder / "built"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("*.so", "*.c", "*.egg-info", "__pycache__")
            shutil.copytree(ROOT / part, source / part, ignore=ignored)
        else:
            shutil.copy(ROOT / part, source)
    if mutation.before:
        mutation.apply(source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run(
        [*command, "--target", str(built), str(source)],
        check=True,
        timeout=BUILD_SECONDS,
    )
    where = "import ringdispatch; print(ringdispatch.__file__)"
    seen = subprocess.run(
        [sys.executable, "-c", where],
        env=environment(built),
        cwd=folder,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert seen.startswith(str(built)), seen
    return built


def environment(built: Path) -> dict[str, str]:
    """What has the harness, and its processes, import that build."""
    return {**os.environ, "PYTHONPATH": str(built)}


def verdict(built: Path, seed: int, folder: Path) -> str:
    """What the harness says of the build; "" if it finds nothing."""
    trial = subprocess.run(
        [
            *(sys.executable, str(HARNESS)),
            *("--kills", str(KILLS), "--seed", str(seed), "--folder", str(folder)),
        ],
        env=environment(built),
        capture_output=True,
        check=False,
        text=True,
    )
    return trial.stderr[-2000:] if trial.returncode else ""


def judge(name: str, mutation: Mutation, seed: int) -> str:
    """What is wrong with what the harness says; "" if nothing is."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        built = build(mutation, folder)
        if not mutation.before:
            said = verdict(built, seed, folder)
            return said and f"{name}: it must pass, but: {said}"
        for trial in range(MOST_TRIALS):
            said = verdict(built, seed + trial, folder)
            if said and re.search(mutation.found, said):
                print(
                    f"{name}: found after {trial + 1} trials: {said[:300]}", flush=True
                )
                return ""
            if said:
                return f"{name}: it must find {mutation.found!r}, not {said}"
    return f"{name}: not found by {MOST_TRIALS} trials from seed {seed} on"


def main() -> int:
    """Build and try each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=MUTATIONS, help="this one alone")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    given = parser.parse_args()
    print("seed", given.seed, flush=True)
    chosen = [given.only] if given.only else list(MUTATIONS)
    wrong = [judge(name, MUTATIONS[name], given.seed) for name in chosen]
    print("\n".join(filter(None, wrong)) or f"{len(chosen)} builds are as they must be")
    return 1 if any(wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
