"""What a message and an entry cost on their way: gateway, engine, relay.

    python stress/fanin_costs.py [--engine nats] [--nodes 3] [--messages 2000]
                                 [--bytes 200] [--json FILE]

A process sends messages of some sizes to a real NATS JetStream or Redis; then another
takes them, for a function that does nothing. Each is billed by its processor time, and
so are the servers meanwhile. For each side a line is laid through the sizes: so much
for a message, and so much for each entry in it. `examples/scale.py` reckons with these.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fanin_end import WARM
from fanin_servers import NatsServers, RedisServers

HERE = Path(__file__).parent
SIZES = (1, 10, 100, 1_000)  # entries of a message
LEAST = 200  # messages of a size
TMPFS = Path("/dev/shm")  # where no store waits for a disk
TICKS = os.sysconf("SC_CLK_TCK")
SIDES = ("gateway", "engine, in", "relay", "engine, out")
MIB = 2**20


class Line(NamedTuple):
    """Microseconds of a processor."""

    message: float
    entry: float


def used(servers: NatsServers | RedisServers) -> float:
    """Seconds of processors that servers have used so far."""
    spent = 0
    for pid in servers.pids():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent += int(fields[11]) + int(fields[12])
    return spent / TICKS


def held(servers: NatsServers | RedisServers) -> int:
    """Bytes in memory, of the server that has most."""
    page = os.sysconf("SC_PAGESIZE")
    return max(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
        for pid in servers.pids()
    )


def run_end(
    role: str, servers: NatsServers | RedisServers, *numbers: int
) -> tuple[float, float, int]:
    """Seconds of an end, and of the servers meanwhile; by how much the end grew."""
    before = used(servers)
    command = [sys.executable, HERE / "fanin_end.py", role, servers.urls[0]]
    ended = subprocess.run(
        [*command, *map(str, numbers)], check=True, stdout=subprocess.PIPE
    )
    found = json.loads(ended.stdout)
    return found["seconds"], used(servers) - before, found["grown"]


def measure(
    servers: NatsServers | RedisServers, options: argparse.Namespace
) -> tuple[dict[int, list[float]], dict[str, int]]:
    """Microseconds a message by size, in the order of SIDES; and bytes by process."""
    rows = {}
    memory: dict[str, int] = {}
    for size in SIZES:
        messages = max(LEAST, options.messages // (1 + size // 100))
        numbers = (size, messages, options.bytes)
        sent, taken_in, memory["gateway"] = run_end("send", servers, *numbers)
        memory["server"] = max(memory.get("server", 0), held(servers))
        taken, taken_out, grown = run_end("take", servers, *numbers)
        memory["relay"] = max(memory.get("relay", 0), grown)
        # Only the gateway's own seconds begin after the messages that warm it.
        micros = [
            each / (messages + WARM) * 1e6 for each in (taken_in, taken, taken_out)
        ]
        rows[size] = [sent / messages * 1e6, *micros]
    return rows, memory


def line_through(micros: list[float]) -> Line:
    """The line with the least relative errors, by SIZES."""
    weights = 1 / np.array(micros)
    columns = np.array([np.ones(len(SIZES)), SIZES]).T * weights[:, None]
    message, entry = np.linalg.lstsq(columns, np.ones(len(SIZES)), rcond=None)[0]
    return Line(float(message), max(0.0, float(entry)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--engine", choices=("nats", "redis"), default="nats")
    add("--nodes", type=int, choices=(1, 3), default=3, help="NATS servers")
    add("--messages", type=int, default=2_000, help="of one entry; fewer of larger")
    add("--bytes", type=int, default=200, help="of an entry")
    add("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    where = TMPFS if TMPFS.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where, prefix="fanin-") as name:
        servers: NatsServers | RedisServers
        if options.engine == "redis":
            servers = RedisServers(Path(name))
        else:
            servers = NatsServers(Path(name), options.nodes)
        try:
            rows, memory = measure(servers, options)
        finally:
            servers.stop()
    engine = f"{len(servers.urls)} x {options.engine}"
    print(f"{engine}, entries of {options.bytes} B: processor, µs a message")
    print(f"{'entries':>12}  " + "".join(f"{side:>13}" for side in SIDES))
    for size, row in rows.items():
        print(f"{size:>12,}  " + "".join(f"{each:13,.0f}" for each in row))
    lines = {
        side: line_through(list(column))
        for side, column in zip(SIDES, zip(*rows.values(), strict=True), strict=True)
    }
    for side, line in lines.items():
        print(f"{side:>12}  {line.message:,.0f} a message, {line.entry:.2f} an entry")
    for kind, count in memory.items():
        print(f"{kind:>12}  {count / MIB:,.0f} MiB in memory")
    if options.json is not None:
        figures: dict[str, Any] = {
            "engine": engine,
            "bytes": options.bytes,
            "python": platform.python_version(),
            "micros": {side: line._asdict() for side, line in lines.items()},
            "memory": memory,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
