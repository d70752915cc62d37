"""The compiled parts. Everything else is in pyproject.toml.

Three switches from the environment, for a build to look into:

RINGDISPATCH_DEBUG=1: no optimisation, C assertions on, symbols for a debugger.
RINGDISPATCH_COVERAGE=1: line tracing; the C files stay beside their sources, where
    Cython's coverage plug-in looks for them.
RINGDISPATCH_SANITIZE=address|undefined|thread: built with that sanitizer; what it wants
    of the interpreter is in .ci/sanitizers.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

MODULES = ["_ring", "_producer", "_records", "_bytes"]

DEBUG = os.environ.get("RINGDISPATCH_DEBUG", "0") not in {"", "0"}
COVERAGE = os.environ.get("RINGDISPATCH_COVERAGE", "0") not in {"", "0"}
SANITIZE = os.environ.get("RINGDISPATCH_SANITIZE", "")

if SANITIZE not in {"", "address", "undefined", "thread"}:
    raise SystemExit(f"RINGDISPATCH_SANITIZE={SANITIZE!r}: address, undefined, thread")

compile_args, link_args, macros = [], [], []
if DEBUG:
    compile_args += ["-O0", "-g3", "-UNDEBUG"]
if COVERAGE:
    macros += [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_TRACE", "1")]
if SANITIZE:
    # Python's -fwrapv would define the overflow that undefined is to see.
    compile_args += ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-wrapv"]
    compile_args += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
    link_args += [f"-fsanitize={SANITIZE}"]

# Always from scratch: neither the switches nor Cython's version count in what the build
# takes for up to date.
build = {"force": True, "cython_c_in_temp": not COVERAGE}
if COVERAGE:
    build["cython_directives"] = {"linetrace": True}

headers = sorted(map(str, Path("src/ringdispatch").glob("*.pxd")))

setup(
    ext_modules=[
        Extension(
            f"ringdispatch.{module}",
            [f"src/ringdispatch/{module}.pyx"],
            depends=headers,
            define_macros=macros,
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
        for module in MODULES
    ],
    options={"build_ext": build},
)
