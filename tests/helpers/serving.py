"""Runs a real server in processes of its own, and reads what they recorded."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "programs"
END_SECONDS = 25.0
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

GUNICORN = """\
def post_worker_init(worker):
    from served import note
    note("ready")  # from here on a signal finds the worker's own handlers
"""

# A shell starts its background jobs with SIGINT ignored, and so do their children. Then
# Python has no handler for it, and daphne, where Twisted only replaces Python's own,
# goes on.
FOREGROUND = """\
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def missing(*names: str) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip where a package isn't installed; fail there where all are asked for."""
    reason = f"not installed: {', '.join(missing(*names))}"
    every = "RINGDISPATCH_TEST_EVERY_SERVER" in os.environ
    return pytest.mark.skipif(bool(missing(*names)) and not every, reason=reason)


def free_port() -> int:
    """A port to listen on, below those that the system gives to clients."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)  # not `random`: every test seeds it
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port


class Server:
    """A server and all processes that come of it.

    They share one process group and one pipe for what they print: at its end the last
    of them has gone.
    """

    def __init__(self, arguments: list[str], folder: Path, **variables: object) -> None:
        self.record = folder / "record"
        self.record.touch()
        (folder / "gunicorn.conf.py").write_text(GUNICORN)
        self._ended = False
        environment = os.environ | {
            "PYTHONPATH": str(PROGRAMS),
            "PYTHONUNBUFFERED": "1",
            "RECORD": str(self.record),
            **{name: str(value) for name, value in variables.items()},
        }
        self._binds = "{port}" in arguments
        port = free_port() if self._binds else 0
        # Made here, so that a client may connect before the server is up.
        with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
            self.port = listener.getsockname()[1]
            descriptor = listener.fileno()
            arguments = [
                part.replace("{fd}", str(descriptor)).replace("{port}", str(port))
                for part in arguments
            ]
            if self._binds:
                listener.close()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", FOREGROUND, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=folder,
                env=environment,
                pass_fds=[] if self._binds else [descriptor],
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def notes(self) -> list[tuple[int, str]]:
        """What was recorded, and by which process."""
        text = self.record.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last may be half there
        return [(int(pid), word) for pid, word in map(str.split, lines)]

    def delivered(self) -> tuple[str, ...]:
        return tuple(word for _, word in self.notes() if word.startswith("/"))

    def wait_for(
        self, condition: Callable[[], object], *, seconds: float = END_SECONDS
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail(f"it never came:\n{self.notes()}\n{self.kill()}")
            time.sleep(0.005)

    def wait_for_notes(self, word: str, count: int = 1) -> None:
        self.wait_for(lambda: [said for _, said in self.notes()].count(word) >= count)

    def listens(self) -> bool:
        """Whether it takes connections: one that binds its own port does so late."""
        if not self._binds:
            return True
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionRefusedError:
            return False
        return True

    def wait_until_stopped(self) -> None:
        """Wait for the SIGSTOP that it sends itself."""
        deadline = time.monotonic() + END_SECONDS
        # Each stop is reported once. An end is left for the others to see.
        while not os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG):
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail(f"it did not stop:\n{self.notes()}\n{self.kill()}")
            time.sleep(0.002)

    def ask(self, path: str) -> int:
        """Send a request; returns the pid of the process that answered."""
        url = f"http://127.0.0.1:{self.port}{path}"
        with DIRECT.open(url, timeout=END_SECONDS) as response:
            return int(response.read())

    def signal(self, number: signal.Signals) -> None:
        """As from outside: SIGTERM is for the main process, the others for all.

        A terminal sends SIGINT to the whole group, and what kills a container kills
        every process in it.
        """
        if number == signal.SIGTERM:
            self.process.send_signal(number)
        else:
            os.killpg(self.pid, number)

    def wait(self) -> str:
        """Wait until all its processes have gone; returns what they printed."""
        try:
            printed, _ = self.process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"did not end:\n{self.notes()}\n{self.kill()}")
        self._ended = True
        return printed

    def kill(self) -> str:
        if self._ended:
            return ""
        self._ended = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        printed, _ = self.process.communicate(timeout=10)
        return printed


@contextlib.contextmanager
def serve(arguments: list[str], folder: Path, **variables: object) -> Iterator[Server]:
    """Run a server; nothing of it is left on leaving.

    Args:
        arguments: For Python; `{fd}` stands for the listening socket's descriptor,
            `{port}` for a port where a server binds one itself.
        folder: Where it runs and records.
        variables: For its environment.
    """
    server = Server(arguments, folder, **variables)
    try:
        yield server
    finally:
        server.kill()


class Traffic:
    """Clients that send one request after the other until the server has gone.

    Args:
        server: Where they send them.
        clients: How many they are.
        pause: Seconds that each waits between two requests.
        goes_on: Whether a request without an answer is no error.
    """

    def __init__(
        self,
        server: Server,
        clients: int = 4,
        pause: float = 0.0,
        *,
        goes_on: bool = False,
    ) -> None:
        self.answered: dict[str, int] = {}  # request, and the pid that answered it
        self.errors: list[BaseException] = []
        self.printed = ""  # by the server, until its end
        self._server = server
        self._pause = pause
        self._goes_on = goes_on
        self._ending = False
        self._threads = [
            threading.Thread(target=self._send, args=(number,), daemon=True)
            for number in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, client: int) -> None:
        for count in range(1_000_000):
            path = f"/{client}-{count}"
            try:
                self.answered[path] = self._server.ask(path)
            except (OSError, HTTPException, ValueError) as error:
                if not self._ending:
                    if self._goes_on:
                        continue
                    self.errors.append(error)
                return
            time.sleep(self._pause)

    def answered_by(self) -> Counter[int]:
        return Counter(list(self.answered.values()))

    def end_with(self, number: signal.Signals, *, alone: bool = False) -> None:
        """End the server under them; `alone`: by a signal to its main process."""
        self._ending = True
        if alone:
            self._server.process.send_signal(number)
        else:
            self._server.signal(number)
        self.printed = self._server.wait()
        for thread in self._threads:
            thread.join(END_SECONDS)
        assert not any(thread.is_alive() for thread in self._threads)
        assert not self.errors, self.errors

    def check(self) -> None:
        """Each answered request has its entry once, sent by the worker it came to."""
        senders: dict[str, list[int]] = {}
        for pid, word in self._server.notes():
            if word.startswith("/"):
                senders.setdefault(word, []).append(pid)
        for path, pid in self.answered.items():
            assert senders.get(path) == [pid], path
        assert all(len(pids) == 1 for pids in senders.values())
