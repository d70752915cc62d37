"""The compiled parts. Everything else is in pyproject.toml.

Three switches from the environment, for a build to look into:
RINGDISPATCH_DEBUG=1: no optimisation, C assertions on, symbols for a debugger.
RINGDISPATCH_COVERAGE=1: line tracing; the C files stay where Cython's plug-in looks.
RINGDISPATCH_SANITIZE=address,undefined: with these sanitizers; or thread.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

MODULES = ["_pthread", "_atomic", "_batch", "_ordered", "_ring"]
MODULES += ["_objects", "_enqueue", "_records", "_bytes"]
MODULES += ["_spool_place", "_spool_file", "_spool_ring", "_spool_recovered"]

DEBUG = os.environ.get("RINGDISPATCH_DEBUG", "0") not in {"", "0"}
COVERAGE = os.environ.get("RINGDISPATCH_COVERAGE", "0") not in {"", "0"}
SANITIZE = os.environ.get("RINGDISPATCH_SANITIZE", "")

if not {"", "address", "undefined", "thread"}.issuperset(SANITIZE.split(",")):
    raise SystemExit(f"RINGDISPATCH_SANITIZE={SANITIZE!r}: address, undefined, thread")

compile_args, link_args, macros = [], [], []
if sys.platform != "win32":
    # A builder's CFLAGS take the place of Python's own, optimisation included.
    compile_args += ["-O3", "-DNDEBUG", "-fwrapv", "-g0", "-fvisibility=hidden"]
    # No folder of the machine in the result: the same source gives the same bytes.
    compile_args += [f"-ffile-prefix-map={Path.cwd()}=."]
if sys.platform == "linux" and not (DEBUG or SANITIZE):
    link_args += ["-Wl,-s"]  # no table of symbols: 7% of a wheel
if DEBUG:
    compile_args += ["-O0", "-g3", "-UNDEBUG"]
if COVERAGE:
    macros += [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_TRACE", "1")]
if SANITIZE:
    # Python's -fwrapv would define the overflow that undefined is to see.
    compile_args += ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-wrapv"]
    compile_args += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
    link_args += [f"-fsanitize={SANITIZE}"]

# Always from scratch: the build sees no change of the switches or of Cython's version.
build = {"force": True, "cython_c_in_temp": not COVERAGE}
if COVERAGE:
    build["cython_directives"] = {"linetrace": True}

source = Path("src/ringdispatch")
headers = sorted(map(str, [*source.glob("*.pxd"), *source.glob("*.h")]))
setup(
    ext_modules=[
        Extension(
            f"ringdispatch.{module}",
            [f"src/ringdispatch/{module}.pyx"],
            depends=headers,
            include_dirs=[str(source)],
            define_macros=macros,
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
        for module in MODULES
    ],
    options={"build_ext": build},
)
