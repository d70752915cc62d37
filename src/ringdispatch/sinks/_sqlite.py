"""Batches as rows of a SQLite table."""

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Generic, overload

from ringdispatch import BytesBatch

from . import _json
from ._error import RecordArray, SinkError
from ._types import Batch

_BUSY_SECONDS = 5.0
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1

# Types of columns that Records brings, by the kind of a numpy dtype.
_KINDS = {"b": "INTEGER", "i": "INTEGER", "u": "INTEGER", "f": "REAL", "S": "TEXT"}


class SqliteSink(Generic[Batch]):
    """Inserts each batch into a table, in one transaction, in a worker thread.

    The database is in WAL mode, with `synchronous=FULL`: a batch that counts as
    dispatched survives a power cut. Several sinks, threads and processes may write to
    one file: each waits up to 5 s for its turn. Table and columns are made if they are
    not there.

    Without columns, the table has `id` and `entry`: the entry as JSON; of `Bytes`, the
    entry as it was encoded. With columns, an entry is a mapping or a sequence: what is
    missing is NULL, and what is more is left out; lists and mappings are stored as
    JSON, what SQLite doesn't know by `str`. Of `Records`, the columns are the fields,
    or those of them that `columns` names.

    Args:
        path: The database; its folder must be there.
        table: The table's name; any text.
        columns: Names of columns, or None.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    @overload
    def __init__(
        self: "SqliteSink[list[Any] | BytesBatch | RecordArray]",
        path: "str | os.PathLike[str]",
        table: str,
        columns: None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: "SqliteSink[list[Any] | RecordArray]",
        path: "str | os.PathLike[str]",
        table: str,
        columns: Iterable[str],
    ) -> None: ...

    def __init__(
        self,
        path: "str | os.PathLike[str]",
        table: str,
        columns: Iterable[str] | None = None,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path={path!r}: must be a path")
        if os.fspath(path) in {"", ":memory:"}:
            raise ValueError(
                f"path={path!r}: must be a file: what is in memory only is gone when "
                "the sink is closed"
            )
        if not _is_encodable(os.fspath(path), "surrogateescape"):
            raise ValueError(f"path={path!r}: must be a path")
        # As it is now: a process may change its folder before the first batch.
        self._path = str(Path(path).absolute())
        self._table = _check_name("table", table)
        self._columns = None if columns is None else _check_columns(columns)
        self._fields: list[tuple[str, str]] = []  # of Records: name and type
        # By process: a connection must be neither used nor closed in a forked child.
        self._writers: dict[int, _Writer] = {}

    def __repr__(self) -> str:
        return f"SqliteSink({self._path!r}, {self._table!r})"

    def prepare(self, layout: object, dispatch_timeout: float | None) -> None:
        """Look at the dispatcher's options, and refuse columns that don't fit.

        Raises:
            ValueError: the layout has no such columns.
        """
        del dispatch_timeout
        if hasattr(layout, "separator") and self._columns is not None:
            raise ValueError(
                f"columns={self._columns!r}: entries of Bytes are encoded already, and "
                "have no columns: leave them out, or take Objects() or Records(...)"
            )
        dtype: Any = getattr(layout, "dtype", None)
        if dtype is None:
            return
        unknown = [name for name in self._columns or () if name not in dtype.names]
        if unknown:
            raise ValueError(
                f"columns={self._columns!r}: {', '.join(map(repr, unknown))} not among "
                f"the fields of Records: {', '.join(dtype.names)}"
            )
        _check_columns(self._columns or dtype.names)
        self._note_fields(dtype)

    def _note_fields(self, dtype: Any) -> None:
        self._fields = [
            # An integer column makes a float of what is larger than SQLite's integers.
            (name, "" if dtype[name] == "u8" else _KINDS.get(dtype[name].kind, ""))
            for name in self._columns or dtype.names
        ]

    def __call__(self, batch: Batch) -> None:
        """Insert a batch; all of it, or nothing.

        Raises:
            SinkError: it could not be inserted.
        """
        rows = self._rows(batch)
        writer = self._writers.get(os.getpid())
        if writer is None:
            with _making:
                writer = self._writers.setdefault(os.getpid(), _Writer())
                _writers.add(writer)
        with writer.lock:
            try:
                self._write(writer, rows)
            except BaseException as error:
                writer.close()  # which rolls back
                if isinstance(error, sqlite3.Error):
                    raise _explained(self._path, error) from error
                raise

    async def aclose(self) -> None:
        """Close the connection; a later call opens another."""
        import asyncio  # noqa: PLC0415, the rest needs none

        writer = self._writers.get(os.getpid())
        if writer is None:
            return
        try:
            await asyncio.to_thread(writer.locked_close)
        except RuntimeError:  # the interpreter ends, and starts no threads
            writer.locked_close()

    # ---- in the worker thread, with the lock

    def _write(self, writer: "_Writer", rows: list[tuple[Any, ...]]) -> None:
        connection = writer.connection
        if connection is not None and writer.file != _file_at(self._path):
            # It was removed, or has another name: then it keeps what is in the log.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            writer.close()
            connection = None
        if connection is None:
            connection = writer.connection = sqlite3.connect(
                self._path,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            _switch_to_wal(connection)
            connection.execute("PRAGMA synchronous=FULL")
            self._make_table(connection)
            writer.file = _file_at(self._path)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(self._insert, rows)
        connection.execute("COMMIT")

    def _make_table(self, connection: sqlite3.Connection) -> None:
        table = _quoted(self._table)
        fields = self._fields or [(name, "") for name in self._columns or ()]
        columns = [f"{_quoted(name)} {kind}".strip() for name, kind in fields]
        if not fields:
            columns = ['"id" INTEGER PRIMARY KEY', '"entry" NOT NULL']
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)})")
        found = connection.execute(f"PRAGMA table_info({table})").fetchall()
        known = {_folded(column[1]) for column in found}
        for (name, _), column in zip(fields, columns, strict=False):
            if _folded(name) not in known:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        connection.execute("COMMIT")

    @property
    def _insert(self) -> str:
        names = [name for name, _ in self._fields] or self._columns or ["entry"]
        listed, marks = ", ".join(map(_quoted, names)), ", ".join("?" * len(names))
        return f"INSERT INTO {_quoted(self._table)} ({listed}) VALUES ({marks})"

    # ---- what becomes of a batch

    def _rows(self, batch: Any) -> list[tuple[Any, ...]]:
        if isinstance(batch, BytesBatch):
            return [(_decoded(entry),) for entry in batch]
        if not isinstance(batch, list):
            return self._rows_of_records(batch)
        if self._columns is None:
            return [(_json.dumps(entry),) for entry in batch]
        columns = self._columns
        rows = []
        for entry in batch:
            if isinstance(entry, Mapping):
                row = tuple([_value(entry.get(name)) for name in columns])
            elif isinstance(entry, list | tuple):
                values = [_value(each) for each in entry[: len(columns)]]
                row = (*values, *[None] * (len(columns) - len(values)))
            else:
                raise SinkError(
                    f"an entry of type {type(entry).__name__} has no columns: "
                    "SqliteSink with columns takes mappings and sequences"
                )
            rows.append(row)
        return rows

    def _rows_of_records(self, batch: Any) -> list[tuple[Any, ...]]:
        if not self._fields:
            self._note_fields(batch.dtype)
        names = [name for name, _ in self._fields]
        rows = batch.tolist() if names == [*batch.dtype.names] else None
        if rows is None:
            rows = batch[names].tolist()
        if any(batch.dtype[name].kind not in "bif" for name in names):
            rows = [tuple(map(_record_value, row)) for row in rows]
        return list(rows)


class _Writer:
    """The connection of one process, which several calls share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        self.file: tuple[int, int] | None = None  # that it was opened on

    def close(self) -> None:
        """Close the connection, with the lock held: it undoes an open transaction."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def locked_close(self) -> None:
        """Close the connection after the call that uses it."""
        with self.lock:
            self.close()


# Every writer; those that are made while a process forks come after that.
_making = threading.Lock()
_writers: "weakref.WeakSet[_Writer]" = weakref.WeakSet()
_held: list[_Writer] = []  # by the thread that forks


def _before_fork() -> None:
    """Close the connections, each after the call that uses it.

    SQLite keeps account of the locks of a process. A forked child would inherit the
    account without the locks: it would wait for ever for a transaction of its parent's,
    or write into a log that the parent removes.
    """
    _making.acquire()
    for writer in list(_writers):
        if writer.lock.acquire(timeout=2 * _BUSY_SECONDS):
            _held.append(writer)
            writer.close()


def _after_fork() -> None:
    while _held:
        _held.pop().lock.release()
    _making.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork,
        after_in_child=_after_fork,
    )


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _check_name(what: str, name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{what}={name!r}: must be a string")
    if not name or not _is_encodable(name):
        raise ValueError(f"{what}={name!r}: must be a name")
    return name


def _check_columns(columns: Any) -> list[str]:
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        raise TypeError(f"columns={columns!r}: must be a list of names")
    names = [_check_name("columns", name) for name in columns]
    if not names:
        raise ValueError("columns=[]: must have a name, or be None for one of JSON")
    folded = [_folded(name) for name in names]
    twice = {name for name in names if folded.count(_folded(name)) > 1}
    if twice:
        raise ValueError(
            f"columns={names!r}: {', '.join(map(repr, sorted(twice)))} more than once "
            "(SQLite ignores case)"
        )
    return names


def _is_encodable(text: str, errors: str = "strict") -> bool:
    """Whether SQLite can be given it: no NUL, no half of a surrogate pair."""
    try:
        return b"\0" not in text.encode("utf-8", errors)
    except UnicodeEncodeError:
        return False


def _folded(name: str) -> bytes:
    """A name as SQLite compares it: without the case of ASCII, and of no other."""
    return name.encode().lower()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _decoded(entry: bytes) -> "str | bytes":
    try:
        return entry.decode()
    except UnicodeDecodeError:
        return entry


def _value(value: Any) -> Any:
    """A value that SQLite takes."""
    if value is None or isinstance(value, float | bytes):
        return value
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, Integral) and _SMALLEST <= int(value) <= _LARGEST:
        return int(value)
    if isinstance(value, Real) and not isinstance(value, Integral):
        with contextlib.suppress(OverflowError):  # a large Fraction
            return float(value)  # numpy's
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, dict | list | tuple):
        return _json.dumps(value)
    return _json.as_text(value)


def _record_value(value: Any) -> Any:
    return _decoded(value) if isinstance(value, bytes) else _value(value)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Put the database into WAL mode; SQLite's own wait does not cover it."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _explained(path: str, error: sqlite3.Error) -> SinkError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    passing = {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
    }
    message = f"{path}: {error}"
    if code == sqlite3.SQLITE_BUSY:
        message += f" (another writer held it for {_BUSY_SECONDS:g} s)"
    return SinkError(message, retryable=code in passing)
