"""Programs that fork, by Python or from C, and what their children must know."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from subprocesses import Outcome, run_snippet

SETUP = """
    import re
    async def send(batch):
        say(name, batch)
    dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
    name = "parent"

    def fork_in_c():
        '''As C code forks: Python knows of nothing, and reinitialises nothing.

        So no other thread may be waiting for the GIL, which would be broken in the
        child. None is that has slept while this one released it twenty times.
        '''
        import ctypes
        def look(task):
            with open(f"/proc/self/task/{task}/status") as file:
                return re.findall("State:.*|voluntary_ctxt_switches:.*", file.read())
        def idle():
            try:
                return looked_idle()
            except (FileNotFoundError, ProcessLookupError):
                return False  # a thread has ended meanwhile
        def looked_idle():
            me = str(threading.get_native_id())
            tasks = [task for task in os.listdir("/proc/self/task") if task != me]
            before = [look(task) for task in tasks]
            for _ in range(20):
                time.sleep(0.001)
            after = [look(task) for task in tasks]
            return before == after and all("S (" in state for state, *_ in after)
        eventually(idle)
        return ctypes.PyDLL(None).fork()

    fork = os.fork

    def child(body):
        '''Run body in a forked child; a child that hangs fails the test.'''
        global name
        pid = fork()
        if pid:
            return pid
        signal.alarm(15)
        code = 1
        try:
            name = "child"
            body()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)

    def collect():
        '''In a child. Without the GIL the collector goes through what each thread has:
        after a fork in C, through that of threads which are gone, and may crash.
        '''
        if fork is os.fork or getattr(sys, "_is_gil_enabled", lambda: True)():
            gc.collect()

    def join(pid):
        status = os.waitpid(pid, 0)[1]
        assert status == 0, status
"""


each_fork = pytest.mark.parametrize(
    "fork",
    [
        "os.fork",
        pytest.param(
            "fork_in_c",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
        ),
    ],
)


def forked(body: str, fork: str = "os.fork", **options: Any) -> Outcome:
    # From 3.12 on every fork of a process with threads warns.
    return run_snippet(
        SETUP.replace("fork = os.fork", f"fork = {fork}") + body,
        warnings=("ignore:This process:DeprecationWarning",),
        **options,
    )
