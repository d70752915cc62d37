"""Adapters of peers on a dispatcher, and how their own tests' outcomes are judged.

`make peers` runs those tests. Here is what tests/peers/differences.toml says holds
although a test fails, which looks at the private parts of what it tests.
"""

from __future__ import annotations

import os
import sys
import threading
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import peer_suites
from peer_suites import SUITES, Found, has_cpython_tests

HERE = Path(__file__).parent / "peers"
DEADLINE = 10.0

needs_opentelemetry = pytest.mark.skipif(
    find_spec("opentelemetry") is None, reason="not installed: opentelemetry-sdk"
)
needs_sentry = pytest.mark.skipif(
    find_spec("sentry_sdk") is None, reason="not installed: sentry-sdk"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture(autouse=True)
def no_eventlet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep sentry-sdk from importing it: it warns of itself, and of every fork."""
    monkeypatch.setitem(sys.modules, "eventlet", None)


class Metrics:
    """What OpenTelemetry's processor reports of itself."""

    def __init__(self) -> None:
        self.finished = 0
        self.dropped: list[tuple[Any, ...]] = []
        self.size = lambda: -1

    def register_queue_size(self, size: Any) -> None:
        self.size = size

    def finish_items(self, count: int) -> None:
        self.finished += count

    def drop_items(self, *what: Any) -> None:
        self.dropped.append(what)


class Exporter:
    """Exports when it may."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.may_export = threading.Event()
        self.began = threading.Event()

    def export(self, batch: list[Any]) -> None:
        self.batches.append(batch)
        self.began.set()
        assert self.may_export.wait(DEADLINE)

    def shutdown(self) -> None:
        self.may_export.set()


def processor(exporter: Exporter, metrics: Metrics, *, most: int, room: int) -> Any:
    from opentelemetry_adapter import BatchProcessor

    return BatchProcessor(exporter, 3_600_000, most, 30_000, room, "Log", metrics)


@needs_opentelemetry
def test_processor_exports_full_batches_and_the_rest_at_shutdown() -> None:
    exporter, metrics = Exporter(), Metrics()
    exporter.may_export.set()
    made = processor(exporter, metrics, most=10, room=100)
    for number in range(10):
        made.emit(number)
    assert exporter.began.wait(DEADLINE)
    made.emit(10)
    made.shutdown()
    made.emit(11)
    assert exporter.batches == [[*range(10)], [10]]
    assert metrics.finished == 11
    assert metrics.dropped == [(1, "already_shutdown")]
    assert made.force_flush() is False


@needs_opentelemetry
def test_processor_counts_what_finds_no_room_at_once() -> None:
    exporter, metrics = Exporter(), Metrics()
    made = processor(exporter, metrics, most=1, room=1)
    made.emit("exported")
    assert exporter.began.wait(DEADLINE)
    made.emit("waits")
    made.emit("lost")
    assert metrics.size() == 1
    assert metrics.dropped == [(1,)]
    exporter.may_export.set()
    made.shutdown()
    assert exporter.batches == [["exported"], ["waits"]]


@needs_opentelemetry
def test_shutdown_that_runs_out_of_time_begins_no_further_export() -> None:  # C15
    exporter, metrics = Exporter(), Metrics()
    made = processor(exporter, metrics, most=1, room=10)
    for number in range(3):
        made.emit(number)
    assert exporter.began.wait(DEADLINE)
    made.shutdown(timeout_millis=50)
    assert exporter.may_export.is_set()
    assert exporter.batches == [[0]]
    books = made._dispatcher.statistics()
    assert (books.failed, books.abandoned) == (1, 2)


class Sentry:
    """Where a batcher's envelopes and losses go."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.lost = 0
        self.may_send = threading.Event()
        self.began = threading.Event()
        self.fails = False

    def capture(self, envelope: Any) -> None:
        self.began.set()
        assert self.may_send.wait(DEADLINE)
        if self.fails:
            raise ConnectionError("refused")
        (item,) = envelope.items
        self.bodies += [each["body"] for each in item.payload.json["items"]]

    def record_lost(self, *, reason: str, quantity: int, **_: Any) -> None:
        assert reason == "queue_overflow"
        self.lost += quantity

    def batcher(self) -> Any:
        from sentry_adapter import DispatchedLogs

        return DispatchedLogs(self.capture, self.record_lost)


def log(body: str) -> dict[str, Any]:
    return {
        "attributes": {},
        "severity_number": 9,
        "severity_text": "info",
        "time_unix_nano": 1_750_000_000_000_000_000,
        "body": body,
    }


@needs_sentry
def test_batcher_reports_each_entry_that_finds_no_room() -> None:
    sentry = Sentry()
    made = sentry.batcher()
    for number in range(made.MAX_BEFORE_FLUSH):
        made.add(log(f"in flight {number}"))
    assert sentry.began.wait(DEADLINE)
    for number in range(made.MAX_BEFORE_DROP + 5):
        made.add(log(f"{number}"))
    assert sentry.lost == 5
    sentry.may_send.set()
    made.flush()
    made.kill()
    assert len(sentry.bodies) == made.MAX_BEFORE_FLUSH + made.MAX_BEFORE_DROP


@needs_sentry
def test_batch_that_fails_does_not_stop_those_after_it() -> None:  # C11
    sentry = Sentry()
    sentry.may_send.set()
    made = sentry.batcher()
    sentry.fails = True
    made.add(log("lost"))
    made.flush()
    sentry.fails = False
    made.add(log("sent"))
    made.flush()
    made.kill()
    assert sentry.bodies == ["sent"]


# From 3.12 on every fork of a process with threads warns.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@needs_fork
@needs_sentry
def test_child_of_a_fork_starts_empty_and_sends_what_it_adds() -> None:  # C17
    sentry = Sentry()
    sentry.may_send.set()
    made = sentry.batcher()
    made.add(log("the parent's"))
    child = os.fork()
    if child == 0:
        try:
            made.add(log("the child's"))
            made.flush()
            os._exit(0 if sentry.bodies == ["the child's"] else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    made.kill()
    assert sentry.bodies == ["the parent's"]


def test_outcomes_and_expected_differences_are_compared_both_ways() -> None:
    ended = {"a": "passed", "b": "failed", "c": "failed", "d": "skipped"}
    found = Found(ended, left_out=["f"], dispatchers=1)
    assert found.unlike(["b"], ["f"]) == (["c"], [])
    assert found.unlike(["b", "c"], []) == ([], [])
    assert found.unlike("abcde", ["f", "g"]) == ([], ["a", "d", "e", "g"])


@pytest.mark.parametrize(
    ("asked_for", "ran", "status"),
    [([], ["opentelemetry", "sentry"], 0), (["cpython"], [], 2)],
)
def test_suite_that_the_interpreter_came_without_is_named(
    asked_for: list[str],
    ran: list[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names: list[str] = []

    def run(name: str, expected: object) -> bool:
        names.append(name)
        return True

    monkeypatch.setattr(peer_suites, "has_cpython_tests", lambda: False)
    monkeypatch.setattr(peer_suites, "run", run)
    monkeypatch.setattr(sys, "argv", ["peer_suites.py", *asked_for])
    assert peer_suites.main() == status
    assert names == ran
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("cpython: not run: ")
    assert last.endswith("came without test.test_queue")


def test_every_difference_belongs_to_a_suite_and_has_its_reason() -> None:
    found = tomllib.loads((HERE / "differences.toml").read_text())
    assert set(found) <= set(SUITES)
    for name, expected in found.items():
        assert set(expected) <= {"fails", "not_run"}
        for tests in expected.values():
            for test, why in tests.items():
                assert test.startswith(SUITES[name].tests)
                assert why


@pytest.mark.skipif(
    not has_cpython_tests(),
    reason=f"not in the library of {sys.executable}: test.test_queue",
)
def test_queue_hands_over_in_order_and_knows_its_size() -> None:
    import queue

    from queue_adapter import adapted

    made = adapted(queue)()
    for number in range(100):
        made.put(number)
    assert made.qsize() == 100
    assert [made.get(timeout=DEADLINE) for _ in range(100)] == [*range(100)]
    assert made.empty()
    with pytest.raises(queue.Empty):
        made.get_nowait()
    assert made._dispatcher.close()
