"""A handler for the standard library's `logging` that ships records in batches."""

import asyncio
import contextlib
import logging
import pkgutil
import threading
import traceback
import weakref
from collections.abc import Callable, Coroutine
from math import isfinite
from typing import TYPE_CHECKING, Any, Unpack, overload

from ._bytes import BytesBatch
from ._dispatcher import BackgroundDispatcher, Options, current_dispatcher
from ._layouts import Bytes, Objects, Records
from ._ring import short_repr

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DispatchHandler"]

_OWN = "ringdispatch"

# What every record has, beside the attributes that `extra` or a filter gave it.
_BARE = len(vars(logging.LogRecord("", 0, "", 0, "", None, None)))
_KNOWN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {
    "asctime",  # a Formatter's, as is `message`
    "message",
    "taskName",  # from 3.12 on
}

# An extra deeper than this is shipped as text.
_DEPTH = 8

# Dispatchers that have, or had, a handler, by their id.
_shipping: "weakref.WeakValueDictionary[int, BackgroundDispatcher[Any]]" = (
    weakref.WeakValueDictionary()
)


class DispatchHandler(logging.Handler):
    """Enqueues each record, as a dict, into a dispatcher.

    The entry has `time` (milliseconds since 1970), `level`, `logger` and `message`;
    where the record has them, `exception` and `stack` as text; and what `extra`
    brought, under names that are still free. Values that JSON has no form for are text.
    With a Formatter, the entry is what that makes of the record.

    Drops: a record that is made in a batch of a dispatcher that has a DispatchHandler,
    this one's or another's (it would make the next batch, for ever), and those of the
    logger `ringdispatch`. They are counted in `suppressed`; other handlers get them.
    Where the logger `ringdispatch` has no other handler, its warnings go to stderr.

    Threads: `handle` takes no lock, and never waits for the service.

    Shutdown: `flush` and `close` wait until what was logged before is settled, at most
    5 seconds, and never raise. On the thread of a running event loop they start that
    and return: there, `await handler.dispatcher.aflush()`. The dispatcher stays open,
    and a closed handler goes on where a logger still has it, since
    `logging.config.dictConfig` closes all handlers that there are.

    In the place of a dispatcher, a function or a hook there may be its dotted name, for
    `dictConfig`.

    Args:
        dispatcher: Gets the entries.
        level: The handler's level.
        **options: In the place of a dispatcher: `dispatch_function`, `ms_delay` and
            what else a BackgroundDispatcher takes, of which the handler makes one.

    Raises:
        TypeError: no dispatcher; a dispatcher and options for another; or as for a
            BackgroundDispatcher.
        ValueError: a name leads nowhere; or as for a BackgroundDispatcher.

    Attributes:
        dispatcher: Where the entries go.
    """

    dispatcher: BackgroundDispatcher[Any]

    @overload
    def __init__(
        self, dispatcher: BackgroundDispatcher[Any] | str, *, level: int | str = ...
    ) -> None: ...

    @overload
    def __init__(
        self,
        dispatcher: None = ...,
        *,
        dispatch_function: Callable[[list[Any]], object] | str,
        ms_delay: float,
        layout: Objects = ...,
        level: int | str = ...,
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self,
        dispatcher: None = ...,
        *,
        dispatch_function: Callable[[BytesBatch], object] | str,
        ms_delay: float,
        layout: Bytes,
        level: int | str = ...,
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self,
        dispatcher: None = ...,
        *,
        dispatch_function: "Callable[[np.ndarray[Any, Any]], object] | str",
        ms_delay: float,
        layout: Records,
        level: int | str = ...,
        **options: Unpack[Options],
    ) -> None: ...

    def __init__(
        self,
        dispatcher: BackgroundDispatcher[Any] | str | None = None,
        *,
        level: int | str = logging.NOTSET,
        **options: Any,
    ) -> None:
        # First: a handler that was refused must not be known to logging.shutdown.
        self.dispatcher = _dispatcher(dispatcher, options)
        super().__init__(level)
        # By thread: each changes a count of its own.
        self._suppressed: dict[int, int] = {}
        _shipping[id(self.dispatcher)] = self.dispatcher

    @property
    def suppressed(self) -> int:
        """Records dropped because they were made by shipping others."""
        return sum(list(self._suppressed.values()))

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit the record, if the filters let it pass and no batch made it."""
        if self.filters:
            passed: Any = self.filter(record)
            if not passed:
                return False
            if isinstance(passed, logging.LogRecord):  # from 3.12 on, in its place
                record = passed
        # A first look: nearly all records end it.
        if current_dispatcher() is None and record.name != _OWN:
            self.emit(record)
        elif _is_of_shipping(record):
            self._suppress(record)
        else:
            self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Enqueue the record's entry."""
        try:
            self.dispatcher.enqueue(self.format(record))
        except Exception:
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> Any:
        """Make the record's entry."""
        if self.formatter is not None:
            return self.formatter.format(record)
        message = record.getMessage()
        entry: dict[str, Any] = {
            "time": int(record.created * 1000 + 0.5),
            "level": record.levelname,
            "logger": record.name,
            "message": message if message.isascii() else _encodable(message),
        }
        if record.exc_info or record.exc_text or record.stack_info:
            _add_traces(entry, record)
        if len(record.__dict__) != _BARE:
            _add_extras(entry, record)
        return entry

    def flush(self) -> None:
        """Dispatch what was logged; see the class."""
        if _runs_loop():
            _begin(self.dispatcher.aflush())
            return
        # Raised where another greenlet of this thread runs the home.
        with contextlib.suppress(RuntimeError):
            self.dispatcher.flush()

    def close(self) -> None:
        """Flush; see the class."""
        self.flush()
        super().close()

    def _suppress(self, record: logging.LogRecord) -> None:
        thread = threading.get_ident()
        self._suppressed[thread] = self._suppressed.get(thread, 0) + 1
        # What the dispatcher says of a failing service must be seen somewhere. As
        # logging itself does where there is no handler:
        last = logging.lastResort
        if record.name == _OWN and last is not None and record.levelno >= last.level:
            handlers = _handlers_of(record)
            alone = all(isinstance(each, DispatchHandler) for each in handlers)
            if alone and handlers[:1] == [self]:
                last.handle(record)


