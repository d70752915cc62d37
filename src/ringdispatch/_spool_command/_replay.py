"""`spool replay`: dispatches what ended processes have left."""

import asyncio
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from ringdispatch._load import one_line

from ._caller import Caller
from ._files import GoneError, Place, State, UnreadableError, UsageError
from ._show import Progress, complain, counted
from ._sources import InUseError, Item, Source, open_source

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


@dataclass(slots=True)
class Outcome:
    """What came of a replay.

    Attributes:
        entries: How many were dispatched.
        batches: In how many batches.
        failed: The ids of the batches that failed.
        unread: How many files could not be replayed or removed, and should be.
        signal: What ended it before all was done; 0 where nothing did.
        stopped: That in words.
    """

    entries: int = 0
    batches: int = 0
    failed: list[str] = field(default_factory=list)
    unread: int = 0
    signal: int = 0
    stopped: str = ""

    @property
    def status(self) -> int:
        """The exit status."""
        if self.signal:
            return 128 + self.signal
        return 1 if self.failed or self.unread else 0


class Replay:
    """Dispatches the batches of some files, one after the other.

    The first signal ends it after the batch in flight, the second cuts that short.

    Args:
        caller: Calls the function.
        outcome: What came of it so far.
        max_batch: Entries in a batch that is made here.
        rate: Entries a second; None: as fast as the function takes them.
        keep_going: Whether to go on after a batch that failed.
        progress: Shows how far it is.
    """

    def __init__(
        self,
        caller: Caller,
        outcome: Outcome,
        *,
        max_batch: int,
        rate: float | None,
        keep_going: bool,
        progress: Progress,
    ) -> None:
        self._caller = caller
        self._max_batch = max_batch
        self._rate = rate
        self._keep_going = keep_going
        self._progress = progress
        self._outcome = outcome
        self._call: asyncio.Task[BaseException | None] | None = None
        self._is_cut = False
        # Under nohup one of them is ignored.
        ends = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
        self._signals = ends
        self._stopping = asyncio.Event()
        self._due = time.monotonic()  # when the next batch may go

    async def run(self, states: list[State]) -> None:
        """Replay the files."""
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            for state in states:
                if self._stopping.is_set():
                    break
                await self._replay(state.place)
        finally:
            await self._caller.close()

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if not self._outcome.signal:
            self._outcome.signal = number
            self._outcome.stopped = f"stopped by {name}, run it again to go on"
            self._stopping.set()
            if self._call is not None:
                words = (
                    "the batch in flight goes on to its end; once more cuts it short"
                )
                self._progress.say(f"{name}: {words}")
        elif self._call is not None:
            self._is_cut = True
            self._call.cancel()
            # A call that ignores its cancellation is ended with the process.
            for each in self._signals:
                asyncio.get_running_loop().remove_signal_handler(each)
                signal.signal(each, signal.SIG_DFL)

    async def _replay(self, place: Place) -> None:
        try:
            source = open_source(place, self._progress.say)
        except InUseError:
            self._progress.say(f"{place.shown}: skipped, a process has it")
            return
        except GoneError:
            self._progress.say(f"{place.shown}: skipped, it is gone")
            return
        except UnreadableError as error:
            self._outcome.unread += 1
            complain(f"{place.shown}: skipped, {error}")
            return
        before = self._outcome.entries
        try:
            await self._replay_batches(place, source)
        except BrokenPipeError:
            raise  # of what reads our lines
        except OSError as error:
            self._outcome.unread += 1
            complain(f"{place.shown}: can't be written to: {error.strerror}")
        finally:
            entries = counted(self._outcome.entries - before, "entry")
            try:
                self._progress.say(f"{place.shown}: {entries} replayed")
            finally:
                self._end(place, source)

    def _end(self, place: Place, source: Source) -> None:
        """Unlock a file, and remove it where all of it is dispatched."""
        try:
            self._outcome.unread += not source.end()
        except BrokenPipeError:
            raise
        except OSError as error:
            self._outcome.unread += 1
            why = f"can't be removed: {error.strerror}"
            complain(f"{place.shown}: all of it is dispatched, and it {why}")

    async def _replay_batches(self, place: Place, source: Source) -> None:
        """Dispatch what is in a file."""
        while await self._may_go_on():
            item = source.take(self._max_batch)
            if item is None:
                return
            error: BaseException | None = asyncio.CancelledError()
            try:
                error = await self._dispatch(place, item)
            finally:
                if error is None:
                    source.settle(item)
                else:
                    goes_on = not self._stopping.is_set()
                    source.keep(item, error if goes_on else None)
            if error is None:
                self._outcome.batches += 1
                self._outcome.entries += item.count
            self._progress.advance(item.count)

    async def _may_go_on(self) -> bool:
        """Wait until the next batch may go; False if there is none to go."""
        left = self._due - time.monotonic()
        if left > 0 and not self._stopping.is_set():
            try:
                async with asyncio.timeout(left):
                    await self._stopping.wait()
            except TimeoutError:
                pass
        return not self._stopping.is_set()

    async def _dispatch(self, place: Place, item: Item) -> BaseException | None:
        """Call the function with a batch; returns what failed."""
        if self._rate is not None:
            self._due = max(self._due, time.monotonic()) + item.count / self._rate
        error = await self._called(item)
        if isinstance(error, UsageError):
            self._stopping.set()
            raise error
        which = f"{place.shown}: batch {item.info.id} ({counted(item.count, 'entry')})"
        if error is not None and self._is_cut:
            complain(f"{which} was cut short, and stays")
        elif error is not None:
            self._outcome.failed.append(item.info.id)
            complain(f"{which} failed, and stays: {one_line(error)}")
            if not self._keep_going:
                self._outcome.stopped = "stopped there, --keep-going goes on after it"
                self._stopping.set()
        return error

    async def _called(self, item: Item) -> BaseException | None:
        calling = self._caller.call(item.batch, item.separator, item.info)
        self._call = asyncio.ensure_future(_caught(calling))
        try:
            return await self._call
        except asyncio.CancelledError as error:  # before its first step
            return error
        finally:
            self._call = None


async def _caught(calling: Any) -> BaseException | None:
    try:
        await calling
    except BaseException as error:  # SystemExit, too: a batch is to stay
        return error
    return None
