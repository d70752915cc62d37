"""Layouts: how entries lie in the ring, and what a batch is."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from . import _options
from ._bytes import ByteRing
from ._objects import ObjectRing
from ._records import RecordRing
from ._ring import Ring, short_repr

if TYPE_CHECKING:
    import os

    import numpy as np

# Positions in the arena are kept in 32 bits each.
_MOST_BYTES = 2**32 - 1


class Layout:
    """An immutable value, equal to another of the same options.

    Not a frozen dataclass: making those is much of what an import may take
    (docs/rationale.md).
    """

    __slots__: tuple[str, ...] = ()

    def _set(self, **options: Any) -> None:
        for name, value in options.items():
            object.__setattr__(self, name, value)

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"{name}={value!r}: {type(self).__name__} can't be changed: make another"
        )

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        given = zip(self.__slots__, self._values(), strict=True)
        options = ", ".join(f"{name}={value!r}" for name, value in given)
        return f"{type(self).__name__}({options})"

    def __reduce__(self) -> tuple[Any, ...]:
        options = dict(zip(self.__slots__, self._values(), strict=True))
        return _restore, (type(self), options)


def _restore(kind: type[Layout], options: dict[str, Any]) -> Layout:
    return kind(**options)


def _refuse_spool(layout: Layout, spool: object) -> None:
    if spool is not None:
        raise ValueError(
            f"spool={short_repr(spool)}: {type(layout).__name__} can't outlive the "
            "process so far: encode the entries, and give Bytes(encode, spool=...)"
        )


class Objects(Layout):
    """Entries are kept as they are; a batch is a list of them.

    Any object goes in. A pending entry costs its own memory and 8 bytes.

    Args:
        spool: Not for this layout: `Bytes` has it.

    Raises:
        ValueError: `spool` is given.
    """

    __slots__ = ()

    def __init__(self, *, spool: None = None) -> None:
        _refuse_spool(self, spool)

    def make_ring(
        self, capacity: int, max_batch: int, max_in_flight: int, *place: str
    ) -> Ring:
        """Make the ring that holds up to `capacity` entries laid out this way."""
        del max_in_flight, place  # for Records, and for Bytes
        return ObjectRing(capacity, max_batch)


class Records(Layout):
    """Entries are rows of numbers; a batch is a numpy structured array.

    `enqueue` takes a tuple with a value for each field, `enqueue_row` the values
    themselves. A number is accepted if the field can hold it exactly; float fields
    round, and reading an `S<n>` field drops zero bytes at its end, both as in numpy.
    The receiver may keep the batch and write to it.

    A pending entry costs `dtype.itemsize` bytes, and the garbage collector nothing. The
    dispatcher allocates `1 + max_in_flight` buffers of `capacity` rows; a batch gets
    its buffer without copying, unless it is less than half of the pending rows. Any
    reference to a batch keeps its whole buffer: to keep a few rows, copy them.

    Args:
        dtype: Anything that `numpy.dtype` accepts, with named fields of bool, integers
            of 8 to 64 bits, float32 or float64, `S<n>` bytes, or `M8`/`m8` with a unit
            (given as integers).
        spool: Not for this layout: `Bytes` has it.

    Raises:
        ImportError: numpy is not installed.
        TypeError: `dtype` has no named fields, or has one that records can't hold.
        ValueError: `spool` is given.
    """

    __slots__ = ("dtype",)

    dtype: "np.dtype[Any]"

    def __init__(self, dtype: Any, *, spool: None = None) -> None:
        _refuse_spool(self, spool)
        self._set(dtype=_with_numpy().record_type(dtype))

    def make_ring(
        self, capacity: int, max_batch: int, max_in_flight: int, *place: str
    ) -> Ring:
        """Make the ring that holds up to `capacity` entries laid out this way."""
        del place  # for Bytes only
        return RecordRing(
            capacity,
            max_batch,
            max_in_flight,
            self.dtype.itemsize,
            list(_with_numpy().rules_of(self.dtype)),
            _with_numpy().reader(self.dtype),
        )


def _with_numpy() -> Any:
    """Import the module that needs numpy, an extra: only Records calls this.

    Raises:
        ImportError: numpy is not installed.
    """
    try:
        from . import _fields  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        raise ImportError(
            "Records needs numpy: pip install 'ringdispatch[records]'"
        ) from error
    return _fields


class Bytes(Layout):
    """Entries are encoded when they are enqueued; a batch is one payload.

    A batch is a `BytesBatch`: `payload` is ready to post, with a separator after each
    entry; `json_array()` returns the entries as a JSON array.

    A pending entry costs its bytes, those of the separator, and 4. The dispatcher
    allocates an arena of `max_bytes`. An entry larger than a batch may be is refused as
    oversized; for one that finds no room, `on_full` decides.

    With a spool, an accepted entry outlives the process: it lies in a file of
    `spool/<the dispatcher's name>` until its batch is settled. The file is made by the
    constructor, has twice `capacity` and twice `max_bytes`, and is removed by a close
    that settled everything; what a close or the end of the process cuts short, or a
    kill, is left in it. A forked child makes a file of its own with its first entry.
    What was left is dispatched by the next dispatcher of the same name, directory and
    separator that has an event loop, beside its own entries, one call at a time.

    Args:
        encode: Returns an entry as bytes; `enqueue` calls it, and raises what it
            raises. None: entries are bytes, bytearray or memoryview.
        separator: What follows each entry.
        max_bytes: Most bytes pending at once, separators included, < 4 GiB.
        max_batch_bytes: Most bytes in a batch, separators included; that many pending
            are dispatched at once. None: `max_bytes`.
        spool: A directory for files in which entries outlive their process; made if it
            is missing. On Linux, on a local file system, with `max_bytes` <= 2 GiB, a
            separator of at most 256 bytes, and not with `on_full="drop_oldest"`. None:
            entries are lost with the process.
        dead_letters: With a spool: whether a batch whose dispatch failed is kept, in a
            file beside the spool's, 64 MiB of them at most; the oldest are removed.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: an option out of its range.
    """

    __slots__ = (  # noqa: RUF023
        "encode",
        "separator",
        "max_bytes",
        "max_batch_bytes",
        "spool",
        "dead_letters",
    )

    encode: Callable[[Any], Any] | None
    separator: bytes
    max_bytes: int
    max_batch_bytes: int | None
    spool: str | None
    dead_letters: bool

    def __init__(
        self,
        encode: Callable[[Any], Any] | None = None,
        separator: bytes = b"\n",
        max_bytes: int = 16 * 1024 * 1024,
        max_batch_bytes: int | None = None,
        *,
        spool: "str | os.PathLike[str] | None" = None,
        dead_letters: bool = True,
    ) -> None:
        if encode is not None:
            _options.function("encode", encode, "entry")
            if _options.is_async(encode):
                raise TypeError(
                    f"encode={short_repr(encode)}: must be a plain function, not "
                    "async: enqueue does not await"
                )
        if not isinstance(separator, bytes):
            raise TypeError(f"separator={short_repr(separator)}: must be bytes")
        if _options.count("max_bytes", max_bytes) > _MOST_BYTES:
            raise ValueError(
                f"max_bytes={short_repr(max_bytes)}: must be <= {_MOST_BYTES}"
            )
        most = max_bytes
        if max_batch_bytes is not None:
            most = _options.count("max_batch_bytes", max_batch_bytes)
        if most > max_bytes:
            raise ValueError(
                f"max_batch_bytes={short_repr(most)}: must be <= "
                f"max_bytes={max_bytes}: a batch cannot be larger than the ring"
            )
        if len(separator) > most:
            raise ValueError(
                f"separator={short_repr(separator)}: must have at most {most} bytes: "
                "no entry would fit in a batch"
            )
        if not isinstance(dead_letters, bool):
            raise TypeError(f"dead_letters={short_repr(dead_letters)}: must be a bool")
        if spool is not None:
            from . import _ring_files  # noqa: PLC0415, no other needs it

            spool = _ring_files.check(spool, separator, max_bytes)
        self._set(
            encode=encode,
            separator=bytes(separator),  # not a subclass
            max_bytes=max_bytes,
            max_batch_bytes=max_batch_bytes,
            spool=spool,
            dead_letters=dead_letters,
        )

    def make_ring(
        self, capacity: int, max_batch: int, max_in_flight: int, *place: str
    ) -> Ring:
        """Make the ring that holds up to `capacity` entries laid out this way.

        `place`: the dispatcher's name and `on_full`, for a spool.
        """
        del max_in_flight  # for Records only
        most = self.max_batch_bytes or self.max_bytes
        sizes = capacity, max_batch, self.encode, self.separator, self.max_bytes, most
        if self.spool is None:
            return ByteRing(*sizes)
        from . import _ring_files  # noqa: PLC0415, no other needs it

        name, on_full = place
        return _ring_files.make_ring(
            self.spool, name, on_full, self.dead_letters, *sizes
        )