# ---- the constructor's arguments


def _dispatcher(given: Any, options: dict[str, Any]) -> BackgroundDispatcher[Any]:
    for name in ("dispatch_function", "on_error", "on_drop"):
        if name in options:
            options[name] = _resolved(name, options[name])
    given = _resolved("dispatcher", given)
    if given is None:
        if "dispatch_function" not in options:
            raise TypeError(
                "DispatchHandler(): give a dispatcher, or dispatch_function= and "
                "ms_delay= for one of its own"
            )
        return BackgroundDispatcher(options.pop("dispatch_function"), **options)
    if not isinstance(given, BackgroundDispatcher):
        raise TypeError(
            f"dispatcher={short_repr(given)}: must be a BackgroundDispatcher, or its "
            "dotted name; to make one, give dispatch_function= and ms_delay="
        )
    if options:
        name, value = next(iter(options.items()))
        raise TypeError(
            f"{name}={short_repr(value)}: options are for a dispatcher of the "
            "handler's making; the given one has its own"
        )
    return given


def _resolved(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return pkgutil.resolve_name(value)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{name}={value!r}: must be a dotted name, such as 'package.module.name': "
            f"{error}"
        ) from error


# ---- records that shipping makes


def _is_of_shipping(record: logging.LogRecord) -> bool:
    return id(current_dispatcher()) in _shipping or record.name == _OWN


def _handlers_of(record: logging.LogRecord) -> list[logging.Handler]:
    handlers = []
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        handlers += logger.handlers
        logger = logger.parent if logger.propagate else None
    return handlers


# ---- entries


def _add_traces(entry: dict[str, Any], record: logging.LogRecord) -> None:
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if error is not None:
        lines = traceback.format_exception(error)
        entry["exception"] = _encodable("".join(lines).rstrip("\n"))
    elif record.exc_text:  # as in a record from another process
        entry["exception"] = _encodable(record.exc_text)
    if record.stack_info:
        entry["stack"] = _encodable(record.stack_info)


def _add_extras(entry: dict[str, Any], record: logging.LogRecord) -> None:
    for name, value in record.__dict__.copy().items():
        if name not in _KNOWN:
            entry.setdefault(_serialisable(str(name)), _serialisable(value))


def _encodable(text: str) -> str:
    """The text as UTF-8 can encode it: file names may have halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


def _serialisable(value: Any, above: tuple[int, ...] = ()) -> Any:
    """The value as any encoder of JSON takes it: one bad line would fail a batch."""
    kind = type(value)  # not its __class__, which a proxy makes up
    try:
        if value is None or kind is bool:
            return value
        if issubclass(kind, str):
            return _encodable(str.__str__(value))
        if issubclass(kind, int):
            whole = int.__int__(value)
            return whole if -(2**63) <= whole < 2**64 else str(whole)
        if issubclass(kind, float):
            number = float.__float__(value)
            return number if isfinite(number) else str(number)
        if issubclass(kind, dict | list | tuple) and len(above) < _DEPTH:
            return _serialisable_items(value, above)
        return _encodable(str(value))
    except Exception as error:
        return f"<{kind.__name__}: {type(error).__name__} in its str>"


def _serialisable_items(value: Any, above: tuple[int, ...]) -> Any:
    if id(value) in above:
        return "<itself>"
    above = (*above, id(value))
    if isinstance(value, dict):
        return {
            _encodable(str(name)): _serialisable(each, above)
            for name, each in value.copy().items()
        }
    return [_serialisable(each, above) for each in tuple(value)]


# ---- flush


def _runs_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _begin(waiting: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine up to where it would wait; no task is left behind."""
    try:
        waiting.send(None)
    except StopIteration:
        return
    waiting.close()
