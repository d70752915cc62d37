"""Processes that spool are killed, and no entry is lost; and the judge of that."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import kill
from kill_judge import Process, Verdict, WrongError
from kill_mutations import MUTATIONS
from kill_plan import MOMENTS, Drawer
from ringdispatch._dead_letters import DeadLetter, begin
from spools import needs_spools

pytestmark = [needs_spools, pytest.mark.timeout(300)]

SOURCES = Path(__file__).parent.parent / "src" / "ringdispatch"
KILLS = int(os.environ.get("RINGDISPATCH_TEST_KILLS", "8"))


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> kill.Trial:
    seed = time.time_ns() % 1_000_000
    print("seed", seed)
    trial = kill.Trial(tmp_path_factory.mktemp("kill"), seed)
    while failures(trial) < 5:
        trial.round()
    verdict = kill.run(trial, KILLS)
    verdict.demand_enough()
    assert verdict.kills >= KILLS
    return trial


def failures(trial: kill.Trial) -> int:
    noted = (path.read_text() for path in trial.folder.glob("calls.*"))
    return sum(text.count("\nfail") for text in noted)


def calls_of_the_last(trial: kill.Trial) -> Path:
    """What a process noted that was not killed, and none came after."""
    return trial.folder / f"calls.{trial.ended[-1][0].number}"


def own(lines: list[str]) -> str:
    """The id of its first batch that no other process has called for."""
    words = [line.split() for line in lines]
    return next(each[1] for each in words if each[0] == "call" and each[4] == "0")


def lose(lines: list[str]) -> None:
    batch_id = own(lines)
    lines[:] = [line for line in lines if line.split()[1] != batch_id]


def invent(lines: list[str]) -> None:
    batch_id = own(lines)
    uuid_and_start, count = batch_id.rsplit("-", 1)
    longer = f"{uuid_and_start}-{int(count) + 1}"
    for at, line in enumerate(lines):
        if batch_id in line:
            words = line.replace(batch_id, longer).split()
            words[-2] += ",1.0.999999999" if words[0] == "call" else ""
            lines[at] = " ".join(words)


def repeat(lines: list[str]) -> None:
    lines += lines


def cut(lines: list[str]) -> None:
    batch_id = own(lines)
    lines[:] = [line for line in lines if line.split()[:2] != ["done", batch_id]]


def rename(lines: list[str]) -> None:
    other = "0-0-" + own(lines).rsplit("-", 1)[1]
    lines += [line.replace(own(lines), other) for line in lines if own(lines) in line]


def swap(lines: list[str]) -> None:
    own_calls = [line for line in lines if line.split()[4:5] == ["0"]]
    longest = max(own_calls, key=len)
    call = longest.split()
    call[6] = ",".join(reversed(call[6].split(",")))
    lines[lines.index(longest)] = " ".join(call)


def delay(lines: list[str]) -> None:
    calls = [line for line in lines if line.startswith("call ")]
    first, later = next(
        (one, other)
        for one, other in itertools.pairwise(sorted(calls, key=place))
        if place(one)[0] == place(other)[0]
    )
    late = [line for line in lines if line.split()[1] == first.split()[1]]
    early = [line for line in lines if line not in late]
    at = early.index(later) + 1
    lines[:] = [*early[:at], *late, *early[at:]]


def place(call: str) -> tuple[str, int]:
    """The file of a call's batch, and where the batch begins in it."""
    file, start, _ = call.split()[1].rsplit("-", 2)
    return file, int(start)


def embezzle(lines: list[str]) -> None:
    what, name, books, end = lines[-1].split()
    seen = json.loads(books)
    seen["dispatched"] += 1
    books = json.dumps(seen, separators=(",", ":"))
    lines[-1] = f"{what} {name} {books} {end}"


def keep_no_books(lines: list[str]) -> None:
    del lines[-1]


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (lose, "entries were lost"),
        (invent, "were never accepted"),
        (repeat, "came twice in one process"),
        (cut, "has returned"),
        (rename, "came with the ids"),
        (swap, "came after"),
        (delay, "began after a later one"),
        (embezzle, "say dispatched="),
        (keep_no_books, "has noted no books"),
    ],
)
def test_the_judge_finds_it(
    trial: kill.Trial, tamper: Callable[[list[str]], None], why: str
) -> None:
    path = calls_of_the_last(trial)
    before = path.read_text()
    lines = before.splitlines()
    tamper(lines)
    path.write_text("".join(line + "\n" for line in lines))
    try:
        with pytest.raises(WrongError, match=why):
            trial.judge()
    finally:
        path.write_text(before)


