"""What `enqueue` costs with each layout, beside what packs a row otherwise.

    python benchmarks/record_price.py [--check] [--json FILE]

The row has four numbers: float64, int32, float32, uint16. Counts instructions with
callgrind (instructions.py), the empty loop's own taken off; `--check` exits with 1
where a ratio is above its limit. Needs numpy.
"""

import struct
import sys

import numpy as np

from instructions import CALLS, Cases, Limit, Loop, calling, compare
from ringdispatch import BackgroundDispatcher, Bytes, Records

DTYPE = np.dtype([("time", "f8"), ("size", "i4"), ("seconds", "f4"), ("status", "u2")])
ROW = (1.75e9, 5120, 0.25, 200)
LINE = b'{"time":1750000000.0,"size":5120,"seconds":0.25,"status":200}'


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

LIMITS: list[Limit] = [
    ("Records, enqueue(row)", "numpy array[i] = row", 0.25, None),
    ("Records, enqueue(row)", "struct.Struct.pack_into", 0.45, None),
]


if __name__ == "__main__":
    sys.exit(compare(__doc__, CASES, "numpy array[i] = row", LIMITS))
