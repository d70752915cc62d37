"""A server of NATS or of Redis for the demo, with its store in the demo's directory."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

STREAM, SUBJECT = "ENTRIES", "entries"
_END_SECONDS = 10.0


@dataclass
class Engine:
    """What --via names.

    Attributes:
        program: Of its server.
        package: Debian's, which has the program.
        url: With `{port}` in it.
        arguments: Of the program, with `{port}` and `{store}` in them.
        relay: More options of the relay.
    """

    program: str
    package: str
    url: str
    arguments: str
    relay: tuple[str, ...] = ()


ENGINES = {
    "nats": Engine(
        "nats-server",
        "nats-server",
        "nats://127.0.0.1:{port}",
        "--addr 127.0.0.1 --port {port} --jetstream --store_dir {store}",
        ("--create", SUBJECT),
    ),
    "redis": Engine(
        "redis-server",
        "redis-server",
        "redis://127.0.0.1:{port}",
        "--bind 127.0.0.1 --port {port} --dir {store} --appendonly yes",
    ),
}


def find(engine: Engine) -> str | None:
    """Where its program is; Debian has some where only root looks."""
    return shutil.which(engine.program) or shutil.which(
        engine.program, path="/usr/sbin"
    )


@contextlib.asynccontextmanager
async def serving(engine: Engine, directory: Path, port: int) -> AsyncIterator[str]:
    """Run its server; returns the url."""
    store = directory / engine.program
    store.mkdir()
    program = find(engine)
    assert program is not None, "the options were checked"
    arguments = engine.arguments.format(port=port, store=store).split()
    with (directory / f"{engine.program}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            program, *arguments, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield engine.url.format(port=port)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _END_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