def test_the_judge_finds_what_came_again_though_it_was_settled(
    trial: kill.Trial,
) -> None:
    # As if a process that was killed had dispatched it, and the last did again.
    last = calls_of_the_last(trial)
    noted = [trial.folder / f"calls.{plan.number}" for plan, _ in trial.ended[:-1]]
    # Settled is what another call was noted after.
    first = next(p for p in noted if p.exists() and p.read_text().startswith("call "))
    before = {path: path.read_text() for path in (last, first)}
    batch_id = own(before[last].splitlines())
    lines = before[last].splitlines(keepends=True)
    calls = [line for line in lines if line.split()[1] == batch_id]
    again = calls[0].replace(" 0 1 ", " 1 2 ")
    earlier = " ".join([*calls[0].split()[:2], "1", *calls[0].split()[3:]])
    last.write_text(before[last].replace(calls[0], again))
    first.write_text(f"{earlier}\n{calls[1]}{before[first]}")
    try:
        with pytest.raises(WrongError, match="came again, and was settled"):
            trial.judge()
    finally:
        for path, text in before.items():
            path.write_text(text)


def test_the_judge_finds_what_is_no_dead_letter(trial: kill.Trial) -> None:
    found = [*trial.folder.glob("spool/*/*.dead")]
    hidden = [path.rename(path.with_suffix(".hidden")) for path in found]
    try:
        with pytest.raises(WrongError, match="is no dead letter"):
            trial.judge()
    finally:
        for path in hidden:
            path.rename(path.with_suffix(".dead"))


def test_the_judge_finds_a_letter_of_what_has_not_failed(trial: kill.Trial) -> None:
    batch_id = own(calls_of_the_last(trial).read_text().splitlines())
    first, count = map(int, batch_id.rsplit("-", 2)[1:])
    about = (batch_id, first, count, 1, time.time(), "forged", False)
    path = begin(
        trial.folder / "spool" / "audit", b"\n", DeadLetter(*about, [1], b"x\n")
    )
    try:
        with pytest.raises(WrongError, match="has other entries"):
            trial.judge()
    finally:
        path.unlink()


ENOUGH = dict.fromkeys(["start", "traffic", "recovery", "letter", "close"], 2)
FORKED = {"os.fork": 2, "fork": 2, "_Fork": 2}


def verdict(**changed: object) -> Verdict:
    enough = {
        "kills": 120,
        "accepted": 6000,
        "doubles": 12,
        "letters": 2,
        "deadly": 2,
        "closed": 2,
        "left": 2,
        "phases": Counter(ENOUGH),
        "children": Counter(FORKED),
    }
    return Verdict(**{**enough, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"accepted": 5999}, "only 5999 entries"),
        ({"doubles": 11}, "only 11 batches"),
        ({"phases": Counter(ENOUGH | {"letter": 1})}, "only 1 were killed in letter"),
        ({"children": Counter(FORKED | {"fork": 1})}, "only 1 children by fork"),
        ({"letters": 1}, "too little"),
        ({"deadly": 1}, "too little"),
        ({"closed": 1}, "too little"),
        ({"left": 1}, "too little"),
    ],
)
def test_the_judge_asks_for_a_minimum(changed: dict[str, object], why: str) -> None:
    verdict().demand_enough()
    with pytest.raises(WrongError, match=why):
        verdict(**changed).demand_enough()


def test_a_seed_repeats_the_plans() -> None:
    first, again, other = (Drawer(seed) for seed in (1, 1, 2))
    plans = [first.plan(number) for number in range(1, 200)]
    assert plans == [again.plan(number) for number in range(1, 200)]
    assert plans != [other.plan(number) for number in range(1, 200)]
    assert {plan.moment for plan in plans} == {*MOMENTS, "poison"}
    assert {len(plan.names) for plan in plans} == {1, 2}
    assert {plan.sink for plan in plans if plan.moment == "letter"} == {"failing"}


def test_the_phase_of_a_death_is_what_was_noted(trial: kill.Trial) -> None:
    plan = trial.ended[-1][0]
    died = Process(plan, is_killed=True, accepted=[0], stage=2)
    assert died.phase == "traffic"
    died.last = "fail"
    assert died.phase == "letter"
    died.stage = 1
    assert died.phase == "start"
    died.is_killed = False
    assert died.phase == ""


@pytest.mark.parametrize("name", sorted({*MUTATIONS} - {"none"}))
def test_each_mutation_has_its_place(name: str) -> None:
    mutation = MUTATIONS[name]
    source = SOURCES / mutation.file
    if not source.exists():
        pytest.skip("an installed package has no sources")
    assert source.read_text().count(mutation.before) == 1
