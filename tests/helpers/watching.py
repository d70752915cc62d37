"""A ring that lets a test in where the engine takes from it."""

from __future__ import annotations

from typing import Any

from ringdispatch import BackgroundDispatcher


class WatchedRing:
    """Stands between a dispatcher's engine and its ring; a subclass overrides calls."""

    def __init__(self, dispatcher: BackgroundDispatcher[Any]) -> None:
        engine: Any = dispatcher._batcher
        self.ring = engine.ring
        engine.ring = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ring, name)
