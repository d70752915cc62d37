"""What a spool survives, and what not: services that really die, and their successors.

Each service has dispatched two of seven entries, has two in flight and three pending
when its end comes. `stress/kill.py` kills at drawn moments; here each way to die has
its row.
"""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from pathlib import Path

import pytest

from forking import each_fork, forked
from places import MIB, memory_limit, place
from racing import race
from recovering import MADE, Got, books, files, spooled, until
from ringdispatch import BackgroundDispatcher, Bytes
from ringdispatch._spool_recovered import MOST_DEATHS
from spools import needs_spools
from subprocesses import run_snippet

pytestmark = needs_spools

LEFT = [b"2", b"3", b"4", b"5", b"6"]

SERVICE = (
    MADE
    + """
from ringdispatch import current_batch
def serve(then, **options):
    '''Enqueue seven; `then` is called where the second batch is in flight.'''
    accepted = threading.Event()
    async def send(batch):
        if b"2" in batch[:]:
            say(current_batch().id)
            accepted.wait(60)  # whatever ends the process, all seven are in the spool
            await then()
            await asyncio.sleep(60)
    options = dict(ms_delay=60_000, max_batch=2, home="thread") | options
    dispatcher = made(send, **options)
    for number in range(7):
        assert dispatcher.enqueue(b"%d" % number)
    accepted.set()
    return dispatcher
"""
)


def service(folder: Path, program: str) -> str:
    return SERVICE.format(folder=str(folder)) + program


def succeed(folder: Path, count: int = len(LEFT), **options: object) -> Got:
    """Dispatch what was left until there is no other file of that name."""
    got = Got()
    options = {"name": "audit", **options}
    own = folder / str(options["name"])

    async def main() -> None:
        async with spooled(got, folder, **options) as dispatcher:
            await until(lambda: len(files(own)) == 1)
            assert books(dispatcher) == (0, 0, count, 0)

    asyncio.run(main())
    assert files(own) == []
    assert all(info.recovered for info in got.infos)
    return got


DEATHS = {
    "os._exit": ("os._exit(7)", 7),
    "segfault": ("import ctypes; ctypes.string_at(0)", -signal.SIGSEGV),
    "abort": ("os.abort()", -signal.SIGABRT),
}


@pytest.mark.parametrize("kind", ["disk", "tmpfs"])
@pytest.mark.parametrize("death", DEATHS)
def test_a_death_in_a_call_loses_nothing(
    tmp_path: Path, death: str, kind: str
) -> None:  # C23
    how, code = DEATHS[death]
    with place(kind, tmp_path) as folder:
        outcome = run_snippet(
            service(folder, f"async def die(): {how}\nserve(die)\ntime.sleep(60)"),
            code=code,
            stderr=".*",  # of faulthandler
        )
        got = succeed(folder, max_batch=4)
    assert got.entries == LEFT
    # The batch that was in flight has its ends and its id.
    assert [len(batch) for batch in got.batches] == [2, 3]
    assert [got.infos[0].id] == outcome.lines
    assert (got.infos[0].attempts, got.infos[1].attempts) == (2, 1)


@each_fork
def test_the_parent_recovers_what_a_child_left_by_exiting_hard(
    tmp_path: Path, fork: str
) -> None:  # C17, C23
    outcome = forked(
        MADE.format(folder=str(tmp_path)).replace("\n", "\n    ")
        + """
    entries = []
    async def send(batch):
        entries.extend(batch[:])
    dispatcher = made(send, ms_delay=60_000, max_batch=2)
    assert dispatcher.enqueue(b"0")
    assert dispatcher.flush()
    def body():
        assert dispatcher.enqueue(b"the child's")
        os._exit(0)
    join(child(body))
    def recovered():
        assert dispatcher.enqueue(b"1")  # where a batch is taken, it looks
        return dispatcher.statistics().recovered == 1
    eventually(recovered)
    assert dispatcher.close()
    say(entries.count(b"the child's"), dispatcher.statistics().recovered)
    """,
        fork=fork,
    )
    assert outcome.lines == ["1 1"]
    assert files(tmp_path) == []


