"""A dispatch function that fails in the ways that a test prescribes."""

import asyncio
import enum
import itertools
import math
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Final

from ._recording import kept


class _Hang(enum.Enum):
    HANG = "HANG"

    def __repr__(self) -> str:
        return self.name


HANG: Final = _Hang.HANG
"""A call that does not return before it is cancelled, or `release()` is called."""

Fault = BaseException | type[BaseException] | float | _Hang | None


class FaultyDispatch:
    """A dispatch function that records its batches and fails on demand.

        send = FaultyDispatch(None, ConnectionError("refused"), HANG, 2.5)
        dispatcher = BackgroundDispatcher(send, ms_delay=100, dispatch_timeout=30)

    Here the first call succeeds, the second raises, the third hangs (and so fails at
    `dispatch_timeout`), the fourth takes 2.5 seconds, and all others succeed. With a
    SteppedClock none of this takes time.

    May be shared by threads; `release` may be called from any.

    Args:
        *faults: What the first, second, ... call does: None returns, an exception is
            raised, a number is how many seconds the call takes, HANG hangs.
        then: What every later call does.

    Attributes:
        batches: The batches that it was called with, in order.

    Raises:
        TypeError: a fault is none of these.
        ValueError: seconds that are negative, infinite or NaN.
    """

    def __init__(self, *faults: Fault, then: Fault = None) -> None:
        for number, fault in enumerate(faults):
            _check(f"faults[{number}]", fault)
        _check("then", then)
        self.batches: list[Any] = []
        self._faults = faults
        self._then = then
        self._numbers = itertools.count()
        self._hanging: list[Future[None]] = []

    @property
    def entries(self) -> list[Any]:
        """All entries of all batches, in order."""
        return [entry for batch in self.batches for entry in batch]

    async def __call__(self, batch: Any) -> None:
        number = next(self._numbers)
        self.batches.append(kept(batch))
        fault = self._faults[number] if number < len(self._faults) else self._then
        if isinstance(fault, _Hang):
            hanging: Future[None] = Future()
            self._hanging.append(hanging)
            await asyncio.wrap_future(hanging)
        elif isinstance(fault, BaseException):
            # An instance raised again would keep every batch in its traceback.
            raise fault.with_traceback(None)
        elif isinstance(fault, type):
            raise fault
        elif fault is not None:
            await asyncio.sleep(fault)

    def release(self) -> None:
        """Let the calls that hang now return."""
        hanging, self._hanging = self._hanging, []
        for call in hanging:
            with suppress(InvalidStateError):  # cancelled meanwhile
                call.set_result(None)


def _check(name: str, fault: Any) -> None:
    if fault is None or isinstance(fault, BaseException | _Hang):
        return
    if isinstance(fault, type) and issubclass(fault, BaseException):
        return
    if isinstance(fault, bool) or not isinstance(fault, int | float):
        raise TypeError(
            f"{name}={fault!r}: must be None, an exception, a number of seconds or HANG"
        )
    if not 0 <= fault < math.inf:
        raise ValueError(f"{name}={fault!r}: must be a finite number of seconds >= 0")
