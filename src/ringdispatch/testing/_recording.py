"""A dispatcher that dispatches at once, and records instead of sending."""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar, Unpack

from ringdispatch import BackgroundDispatcher, Bytes, Objects, Records, _options
from ringdispatch._dispatcher import Options

Entry = TypeVar("Entry")


def kept(batch: Any) -> Any:
    """Return the batch in a form that may be kept for long."""
    # A copy of an array: the array itself would keep a buffer of `capacity` rows.
    return batch.copy() if hasattr(batch, "copy") else batch


class RecordingDispatcher(BackgroundDispatcher[Entry]):
    """A dispatcher whose entries are in `batches` when `enqueue` returns.

    It is a BackgroundDispatcher in all else: layouts check and encode entries, contexts
    are notified, the statistics are real, and it can be closed. Each entry is a batch
    of its own, and the call waits until it is recorded; an event loop is not needed. On
    the background thread itself, in another dispatcher's dispatch function, it can't
    wait: the entry is recorded when that function next awaits.

    It takes and checks the arguments of a BackgroundDispatcher, so that it can replace
    the class itself. The dispatch function is never called.
    `ms_delay`, `max_batch` and `home` have no effect.

    Attributes:
        batches: The batches that the dispatch function would have got, in order.

    Args:
        dispatch_function: Lends its name; not called.
        ms_delay: Not waited for.
        layout: As with BackgroundDispatcher; so are all other options.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: an option out of its range.
    """

    __slots__ = ("batches",)

    batches: list[Any]

    @_options.explain_arguments
    def __init__(
        self,
        dispatch_function: Callable[[Any], object] | None = None,
        *,
        ms_delay: float = 1,
        layout: Objects | Records | Bytes = Objects(),
        **options: Unpack[Options],
    ) -> None:
        batches: list[Any] = []  # not through self, which would keep itself alive

        async def record(batch: Any) -> None:
            batches.append(kept(batch))

        if dispatch_function is not None:
            _options.dispatch_function(dispatch_function)
        named = type(self) if dispatch_function is None else dispatch_function
        options["name"] = _options.name(options.get("name"), named)
        # Options without effect are checked all the same.
        _options.ms_delay(ms_delay)
        capacity = _options.capacity(options.setdefault("capacity", 65_536))
        _options.max_batch(options.get("max_batch"), capacity)
        _options.home(options.get("home", "auto"))
        options["max_batch"] = 1  # a full batch goes out at once
        options["home"] = "thread"  # another thread: the caller's can wait for it
        given: Any = {"layout": layout, **options}
        super().__init__(record, ms_delay=1, **given)
        self.batches = batches

    @property
    def entries(self) -> list[Any]:
        """All entries of all batches, in order."""
        return [entry for batch in self.batches for entry in batch]

    def clear(self) -> None:
        """Drop the recorded batches; the statistics stay."""
        self.batches.clear()

    def enqueue(self, entry: Entry, context: Any = None) -> bool:
        """Enqueue the entry, and wait until it is recorded."""
        accepted = super().enqueue(entry, context)
        self._record_now()
        return accepted

    def enqueue_row(self, *fields: Any, context: Any = None) -> bool:
        """Enqueue a row, and wait until it is recorded."""
        accepted = super().enqueue_row(*fields, context=context)
        self._record_now()
        return accepted

    async def aenqueue(
        self, entry: Entry, context: Any = None, timeout: float | None = None
    ) -> bool:
        """Enqueue the entry, waiting for room and until it is recorded."""
        accepted = await super().aenqueue(entry, context, timeout)
        await self.aflush(timeout=None)
        return accepted

    def _record_now(self) -> None:
        # On the background thread itself, in another dispatcher's dispatch function,
        # flush() raises: the entry is recorded as soon as that function awaits.
        with contextlib.suppress(RuntimeError):
            self.flush(timeout=None)
