"""C16 for dispatch functions that are not async: at exit, after a fork, in C++."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from subprocesses import needs_fork, run_snippet

# Python 3.12 starts no thread once the process ends.
NO_THREAD = sys.version_info[:2] == (3, 12)
COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)

needs_compiler = pytest.mark.skipif(
    COMPILER is None or sys.platform == "win32", reason="no C++ compiler of Unix"
)

# hold(seconds): sleeps without the GIL, in a function that lets no exception out.
HOLD = r"""
#include <Python.h>
#include <unistd.h>
struct Guard { ~Guard() {} };
static PyObject *hold(PyObject *, PyObject *seconds) noexcept {
    Guard guard;
    unsigned left = (unsigned)PyLong_AsLong(seconds);
    Py_BEGIN_ALLOW_THREADS
    sleep(left);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}
static PyMethodDef methods[] = {{"hold", hold, METH_O, ""}, {}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "hold", "", -1, methods};
PyMODINIT_FUNC PyInit_hold() {
    PyObject *made = PyModule_Create(&module);
#ifdef Py_GIL_DISABLED
    PyUnstable_Module_SetGIL(made, Py_MOD_GIL_NOT_USED);
#endif
    return made;
}
"""


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an extension in C++, `hold`."""
    folder = tmp_path_factory.mktemp("hold")
    (folder / "hold.cpp").write_text(HOLD)
    assert COMPILER is not None
    library = folder / f"hold{sysconfig.get_config_var('EXT_SUFFIX')}"
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    include = f"-I{sysconfig.get_path('include')}"
    command = [COMPILER, "-shared", "-fPIC", include, "hold.cpp", "-o", str(library)]
    subprocess.run([*command, *undefined], cwd=folder, check=True, timeout=120)
    return folder


def test_slow_function_does_not_hold_the_process() -> None:  # C16
    run_snippet(
        """
        called = threading.Event()
        def send(batch):
            called.set()
            time.sleep(60)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        dispatcher.enqueue(1)
        assert called.wait(10)
        """,
        stderr=r"(?s).*(dispatch failed \(1 entry\)|1 entry in flight failed).*",
    )


def test_slow_function_of_the_last_window_does_not_hold_the_process() -> None:  # C16
    run_snippet(
        """
        dispatcher = BackgroundDispatcher(lambda batch: time.sleep(60), ms_delay=60_000)
        dispatcher.enqueue(1)
        """,
        stderr=r"(?s).*(dispatch failed \(1 entry\)|1 entry in flight failed).*",
    )


@pytest.mark.parametrize("home", ["auto", "thread"])
@pytest.mark.parametrize("when", ["at exit", "in an exit hook"])
def test_exit_calls_an_ordinary_function(when: str, home: str) -> None:  # C16
    outcome = run_snippet(
        f"""
        import atexit
        def send(batch):
            say(batch, threading.current_thread().name)
        dispatcher = BackgroundDispatcher(send, ms_delay=60_000, home={home!r})
        if {when!r} == "at exit":
            dispatcher.enqueue(1)
        else:
            atexit.register(dispatcher.enqueue, 1)  # runs before ringdispatch's own
        """
    )
    inline = "ringdispatch" if when == "at exit" else "MainThread"
    name = inline if NO_THREAD else "ringdispatch-worker"
    assert outcome.lines == [f"[1] {name}"]


def test_exit_waits_for_a_slow_function_where_no_thread_starts() -> None:  # C16
    """On 3.12 it runs in the main thread; elsewhere 5 s is all it has."""
    outcome = run_snippet(
        f"""
        import atexit
        def send(batch):
            time.sleep({8 if NO_THREAD else 25})
            say("returned")
        dispatcher = BackgroundDispatcher(send, ms_delay=60_000)
        atexit.register(dispatcher.enqueue, 1)
        """,
        stderr=r"(?s)(.*dispatch failed \(1 entry\).*)?",
    )
    assert outcome.lines == (["returned"] if NO_THREAD else [])


@needs_fork
@pytest.mark.parametrize("parent", ["idle", "hung"])
def test_forked_child_calls_an_ordinary_function_in_its_own_threads(
    parent: str,
) -> None:  # C16, C17
    """The parent's worker, which the child does not have, is not waited for."""
    outcome = run_snippet(
        f"""
        called, gate = threading.Event(), threading.Event()
        def send(batch):
            if batch == ["parent"]:
                called.set()
                if {parent!r} == "hung":
                    gate.wait(20)
            say(batch, os.getpid() == main)
        main = os.getpid()
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        dispatcher.enqueue("parent")
        assert called.wait(10)
        if {parent!r} == "idle":
            assert dispatcher.flush()
        child = os.fork()
        if not child:
            dispatcher.enqueue("flushed")
            assert dispatcher.flush(10)
            dispatcher.enqueue("at exit")
            sys.exit()
        assert os.waitpid(child, 0)[1] == 0
        gate.set()
        assert dispatcher.close()
        """,
        warnings=("ignore:.*fork:DeprecationWarning",),
    )
    assert sorted(outcome.lines) == [
        "['at exit'] False",
        "['flushed'] False",
        "['parent'] True",
    ]


@needs_compiler
@pytest.mark.parametrize("where", ["at exit", "in close", "in asyncio.run"])
def test_function_that_hangs_in_cpp_does_not_hold_the_process(
    where: str, extension: Path
) -> None:  # C16
    run_snippet(
        f"""
        sys.path.insert(0, {str(extension)!r})
        import hold
        called = threading.Event()
        def send(batch):
            called.set()
            hold.hold(60)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        async def main():
            dispatcher.enqueue(1)
            await asyncio.to_thread(called.wait)
            assert not await dispatcher.aclose(0.2)
        if {where!r} == "in asyncio.run":
            asyncio.run(main())
        else:
            dispatcher.enqueue(1)
            assert called.wait(10)
        if {where!r} == "in close":
            assert not dispatcher.close(0.2)
        """,
        stderr="(?s).*(timed out|the process ended|dispatch failed).*",
        debug=False,
    )


@needs_compiler
def test_cpp_function_that_comes_back_as_the_interpreter_ends(
    extension: Path,
) -> None:  # C16
    """Before 3.14 Python ends the thread there, which C++ does not let through."""
    aborts = sys.version_info < (3, 14)
    if aborts and platform.libc_ver()[0] != "glibc":
        pytest.skip("how a thread ends depends on the C library")
    run_snippet(
        f"""
        sys.path.insert(0, {str(extension)!r})
        import hold
        called = threading.Event()
        def send(batch):
            called.set()
            hold.hold(4)
        dispatcher = BackgroundDispatcher(send, ms_delay=1)
        dispatcher.enqueue(1)
        assert called.wait(10)
        assert not dispatcher.close(0)
        class Slow:  # freed by the interpreter's end
            def __del__(self, sleep=time.sleep):
                sleep(8)
        sys.kept = Slow()
        sys.kept.itself = sys.kept
        """,
        stderr="(?s).*close timed out.*" + ("terminate called.*" if aborts else ""),
        code=-6 if aborts else 0,
        debug=False,
    )
