"""Entries as JSON: what JSON has no word for becomes a string, and nothing fails."""

import json
import math
from typing import Any

_DEEPEST = 50
_MOST_BITS = 2_000  # Python writes no integer of more than 640 digits, if so set


def as_text(value: Any) -> str:
    """An object that JSON doesn't know, as a string."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__} in its str>"


def dumps(value: Any) -> str:
    """Encode a value; unknown objects by `str`, NaN and infinity as null."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError):
        return _encode(_plain(value, ()))


_encode = json.JSONEncoder(
    default=as_text, allow_nan=False, separators=(",", ":")
).encode


def _plain(value: Any, within: tuple[int, ...]) -> Any:
    """The value, without what JSON can't hold: NaN, keys that are none, circles."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < _MOST_BITS else as_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not isinstance(value, dict | list | tuple):
        return as_text(value)
    if id(value) in within or len(within) == _DEEPEST:
        return "..."
    within = (*within, id(value))
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else as_text(key): _plain(each, within)
            for key, each in value.items()
        }
    return [_plain(each, within) for each in value]
