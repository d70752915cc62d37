"""`python -m ringdispatch relay`, from a real nats-server."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("nats")

from loops import eventually
from nats_servers import NatsServer, on_loop, serving
from ringdispatch import BackgroundDispatcher
from ringdispatch.relay._show import LogLines
from ringdispatch.sinks import JetStreamSink
from serving import FOREGROUND

TARGET = """
import os
def store(records, ids):
    if bad := os.environ.get("REFUSES"):
        assert bad not in records, f"{bad} is refused"
    with open("taken", "a") as file:
        for record, each in zip(records, ids, strict=True):
            print(record, each, file=file)
def die(records, ids):
    if "poison" in records:
        os._exit(7)
    store(records, ids)
if hold := os.environ.get("HOLD"):
    from ringdispatch.relay import _calls, _jetstream, _log
    _jetstream._HOLD_SECONDS = _jetstream._CONSUMER["ack_wait"] = float(hold)
    _jetstream.JetStreamSource.hold_seconds = float(hold)
    _calls._SUSPECT, _log._SUSPECT = 3, 6
    _calls._LONGEST_PAUSE = 0.5
if line := os.environ.get("LINE"):
    from ringdispatch.relay import _show
    _show._LINE_SECONDS = float(line)
def one(records): ...
def gives(records, ids):
    yield
