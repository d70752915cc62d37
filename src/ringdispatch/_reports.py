"""The log and the user's hooks: what a dispatcher tells, and how."""

import logging
import traceback
from collections.abc import Callable, Iterable
from typing import Any

logger = logging.getLogger("ringdispatch")

OnError = Callable[[BaseException, Any], object]
OnDrop = Callable[[str, int], object]


class Reports:
    """Tells hooks and the log, and stands between them and the dispatcher.

    Whatever a hook raises is logged and goes no further.
    """

    def __init__(
        self, name: str, on_error: OnError | None, on_drop: OnDrop | None
    ) -> None:
        self._name = name
        self._on_error = on_error
        self._on_drop = on_drop
        self._failing = False

    def renewed(self) -> "Reports":
        """The same, with everything at zero."""
        return Reports(self._name, self._on_error, self._on_drop)

    def failed(
        self,
        error: BaseException,
        batch: Any,
        count: int,
        contexts: Iterable[Any],
        *,
        quiet: bool,
    ) -> None:
        """Tell of a failed dispatch: the first with its traceback, repeats quietly.

        Args:
            error: What the dispatch function raised, or what ended it.
            batch: The batch, as the dispatch function got it.
            count: How many entries it holds.
            contexts: The openers' contexts; their `log` is told.
            quiet: Whether the log is told otherwise.
        """
        level = logging.DEBUG if self._failing or quiet else logging.WARNING
        self._failing = True
        try:
            what = repr(error)
        except Exception as unprintable:
            what = f"{type(error).__name__} ({type(unprintable).__name__} in its repr)"
        message = f"{self._name}: dispatch of {count} entries failed: {what}"
        self._log(level, message, exc_info=error if level > logging.DEBUG else None)
        for context in contexts:
            self.safely("context.log", _tell_context, context, message)
        if self._on_error is not None:
            self.safely("on_error", self._on_error, error, batch)

    def succeeded(self) -> None:
        """Note that dispatching works (again)."""
        if self._failing:
            self._failing = False
            self._log(logging.INFO, "%s: dispatches succeed again", self._name)

    def dropped(self, reason: str, count: int) -> None:
        """Tell the hook of entries dropped."""
        if self._on_drop is not None:
            self.safely("on_drop", self._on_drop, reason, count)

    def say(self, level: int, message: str, *values: object) -> None:
        """Log one line under the dispatcher's name."""
        self._log(level, "%s: %s", self._name, message % values)

    def hook_raised(self, what: str, error: BaseException) -> None:
        """Log what a hook raised elsewhere."""
        self._log(logging.ERROR, "%s: %s raised", self._name, what, exc_info=error)

    def safely(self, what: str, hook: Callable[..., object], *values: Any) -> None:
        """Call what the user gave; an error in it is logged, nothing else happens."""
        try:
            hook(*values)
        except Exception as error:
            self.hook_raised(what, error)

    def _log(self, level: int, message: str, *values: object, **rest: Any) -> None:
        # A handler of the user's that raises must not end what is being reported.
        try:
            logger.log(level, message, *values, **rest)
        except Exception:
            traceback.print_exc()


def _tell_context(context: Any, message: str) -> None:
    log = getattr(context, "log", None)
    if log is not None:
        getattr(log, "error", log)(message)
