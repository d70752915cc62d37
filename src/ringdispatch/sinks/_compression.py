"""How bodies are compressed: gzip, or zstd where this Python or a package has it."""

import gzip
import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

# Entries resemble each other: level 6 takes twice the time, and saves little more.
_LEVEL = 1

Compress = Callable[[bytes], bytes]


def compressor(name: object) -> Compress | None:
    """The function that compresses as `compression=` says.

    Raises:
        ValueError: an unknown compression.
        ImportError: nothing that is installed can do it.
    """
    if name is None:
        return None
    if name == "gzip":
        return partial(gzip.compress, compresslevel=_LEVEL, mtime=0)
    if name == "zstd":
        zstd = _zstd()
        return partial(zstd.compress, level=_LEVEL)
    raise ValueError(f"compression={name!r}: must be 'gzip', 'zstd' or None")


def _zstd() -> Any:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(module)
        except ImportError:
            continue  # before 3.14, or built without it
    raise ImportError(
        "compression='zstd': needs Python 3.14 built with zstd, or the package "
        "backports.zstd: pip install 'ringdispatch[zstd]'"
    )
