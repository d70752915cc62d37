"""The dead letters of one folder: where the next is written, how many may lie there."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from ._dead_letters import DeadLetter, append, begin, remove

MOST_BYTES = 64 * 1024**2  # of dead and damaged files together


class DeadFolder:
    """Writes dead letters; from any thread.

    Args:
        folder: Where.
        separator: What follows each entry.
        report: Called with a line on each file that is removed.
    """

    def __init__(
        self, folder: Path, separator: bytes, report: Callable[[str], object]
    ) -> None:
        # never changed
        self._folder = folder
        self._separator = separator
        self._report = report
        # any thread, by single operations; one that appends has it out of here
        self._paths: list[Path] = []

    def write(self, letter: DeadLetter) -> int:
        """Write a letter; returns how many entries of older ones were removed for it.

        Raises:
            OSError: it can't be written.
        """
        removed = self._make_room(len(letter.payload))
        path = None
        with contextlib.suppress(IndexError):  # the first, or threads write the others
            path = self._paths.pop()
        if path is None or not append(path, letter):
            path = begin(self._folder, self._separator, letter)
        self._paths.append(path)
        return removed

    def _make_room(self, size: int) -> int:
        """Remove the oldest files beyond MOST_BYTES; returns how many entries they had.

        One that is locked stays, and so does the letter to come, however large it is.
        """
        found = []
        for pattern in ("*.dead", "*.bad"):
            for path in self._folder.glob(pattern):
                with contextlib.suppress(FileNotFoundError):
                    state = path.lstat()
                    found.append((state.st_mtime_ns, state.st_size, path))
        used = size + sum(each for _, each, _ in found)
        entries = 0
        for _, each, path in sorted(found):
            if used <= MOST_BYTES:
                break
            removed = remove(path)
            if removed is None:
                continue
            used -= each
            entries += removed
            self._report(
                f"{path} is removed, as the oldest: dead and damaged files there have "
                f"more than {MOST_BYTES // 1024**2} MiB"
            )
        return entries
