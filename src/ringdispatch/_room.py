"""Those who wait for room in the ring."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

# After this long those who wait beside another loop's look whether that still runs.
_LOOK_SECONDS = 1.0


class _Turn:
    __slots__ = ("loop", "wake")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.wake = asyncio.Event()


class RoomQueue:
    """Serves those who wait for room first come, first served, on any loop.

    Only the first in the queue tries; whoever leaves, served or cancelled, calls the
    next. The deque's single operations are atomic, and nothing here is entered from
    `enqueue`, so no lock is needed.
    """

    def __init__(self) -> None:
        self._turns: deque[_Turn] = deque()

    def __bool__(self) -> bool:
        return bool(self._turns)

    async def wait(
        self, attempt: Callable[[], bool | None], timeout: float | None
    ) -> bool | None:
        """Repeat `attempt` until it says True or False; None when time runs out."""
        turn = _Turn()
        self._turns.append(turn)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    turn.wake.clear()
                    if self._is_first(turn):
                        accepted = attempt()
                        if accepted is not None:
                            return accepted
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._patience(turn)):
                            await turn.wake.wait()
        except TimeoutError:
            return None
        finally:
            self._leave(turn)
            self.call_next()

    def call_next(self) -> None:
        """Tell the first in the queue that there may be room.

        Those whose loop stands still keep their place, and are told when it runs again;
        they hold up nobody.
        """
        for turn in self._in_order():
            try:
                turn.loop.call_soon_threadsafe(turn.wake.set)
            except RuntimeError:  # its loop is closed, nobody waits there any more
                self._leave(turn)
            else:
                if turn.loop.is_running():
                    return

    def _is_first(self, turn: _Turn) -> bool:
        running = (other for other in self._in_order() if other.loop.is_running())
        return next(running, turn) is turn

    def _patience(self, turn: _Turn) -> float | None:
        """Another loop may stop when it has just been told that there is room."""
        alone = all(other.loop is turn.loop for other in self._in_order())
        return None if alone else _LOOK_SECONDS

    def _in_order(self) -> list[_Turn]:
        while True:
            try:
                return list(self._turns)
            except RuntimeError:  # pragma: no cover - another thread changed it
                continue

    def _leave(self, turn: _Turn) -> None:
        with contextlib.suppress(ValueError):  # left already, its loop closed
            self._turns.remove(turn)