async def hang(records, ids):
    import asyncio
    print("hangs", flush=True)
    await asyncio.sleep(3600)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with serving(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def stream(server: NatsServer, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "shop.py").write_text(TARGET)
    with server.cleared():
        yield "S"


def taken(folder: Path) -> list[str]:
    """What the targets have taken: a record and its id a line."""
    path = folder / "taken"
    return path.read_text().splitlines() if path.exists() else []


IGNORE = """\
import os, signal
if number := os.environ.get("IGNORES"):
    signal.signal(int(number), signal.SIG_IGN)
"""
START = [sys.executable, "-I", "-S", "-c", IGNORE + FOREGROUND, "-m", "ringdispatch"]


class Command:
    """The command as a process in a folder that has the target's module."""

    def __init__(
        self, folder: Path, server: NatsServer, words: str, **env: str
    ) -> None:
        self._folder = folder
        command = [*START, "relay", *words.split()]
        self.process = subprocess.Popen(
            [each.format(url=server.url) for each in command],
            cwd=folder,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def taken(self) -> list[str]:
        """What the target has taken: a record and its id a line."""
        return taken(self._folder)

    def end(self, number: int | None = None) -> tuple[int, str, str]:
        """Wait for its end, after a signal; returns status, stdout and stderr."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err

    def wait_for(self, words: str) -> str:
        """Wait until it prints a line with these words; returns it."""
        assert self.process.stdout is not None
        while words not in (line := self.process.stdout.readline()):
            assert line, self.process.communicate()
        return line

    def kill(self) -> None:
        """End it if it runs, and close what is open of it."""
        with self.process:
            self.process.kill()


Starts = Callable[..., Command]


@pytest.fixture
def start(server: NatsServer, tmp_path: Path) -> Iterator[Starts]:
    """Starts the command; none is left by a test that fails."""
    with ExitStack() as started:

        def start(words: str, **env: str) -> Command:
            command = Command(tmp_path, server, words, **env)
            started.callback(command.kill)
            return command

        yield start


def send(server: NatsServer, *entries: object) -> None:
    async def main() -> None:
        sink = JetStreamSink(server.url, "orders")
        async with BackgroundDispatcher(sink, ms_delay=1, max_batch=1) as dispatcher:
            for entry in entries:
                assert dispatcher.enqueue(entry)

    on_loop(main())


FROM = "--from {url} --stream S "


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_relays_until_a_signal(
    server: NatsServer, stream: str, start: Starts, number: int
) -> None:
    send(server, "one", "two")
    command = start(FROM + "--to shop:store --ms-delay 10")
    eventually(lambda: len(command.taken()) == 2, 20)
    status, out, err = command.end(number)
    assert status == 0, err
    assert out.startswith(f"relaying from {server.url}, stream S until Ctrl-C\n")
    assert out.endswith("relayed 2 records in 2 messages\n")
    assert "keeps all without a bound: set its max_bytes, and discard=new" in err
    assert {line.split()[0] for line in command.taken()} == {"one", "two"}
    assert server.ask(lambda js: js.consumer_info(stream, "ringdispatch")).ack_floor


def test_second_signal_leaves_at_once(
    server: NatsServer, stream: str, start: Starts
) -> None:
    send(server, "one")
    words = "--to shop:hang --ms-delay 10 --grace 3600"
    command = start(FROM + words)
    command.wait_for("hangs")
    command.process.send_signal(signal.SIGTERM)
    command.process.send_signal(signal.SIGTERM)  # the same, of its process group
    command.wait_for("SIGTERM: finishing what is held, for 3600 s at most")
    time.sleep(0.6)  # a later one is another
    assert command.process.poll() is None
    began = time.monotonic()
    status, _, _ = command.end(signal.SIGTERM)
    assert status == -signal.SIGTERM
    assert time.monotonic() - began < 30
    info = server.ask(lambda js: js.consumer_info(stream, "ringdispatch"))
    assert info.num_ack_pending == 1


def test_what_nohup_has_ignored_stays_ignored(
    server: NatsServer, stream: str, start: Starts
) -> None:
    words = FROM + "--to shop:store --ms-delay 10"
    command = start(words, IGNORES=str(int(signal.SIGHUP)))
    command.wait_for(f"stream {stream} until")
    command.process.send_signal(signal.SIGHUP)
    send(server, "one")
    eventually(lambda: len(command.taken()) == 1, 20)
    status, out, err = command.end(signal.SIGTERM)
    assert status == 0, err
    assert out.startswith("SIGTERM: ")


def test_what_was_parked_is_replayed(
    server: NatsServer, stream: str, start: Starts
) -> None:
    send(server, "good", "bad")
    words = FROM + "--to shop:store --ms-delay 10 --attempts 1"
    command = start(words, REFUSES="bad")
    eventually(lambda: len(command.taken()) == 1, 20)
    send(server, "better")
    eventually(lambda: len(command.taken()) == 2, 20)
    eventually(lambda: _has(server, f"{stream}-dead"), 30)
    assert command.end(signal.SIGTERM)[0] == 0
    replay = words + " --replay-dead-letters"
    status, out, err = start(replay, REFUSES="bad").end()
    assert (status, out.count(", 1 stays parked")) == (1, 1)
    assert "stream S-dead until nothing is left\n" in out
    assert "S-dead/1 stays: AssertionError: bad is refused" in err
    status, out, err = start(replay).end()
    assert status == 0, err
    assert "relayed 1 record in 1 message" in out
    taken = [line.split()[0] for line in command.taken()]
    assert sorted(taken) == ["bad", "better", "good"]
    server.ask(lambda js: js.delete_stream("S-dead"))


@pytest.mark.parametrize("quiet", ["", " --quiet"])
def test_nothing_parked_is_nothing_to_replay(
    server: NatsServer, stream: str, start: Starts, quiet: str
) -> None:
    words = FROM + "--to shop:store --replay-dead-letters" + quiet
    status, out, err = start(words).end()
    said = f"nothing to replay: {server.url}: stream 'S-dead': is not there: "
    said += "no message was parked\n"
    assert (status, out, err) == (0, "" if quiet else said, "")


def test_plain_lines_name_their_time(
    server: NatsServer, stream: str, start: Starts
) -> None:
    send(server, "one")
    command = start(FROM + "--to shop:store --ms-delay 10", LINE="0.6")
    line = command.wait_for(" 1 record in 1 message, ")
    assert re.match(r"\d\d:\d\d:\d\d in [1-9]\d* s: 1 record", line), line
    _, out, _ = command.end(signal.SIGTERM)
    assert out == "SIGTERM: ending\nrelayed 1 record in 1 message\n"


@pytest.mark.timeout(180)
def test_a_message_that_ends_relays_lets_the_others_through(
    server: NatsServer, stream: str, start: Starts, tmp_path: Path
) -> None:
    send(server, "one", "poison", "two", "three")
    words = FROM + "--to shop:die --ms-delay 10"
    through: set[str] = set()
    said = ""
    deadline = time.monotonic() + 150
    # The others have their turns at random. Until then they may be named instead of it:
    # they were fetched as often, and a relay's log has one such line.
    while through != {"one", "two", "three"} or f"{stream}/2 was fetched " not in said:
        assert time.monotonic() < deadline, f"{through} are through: {said}"
        status, _, err = start(words, HOLD="0.3").end()
        assert status == 7, err
        said += err
        through = {line.split()[0] for line in taken(tmp_path)}
    assert "times: it may be what ends relays; if so, remove it" in said
    info = server.ask(lambda js: js.consumer_info(stream, "ringdispatch"))
    assert info.num_ack_pending == 1


def _has(server: NatsServer, stream: str) -> bool:
    import nats.js.errors

    try:
        return bool(server.messages(stream))
    except nats.js.errors.NotFoundError:
        return False


def test_it_makes_the_stream_that_is_asked_for(
    server: NatsServer, start: Starts, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(TARGET)
    words = "--from {url} --stream MADE --create made --to shop:store"
    command = start(words)
    command.wait_for("stream MADE")
    status, out, err = command.end(signal.SIGTERM)
    assert (status, err) == (0, "")
    assert out == "SIGTERM: ending\nrelayed 0 records in 0 messages\n"
    config = server.ask(lambda js: js.stream_info("MADE")).config
    assert (config.subjects, config.max_bytes) == (["made"], 2**30)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("", "the following arguments are required: --from, --stream, --to"),
        ("--from kafka://a --stream S --to shop:store", "or rediss://, not kafka"),
        ("--from redis://a,redis://b --stream S --to shop:store", "one url of Redis"),
        (
            "--from redis://a/b --stream S --to shop:store",
            "--from: 'redis://a/b'",
        ),
        (
            "--from redis://a --stream S --to shop:store --create x",
            "--create: is for NATS",
        ),
        (
            "--from redis://a --stream S --to shop:store --create-bytes 9",
            "--create-bytes: is for NATS",
        ),
        (FROM + "--to shop:store --create-bytes 9", "--create-bytes=9: is of the st"),
        (
            "--from {url} --stream S --to shop:store --replicas 9 --create s",
            "--replicas=9: must be an integer from 1 to 5",
        ),
        (FROM + "--to shop:one", "--to 'shop:one': must take two arguments"),
        (FROM + "--to shop:gives", "--to 'shop:gives': must be a plain or async fun"),
        (FROM + "--to shop:none", "--to 'shop:none': shop has no 'none'"),
        (FROM + "--to shop:store --max-bytes 9", "--max-bytes=9: must be at least 1,0"),
        (
            FROM + "--to shop:store --max-bytes 64MB",
            "--max-bytes: '64MB': must be a number of bytes, such as 67108864",
        ),
        (FROM + "--to shop:store --attempts x", "'x': must be an integer >= 1"),
        (FROM + "--to shop:store --ms-delay x", "--ms-delay: 'x': must be a number of"),
        (
            FROM + "--to shop:store --consumer a.b",
            "--consumer='a.b': must have no spac",
        ),
        (FROM + "--to shop:store --consumer a/b", "--consumer='a/b': must have no sl"),
        (
            FROM + "--to shop:store --max-batch 999999999999",
            "--max-batch=999,999,999,999: must be at most 1,000,000",
        ),
        (
            "--from {url} --stream a/b --to shop:store",
            "--stream='a/b': must have no sl",
        ),
        ("--from {url} --stream NO --to shop:store", "'NO': is not there: make it, or"),
    ],
)
def test_options_that_can_not_be_used_are_one_line(
    stream: str, start: Starts, words: str, why: str
) -> None:
    status, out, err = start(words).end()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("ringdispatch relay: ")
    assert why in err


def test_log_lines_go_where_errors_go_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A live view takes over sys.stderr: whatever else is printed would tear it."""
    lines = LogLines()
    taken_over = io.StringIO()
    monkeypatch.setattr(sys, "stderr", taken_over)
    lines.handle(logging.makeLogRecord({"msg": "%s is parked", "args": ("S/1",)}))
    assert taken_over.getvalue() == "S/1 is parked\n"
