"""The fields of a record: the numpy types and the values that they accept."""

from collections import UserString
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import pairwise
from math import inf, isinf
from numbers import Real
from operator import index
from typing import Any

import numpy as np

from ._ring import short_repr

# The way out for each kind that records can't hold.
_INSTEAD = {
    "O": "records keep no objects; use Objects() for them",
    "U": "encode text, and use S<number of bytes>",
    "V": "use S<number of bytes>",
    "c": "make it two fields, the real and the imaginary part",
}

# float() accepts them all, a masked value of numpy too, which is an array.
_NO_NUMBERS = (str, bytes, UserString, np.ndarray, np.complexfloating)


@dataclass(frozen=True, slots=True)
class FieldRule:
    """One field: its position in a row, and the values it accepts.

    Attributes:
        name: Its name.
        kind: numpy's letter for its kind of type.
        offset: Bytes from the start of the row.
        size: Its bytes.
        dtype: numpy's type.
    """

    name: str
    kind: str
    offset: int
    size: int
    dtype: "np.dtype[Any]"

    @property
    def low(self) -> int:
        """The smallest integer it can hold."""
        return 0 if self.kind in "bu" else -(1 << 8 * self.size - 1)

    @property
    def high(self) -> int:
        """The largest integer it can hold."""
        if self.kind == "b":
            return 1
        return (1 << 8 * self.size - (self.kind != "u")) - 1

    def plain(self, value: Any) -> bool | int | float | None:
        """Turn a number of any type into a plain one of exactly its value.

        Only a float field rounds, as numpy does, and only within its range. None:
        `value` is not a number, or no plain number equals it.
        """
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if isinstance(value, np.datetime64 | np.timedelta64):
            return self._plain_time(value)
        if self.kind == "S" or isinstance(value, _NO_NUMBERS):
            return None
        try:
            return _plain_float(value) if self.kind == "f" else self._plain_int(value)
        except (TypeError, ValueError, OverflowError):
            return None

    def _plain_int(self, value: Any) -> int | None:
        if hasattr(value, "__index__"):
            return index(value)
        if self.kind in "Mm" or not isinstance(value, Real | Decimal | np.bool_):
            return None
        number = int(value)  # type: ignore[arg-type]
        return number if number == value else None

    def _plain_time(self, value: "np.datetime64 | np.timedelta64") -> int | None:
        if value.dtype.kind != self.kind:
            return None
        # Years and months have no fixed length; a finer unit has a smaller range.
        if not np.can_cast(value.dtype, self.dtype, "same_kind"):
            return None
        try:
            same = value.astype(self.dtype)
            back = same.astype(value.dtype)
        except OverflowError:
            return None
        return int(same.astype(np.int64)) if back == value or np.isnat(value) else None

    def refusal(self, value: Any) -> Exception:
        """Return the error for a value that the field does not accept."""
        what = f"field {self.name!r}: {short_repr(value)}"
        if self.kind == "S":
            if isinstance(value, bytes):
                return ValueError(
                    f"{what} has {len(value)} bytes, {self.dtype} holds {self.size}: "
                    "shorten it, or make the field longer"
                )
            if isinstance(value, bytearray | memoryview):
                return TypeError(f"{what} must be bytes: pass bytes(value)")
            return TypeError(f"{what} must be bytes: encode it")
        if self.kind == "f" and _is_finite(value):
            return OverflowError(f"{what} is beyond the range of {self.dtype}")
        if self.kind != "f" and self.plain(value) is not None:
            return OverflowError(
                f"{what} is out of range: {self.dtype} holds {self.low} to {self.high}"
            )
        return TypeError(f"{what} must be {self._takes()}")

    def _takes(self) -> str:
        match self.kind:
            case "f":
                return "a number"
            case "b":
                return "a bool, or 0 or 1"
            case "M":
                return f"an integer, in the units of {self.dtype} since 1970"
            case "m":
                return f"an integer, in the units of {self.dtype}"
        return "a whole number: round it before"

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype})"


def _plain_float(value: Any) -> float | None:
    if not hasattr(value, "__float__") and not hasattr(value, "__index__"):
        return None
    number = float(value)
    return None if isinf(number) and _is_finite(value) else number


def _is_finite(value: Any) -> bool:
    """Whether it is a finite number, of any size."""
    if isinstance(value, np.timedelta64):  # counts as an integer there
        return False
    if isinstance(value, Decimal):
        return value.is_finite()
    return isinstance(value, Real) and value not in (inf, -inf)


def record_type(value: Any) -> "np.dtype[Any]":
    """Make a dtype of `value`, and check that records can have it.

    Raises:
        TypeError: it has no named fields, or has one that records can't hold.
    """
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"dtype={value!r}: {error}") from error
    if not dtype.names:
        raise TypeError(
            f"dtype={value!r}: must have named fields, such as "
            "[('status', 'u2'), ('seconds', 'f8')]"
        )
    for field in rules_of(dtype):
        instead = _instead(field.dtype)
        if instead is not None:
            raise TypeError(
                f"dtype={value!r}: field {field.name!r} is {field.dtype}: {instead}"
            )
    in_order = sorted(rules_of(dtype), key=lambda field: field.offset)
    for field, following in pairwise(in_order):
        if field.offset + field.size > following.offset:
            raise TypeError(
                f"dtype={value!r}: fields {field.name!r} and {following.name!r} "
                "overlap; give each its own bytes"
            )
    return dtype


def rules_of(dtype: "np.dtype[Any]") -> Iterator[FieldRule]:
    """Yield a rule for each field of a structured type."""
    for name in dtype.names or ():
        of, offset = dtype.fields[name][:2]  # type: ignore[index]
        yield FieldRule(name, of.kind, offset, of.itemsize, of)


def reader(dtype: "np.dtype[Any]") -> Callable[[Any], "np.ndarray[Any, Any]"]:
    """Return a function that makes an array of a buffer of rows, without copying."""
    return partial(np.frombuffer, dtype=dtype)


def _instead(of: "np.dtype[Any]") -> str | None:
    """Return the way out for a field of this type; None if records can hold it."""
    if of.names is not None:
        return "nested fields are not kept; make them fields of the record itself"
    if of.subdtype is not None:
        return "arrays are not kept; make each element a field"
    if not of.isnative:
        return f"not in this machine's byte order; use {of.newbyteorder('=')}"
    if of.kind == "f" and of.itemsize not in (4, 8):
        return "use f4 or f8"
    if of.kind == "S" and of.itemsize == 0:
        return "give it a number of bytes, such as S16"
    if of.kind in "Mm" and np.datetime_data(of)[0] == "generic":
        return f"give it a unit, such as {of.kind}8[ms]"
    if of.kind in "biufSMm":
        return None
    return _INSTEAD.get(of.kind, "use numbers, bools or bytes")
