"""Where a dispatcher lives: choosing a home, moving when that ends, calling it."""

from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TypeVar

from . import _process
from ._background import background_home, is_background
from ._home import Errand, Home, running_loop
from ._producer import Producer

Entry = TypeVar("Entry")


class Housed(Producer[Entry]):
    """Chooses the home of the windows that `enqueue` opens, and calls it.

    The home is the loop that runs where a window opens, or else the background thread.
    It stays until its loop is closed or about to be, or is found stopped: by somebody
    who waits, or by every 4,096th entry. A loop takes over from the background thread,
    unless `bind` or the options chose that.
    """

    # See Batching for what slots are good for.
    __slots__ = (
        "__weakref__",
        "_bound",
        "_called",
        "_context",
        "_home",
        "_prefers_thread",
    )

    _home: Home | None
    _context: Context  # the one the dispatcher was made in
    _prefers_thread: bool
    _bound: bool  # whether no loop takes over from the background thread

    def _start_homeless(self) -> None:
        self._home = None
        self._bound = self._prefers_thread
        self._called = False  # whether a look is posted that has not begun

    # What the subclass does at home.

    def look(self, home: Home) -> None:
        """Do what there is to do; on that home."""
        raise NotImplementedError

    def _needs_end(self) -> bool:
        """Whether there is something left to do before all is over."""
        raise NotImplementedError

    async def _drain(self, home: Home, timeout: float) -> None:
        """Do all there is to do, before the home's loop ends."""
        raise NotImplementedError

    # ---- choosing

    def _home_for_window(self) -> Home | None:
        """The home of a window that opens now; None where no thread can be started."""
        home = self._home
        if home is None or home.closed or home.ended:
            return self._choose_home()
        if home.background and not self._bound:
            # A thread taken only for want of a loop gives way to a loop.
            loop = running_loop()
            if loop is not None and loop is not home.loop:
                return self._choose_home()
        return home

    def _choose_home(self, *, blocking: bool = False) -> Home | None:
        """Choose a home anew, unless another thread is quicker.

        Args:
            blocking: The caller will block its thread: its own loop can't be the home.
        """
        before = self._home
        loop = None if blocking or self._prefers_thread else running_loop()
        _process.register_exit()
        if loop is not None and not is_background(loop):
            home = Home(loop)
        else:
            try:
                home = background_home()
            except (RuntimeError, OSError):  # no thread, or no descriptor, to be had
                return None
        if self._home is not before:
            return self._home
        self._bound = self._prefers_thread
        self._move_to(home)
        return home

    def _move_to(self, home: Home) -> None:
        if self._home is not None:
            self._home.disown()
        home.tell_of_close(self)
        self._home = home

    def _leave_home(self) -> None:
        if self._home is not None and not self._needs_end():
            self._home.leave()

    # ---- calling

    def _call_home(self, home: Home | None) -> None:
        """Have the home look what there is to do."""
        while home is not None:
            errand = Errand(partial(self._arrive, home), self.loop_closed)
            self._called = True
            if home.post(errand, self.fresh_context()):
                return
            errand.cancel()
            if not self._needs_end():
                break  # it was served before the loop was closed
            home = self._choose_home()
        # Else no thread can start. The next entry tries again; at exit they go out.
        self._called = False
        self.ring.forsake()

    def _arrive(self, home: Home) -> None:
        self._called = False  # before the first look at the ring
        if home is self._home:
            home.settle_in(self)
        self.look(home)

    def _revive(self, *, blocking: bool = False) -> None:
        """Replace a home that can't run, and have it look."""
        home = self._home
        if home is None or home.stalled or home.ended:
            home = self._choose_home(blocking=blocking)
        self._call_home(home)

    def loop_closed(self) -> None:
        """A loop we live or have lived on was closed: what waited for it moves on.

        But from no other loop: one that is only stopped keeps its entries.
        """
        if self._needs_end():
            self._call_home(self._home_for_window())

    def _post(self, callback: Callable[[], object]) -> None:
        if self._home is not None:
            self._home.post(callback, self.fresh_context())

    def fresh_context(self) -> Context:
        """A copy of the context the dispatcher was made in."""
        return self._context.copy()