JOIN = """
with open({!r}, "w") as group:
    group.write(str(os.getpid()))
"""


@pytest.mark.counts_memory
@pytest.mark.parametrize("kind", ["disk", "tmpfs"])
def test_a_kill_for_want_of_memory_loses_nothing(
    tmp_path: Path, kind: str
) -> None:  # C23
    with place(kind, tmp_path) as folder, memory_limit(128 * MIB) as limit:
        outcome = run_snippet(
            service(folder, JOIN.format(str(limit.procs)))
            + """
async def hoard():
    [b"x" * 2**20 for _ in range(10_000)]
serve(hoard)
time.sleep(60)
""",
            code=-signal.SIGKILL,
        )
        assert limit.kills == 1
        got = succeed(folder)
    assert got.entries == LEFT
    assert [got.infos[0].id] == outcome.lines


@pytest.mark.counts_memory
def test_a_file_on_tmpfs_counts_against_a_limit_of_memory(tmp_path: Path) -> None:
    with place("tmpfs", tmp_path) as folder, memory_limit(64 * MIB) as limit:
        run_snippet(
            MADE.format(folder=str(folder))
            + JOIN.format(str(limit.procs))
            + f"""
layout = Bytes(spool={str(folder)!r}, max_bytes=64 << 20)
made(print, layout=layout)
""",
            code=-signal.SIGKILL,
        )
        assert limit.kills == 1
        (remains,) = folder.rglob("*.*")
        assert (remains.suffix, remains.stat().st_blocks) == (".new", 0)


# What stops a service: SIGTERM, and SIGKILL when it has not ended in the grace.
STOPPED = """
stopping = subprocess.Popen(
    ["sh", "-c", "kill -TERM $PPID; read closing && sleep 0.1 && kill -KILL $PPID"],
    stdin=subprocess.PIPE,
)
"""


def test_a_close_that_a_sigkill_cuts_short_loses_nothing(tmp_path: Path) -> None:  # C23
    outcome = run_snippet(
        service(tmp_path, "import subprocess")
        + f"""
async def in_flight():
    taken.set()
async def main():
    global taken
    taken, stop = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    dispatcher = serve(in_flight, home="auto")
    await taken.wait()
    {STOPPED.strip().replace(chr(10), chr(10) + "    ")}
    await stop.wait()
    stopping.stdin.write(b"closing\\n")
    stopping.stdin.flush()
    await dispatcher.aclose(timeout=60)
asyncio.run(main())
""",
        code=-signal.SIGKILL,
    )
    got = succeed(tmp_path)
    assert got.entries == LEFT
    assert [got.infos[0].id] == outcome.lines


def test_a_sigterm_that_nothing_handles_loses_nothing(tmp_path: Path) -> None:  # C23
    run_snippet(
        service(
            tmp_path,
            "async def die(): os.kill(os.getpid(), signal.SIGTERM)\n"
            "serve(die)\ntime.sleep(60)",
        ),
        code=-signal.SIGTERM,
    )
    assert succeed(tmp_path).entries == LEFT


