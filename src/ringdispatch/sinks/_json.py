"""Entries as JSON: what JSON has no word for becomes a string, and nothing fails."""

import json
import math
from typing import Any

_DEEPEST = 50


def as_text(value: Any) -> str:
    """An object that JSON doesn't know, as a string."""
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__} in its str>"


def dumps(value: Any) -> str:
    """Encode a value; unknown objects by `str`, NaN and infinity as null."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError):
        return _encode(_plain(value, 0))


_encode = json.JSONEncoder(
    default=as_text, allow_nan=False, separators=(",", ":")
).encode


def _plain(value: Any, depth: int) -> Any:
    """The value, without what JSON can't hold: NaN, keys that are none, circles."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth == _DEEPEST:
        return "..."
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else as_text(key): _plain(each, depth + 1)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(each, depth + 1) for each in value]
    return as_text(value)
