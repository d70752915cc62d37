"""The service of fanin.py: it notes what it was called with, if it is there.

Its folder is in FANIN_FOLDER; while a file `away` is in it, every call fails.
"""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path

import numpy as np

RECORD = np.dtype(
    [("gateway", "u2"), ("life", "u2"), ("number", "u4"), ("id", "u4"), ("age", "f4")]
)


def store(records: list[bytes], ids: list[str]) -> None:
    """Note the entries, and a checksum of each id, by one write."""
    folder = Path(os.environ["FANIN_FOLDER"])
    if (folder / "away").exists():
        raise ConnectionError("the service is away")
    now = time.time()
    taken = np.empty(len(records), RECORD)
    for index, (record, each) in enumerate(zip(records, ids, strict=True)):
        gateway, life, number, made = record.split()
        row = int(gateway), int(life), int(number), zlib.crc32(each.encode())
        taken[index] = (*row, now - float(made))
    path = folder / f"taken.{os.getpid()}"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        data = taken.tobytes()
        assert os.write(file, data) == len(data)
    finally:
        os.close(file)
