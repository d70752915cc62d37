"""What `enqueue` costs with each layout, beside what packs a row otherwise.

    python benchmarks/record_price.py [--check] [--json FILE]

The row has four numbers: float64, int32, float32, uint16. Counts instructions with
callgrind (instructions.py), the empty loop's own taken off; `--check` exits with 1
where a ratio is above its limit. Needs numpy.
"""

import argparse
import json
import platform
import struct
import sys
import sysconfig
from pathlib import Path

import numpy as np

from instructions import CALLS, Cases, Loop, calling, prices, serve
from ringdispatch import BackgroundDispatcher, Bytes, Records

DTYPE = np.dtype([("time", "f8"), ("size", "i4"), ("seconds", "f4"), ("status", "u2")])
ROW = (1.75e9, 5120, 0.25, 200)
LINE = b'{"time":1750000000.0,"size":5120,"seconds":0.25,"status":200}'
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def dispatcher(layout: Records | Bytes, entry: object) -> BackgroundDispatcher:
    """A dispatcher with its window open and an hour until it is due."""

    async def send(batch: object) -> None:
        pass

    made = BackgroundDispatcher(
        send, ms_delay=3_600_000, capacity=4 * CALLS, layout=layout
    )
    made.enqueue(entry)
    return made


def of_row(call: str) -> Loop:
    """A loop of a dispatcher's `call` with the row, or its fields."""
    time, size, seconds, status = ROW
    return calling(
        call,
        sink=dispatcher(Records(DTYPE), ROW),
        row=ROW,
        time=time,
        size=size,
        seconds=seconds,
        status=status,
    )


def of_line(line: object) -> Loop:
    """A loop of enqueue with what is bytes already."""
    return calling("sink.enqueue(line)", sink=dispatcher(Bytes(), LINE), line=line)


def numpy_row() -> Loop:
    """A loop of numpy's own assignment of a row."""
    return calling("array[7] = row", array=np.zeros(16, DTYPE), row=ROW)


def struct_row() -> Loop:
    """A loop of struct's packing of a row."""
    time, size, seconds, status = ROW
    return calling(
        "row.pack_into(buffer, 18, time, size, seconds, status)",
        row=struct.Struct("=difH"),
        buffer=bytearray(64),
        time=time,
        size=size,
        seconds=seconds,
        status=status,
    )


CASES: Cases = {
    "numpy array[i] = row": numpy_row,
    "struct.Struct.pack_into": struct_row,
    "Records, enqueue(row)": lambda: of_row("sink.enqueue(row)"),
    "Records, enqueue_row(*fields)": lambda: of_row(
        "sink.enqueue_row(time, size, seconds, status)"
    ),
    "Bytes, enqueue(bytes)": lambda: of_line(LINE),
    "Bytes, enqueue(bytearray)": lambda: of_line(bytearray(LINE)),
}

# (case, measured against, limit with the GIL)
LIMITS = [
    ("Records, enqueue(row)", "numpy array[i] = row", 0.25),
    ("Records, enqueue(row)", "struct.Struct.pack_into", 0.45),
]


def main() -> int:
    """Measure, print the table, and check the limits where asked."""
    serve(CASES)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail above a limit")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()

    unit, measured = prices(CASES)
    build = "free-threaded" if FREE_THREADED else "GIL"
    version = platform.python_version()
    print(f"CPython {version} ({build}), numpy {np.__version__}: {unit} per call")
    for case, price in measured.items():
        ratio = price / measured["numpy array[i] = row"]
        print(f"  {case:<36}{price:8.0f}   {ratio:5.2f} of numpy")
    failed = 0
    print("limits")
    for case, base, limit in LIMITS:
        ratio = measured[case] / measured[base]
        verdict = "met" if ratio <= limit else "NOT MET"
        if FREE_THREADED:
            verdict += ", but set for builds with the GIL"
        else:
            failed += ratio > limit
        print(f"  {case:<24}{ratio:6.2f} of {base}, limit {limit:.2f}: {verdict}")
    if options.json:
        figures = {"python": version, "build": build, "unit": unit, "prices": measured}
        options.json.write_text(json.dumps(figures, indent=2))
    return 1 if options.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())
