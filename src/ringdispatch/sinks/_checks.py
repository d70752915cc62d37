"""Checks of what constructors of sinks are given: each error names it, no secret."""

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any
from urllib.parse import SplitResult, urlsplit

# What the sink sets itself, for each batch.
_OURS = {"content-encoding", "content-length", "idempotency-key", "transfer-encoding"}

# Of a header: its name, and what is in no value.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_SENT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


class Private(dict[str, str]):
    """Headers, without their values wherever one prints the mapping."""

    def __repr__(self) -> str:
        return repr(dict.fromkeys(self, "***"))

    __str__ = __repr__


def check_url(url: Any) -> SplitResult:
    """Check an http url; the message shows neither credentials nor query.

    Raises:
        TypeError: it is no string.
        ValueError: it has no scheme or host, or has credentials in it.
    """
    if not isinstance(url, str):
        raise TypeError(f"url: must be a string, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
    except ValueError:  # which quotes what may be a part of a password
        raise ValueError(
            "url: its host or port is not valid (credentials belong into headers)"
        ) from None
    if "@" in parts.netloc:
        raise ValueError(
            f"url={origin(parts)!r}: has credentials in it, which would show in logs: "
            "give them as headers={'Authorization': ...}"
        )
    if parts.scheme not in {"http", "https"}:
        shown = f"{parts.scheme}:..." if parts.scheme else "..."
        raise ValueError(f"url={shown!r}: must begin with https:// or http://")
    if not parts.hostname:
        raise ValueError(f"url={origin(parts)!r}: has no host")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError(f"url={origin(parts)!r}: has white space in it")
    return parts


def origin(parts: SplitResult) -> str:
    """The url as far as it may be shown: a path or a query may hold a key."""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def check_mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Check a mapping; None is an empty one.

    Raises:
        TypeError: it is none.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: must be a mapping, not {type(value).__name__}")
    return value


def check_headers(headers: Any) -> Private:
    """Check the headers of each request; the message shows no value.

    Raises:
        TypeError: they are no mapping of strings.
        ValueError: a name or a value can't be sent, or is the sink's own.
    """
    headers = check_mapping("headers", headers)
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(
                f"headers: name and value of {name!r} must be strings, "
                f"not {type(value).__name__}"
            )
        if not _NAME.fullmatch(name):
            raise ValueError(f"headers: {name!r} is no name of a header")
        if _NOT_SENT.search(value):
            raise ValueError(
                f"headers: the value of {name!r} has a line break or another character "
                "in it that can't be sent"
            )
        if name.lower() in _OURS:
            raise ValueError(f"headers: {name!r} is set by the sink for each batch")
    return Private(headers)


def check_seconds(name: str, value: Any, *, endless: bool = False) -> float:
    """Check a number of seconds > 0.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    wanted = "a number of seconds > 0" + (", or math.inf" if endless else "")
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r}: must be {wanted}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not number > 0 or (number == math.inf and not endless):
        raise ValueError(f"{name}={value!r}: must be {wanted}")
    return number
