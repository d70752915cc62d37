"""The calls of a relay's function, and what becomes of messages that fail.

A call has the records of several messages. One that fails is repeated, after a pause
that grows while nothing succeeds. After three failures, or one that is final, its
messages are halved, and halved again: whatever is to blame fails alone in the end, and
the others are through.
What fails alone waits apart, and is tried again from time to time. It is parked after
some failures between which another message was taken: where none is, the other side is
away, and all wait.
"""

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ringdispatch.sinks import SinkError
from ringdispatch.sinks._messages import Entries, UnreadableError, decode

from ._source import Held

_TOGETHER = 3  # failures, before messages are halved
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 60.0  # seconds, after a failure
_LONGEST_ASKED = 3_600.0  # whatever a service asks for
# A message that was fetched so often may be what ended the relays that had it.
_SUSPECT = 5

Function = Callable[[Any, list[str]], Awaitable[object]]


def check_function(name: str, function: Any) -> None:
    """Check that it can be called with records and ids, and that a call does its work.

    Raises:
        TypeError: it can't, or makes a generator, of which a call runs nothing.
    """
    if not callable(function):
        raise TypeError(f"{name}: must be callable")
    try:
        inspect.signature(function).bind([], [])
    except TypeError:
        raise TypeError(f"{name}: must take two arguments, (records, ids)") from None
    except ValueError:  # of C: it can't tell
        pass
    for each in (function, getattr(type(function), "__call__", None)):  # noqa: B004
        if inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each):
            raise TypeError(
                f"{name}: must be a plain or async function, not a generator, which "
                "does nothing when called: remove its yield"
            )


class Settle(NamedTuple):
    """What `Calls` tells the relay; none of them raises."""

    taken: Callable[[list[Held], int], Awaitable[None]]  # messages, and their records
    parked: Callable[[Held, str], Awaitable[None]]  # a message, and why
    failed: Callable[[BaseException, list[Held]], None]  # a call


class _Read(NamedTuple):
    held: Held
    entries: Entries


@dataclass(slots=True)
class _Apart:
    """A message that fails alone."""

    held: Held
    due: float  # when it is tried again
    seen: int  # how many calls had succeeded when it last failed
    failures: int = 0  # between which another message was taken
    pause: float = _FIRST_PAUSE


