"""Requests to a loop under load: sent from outside, finer than a timer's grain."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from statistics import median

import pytest

from ringdispatch._tune import _sender
from ringdispatch._tune._entries import CellError
from ringdispatch._tune._probes import Requests
from ringdispatch._tune._sender import ORDER, STAMP

SEED = 7


def serve(requests: Requests, seconds: float, turn: float = 0.0) -> list[float]:
    """Serve on a loop that is busy for a turn, and again and again."""

    async def busy() -> None:
        while True:
            end = time.perf_counter() + turn
            while time.perf_counter() < end:
                pass
            await asyncio.sleep(0)

    async def main() -> list[float]:
        blocking = [asyncio.create_task(busy())] if turn else []
        await requests.serve(seconds, SEED)
        for task in blocking:
            task.cancel()
        return [*requests.took]

    return asyncio.run(main())


def test_a_request_takes_as_long_as_the_loop_is_busy_not_a_timers_grain() -> None:
    with Requests() as requests:
        idle = serve(requests, 0.2)
        busy = serve(requests, 0.3, turn=0.004)
    assert idle
    assert min(idle) < 0.0005  # no timer of a loop is that fine
    # Uniform over the turn, and more where the machine has other work.
    assert median(busy) > 0.0015
    assert len(busy) > 50
    assert requests.noted_bytes == 8 * len(busy)
    assert requests.peak_resident > 0


def test_the_seed_draws_the_times_of_requests() -> None:
    with Requests() as requests:
        counts = {len(serve(requests, 0.05)) for _ in range(3)}
    assert len(counts) == 1


def test_a_sender_that_has_ended_is_an_error() -> None:
    with Requests() as requests:
        requests._sender.kill()
        requests._sender.wait()
        with pytest.raises(CellError, match="that sends requests has ended"):
            serve(requests, 5.0)


class Full:
    """A socket with no room, until it is one that waits."""

    def __init__(self) -> None:
        self.sent = b""

    def setblocking(self, blocking: bool) -> None:
        self.blocking = blocking

    def send(self, data: bytes) -> int:
        assert not self.blocking
        raise BlockingIOError

    def sendall(self, data: bytes) -> None:
        assert self.blocking
        self.sent += data


def test_a_loop_that_reads_nothing_does_not_stop_the_clock_of_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_sender, "RATE", 2_000.0)
    full = Full()
    began = time.monotonic()
    _sender.send(full, 0.1, SEED)  # type: ignore[arg-type]
    *moments, end = [moment for (moment,) in STAMP.iter_unpack(full.sent)]
    assert end == 0.0
    assert len(moments) > 100
    assert moments == sorted(moments)
    assert began < moments[0] < moments[-1] <= time.monotonic()
    assert moments[-1] - began > 0.08  # a busy machine may be late with the first


def test_a_sender_follows_orders_until_the_other_end_is_closed() -> None:
    ours, other = socket.socketpair()
    with ours, other:
        sender = threading.Thread(target=_sender.serve, args=(other,))
        sender.start()
        for _ in range(2):
            ours.sendall(ORDER.pack(0.01, SEED))
            while ours.recv(STAMP.size, socket.MSG_WAITALL) != STAMP.pack(0.0):
                pass
        ours.shutdown(socket.SHUT_WR)
        sender.join(10)
        assert not sender.is_alive()
