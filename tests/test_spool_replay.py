"""`spool replay`: what ended processes left arrives, in whatever way it is stopped."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from spool_side import (
    AUDIT,
    ENTRIES,
    TAKEN,
    arrived,
    end,
    entries,
    expected,
    files,
    replay,
    run,
    serving,
    start,
    wait_for_calls,
)
from spools import needs_spools

pytest_plugins = ["spool_fixtures"]
pytestmark = needs_spools


# ---- what arrives


@pytest.mark.parametrize("function", ["plain", "send", "returns_coroutine"])
def test_all_arrives_in_order_with_the_ids_of_its_batches(
    folder: Path, function: str
) -> None:
    uuids = [path.stem for path in files(folder)]
    outcome = replay(folder, function, "--max-batch", "45")
    assert (outcome.status, outcome.err) == (0, [])
    assert outcome.out[-1] == f"replayed {2 * ENTRIES} entries in 6 batches"
    assert entries(folder) == expected("audit", "meter")
    calls = arrived(folder)
    # One was taken by the process that died: it has the same ends and id again.
    assert [call["count"] for call in calls] == [TAKEN, 45, 45] * 2
    for uuid, mine in zip(uuids, (calls[:3], calls[3:]), strict=True):
        for call in mine:
            assert call["id"] == f"{uuid}-{call['start']}-{call['count']}"
            assert call["recovered"] is True
            assert call["attempts"] == (2 if call["start"] == 0 else 1)
    if function != "plain":
        assert calls[-1]["payload"].endswith("meter-98|meter-99|")
    assert files(folder) == []


def test_one_directory_or_one_file_may_be_named(folder: Path) -> None:
    audit, meter = files(folder)
    outcome = run(folder, "replay", "--to", "functions:plain", "spool/meter")
    assert outcome.status == 0
    assert entries(folder) == expected("meter")
    assert files(folder) == [audit]
    outcome = run(folder, "replay", "--to", "functions:plain", str(audit))
    assert outcome.status == 0
    assert entries(folder) == expected("meter", "audit")
    assert not meter.exists()


def test_a_sink_is_prepared_and_closed_for_each_layout(folder: Path) -> None:
    outcome = replay(folder, "sink")
    assert outcome.status == 0
    line = "ringdispatch spool: --to functions:sink: its aclose raised "
    line += "RuntimeError: broken pipe"
    assert outcome.err == [line, line]
    assert (folder / "sink").read_text().split("\n") == [
        "prepare ",
        *(" None", "call 10", "call 90", "aclose"),
        *("prepare | None", "call 10", "call 90", "aclose", ""),
    ]


def test_what_a_sink_refuses_is_an_error_and_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFUSE", "1")
    outcome = replay(folder, "sink")
    assert outcome.status == 2
    assert outcome.err[-1] == (
        "ringdispatch spool: --to functions:sink: the sink refuses entries that end "
        "with b'|': ValueError: no lines of these"
    )
    assert [path.parent.name for path in files(folder)] == ["meter"]


def test_a_sink_of_the_library_gets_them(folder: Path) -> None:
    assert replay(folder, "sqlite").status == 0
    with sqlite3.connect(folder / "arrived.db") as database:
        rows = database.execute("SELECT * FROM audit").fetchall()
    database.close()
    assert len(rows) == 2 * ENTRIES
    assert files(folder) == []


# ---- what fails


def test_it_stops_at_a_batch_that_fails_and_that_stays(folder: Path) -> None:
    audit = files(folder)[0]
    outcome = replay(folder, "refuse_first")
    assert outcome.status == 1
    [line] = outcome.err
    assert line == (
        f"ringdispatch spool: audit/{audit.name}: batch {audit.stem}-0-{TAKEN} "
        f"({TAKEN} entries) failed, and stays: ConnectionError: no route"
    )
    assert outcome.out[-1] == (
        "replayed 0 entries in 0 batches; 1 batch failed and stays; stopped there, "
        "--keep-going goes on after it"
    )
    assert arrived(folder) == []


def test_keep_going_dispatches_all_others(folder: Path) -> None:
    for _ in range(2):
        outcome = replay(folder, "refuse_first", "--keep-going")
        assert outcome.status == 1
        assert len(outcome.err) == 2
        rest = expected("audit")[TAKEN:] + expected("meter")[TAKEN:]
        assert entries(folder) == rest
    outcome = replay(folder, "plain")
    assert outcome.status == 0
    assert Counter(entries(folder)) == Counter(expected("audit", "meter"))
    assert arrived(folder)[-1]["attempts"] == 2
    assert files(folder) == []


def test_an_exit_of_the_function_is_a_failure(folder: Path) -> None:
    outcome = replay(folder, "leaves")
    assert outcome.status == 1
    assert outcome.err[0].endswith("failed, and stays: SystemExit: enough")
    assert len(files(folder)) == 2


# ---- how it ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_it_goes_on_there(folder: Path, number: int) -> None:
    options = ["--to", "functions:third_waits", "--max-batch", "5", "spool"]
    process = start(folder, "replay", *options)
    wait_for_calls(folder, 3)
    process.send_signal(number)
    name = signal.Signals(number).name
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"{name}: the batch in flight goes on")
    (folder / "go").touch()
    outcome = end(process)
    assert outcome.status == 128 + number
    assert outcome.err == []
    assert f"stopped by {name}, run it again to go on" in outcome.out[-1]
    assert entries(folder) == expected("audit")[: TAKEN + 10]
    assert replay(folder, "plain").status == 0
    # Each arrived once: the batch in flight came to its end, and was settled.
    assert entries(folder) == expected("audit", "meter")


def test_rate_is_kept_and_its_wait_ends_with_a_signal(folder: Path) -> None:
    options = ["--to", "functions:plain", "--rate", "1", "--max-batch", "5", "spool"]
    process = start(folder, "replay", *options)
    wait_for_calls(folder, 1)
    process.send_signal(signal.SIGTERM)
    outcome = end(process)
    assert outcome.status == 128 + signal.SIGTERM
    assert entries(folder) == expected("audit")[:TAKEN]


@pytest.mark.parametrize("function", ["hang", "hang_async"])
def test_a_second_signal_cuts_a_call_short_and_its_batch_stays(
    folder: Path, function: str
) -> None:
    process = start(folder, "replay", "--to", f"functions:{function}", "spool")
    wait_for_calls(folder, 1)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == (
        "SIGINT: the batch in flight goes on to its end; once more cuts it short\n"
    )
    process.send_signal(signal.SIGINT)
    outcome = end(process)
    assert outcome.status == 128 + signal.SIGINT
    assert "was cut short, and stays" in outcome.err[0]
    assert replay(folder, "plain").status == 0
    first, again = arrived(folder)[:2]
    assert first == again
    assert entries(folder)[TAKEN:] == expected("audit", "meter")


def test_killed_it_loses_nothing_and_doubles_have_one_id(folder: Path) -> None:
    options = ["--to", "functions:third_waits", "--max-batch", "5", "spool"]
    process = start(folder, "replay", *options)
    wait_for_calls(folder, 3)
    process.kill()
    end(process)
    assert replay(folder, "plain").status == 0
    assert set(entries(folder)) == set(expected("audit", "meter"))
    assert len(entries(folder)) == 2 * ENTRIES + 5
    ids: dict[str, set[str]] = {}
    for call in arrived(folder):
        for entry in call["entries"]:
            ids.setdefault(entry, set()).add(call["id"])
    assert {len(each) for each in ids.values()} == {1}


# ---- beside others


def test_two_at_once_share_the_files(folder: Path) -> None:
    audit = files(folder)[0]
    first = start(
        folder, "replay", "--to", "functions:third_waits", "--max-batch", "9", "spool"
    )
    wait_for_calls(folder, 3)
    second = replay(folder, "plain")
    assert second.status == 0
    assert second.out[0] == f"audit/{audit.name}: skipped, a process has it"
    (folder / "go").touch()
    assert end(first).status == 0
    assert Counter(entries(folder)) == Counter(expected("audit", "meter"))
    assert files(folder) == []


def test_beside_a_living_service_of_another_layout(folder: Path) -> None:
    old = files(folder)[0]
    with serving(folder, ("audit", b"|")) as service:
        listed = run(folder, "ls", "spool/audit").out
        assert [line.split()[2] for line in sorted(listed[1:])] == ["alive", "ended"]
        outcome = replay(folder, "plain")
        assert outcome.status == 0
        [skipped] = [line for line in outcome.out if "skipped" in line]
        assert skipped.endswith(".spool: skipped, a process has it")
        assert entries(folder) == expected("audit", "meter")
        [own] = files(folder)
        assert own != old
        assert service.poll() is None
    assert replay(folder, "plain").status == 0
    assert entries(folder) == expected("audit", "meter", "audit")
    assert files(folder) == []


def test_a_service_that_comes_back_is_not_in_the_way(folder: Path) -> None:
    process = start(folder, "replay", "--to", "functions:hang", "spool/audit")
    wait_for_calls(folder, 1)
    with serving(folder, AUDIT) as service:
        process.kill()
        end(process)
        assert service.poll() is None
    found = {path.suffix for path in files(folder)}
    assert found == {".spool"}


# ---- damage


def test_of_damaged_files_what_is_intact_arrives_and_the_file_stays(
    folder: Path,
) -> None:
    audit, meter = files(folder)
    data = bytearray(audit.read_bytes())
    data[audit.read_bytes().index(b"audit-50")] ^= 1
    audit.write_bytes(data)
    data = bytearray(meter.read_bytes())
    data[60] ^= 1  # in its header: when it was made
    meter.write_bytes(data)
    outcome = replay(folder, "plain")
    assert outcome.status == 1
    assert outcome.err == [
        f"ringdispatch spool: meter/{meter.name}: skipped, its header fails its check"
    ]
    assert entries(folder) == [each for each in expected("audit") if each != "audit-50"]
    assert [path.suffix for path in files(folder)] == [".bad", ".spool"]
    aside = meter.rename(meter.with_suffix(".bad"))
    outcome = replay(folder, "plain")
    assert outcome.out == ["replayed 0 entries in 0 batches"]
    outcome = replay(folder, "plain", "--bad")
    assert (outcome.status, outcome.err) == (0, [])
    assert entries(folder)[ENTRIES - 1 :] == expected("meter")
    assert [path.suffix for path in files(folder)] == [".bad", ".bad"]
    assert any(f"meter/{aside.name}: what was intact" in line for line in outcome.out)
    outcome = replay(folder, "plain", "--bad")
    assert outcome.out[-1] == "replayed 0 entries in 0 batches"
    assert outcome.status == 0


def test_it_needs_no_rich(folder: Path) -> None:
    hidden = (
        "import sys; sys.modules['rich'] = sys.modules['jinja2'] = None\n"
        "from ringdispatch._spool_command._command import main\n"
        "sys.stdout.isatty = lambda: True\n"
        "sys.exit(main(['replay', '--to', 'functions:plain', 'spool']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("replayed 200 entries in 4 batches\n")
