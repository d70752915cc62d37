"""The public face: `BackgroundDispatcher` and its options."""

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Never, Self, TypedDict, TypeVar, Unpack, overload

from . import _close, _flush, _options
from ._batcher import Batcher
from ._bytes import BytesBatch
from ._call import current_batcher
from ._enqueue import EnqueueBase, Full, install_enqueue
from ._home import home_of, running_loop
from ._layouts import Bytes, Objects, Records
from ._reports import OnDrop, OnError

if TYPE_CHECKING:
    import numpy as np  # without it, type checkers take what it has for Any

    from ._statistics import Statistics

Entry = TypeVar("Entry")

# Those that were made and not collected, by the id of their batcher, which each keeps.
_living: "weakref.WeakValueDictionary[int, BackgroundDispatcher[Any]]" = (
    weakref.WeakValueDictionary()
)


class Options(TypedDict, total=False):
    """The options that mean the same for every layout, for type checkers."""

    capacity: int
    max_batch: int | None
    max_in_flight: int
    dispatch_timeout: float | None
    on_full: _options.OnFull
    home: _options.HomeChoice
    on_error: OnError | None
    on_drop: OnDrop | None
    name: str | None


@install_enqueue
class BackgroundDispatcher(EnqueueBase[Entry]):
    """Hands entries to an async function in batches, in the background.

    Dispatches: an entry that finds the ring empty opens a window; `ms_delay` later all
    pending entries go to `dispatch_function`, never an empty batch. `max_batch` pending
    entries, a flush, a close and the end of the loop dispatch sooner.

    Loses entries: when the ring is full (per `on_full`) or closed, or an entry larger
    than a batch may be; when a call raises, runs out of time, is cancelled or loses its
    loop (it is not repeated: retry inside it); when close or exit runs out of time, or
    the dispatcher is collected unclosed; when the process is killed. All but the last
    are counted and reported.

    Order: entries of one thread keep their order; batches start in order.

    Threads: `enqueue` may be called from any thread, event loop, signal handler or
    finalizer. The dispatcher lives on the loop that its first entry came from, or, if
    there was none, on a shared background thread.

    Shutdown: `await aclose()` in the application's lifespan. Otherwise the end of
    `asyncio.run`, or of the process, dispatches pending entries within 5 seconds.
    `with` and `async with` close it at their end, and open a closed one again.

    Args:
        dispatch_function: Async callable taking a batch (with the default layout a list
            of entries). An ordinary function runs in a worker thread; if it returns an
            awaitable, that is awaited on the home. A sink, that is an object with a
            coroutine method `aclose`, is closed with the dispatcher.
        ms_delay: Milliseconds from a window's opening to its dispatch, > 0.
        capacity: Most entries pending at once.
        max_batch: Most entries per call; that many pending are dispatched at once.
            None: `capacity`.
        max_in_flight: Most calls of the dispatch function at once.
        dispatch_timeout: Seconds after which a call has failed and is cancelled. None:
            never.
        on_full: How to treat an entry when the ring is full: `"drop_newest"` refuses
            it, `"drop_oldest"` lets it displace the oldest, `"raise"` raises Full.
        layout: How entries lie in the ring, and what a batch is: `Objects()` any
            object, a list; `Records(dtype)` tuples of numbers, a numpy array;
            `Bytes(...)` encoded entries, one payload.
        home: `"auto"`, or `"thread"` to live on the background thread unless bound.
        on_error: Called as `on_error(exception, batch)` after a failed dispatch, on
            the home or by the `close` that ran out of time.
        on_drop: Called as `on_drop(reason, count)` after drops, never from `enqueue`:
            of the first at once, of later ones up to 1 s late, and later while the
            home's loop is blocked. The reason is the name of a counter in Statistics.
        name: For logs and metrics. None: the function's. Where another dispatcher has
            it, a number is appended: `send-2`.

    Raises:
        TypeError: an option of the wrong type, or a function of the wrong arguments.
        ValueError: an option out of its range.
        MemoryError: no memory for `capacity` entries.
    """

    # Without an instance dict the interpreter specialises `dispatcher.enqueue(...)`:
    # see docs/rationale.md, "No instance dict".
    __slots__ = ("__weakref__", "_batcher")

    if TYPE_CHECKING:  # from _enqueue.pyx, put here by install_enqueue

        def enqueue(self, entry: Entry, context: Any = None) -> bool: ...

        def enqueue_row(self, *fields: Any, context: Any = None) -> bool: ...

    @overload
    def __init__(
        self,
        dispatch_function: Callable[[list[Entry]], object],
        *,
        ms_delay: float,
        layout: Objects = ...,
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self: "BackgroundDispatcher[tuple[Any, ...]]",
        dispatch_function: "Callable[[np.ndarray[Any, Any]], object]",
        *,
        ms_delay: float,
        layout: Records,
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self: "BackgroundDispatcher[Any]",
        dispatch_function: Callable[[BytesBatch], object],
        *,
        ms_delay: float,
        layout: Bytes,
        **options: Unpack[Options],
    ) -> None: ...

    @_options.explain_arguments
    def __init__(
        self,
        dispatch_function: Callable[[Any], object],
        *,
        ms_delay: float,
        capacity: int = 65_536,
        max_batch: int | None = None,
        max_in_flight: int = 1,
        dispatch_timeout: float | None = 30.0,
        on_full: _options.OnFull = "drop_newest",
        layout: Objects | Records | Bytes = Objects(),
        home: _options.HomeChoice = "auto",
        on_error: OnError | None = None,
        on_drop: OnDrop | None = None,
        name: str | None = None,
    ) -> None:
        if hasattr(self, "_batcher"):
            raise RuntimeError(f"{self!r}: __init__ was called twice")
        options = _options.Options(
            dispatch_function,
            ms_delay=ms_delay,
            capacity=capacity,
            max_batch=max_batch,
            max_in_flight=max_in_flight,
            dispatch_timeout=dispatch_timeout,
            on_full=on_full,
            layout=layout,
            home=home,
            on_error=on_error,
            on_drop=on_drop,
            name=name,
        )
        batcher = Batcher(options)
        self._attach(batcher.ring, options.on_full, batcher)
        self._batcher = batcher
        _living[id(batcher)] = self

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        install_enqueue(cls)

    @property
    def name(self) -> str:
        """The name in logs and metrics."""
        return self._engine.reports.name

    @property
    def pending(self) -> int:
        """Entries in the ring."""
        return self._engine.ring.pending

    @property
    def closed(self) -> bool:
        """Whether entries are refused because the dispatcher was closed."""
        return self._engine.ring.closed

    def statistics(self) -> "Statistics":
        """Take one consistent snapshot of the books; from any thread."""
        from ._statistics import Statistics  # noqa: PLC0415, see __init__.py

        batcher = self._engine
        return Statistics(*batcher.ring.snapshot(batcher.now()))

    async def aenqueue(
        self, entry: Entry, context: Any = None, timeout: float | None = None
    ) -> bool:
        """Enqueue, waiting for room, whatever `on_full` says.

        Waiters are served in order of arrival, on any loop; a plain `enqueue` may
        overtake them. Called from the dispatch function, it may wait for room that only
        the calling batch can make: give it a `timeout`.

        Args:
            entry: What to enqueue.
            context: As with `enqueue`.
            timeout: Seconds to wait for room, >= 0. None: for ever.

        Returns:
            True if the entry was accepted; False if the dispatcher was closed, the
            entry is larger than a batch may be, or the time ran out.

        Raises:
            TypeError, ValueError: `timeout` is no number of seconds >= 0; or, as with
                `enqueue`, the layout can't hold the entry.
            RuntimeError: no asyncio loop runs in this thread, as under trio.
        """
        timeout = _options.timeout(timeout)
        _options.on_loop("aenqueue")
        batcher = self._engine
        if (home := batcher.home) is not None and home.stalled:
            batcher.wake()
        ring, room = batcher.ring, batcher.room
        if ring.closed:
            with contextlib.suppress(Full):  # it was opened again, and is full
                return BackgroundDispatcher.enqueue(self, entry, context)
        encoded = ring.encoded(entry)
        accepted = None if room.tickets else self._offer(encoded, context)
        if accepted is None:
            accepted = await room.wait(lambda: self._offer(encoded, context), timeout)
        if accepted is None:
            self._reject_full()
        return bool(accepted)

    async def aflush(self, timeout: float | None = 5.0) -> bool:
        """Dispatch the pending entries now, and wait until they are settled.

        Called from the dispatch function, it waits for everything but the calling
        batch, and returns False at once if that batch holds the only slot. Two calls
        that flush wait for each other until one runs out of time.

        Args:
            timeout: Seconds to wait, >= 0. None: for ever.

        Returns:
            Whether all entries accepted before the call are settled.

        Raises:
            TypeError, ValueError: `timeout` is no number of seconds >= 0.
            RuntimeError: no asyncio loop runs in this thread, as under trio.
        """
        timeout = _options.timeout(timeout)
        _options.on_loop("aflush")
        batcher = self._engine
        return await _flush.wait(batcher, _flush.begin_flush(batcher), timeout)

    def flush(self, timeout: float | None = 5.0) -> bool:
        """As `aflush`, from a thread other than the home's.

        Raises:
            RuntimeError: called on the home loop's own thread.
        """
        timeout = _options.timeout(timeout)
        batcher = self._engine
        _options.off_home(batcher.home, "flush")
        waiter = _flush.begin_flush(batcher, blocking=True)
        return _flush.block(batcher, waiter, timeout)

    async def aclose(self, timeout: float | None = 5.0) -> bool:
        """Refuse new entries, dispatch the pending ones, wait for those in flight.

        When time runs out, calls in flight are cancelled: their entries count as
        failed, pending ones as abandoned. May be called again, and from several tasks
        at once. Called from the dispatch function, it waits for everything but the
        calling batch; if that holds the only slot, it returns False at once, and the
        rest goes out when the batch ends, in `timeout` seconds too.

        Args:
            timeout: Seconds to wait, >= 0. None: for ever.

        Returns:
            Whether all entries were settled in time.

        Raises:
            TypeError, ValueError: `timeout` is no number of seconds >= 0.
            RuntimeError: no asyncio loop runs in this thread, as under trio.
        """
        timeout = _options.timeout(timeout)
        _options.on_loop("aclose")
        batcher = self._engine
        waiter = _close.begin_close(batcher, timeout)
        settled = await _flush.wait(batcher, waiter, timeout)
        return _close.finish_close(batcher, settled, waiter, timeout)

    def close(self, timeout: float | None = 5.0) -> bool:
        """As `aclose`, from a thread other than the home's.

        Raises:
            RuntimeError: called on the home loop's own thread.
        """
        timeout = _options.timeout(timeout)
        batcher = self._engine
        _options.off_home(batcher.home, "close")
        waiter = _close.begin_close(batcher, timeout, blocking=True)
        settled = _flush.block(batcher, waiter, timeout)
        return _close.finish_close(batcher, settled, waiter, timeout)

    def bind(self) -> None:
        """Make the running loop the home, until it is closed or found stopped.

        No other loop or thread takes over the dispatcher, even with `home="thread"`.

        Raises:
            RuntimeError: no loop is running in this thread.
        """
        home = home_of(asyncio.get_running_loop())
        home.arrive()  # else nothing would drain it at the loop's end
        self._engine.bind(home)

    async def __aenter__(self) -> Self:
        _options.on_loop("aclose")
        batcher = self._engine
        _close.reopen(batcher)
        if not batcher.options.prefers_thread:
            self.bind()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        batcher = self._engine
        _options.plain_with(batcher, running_loop())
        _close.reopen(batcher)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{type(self).__name__} {self.name!r} {state}, {self.pending} pending>"

    def __reduce_ex__(self, protocol: object = None) -> Never:
        raise TypeError(
            f"{self!r} cannot be pickled or copied: entries in flight exist once; "
            "make a dispatcher in each process"
        )

    __copy__ = __deepcopy__ = __reduce_ex__

    @property
    def _engine(self) -> Batcher:
        try:
            return self._batcher
        except AttributeError:
            kind = type(self).__name__
            raise RuntimeError(f"{kind}.__init__ was not called") from None


def dispatchers() -> list[BackgroundDispatcher[Any]]:
    """The dispatchers of this process, in the order of their making.

    A closed one is among them until it is collected: its counts go on. No two have the
    same name.
    """
    # One operation of a dict: other threads make and drop dispatchers meanwhile.
    found = [reference() for reference in _living.valuerefs()]
    return [each for each in found if each is not None]


def current_dispatcher() -> BackgroundDispatcher[Any] | None:
    """The dispatcher whose batch the running code belongs to; None outside of batches.

    That is code of the dispatch function, in a worker thread too, and of tasks and
    callbacks that it started, which may run on after the batch. Threads that it starts
    have a context of their own.
    """
    batcher = current_batcher()
    return None if batcher is None else _living.get(id(batcher))