class Calls:
    """Calls the function with messages until each is done with.

    Args:
        function: Takes the records of some messages, and an id for each.
        attempts: How often a message has to fail alone, until it is parked.
        max_bytes: Of the bodies in one call, if it has more than one.
        patient: Whether only failures count between which another one was taken.
        settle: Told what came of the messages.
    """

    def __init__(
        self,
        function: Function,
        *,
        attempts: int,
        max_bytes: int,
        patient: bool,
        settle: Settle,
    ) -> None:
        self._function = function
        self._attempts = attempts
        self._max_bytes = max_bytes
        self._patient = patient
        self._settle = settle
        self._turn = asyncio.Lock()  # one call at a time
        self._successes = 0
        self._failures = 0  # since the last success
        self._not_before = 0.0  # the next call
        self._apart: dict[Held, _Apart] = {}
        self._news = asyncio.Event()  # for retry()
        self._ends = False

    @property
    def failing(self) -> bool:
        """Whether the last call failed."""
        return self._failures > 0

    @property
    def apart(self) -> list[Held]:
        """Messages that wait for another try, those that failed most often first."""
        waiting = sorted(self._apart.values(), key=lambda each: -each.pause)
        return [each.held for each in waiting]

    def forget(self, held: Held) -> None:
        """Try it no more."""
        self._apart.pop(held, None)

    def set_apart(self, held: Held) -> None:
        """Call for it alone, the later the more often it was fetched.

        At random, since all that were in one call with what ends relays are as suspect:
        in time each of them has its turn before that.
        """
        fetched = min(held.deliveries - _SUSPECT, 20)
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**fetched) * random.uniform(0.1, 1)
        due = time.monotonic() + pause
        self._apart[held] = _Apart(held, due, self._successes)
        self._news.set()

    async def take(self, messages: Iterable[Held]) -> None:
        """Call the function with them; each is taken, parked or apart at the end."""
        for chunk in self._chunks(messages):
            for group in await self._read(chunk):
                await self._together(group)

    def end(self) -> None:
        """Have `retry()` return, after the call that runs."""
        self._ends = True
        self._news.set()

    async def retry(self) -> None:
        """Call for what waits apart whenever it is due; until `end()`."""
        while not self._ends:
            self._news.clear()
            first = min(self._apart.values(), key=lambda each: each.due, default=None)
            seconds = None if first is None else first.due - time.monotonic()
            if seconds is None or seconds > 0:
                await _wait(self._news, seconds)
                continue
            assert first is not None
            await self._retry(first)

    async def _retry(self, apart: _Apart) -> None:
        for group in await self._read([apart.held]):
            error = await self._call(group)
            if error is not None:
                await self._note(apart, error)

    # ---- from messages to groups

    def _chunks(self, messages: Iterable[Held]) -> Iterator[list[Held]]:
        """Cut them so that not too much is decoded at a time."""
        chunk: list[Held] = []
        size = 0
        for held in messages:
            if held.deliveries >= _SUSPECT:
                self.set_apart(held)
                continue
            if chunk and size + len(held.body) > self._max_bytes:
                yield chunk
                chunk, size = [], 0
            chunk.append(held)
            size += len(held.body)
        if chunk:
            yield chunk

    async def _read(self, messages: list[Held]) -> list[list[_Read]]:
        """Those whose entries fit into one batch; what can't be read is parked."""
        groups: dict[object, list[_Read]] = {}
        for held in messages:
            try:
                entries = decode(held.headers, held.body)
            except UnreadableError as error:
                self.forget(held)
                await self._settle.parked(held, str(error))
                continue
            kind = entries.layout, str(getattr(entries.entries, "dtype", ""))
            groups.setdefault(kind, []).append(_Read(held, entries))
            await asyncio.sleep(0)
        return list(groups.values())

    # ---- calls

    async def _together(self, group: list[_Read]) -> None:
        seen = self._successes
        left = _TOGETHER if len(group) > 1 else 1
        while (error := await self._call(group)) is not None:
            left -= 1
            if not left or _is_final(error):
                await self._halve(group, error, seen)
                return

    async def _halve(self, group: list[_Read], error: BaseException, seen: int) -> None:
        """Call for the halves of what failed; what fails alone waits apart."""
        if len(group) == 1:
            held = group[0].held
            await self._note(self._apart.setdefault(held, _Apart(held, 0, seen)), error)
            self._news.set()
            return
        middle = len(group) // 2
        for half in (group[:middle], group[middle:]):
            failure = await self._call(half)
            if failure is not None:
                await self._halve(half, failure, seen)

    async def _call(self, group: list[_Read]) -> BaseException | None:
        """Call once, when it is time; returns what it raised."""
        messages = [each.held for each in group]
        records, ids = _joined(group)
        async with self._turn:
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
            error = await self._outcome(records, ids)
            if error is not None:
                self._note_failure(error, messages)
                return error
            self._failures = 0
            self._successes += 1
        for held in messages:
            self.forget(held)
        await self._settle.taken(messages, len(ids))
        return None

    async def _outcome(self, records: Any, ids: list[str]) -> BaseException | None:
        try:
            await self._function(records, ids)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # the relay ends
            return error  # it was the function that raised it
        except Exception as error:
            return error
        return None

    # ---- failures

    def _note_failure(self, error: BaseException, messages: list[Held]) -> None:
        asked = _asked(error)
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 20))
        self._failures += 1
        pause *= random.uniform(0.5, 1)
        self._not_before = time.monotonic() + max(asked, pause)
        self._settle.failed(error, messages)

    async def _note(self, apart: _Apart, error: BaseException) -> None:
        """Note that it failed alone; park it, if it is to blame."""
        another = not self._patient or apart.seen < self._successes
        if apart.failures == 0 or another:
            apart.failures += 1
        apart.seen = self._successes
        apart.pause = min(2 * apart.pause, _LONGEST_PAUSE)
        apart.due = time.monotonic() + apart.pause
        if another and (_is_final(error) or apart.failures >= self._attempts):
            self.forget(apart.held)
            await self._settle.parked(apart.held, f"{type(error).__name__}: {error}")


def _asked(error: BaseException) -> float:
    """Seconds that the service asks for; other exceptions may mean anything by it."""
    asked = getattr(error, "retry_after", None)
    if isinstance(asked, int | float) and asked > 0:
        return min(float(asked), _LONGEST_ASKED)
    return 0.0


def _is_final(error: BaseException) -> bool:
    return isinstance(error, SinkError) and not error.retryable


def _joined(group: list[_Read]) -> tuple[Any, list[str]]:
    """The records of all, and their ids."""
    parts = [each.entries for each in group]
    ids = [each for part in parts for each in part.ids]
    if parts[0].layout == "records":
        import numpy as np  # noqa: PLC0415, the entries are its arrays

        return np.concatenate([part.entries for part in parts]), ids
    return [entry for part in parts for entry in part.entries], ids


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
