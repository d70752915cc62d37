"""Drives a real kernel through the cells of a notebook, and ends it as ordered.

Files named on the command line are its cells, else those below.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jupyter_client import BlockingKernelClient, KernelManager

SECONDS = 20.0

CELL = """\
from served import aenqueue_all, dispatcher
await aenqueue_all()
"""
TRAFFIC = """\
import asyncio
from served import dispatcher, produce
stop = asyncio.Event()
task = asyncio.ensure_future(produce(stop))
"""
STOP = "stop.set(); await task"
BUSY = """\
from served import note
note("busy")
import time
time.sleep(60)
"""
LATER = "assert await dispatcher.aflush()"


def run(client: BlockingKernelClient, cell: str) -> None:
    reply = client.execute(cell, reply=True, timeout=SECONDS)
    assert reply["content"]["status"] == "ok", reply


def start(client: BlockingKernelClient, cells: list[str]) -> None:
    if "TRAFFIC" not in os.environ:
        for cell in cells or [CELL]:
            run(client, cell)
        return
    run(client, TRAFFIC)
    wait_for(lambda record: record.count("+/") >= int(os.environ["TRAFFIC"]))


def wait_for(condition: Callable[[str], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition(Path(os.environ["RECORD"]).read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def interrupt(manager: KernelManager, client: BlockingKernelClient) -> None:
    """As the notebook's stop button, in the middle of a cell; then go on."""
    client.execute(BUSY, stop_on_error=False)  # else the kernel may abort the next
    wait_for(lambda record: "busy" in record)
    manager.interrupt_kernel()
    reply = client.get_shell_msg(timeout=SECONDS)
    assert reply["content"]["ename"] == "KeyboardInterrupt", reply
    if "TRAFFIC" in os.environ:
        run(client, STOP)
    run(client, LATER)
    manager.shutdown_kernel(now=True)


def main(end: str, *files: str) -> None:
    os.environ |= {
        "IPYTHONDIR": str(Path.cwd()),
        "JUPYTER_RUNTIME_DIR": str(Path.cwd()),
    }
    manager = KernelManager(connection_file=str(Path.cwd() / "kernel.json"))
    manager.shutdown_wait_time = 2 * SECONDS  # SIGTERM comes after half of it
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=SECONDS)
    start(client, [Path(file).read_text() for file in files])
    if end == "interrupt":
        interrupt(manager, client)
    elif end == "shutdown":
        manager.shutdown_kernel()
    else:
        manager.signal_kernel(signal.Signals[end])
        manager.provisioner.process.wait(SECONDS)
    client.stop_channels()


if __name__ == "__main__":
    main(*sys.argv[1:])
