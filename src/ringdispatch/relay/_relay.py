"""The relay: from messages of an engine to batches of its own dispatcher."""

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ringdispatch import BackgroundDispatcher
from ringdispatch._one_thread import OneThread
from ringdispatch._options import is_async
from ringdispatch._worker import refuse_generator

from ._calls import Calls, Settle, check_function
from ._log import Log
from ._source import AwayError, Backlog, Held, Source, SourceError

MAX_BYTES = 64 * 2**20
MAX_BATCH_BYTES = 8 * 2**20
_MOST_BATCH = 1_000_000  # messages
_FETCH_SECONDS = 1.0
_FETCH_COUNT = 1_000
_LOOK_SECONDS = 1.0  # where nothing tells that it is time to go on
_AWAY_SECONDS = 60.0  # until what fails is fetched again, where it stood in the way


@dataclass(slots=True)
class Counts:
    """What a relay has done so far.

    Attributes:
        messages: That the function has taken.
        records: In these.
        redelivered: Messages that were fetched, and not for the first time.
        parked: Messages put aside among the dead letters; in a replay, that stay there.
        failed_calls: Calls that raised.
    """

    messages: int = 0
    records: int = 0
    redelivered: int = 0
    parked: int = 0
    failed_calls: int = 0


class Relay:
    """Hands what gateways sent to an engine to one function, in larger batches.

    A message stays in the engine until the function has returned. An id is
    `<batch>/<index>`, the same whenever an entry comes again: the service drops doubles
    by it. Several relays may take from one stream.

    Args:
        source: Where messages come from.
        function: Called with `(records, ids)`: async, or ordinary and then in a thread.
        ms_delay: As of a dispatcher, for messages.
        max_batch: Messages in one call; twice as many are held.
        max_bytes: Of the bodies of all messages that are held.
        max_batch_bytes: Of the bodies in one call.
        timeout: Seconds for one call, after which it has failed. An ordinary function
            can't be ended: its thread is waited for.
        attempts: How often a message fails alone, while others succeed, until it is
            parked.
        grace: Seconds that `stop()` leaves for what runs.
        replay: Call for what was parked, and end when nothing is left but what fails
            again; that stays where it is.

    Attributes:
        counts: What it has done so far.
        replay: Whether it ends by itself, as was asked for.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    def __init__(
        self,
        source: Source,
        function: Callable[[Any, list[str]], Any],
        *,
        ms_delay: float = 1_000.0,
        max_batch: int = 1_000,
        max_bytes: int = MAX_BYTES,
        max_batch_bytes: int = MAX_BATCH_BYTES,
        timeout: float = 60.0,
        attempts: int = 3,
        grace: float = 10.0,
        replay: bool = False,
    ) -> None:
        if max_batch > _MOST_BATCH:
            raise ValueError(
                f"max_batch={max_batch:,}: must be at most {_MOST_BATCH:,}"
            )
        self._source = source
        check_function(f"function={function!r}", function)
        self._function = function
        self._is_async = is_async(function)
        self._thread = OneThread()
        self._most = 2 * max_batch  # messages
        self._max_bytes = max_bytes
        self._largest = 0  # bytes of one message
        self._grace = grace
        self.replay = replay
        self._timeout = timeout
        self._calls = Calls(
            self._call,
            attempts=attempts,
            max_bytes=max_batch_bytes,
            patient=not replay,
            settle=Settle(self._taken, self._parked, self._failed),
        )
        self._dispatcher: BackgroundDispatcher[Held] = BackgroundDispatcher(
            self._take_all,
            ms_delay=ms_delay,
            capacity=self._most,
            max_batch=max_batch,
            dispatch_timeout=None,
            name="relay",
        )
        self._held: dict[tuple[str, float], Held] = {}  # by key
        self._kept: set[tuple[str, float]] = set()  # of these, what fails in a replay
        self._bytes = 0
        self._forgotten = asyncio.Event()
        self._oldest: float | None = None  # age of what was taken since it was asked
        self._stopping = asyncio.Event()
        self._stopped_at: float | None = None
        self._given_up: asyncio.Future[None]
        self._error: BaseException | None = None  # one of our own
        self._called_at: float | None = None
        self._cut: str | None = None  # what becomes of a call when the grace is over
        self._log = Log()
        self.counts = Counts()

    @property
    def origin(self) -> str:
        """Where messages come from, for people."""
        return str(self._source)

    @property
    def held(self) -> int:
        """How many messages it holds that it is not done with."""
        return len(self._held) - len(self._kept)

    async def backlog(self) -> Backlog:
        """How many messages are in the engine.

        Raises:
            AwayError: the engine is not there.
        """
        return await self._source.backlog()

    def take_oldest_age(self) -> float | None:
        """The highest age of a message that was taken since this was called last."""
        oldest, self._oldest = self._oldest, None
        return oldest

    async def run(self, ready: Callable[[], object] = bool) -> None:
        """Relay until `stop()` is called; call `ready` once the engine is there.

        Raises:
            SourceError: the engine can't be used as it is.
        """
        try:
            if not await self._open():
                return
            ready()
            await self._run()
        finally:
            self._log.end()
            await self._source.close()

    def stop(self) -> None:
        """Fetch no more; call for what is held within the grace, give back the rest."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
        self._stopping.set()

    async def _open(self) -> bool:
        """Wait until the engine is there, and look at it; False if stopped before."""
        while not self._stopping.is_set():
            try:
                self._largest, warnings = await self._source.open()
            except AwayError as error:
                self._log.outage(error)
                await self._sleep(_FETCH_SECONDS)
                continue
            self._log.end_of_outage()
            if self._max_bytes < self._largest:
                raise SourceError(
                    f"max_bytes={self._max_bytes:,}: must be at least "
                    f"{self._largest:,}, as large as a message may be there"
                )
            for warning in warnings:
                self._log.warn(warning)
            return True
        return False

    async def _run(self) -> None:
        self._given_up = asyncio.get_running_loop().create_future()
        fetching = asyncio.create_task(self._fetch())
        retrying = asyncio.create_task(self._calls.retry())
        keeping = asyncio.create_task(self._keep())
        stopping = asyncio.create_task(self._stopping.wait())
        tasks: set[asyncio.Task[Any]] = {fetching, retrying, keeping, stopping}
        try:
            # Each ends early only by an error, which is told at the end.
            done, _ = await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
            self.stop()
            await _end(fetching, max(2 * _FETCH_SECONDS, self._left()))
            with contextlib.suppress(AwayError):
                await self._source.stop_fetching()
            closing = asyncio.create_task(self._dispatcher.aclose(None))
            await self._wait_in_grace(closing)
            self._given_up.set_result(None)
            await closing
            self._calls.end()
            await self._wait_in_grace(retrying)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._dispatcher.aclose(0)
        if self._cut is not None and self._held:
            self._log.grace_is_over(self._grace, self._cut, len(self._held))
        with contextlib.suppress(AwayError, TimeoutError):
            async with asyncio.timeout(max(self._left(), _LOOK_SECONDS)):
                await self._source.give_back(list(self._held.values()))
        for task in (*done, fetching):
            if not task.cancelled():
                task.result()
        if self._error is not None:
            raise self._error

    async def _wait_in_grace(self, task: "asyncio.Task[Any]") -> None:
        """Wait for its end; if the grace is over before, note what it cuts off."""
        _, late = await asyncio.wait({task}, timeout=self._left())
        if late and self._cut is None:
            self._cut = ""
            if self._called_at is not None:
                becomes = "cancelled" if self._is_async else "left running"
                self._cut = f"a call is {becomes}, and "

    def _left(self) -> float:
        """Seconds of the grace."""
        passed = time.monotonic() - (self._stopped_at or 0.0)
        return max(0.0, self._grace - passed)

    # ---- from the engine

    async def _fetch(self) -> None:
        last = time.monotonic()  # that anything came
        while not self._stopping.is_set():
            self._forgotten.clear()
            count, room = self._appetite(), self._max_bytes - self._bytes
            if count <= 0 or room < self._largest:
                with contextlib.suppress(AwayError):
                    for held in await self._source.arrived():
                        await self._take(held)
                await self._make_room()
                continue
            try:
                found = await self._source.fetch(count, room, _FETCH_SECONDS)
                if self.replay and await self._is_replayed(found, last):
                    return
            except AwayError as error:
                self._log.outage(error)
                await self._sleep(_FETCH_SECONDS)
                continue
            self._log.end_of_outage()
            for held in found:
                last = time.monotonic()
                await self._take(held)

    def _appetite(self) -> int:
        """How many messages to fetch: one, to see how it fares, while calls fail."""
        if self._calls.failing:
            return int(self._only_fails and self._room > 0)
        return min(_FETCH_COUNT, self._room)

    @property
    def _room(self) -> int:
        """For how many messages there is room, beside what a replay is done with."""
        return self._most + len(self._kept) - len(self._held)

    @property
    def _only_fails(self) -> bool:
        """Whether all that is held failed alone."""
        return len(self._held) == len(self._calls.apart) + len(self._kept)

    async def _make_room(self) -> None:
        """Wait until a message is forgotten; where all fail, have one come later."""
        if self._only_fails and not self.replay:
            first = self._calls.apart[0]
            with contextlib.suppress(AwayError):
                await self._source.give_back([first], _AWAY_SECONDS)
            self._calls.forget(first)
            self._forget([first])
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._forgotten.wait()

    async def _take(self, held: Held) -> None:
        self.counts.redelivered += held.deliveries > 1
        ours = self._held.get(held.key)
        if ours is not None:  # the engine was away for so long
            ours.handle, ours.deliveries = held.handle, held.deliveries
            return
        self._held[held.key] = held
        self._bytes += len(held.body)
        self._log.suspect(held)
        await self._dispatcher.aenqueue(held)

    async def _is_replayed(self, found: list[Held], last: float) -> bool:
        """Whether nothing is left to replay."""
        if found or not self._kept.issuperset(self._held):
            return False
        backlog = await self._source.backlog()
        # Another replay may hold some. If it ended without a word, they come to us.
        others = time.monotonic() - last < 1.5 * self._source.hold_seconds
        left = backlog.waiting or backlog.held > len(self._kept)
        return not (others and left)  # else the engine hands out no more

    async def _keep(self) -> None:
        """Tell the engine, again and again, that what is held is worked on."""
        while True:
            await asyncio.sleep(self._source.hold_seconds / 3)
            self._log.look()
            if self._called_at is not None:
                seconds = time.monotonic() - self._called_at
                if seconds > self._timeout:
                    self._log.slow(seconds)
            with contextlib.suppress(AwayError):
                await self._source.extend(list(self._held.values()))

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # ---- to the function

    async def _take_all(self, messages: list[Held]) -> None:
        taking = asyncio.ensure_future(self._calls.take(messages))
        try:
            ends: set[asyncio.Future[Any]] = {taking, self._given_up}
            await asyncio.wait(ends, return_when="FIRST_COMPLETED")
            if taking.done():
                taking.result()
            # Else what is left is given back, which is no failure.
        except Exception as error:
            self._error = error
            self.stop()
            raise
        finally:
            taking.cancel()
            await asyncio.wait({taking}, timeout=_LOOK_SECONDS)

    async def _call(self, records: Any, ids: list[str]) -> None:
        self._called_at = time.monotonic()
        try:
            if self._is_async:
                async with asyncio.timeout(self._timeout) as timeout:
                    outcome = await self._function(records, ids)
            else:
                outcome = await self._thread.run(self._function, records, ids)
                if inspect.isawaitable(outcome):
                    outcome = await outcome
            refuse_generator(outcome)
        except TimeoutError:
            if self._is_async and timeout.expired():
                why = f"it has not ended within {self._timeout:g} s"
                raise TimeoutError(why) from None
            raise
        finally:
            self._called_at = None

    async def _taken(self, messages: list[Held], records: int) -> None:
        unconfirmed = await self._source.acknowledge(messages)
        if unconfirmed:
            self._log.unconfirmed(unconfirmed, len(messages))
        self.counts.messages += len(messages)
        self.counts.records += records
        age = time.time() - min(held.time for held in messages)
        self._oldest = max(age, self._oldest or 0.0)
        self._forget(messages)

    async def _parked(self, held: Held, reason: str) -> None:
        if self.replay:
            self._log.kept(held, reason)
            self._kept.add(held.key)
            self._bytes -= len(held.body)
            held.body = b""  # it is only told the engine of, until the end
            self.counts.parked += 1
            self._forgotten.set()
            return
        try:
            await self._source.park(held, reason)
        except AwayError as error:  # it comes again
            self._log.outage(error)
        else:
            self._log.parked(held, reason)
            self.counts.parked += 1
        self._forget([held])

    def _failed(self, error: BaseException, messages: list[Held]) -> None:
        self.counts.failed_calls += 1
        self._log.failure(error, messages)

    def _forget(self, messages: Iterable[Held]) -> None:
        for held in messages:
            if self._held.pop(held.key, None) is not None:
                self._bytes -= len(held.body)
        self._forgotten.set()


async def _end(task: "asyncio.Task[Any]", seconds: float) -> None:
    """Wait for its end, and cancel it if that takes too long."""
    _, late = await asyncio.wait({task}, timeout=seconds)
    if late:
        task.cancel()
        await asyncio.wait({task})
