"""Sends requests to an event loop, from a process of its own, at random times.

It shares no GIL with the loop, and waits for no answer. So it neither delays the loop
nor is delayed by it. It imports nothing of this package, to start at once.
"""

import random
import socket
import struct
import sys
import time
from contextlib import suppress

# Requests a second.
RATE = 500.0
# For how many seconds, and the seed of the times; one after the other.
ORDER = struct.Struct("=dq")
# The moment of a request, by the clock of the whole system; 0.0 ends an order.
STAMP = struct.Struct("=d")


def serve(sock: socket.socket) -> None:
    """Follow orders until the other end is closed."""
    while len(order := sock.recv(ORDER.size, socket.MSG_WAITALL)) == ORDER.size:
        send(sock, *ORDER.unpack(order))


def send(sock: socket.socket, seconds: float, seed: int) -> None:
    """Send the moments of requests, each at its moment, and the end.

    A loop that stands still reads nothing: when the socket is full, requests wait here,
    and their time goes on.
    """
    draw = random.Random(seed)
    began, due = time.monotonic(), draw.expovariate(RATE)
    waiting = bytearray()
    sock.setblocking(False)
    while due < seconds:
        time.sleep(max(0.0, began + due - time.monotonic()))
        waiting += STAMP.pack(time.monotonic())
        with suppress(BlockingIOError):
            del waiting[: sock.send(waiting)]
        due += draw.expovariate(RATE)
    sock.setblocking(True)
    sock.sendall(waiting + STAMP.pack(0.0))


def _given() -> socket.socket:
    """The socket that this process was started with."""
    if sys.platform == "win32":
        return socket.fromshare(sys.stdin.buffer.read())
    return socket.socket(fileno=0)


def _main() -> None:
    with _given() as sock:
        serve(sock)


if __name__ == "__main__":
    _main()
