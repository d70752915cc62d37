"""What other processes left in a spool: the batches of one file after the other."""

import asyncio
import math
import weakref
from collections.abc import Callable, Container
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._call import Call
from ._home import Home
from ._spool_file import SpoolFile
from ._spool_recovered import RecoveredBatch, take_recovered

if TYPE_CHECKING:
    from ._batcher import Batcher
    from ._ring_files import RingFiles
    from ._spool_ring import SpoolRing

_LOOK_SECONDS = 1.0  # between two looks into the folder, once it has nothing

# So long after a call began, the death of its process is another's fault.
_OUTLIVED_SECONDS = 60.0

# Between adopting a file and the call for a batch of it, by how many processes died in
# one. If all processes live equally long, only a batch that kills its process comes to
# five deaths: the others are outlived, or are not called with in time.
_PAUSES = {2: 1.0, 3: 10.0, 4: 60.0}


class Recovery:
    """A source of batches beside the ring, for one call at a time.

    It adopts one file at a time, and looks for the next where windows are taken: an
    idle process does not look, unless it has found one that is to wait.
    """

    def __init__(
        self,
        ring: "SpoolRing",
        files: "RingFiles",
        calls: Container[Any],
        now: Callable[[], float],
    ) -> None:
        # never changed
        self._ring = ring
        self._files = files
        self._calls = calls  # of the dispatcher, those that have not ended
        self._now = now
        # home's thread only
        self.is_next = True  # the ring had its turn
        self._paused: dict[str, tuple[float, float]] = {}  # by path: since, and until
        self._watched_on: Home | None = None  # where the timer for the call is
        self._timer: tuple[Home, float, asyncio.TimerHandle] | None = None
        # any thread, by single operations
        self._file: list[SpoolFile] = []  # one at most
        # any thread, plain stores
        self._call: Call | None = None  # the last
        self._batcher: weakref.ref[Batcher] | None = None
        self._stopped = False
        self._stopped_on: Home | None = None
        self._look_at = self._again_at = self._adopted_at = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether its call runs: a close waits for that."""
        return self._call is not None and self._call in self._calls

    @property
    def wants_call(self) -> bool:
        """Whether there is a batch, and no call for one; on the home's thread."""
        if self._stopped or self._ring.closed or self.is_open:
            return False
        call, self._call = self._call, None
        if isinstance(batch := call and call.batch, RecoveredBatch) and batch.returned:
            self._again_at = self._now() + _LOOK_SECONDS  # at once, it would fail again
        if self._now() < self._again_at:
            return False
        if not self._file and self._now() >= self._look_at:
            self._look_at = self._now() + _LOOK_SECONDS
            for path in list(self._paused):
                if not Path(path).exists():  # another process has recovered it
                    del self._paused[path]
            now = self._now()
            waits = [path for path, times in self._paused.items() if now < times[1]]
            file = self._files.adopt(self._paused, waits)
            if file is not None:
                self._adopted_at = self._now()
                self._file.append(file)
        return bool(self._file)

    def pump(self, batcher: "Batcher", home: Home) -> None:
        """Start a call if a slot is free for one; on the home's thread."""
        self._ring.populate(batcher.workers)
        self._batcher = weakref.ref(batcher)
        loop = home.loop
        if loop is None:
            return
        if self._stopped and self._stopped_on not in {None, home}:
            self.resume()  # another's loop has ended
        free = self._ring.busy_slots < batcher.max_in_flight
        if free and self.wants_call:
            self._call = call = Call(batcher, home, self)
            call.start(loop)
            if call in self._calls:
                self._watch(home, loop, _OUTLIVED_SECONDS)
            elif self.wants_call:  # it has ended at once; so may many
                wake = self._ring.make_wake(home, batcher.pump)
                loop.call_soon(wake, context=Context())
        self._keep_timer(home, loop)
        for level, note in self._ring.take_notes():
            batcher.reports.log(level, note)

    def _next_look(self) -> float:
        """When to go on without a new entry; an ended call goes on by itself."""
        if self._stopped or self._ring.closed or self.is_open:
            return math.inf
        if self._file:
            return self._again_at
        over = min((until for _, until in self._paused.values()), default=math.inf)
        return max(over, self._look_at, self._again_at)

    def _keep_timer(self, home: Home, loop: asyncio.AbstractEventLoop) -> None:
        when = self._next_look()
        if self._timer is not None:
            on, at, handle = self._timer
            if on is home and at == when:
                return
            self._timer = None
            if on is home:  # another loop's handle is not ours to touch
                handle.cancel()
        if when < math.inf:
            seconds = max(when - self._now(), 0.0)
            callback = partial(_look_again, weakref.ref(self), home, loop)
            handle = loop.call_later(seconds, callback, context=Context())
            self._timer = home, when, handle

    def look_again(self, home: Home, loop: asyncio.AbstractEventLoop) -> None:
        """Go on if it is time: a pause is over, or a failure long enough ago."""
        if self._timer is None or self._timer[0] is not home:
            return  # another has its place
        early = self._now() < self._timer[1]  # uvloop's may be, almost by a tick
        self._timer = None
        if early:
            self._keep_timer(home, loop)
        elif self._batcher is not None and (batcher := self._batcher()) is not None:
            batcher.wake_home(batcher.home)

    def _watch(
        self, home: Home, loop: asyncio.AbstractEventLoop, seconds: float
    ) -> None:
        """Have one timer look whether its process outlives the call."""
        if self._watched_on is not home:
            self._watched_on = home
            callback = partial(_look_at_call, weakref.ref(self), home)
            loop.call_later(seconds, callback, context=Context())

    def look_at_call(self, home: Home) -> None:
        """Note that the process has outlived the call, if it has."""
        self._watched_on = None
        loop, call = home.loop, self._call
        if loop is None or call is None or call not in self._calls:
            return
        now = self._now()
        left = (call.began or now) + _OUTLIVED_SECONDS - now  # 0.0: not taken yet
        if left > 0:
            self._watch(home, loop, left)
        elif isinstance(call.batch, RecoveredBatch):
            call.batch.outlive()

    def take(self, most: int, due: int) -> RecoveredBatch | None:
        """Take the next batch, as a ring does; None if there is none."""
        del most, due  # for the ring's; there is no window to wait for
        self.is_next = False
        if self._stopped or self._ring.closed:  # since it was asked: a close is over
            return None
        for file in list(self._file):
            since, _ = self._paused.get(file.path, (self._adopted_at, 0.0))
            waited = self._now() - since
            waiting = sum(1 << n for n, pause in _PAUSES.items() if waited < pause)
            try:
                batch = take_recovered(self._ring, file, waiting)
            except BaseException:
                # No memory, or interrupted.
                self._again_at = self._now() + _LOOK_SECONDS
                raise
            if isinstance(batch, RecoveredBatch):
                return batch
            self._look_at = -math.inf  # there may be another
            if batch is None:
                self._paused.pop(file.path, None)
            else:
                until = since + _PAUSES[batch]
                self._paused[file.path] = since, until
                self._files.report_pause(file, batch, until - self._now())
            self._end_file(file)
        return None

    def uses(self, home: Home) -> bool:
        """Whether its call runs there."""
        return self._call is not None and self.is_open and self._call.home is home

    def stop(self, home: Home | None = None) -> None:
        """Take no more, on that home or on any: it ends, or the process does.

        What is cut short is left.
        """
        self._stopped, self._stopped_on = True, home
        for file in self._file:
            file.leaving = True

    def resume(self) -> None:
        """Go on, with a new home."""
        for file in self._file:
            file.leaving = False
        self._stopped = False

    def end(self) -> None:
        """Leave the file for the next process, once no call has a batch of it."""
        if not self.is_open:
            self._look_at = -math.inf
            for file in list(self._file):
                self._end_file(file)

    def _end_file(self, file: SpoolFile) -> None:
        try:
            self._file.remove(file)
        except ValueError:  # another thread was quicker
            return
        self._files.end_adopted(file)


# The timers keep nothing alive.


def _look_at_call(ref: "weakref.ref[Recovery]", home: Home) -> None:
    if (recovery := ref()) is not None:
        recovery.look_at_call(home)


def _look_again(
    ref: "weakref.ref[Recovery]", home: Home, loop: asyncio.AbstractEventLoop
) -> None:
    if (recovery := ref()) is not None:
        recovery.look_again(home, loop)
