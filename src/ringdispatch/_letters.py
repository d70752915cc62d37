"""Keeping the batches of one dispatcher that failed, as dead letters."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ._atomic import Finalizer, WorkerThreads
from ._dead_letters import DeadLetter, append, begin, remove
from ._reports import Periods, Reports, counted

if TYPE_CHECKING:
    from ._batch import Batch

# Of the files of dead letters and of the damaged ones, in one folder.
MOST_BYTES = 64 << 20


class Letters:
    """Writes each letter in a worker thread; any thread may have one written.

    Files are handed around, not shared: two threads that write at once have one each.
    """

    def __init__(
        self, folder: Path, separator: bytes, now: Callable[[], float]
    ) -> None:
        # never changed
        self._folder = folder
        self._separator = separator
        # any thread, by single operations
        self._paths: deque[Path] = deque()  # of files that may take another letter
        # any thread, plain stores
        self._logged = Periods(now)

    def write(
        self,
        batch: "Batch",
        reason: str,
        workers: WorkerThreads,
        reports: Reports,
        written: Callable[[], object],
    ) -> None:
        """Have a batch that failed kept, and settled in its file; then call back.

        Here and now where no thread starts, as when the process ends.
        """
        finished = Finalizer(written)

        def work() -> None:
            self._write(batch, reason, reports)

        try:
            workers.run((work, finished))
        except (RuntimeError, MemoryError):
            try:
                work()
            finally:
                finished.finish()

    def _write(self, batch: "Batch", reason: str, reports: Reports) -> None:
        """Write the letter; only then settle the batch, or where there can be none."""
        data = batch.raw
        if not batch.owes_letter:
            return  # interrupted or in two threads, its call asked twice
        kept = 0
        lost = False
        try:
            _, (payload, sizes, _) = data.__reduce__()
            about = batch.id, batch.first, batch.count, batch.attempts, time.time()
            letter = DeadLetter(*about, reason, batch.recovered, sizes, payload)
            self._make_room(len(payload), batch, reports)
            self._keep(letter)
            kept = len(sizes)
        except Exception as error:
            lost = isinstance(error, OSError)  # else the next process has the batch
            what = "lost" if lost else "left in the spool"
            why = f"a failed batch is {what}, no dead letter can be written: {error!r}"
            if self._logged.begin("failed"):
                reports.log(logging.ERROR, why)
        batch.settle_letter(bool(kept) or lost, kept)

    def _keep(self, letter: DeadLetter) -> None:
        try:
            path = self._paths.pop()
        except IndexError:
            path = None
        if path is None or not append(path, letter):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = begin(self._folder, self._separator, letter)
        self._paths.append(path)

    def _make_room(self, size: int, batch: "Batch", reports: Reports) -> None:
        """Remove the oldest files that nothing has locked, until all are few enough."""
        files = []
        for pattern in ("*.dead", "*.bad"):
            for path in self._folder.glob(pattern):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    status = path.lstat()
                    files.append((status.st_mtime_ns, status.st_size, path))
        size += sum(each for _, each, _ in files)
        removed = []
        dropped = 0
        for _, each, path in sorted(files):
            if size <= MOST_BYTES:
                break
            count = remove(path)
            if count is not None:
                size -= each
                dropped += count
                removed.append(path.name)
        batch.count_dropped(dropped)
        if removed and self._logged.begin("removed"):
            reports.log(
                logging.WARNING,
                f"{self._folder}: more than {MOST_BYTES >> 20} MiB of dead letters and "
                f"damaged files; the oldest are removed, with "
                f"{counted(dropped, 'entry')} just now: {', '.join(removed)}",
            )
