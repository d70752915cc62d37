"""Sockets of this process, and ports that never answer."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path


def sockets() -> int:
    """How many this process has."""
    found = 0
    for name in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(name.readlink()).startswith("socket:")
    return found


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port where the system accepts connections, and nobody says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]