def test_a_batch_that_ends_five_processes_is_kept_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:  # C23
    program = (
        MADE.format(folder=str(tmp_path))
        + """
from ringdispatch import _recovery
_recovery._PAUSES.update({2: 0.05, 3: 0.1, 4: 0.2})
accepted = threading.Event()
async def send(batch):
    if b"poison" in batch[:]:
        accepted.wait(60)
        os._exit(7)
    say(*batch[:])
layout = Bytes(spool=LAYOUT, dead_letters=False)
dispatcher = made(send, layout=layout, max_batch=1, home="thread")
for entry in ENTRIES:
    assert dispatcher.enqueue(entry)
accepted.set()
time.sleep(60)
"""
    ).replace("LAYOUT", repr(str(tmp_path)))
    said = []
    for death in range(MOST_DEATHS):
        entries = [b"poison", b"fine"] if death == 0 else [b"after %d" % death]
        # Before anything else a new service has its own file; the old one's batch
        # comes when it begins.
        outcome = run_snippet(program.replace("ENTRIES", repr(entries)), code=7)
        said += outcome.lines
    got = Got()

    async def main() -> None:
        layout = Bytes(spool=tmp_path, dead_letters=False)
        async with BackgroundDispatcher(
            got, ms_delay=1, name="audit", layout=layout
        ) as dispatcher:
            await until(lambda: len(list(tmp_path.rglob("*.spool"))) == 1)
            assert dispatcher.statistics().recovered_failed == 0

    asyncio.run(main())
    (bad,) = tmp_path.rglob("*.bad")
    assert b"poison" in bad.read_bytes()
    assert {*said, *map(str, got.entries)} == {
        *(str(b"after %d" % death) for death in range(1, MOST_DEATHS)),
        str(b"fine"),
    }
    assert [Path(name).suffix for name in files(tmp_path)] == [".bad"]


def test_kills_in_an_outage_make_no_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # C23
    run_snippet(
        service(tmp_path, "async def die(): os._exit(7)\nserve(die)\ntime.sleep(60)"),
        code=7,
    )
    restarted = MADE.format(folder=str(tmp_path)) + (
        """
async def send(batch):
    if b"2" in batch[:]:
        await asyncio.sleep(3600)
dispatcher = made(send, home="thread", max_in_flight=2)
for _ in range(3):
    assert dispatcher.enqueue(b"new")
    assert dispatcher.flush()
os._exit(7)
"""
    )
    for _ in range(MOST_DEATHS + 1):
        run_snippet(restarted, code=7)
    assert not list(tmp_path.rglob("*.dead"))
    monkeypatch.setattr("ringdispatch._recovery._PAUSES", {})
    got = succeed(tmp_path)
    assert got.entries == LEFT
    assert got.infos[0].attempts > 2  # the first of them have called


def test_services_and_workers_share_a_directory(tmp_path: Path) -> None:  # C23
    here = tmp_path / "here"
    together = """
async def die():
    open(NUMBER, "x").close()
    eventually(lambda: all(map(os.path.exists, "012")), 25.0)
    os._exit(7)
serve(die, name=NAME)
time.sleep(60)
"""

    def run(number: int) -> None:
        name = ["audit", "audit", "billing"][number]
        given = together.replace("NUMBER", repr(str(number)))
        place = f"os.chdir({str(tmp_path)!r})"
        run_snippet(service(here, place + given.replace("NAME", repr(name))), code=7)

    here.mkdir()
    race(*(partial(run, number) for number in range(3)))
    assert len(files(here)) == 3
    assert succeed(here, 2 * len(LEFT)).entries == [*LEFT, *LEFT]
    assert succeed(here, name="billing").entries == LEFT


def test_a_rolling_change_of_layout_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # C23
    die = "async def die(): os._exit(7)\nserve(die)\ntime.sleep(60)"
    run_snippet(service(tmp_path, die), code=7)
    (old,) = files(tmp_path)
    got = Got()

    async def changed() -> None:
        layout = Bytes(spool=tmp_path, separator=b"\0")
        dispatcher = BackgroundDispatcher(got, ms_delay=1, name="audit", layout=layout)
        async with dispatcher:
            assert dispatcher.enqueue(b"new")
            assert await dispatcher.aflush()

    asyncio.run(changed())
    assert got.entries == [b"new"]
    assert files(tmp_path) == [old]
    assert f"{old} is left as it is: it is of another layout" in caplog.text
    # Rolled back, with other sizes: they may change.
    assert succeed(tmp_path, capacity=2, max_batch=1).batches == [
        [b"2", b"3"],
        [b"4"],
        [b"5"],
        [b"6"],
    ]
