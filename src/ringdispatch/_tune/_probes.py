"""Probes of a run: stalls of the loop, requests that it serves, and memory."""

import asyncio
import ctypes
import importlib
import os
import selectors
import socket
import subprocess
import sys
import time
from array import array
from functools import cache
from time import perf_counter
from typing import Any, Self

from . import _sender
from ._entries import CellError
from ._sender import ORDER, STAMP

_MOST_BYTES = 1 << 16


class StallSelector(selectors.DefaultSelector):
    """Notes how long the loop runs callbacks before it polls for events again.

    For that long everything else on the loop stands still. It costs 0.5 µs an iteration
    and adds no wake-ups, as a probe that sleeps would.
    """

    def __init__(self) -> None:
        super().__init__()
        self.restart()

    def restart(self) -> None:
        """Measure from now on."""
        self.longest = 0.0
        self._woke = perf_counter()

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """As any selector."""
        self.longest = max(self.longest, perf_counter() - self._woke)
        events = super().select(timeout)
        self._woke = perf_counter()
        return events


class Requests:
    """Requests to the loop, sent from another process at random times.

    A request's time is from the moment when it was sent until the loop has read it: on
    an idle loop 0.04 ms. It depends on no timer, nor on when the sender can run. A
    request takes 0.03 ms of this process's time, most of it for waking up: 1.5% of a
    core in all, which is measured and subtracted. Each also samples the resident
    memory.

    The sender takes 2% of another core. On a machine that has only one, it can't run
    while the loop does, and a request may seem faster than it is.
    """

    def __init__(self) -> None:
        self.took = array("d")
        self.peak_resident = 0
        self._rest = b""
        self._socket, other = socket.socketpair()
        with other:
            self._sender = _start_sender(other)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._sender.kill()
        self._sender.wait()

    async def serve(self, seconds: float, seed: int) -> None:
        """Serve requests for that long; forget those before.

        Raises:
            CellError: the sender has ended.
        """
        del self.took[:]
        self.peak_resident = resident()
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._socket.setblocking(False)
        loop.add_reader(self._socket, self._read, done)
        try:
            self._socket.sendall(ORDER.pack(seconds, seed))
            await done
        except ConnectionError:
            raise CellError("the process that sends requests has ended") from None
        finally:
            loop.remove_reader(self._socket)

    @property
    def noted_bytes(self) -> int:
        """The size of its own notes, in bytes."""
        return len(self.took) * self.took.itemsize

    def _read(self, done: "asyncio.Future[None]") -> None:
        received = self._socket.recv(_MOST_BYTES)
        now = time.monotonic()
        if not received:
            done.set_exception(ConnectionError())
            return
        data = self._rest + received
        whole = len(data) - len(data) % STAMP.size
        self._rest = data[whole:]
        for (sent,) in STAMP.iter_unpack(data[:whole]):
            if sent:
                self.took.append(now - sent)
            else:
                done.set_result(None)
        self.peak_resident = max(self.peak_resident, resident())


def _start_sender(given: socket.socket) -> "subprocess.Popen[bytes]":
    """Start the process that sends requests through the socket."""
    command = [sys.executable, "-I", "-S", _sender.__file__]
    if sys.platform == "win32":
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        process.communicate(given.share(process.pid))
        return process
    return subprocess.Popen(command, stdin=given.fileno())


def resident() -> int:
    """Resident bytes of this process.

    Raises:
        ImportError: there is no /proc here, nor psutil.
    """
    statm = _statm()
    if statm is not None:
        return int(os.pread(statm, 100, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        psutil: Any = importlib.import_module("psutil")
    except ImportError as error:
        raise ImportError(
            "memory can't be measured here without psutil: "
            "pip install 'ringdispatch[tune]'"
        ) from error
    size: int = psutil.Process().memory_info().rss
    return size


def trim_memory() -> None:
    """Make the C allocator return freed memory, which would hide growth."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:  # pragma: no branch - glibc has it
            trim(0)


@cache
def _statm() -> int | None:
    """Keep the file open: reading it then takes 5 µs instead of 20."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:  # pragma: no cover - macOS and Windows have no /proc
        return None
