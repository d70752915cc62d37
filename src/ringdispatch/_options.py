"""Checks of the constructor's options: each error names the option and its value."""

import inspect
import math
import sys
import threading
import weakref
from functools import partial
from numbers import Integral, Real
from typing import Any

from ._ring import short_repr

# How each log line and warning begins: with the library and the dispatcher's name.
LINE = "ringdispatch[%s]: %s"

# Of the living dispatchers, by name; and by the name that was asked for the lowest
# number that may be free, where that is not 1.
_owners: dict[str, "weakref.ref[Any]"] = {}
_lowest: dict[str, int] = {}


def _number(name: str, value: Any, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={short_repr(value)}: must be {wanted}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _positive(name: str, value: Any, wanted: str) -> float:
    number = _number(name, value, wanted)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{name}={short_repr(value)}: must be {wanted}")
    return number


def ms_delay(value: Any) -> float:
    """Check the delay in milliseconds; returns it in seconds.

    Raises:
        TypeError: `value` is not a number.
        ValueError: it is zero, negative, infinite or NaN.
    """
    return _positive("ms_delay", value, "a finite number of milliseconds > 0") / 1000


def dispatch_timeout(value: Any) -> float | None:
    """Check the longest duration of a dispatch in seconds.

    Raises:
        TypeError: `value` is not a number.
        ValueError: it is zero, negative, infinite or NaN.
    """
    if value is None:
        return None
    wanted = "a finite number of seconds > 0, or None (never)"
    return _positive("dispatch_timeout", value, wanted)


def timeout(value: Any) -> float | None:
    """Check the seconds that a caller will wait: >= 0, or None for ever.

    Raises:
        TypeError: `value` is not a number.
        ValueError: it is negative or NaN.
    """
    if value is None:
        return None
    wanted = "a number of seconds >= 0, or None (wait for ever)"
    number = _number("timeout", value, wanted)
    if not number >= 0:
        raise ValueError(f"timeout={short_repr(value)}: must be {wanted}")
    return None if number > threading.TIMEOUT_MAX else number  # some centuries


def count(name: str, value: Any) -> int:
    """Check an integer >= 1.

    Raises:
        TypeError: `value` is not an integer.
        ValueError: it is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={short_repr(value)}: must be an integer >= 1")
    if value < 1:
        raise ValueError(f"{name}={short_repr(value)}: must be an integer >= 1")
    return int(value)


def capacity(value: Any) -> int:
    """Check the ring's size in entries.

    Raises:
        TypeError: `value` is not an integer.
        ValueError: it is below 1.
        MemoryError: no machine could address so many.
    """
    checked = count("capacity", value)
    if checked > sys.maxsize // 32:
        raise MemoryError(
            f"capacity={short_repr(checked)}: more than a machine can address"
        )
    return checked


def max_batch(value: Any, most: int) -> int:
    """Check the size of a batch against the capacity `most`.

    Raises:
        TypeError: `value` is not an integer.
        ValueError: it is below 1 or above the capacity.
    """
    if value is None:
        return most
    checked = count("max_batch", value)
    if checked > most:
        raise ValueError(
            f"max_batch={short_repr(checked)}: must be <= capacity={most}: "
            "a batch cannot be larger than the ring"
        )
    return checked


def choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    """Check that a value is one of the known words.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, str) or value not in known:
        words = ", ".join(map(repr, known))
        raise ValueError(f"{name}={short_repr(value)}: must be one of {words}")
    return value


def is_async(function: Any) -> bool:
    """Whether calling `function` makes a coroutine."""
    call = getattr(type(function), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def function(name: str, value: Any) -> Any:
    """Check a callable.

    Raises:
        TypeError: `value` cannot be called.
    """
    if not callable(value):
        raise TypeError(f"{name}={short_repr(value)}: must be callable")
    return value


def dispatch_function(value: Any) -> Any:
    """Check the dispatch function.

    Raises:
        TypeError: `value` cannot be called, or makes a generator.
    """
    function("dispatch_function", value)
    call = getattr(type(value), "__call__", None)  # noqa: B004
    for each in (value, call):
        if inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each):
            raise TypeError(
                f"dispatch_function={short_repr(value)}: must be a plain or async "
                "function, not a generator"
            )
    return value


def layout(value: Any) -> Any:
    """Check a layout.

    Raises:
        TypeError: `value` is no layout.
    """
    if isinstance(value, type) or not hasattr(value, "make_ring"):
        raise TypeError(
            f"layout={short_repr(value)}: must be a layout, such as Objects()"
        )
    return value


def hook(name: str, value: Any) -> Any:
    """Check a plain callable, or None.

    Raises:
        TypeError: `value` cannot be called, or is async.
    """
    if value is None:
        return None
    if is_async(function(name, value)):
        raise TypeError(
            f"{name}={short_repr(value)}: must be a plain function, not async: "
            "hooks are not awaited; start a task in it instead"
        )
    return value


def name(value: Any, function: Any) -> str:
    """Check the name; None: that of the function, or of a partial's function.

    Raises:
        TypeError: `value` is not a string.
    """
    if value is None:
        while isinstance(function, partial):
            function = function.func
        return getattr(function, "__qualname__", type(function).__qualname__)
    if not isinstance(value, str):
        raise TypeError(f"name={short_repr(value)}: must be a string")
    return value


def unique_name(name: str, owner: object) -> str:
    """The name, or the first of name-2, name-3, ... that no other living owner has.

    Without a lock: single operations of a dict decide between threads, and a finalizer
    may be in here at any point.
    """
    number = _lowest.get(name, 1) - 1

    def free(
        reference: object,
        owners: dict[str, "weakref.ref[Any]"] = _owners,
        lowest: dict[str, int] = _lowest,
    ) -> None:
        if owners.get(unique) is reference:
            del owners[unique]
        if number == 1:
            lowest.pop(name, None)
        elif number < lowest.get(name, 1):
            lowest[name] = number

    reference = weakref.ref(owner, free)
    while True:
        number += 1
        unique = name if number == 1 else f"{name}-{number}"
        if _owners.setdefault(unique, reference) is reference:
            break
    _lowest[name] = number + 1
    return unique
