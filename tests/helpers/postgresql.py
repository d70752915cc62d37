"""A real PostgreSQL on a free port of the loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import free_port

USER = "postgres"  # Debian's; as root it runs for nobody else


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    assert found, "PostgreSQL is not installed: .ci/system installs it"
    return found[-1].parent


@contextmanager
def serving_postgresql() -> Iterator[str]:
    """A server; its url."""
    programs, port = _programs(), free_port()
    # Not below pytest's folder, which other users may not enter.
    folder = Path(tempfile.mkdtemp(prefix="ringdispatch-postgresql-"))
    user = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        user = USER
        shutil.chown(folder, USER)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(folder / "data"), *arguments]
        if os.geteuid() == 0:
            as_user = ["setpriv", "--reuid", USER, "--regid", USER, "--init-groups"]
            command = [*as_user, *command]
        done = subprocess.run(
            command, check=False, cwd=folder, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()

    try:
        run("initdb", "--auth", "trust", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c fsync=off"
        options += f" -c unix_socket_directories={folder}"
        log = str(folder / "log")
        run("pg_ctl", "--wait", "--log", log, "--options", options, "start")
        try:
            yield f"postgresql://{user}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "--wait", "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
