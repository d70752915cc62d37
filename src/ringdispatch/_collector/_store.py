"""The last entries that came, and how many came when."""

import secrets
import threading
import time
from collections import deque
from typing import Any, NamedTuple

from ._bodies import MOST_ENTRIES

# Of JSON, in all: entries may be large.
MOST_STORED = 256 * 1024 * 1024
SHOWN_ENTRIES = 200
SHOWN_BYTES = 1_000  # of one entry
SHOWN_PATH = 200  # characters
SECONDS = 60  # that the rate is shown for


class Entry(NamedTuple):
    """One entry, as it is kept."""

    number: int
    post: int
    time: int  # milliseconds since the epoch
    path: str
    text: bytes  # JSON


class Totals(NamedTuple):
    """What came since the start."""

    entries: int
    posts: int


class Store:
    """Keeps the last entries in memory. Any thread may call any method."""

    def __init__(self) -> None:
        # Never changed: a page learns by it that the collector was started anew.
        self._run = secrets.token_hex(4)
        # All below: under the lock.
        self._lock = threading.Lock()
        self._kept: deque[Entry] = deque()
        self._stored = 0  # bytes
        self._totals = Totals(0, 0)
        self._counts: dict[int, int] = {}  # entries by the second they came in

    def add(self, path: str, count: int, texts: deque[bytes]) -> None:
        """Add what was posted: `count` entries, of which the last are in `texts`."""
        path = path[:SHOWN_PATH]
        second = int(time.monotonic())
        now = time.time_ns() // 1_000_000
        with self._lock:
            entries, posts = self._totals
            self._totals = totals = Totals(entries + count, posts + 1)
            first = totals.entries - len(texts) + 1
            for number, text in enumerate(texts, first):
                self._kept.append(Entry(number, totals.posts, now, path, text))
                self._stored += len(text)
            while len(self._kept) > MOST_ENTRIES or self._stored > MOST_STORED:
                self._stored -= len(self._kept.popleft().text)
            if second not in self._counts:
                old = [one for one in self._counts if one < second - SECONDS]
                for one in old:
                    del self._counts[one]
            self._counts[second] = self._counts.get(second, 0) + count

    @property
    def totals(self) -> Totals:
        """What came since the start."""
        with self._lock:
            return self._totals

    def kept(self) -> list[Entry]:
        """Return all that is kept, the oldest first."""
        with self._lock:
            return list(self._kept)

    def view(self, after: int, contains: str) -> dict[str, Any]:
        """Return what the page shows, as JSON has it.

        Args:
            after: The number of the newest entry that the page has.
            contains: What the JSON or the path of an entry must contain; capitals of
                ASCII count as small letters.
        """
        # Seconds that are over: the present one would look like a fall of the rate.
        now = int(time.monotonic())
        with self._lock:
            entries, posts = self._totals
            kept = list(self._kept) if after < entries else []
            count = len(self._kept)
            rates = [self._counts.get(now - ago, 0) for ago in range(SECONDS, 0, -1)]
        wanted = _folded(contains)
        found: list[dict[str, Any]] = []
        for entry in reversed(kept):
            if entry.number <= after or len(found) == SHOWN_ENTRIES:
                break
            if wanted in entry.text.lower() or wanted in _folded(entry.path):
                found.append(_shown(entry))
        return {
            "run": self._run,
            "total": entries,
            "posts": posts,
            "kept": count,
            "rates": rates,
            "entries": found,
        }


def _folded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace").lower()


def _shown(entry: Entry) -> dict[str, Any]:
    cut = entry.text[:SHOWN_BYTES]
    return {
        "number": entry.number,
        "post": entry.post,
        "time": entry.time,
        "path": entry.path,
        "text": cut.decode("utf-8", "ignore"),  # the cut may be amid a character
        "left_out": len(entry.text) - len(cut),
    }
