"""SqliteSink on real files, with several threads and processes writing to one."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from ringdispatch import BackgroundDispatcher, Bytes, Objects, Records
from ringdispatch.sinks import SinkError, SqliteSink
from subprocesses import needs_fork, run_snippet

pytestmark = pytest.mark.usefixtures("patient")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "entries.db"


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def insert(sink: SqliteSink[Any], *entries: Any, layout: Any = None) -> None:
    """Insert through a dispatcher, which closes the sink."""
    with BackgroundDispatcher(
        sink, ms_delay=60_000, layout=layout or Objects(), home="thread"
    ) as dispatcher:
        for entry in entries:
            assert dispatcher.enqueue(entry)
    assert dispatcher.statistics().dispatched == len(entries)


def test_entry_is_stored_as_json(path: Path) -> None:
    insert(SqliteSink(path, "log"), {"order": 1}, "text", {"at": dt.date(2026, 1, 2)})
    rows = query(path, "SELECT id, entry FROM log ORDER BY id")
    assert [row[0] for row in rows] == [1, 2, 3]
    assert [json.loads(row[1]) for row in rows] == [
        {"order": 1},
        "text",
        {"at": "2026-01-02"},
    ]


def test_columns_take_what_they_name(path: Path) -> None:
    sink = SqliteSink(path, "log", ["order", "note"])
    insert(
        sink,
        {"order": 1, "note": "a", "more": "left out"},
        {"note": None},
        (2,),
        [3, "c", "left out"],
        {"order": 2**70, "note": [1, {"a": 2}]},
        {"order": True, "note": b"\0"},
        {"order": 0.5, "note": dt.date(2026, 1, 2)},
        {"order": float("inf"), "note": "\ud800"},
        {"order": float("nan"), "note": memoryview(b"\0")},
        {"order": Fraction(10**400), "note": bytearray(b"\0")},
    )
    assert query(path, 'SELECT "order", note FROM log ORDER BY rowid') == [
        (1, "a"),
        (None, None),
        (2, None),
        (3, "c"),
        (str(2**70), '[1,{"a":2}]'),
        (1, b"\0"),
        (0.5, "2026-01-02"),
        (float("inf"), "?"),
        (None, b"\0"),
        (str(10**400), b"\0"),
    ]


def test_numpy_numbers_are_numbers(path: Path) -> None:
    np = pytest.importorskip("numpy")
    insert(SqliteSink(path, "t", ["a", "b"]), {"a": np.int64(5), "b": np.float32(0.5)})
    assert query(path, "SELECT a, b FROM t") == [(5, 0.5)]


def test_records_bring_their_columns(path: Path) -> None:
    pytest.importorskip("numpy")
    fields = [("status", "u2"), ("method", "S4"), ("big", "u8"), ("seconds", "f8")]
    insert(
        SqliteSink(path, "log"),
        (200, b"GET", 2**64 - 1, 0.5),
        (404, b"\xff", 7, 1.5),
        layout=Records(fields),
    )
    assert query(path, "SELECT status, method, big, seconds FROM log") == [
        (200, "GET", str(2**64 - 1), 0.5),
        (404, b"\xff", 7, 1.5),
    ]
    kinds = {row[1]: row[2] for row in query(path, "PRAGMA table_info(log)")}
    assert kinds["status"] == "INTEGER"
    assert kinds["seconds"] == "REAL"


def test_columns_choose_among_the_fields_of_records(path: Path) -> None:
    pytest.importorskip("numpy")
    layout = Records([("status", "u2"), ("seconds", "f8")])
    insert(SqliteSink(path, "log", ["seconds"]), (200, 0.5), layout=layout)
    assert query(path, "SELECT * FROM log") == [(0.5,)]


def test_bytes_are_stored_as_they_were_encoded(path: Path) -> None:
    insert(SqliteSink(path, "log"), b'{"order":1}', b"\xff", layout=Bytes())
    assert query(path, "SELECT entry FROM log") == [('{"order":1}',), (b"\xff",)]


def test_any_text_is_a_name(path: Path) -> None:
    table, column = 'a"; DROP TABLE x; --', "select 'ä\" \n"
    insert(SqliteSink(path, table, [column]), {column: 1})
    quoted = table.replace('"', '""')
    assert query(path, f'SELECT * FROM "{quoted}"') == [(1,)]


def test_table_that_is_there_is_kept_and_gets_missing_columns(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, Status TEXT)")
        connection.execute("INSERT INTO log VALUES (7, 'old')")
        connection.commit()
    insert(SqliteSink(path, "log", ["status", "seconds"]), {"status": 1, "seconds": 2})
    rows = query(path, "SELECT id, Status, seconds FROM log")
    assert rows == [(7, "old", None), (8, "1", 2)]


def test_names_differ_by_the_case_of_other_letters_than_ascii(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE log (strasse, ä)")
    columns = ["Strasse", "straße", "Ä", "ä"]
    insert(SqliteSink(path, "log", columns), (1, 2, 3, 4))
    assert query(path, 'SELECT strasse, "straße", "Ä", "ä" FROM log') == [(1, 2, 3, 4)]


@pytest.mark.skipif(sys.platform == "win32", reason="no open file can be removed")
def test_file_that_was_removed_is_made_anew(path: Path) -> None:
    sink = SqliteSink(path, "log", ["a"])
    sink([(1,)])
    path.rename(path.with_name("rotated.db"))
    sink([(2,)])
    path.unlink()
    sink([(3,)])
    asyncio.run(sink.aclose())
    assert query(path, "SELECT a FROM log") == [(3,)]
    assert query(path.with_name("rotated.db"), "SELECT a FROM log") == [(1,)]


def test_path_is_that_of_the_folder_where_the_sink_was_made(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    sink = SqliteSink(path.name, "log", ["a"])
    monkeypatch.chdir("/")
    insert(sink, (1,))
    assert query(path, "SELECT a FROM log") == [(1,)]


def test_batch_is_one_transaction_and_fails_whole(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE log (a UNIQUE)")
    sink = SqliteSink(path, "log", ["a"])
    sink([{"a": 1}])
    with pytest.raises(SinkError, match=r"entries.db: UNIQUE constraint") as raised:
        sink([{"a": 2}, {"a": 1}])
    assert not raised.value.retryable
    sink([{"a": 3}])
    asyncio.run(sink.aclose())
    assert query(path, "SELECT a FROM log") == [(1,), (3,)]


def test_database_is_durable(path: Path) -> None:
    sink = SqliteSink(path, "log")
    sink([1])
    assert query(path, "PRAGMA journal_mode") == [("wal",)]
    assert path.with_name("entries.db-wal").exists()
    (writer,) = sink._writers.values()
    assert writer.connection is not None
    (synchronous,) = writer.connection.execute("PRAGMA synchronous").fetchone()
    assert synchronous == 2  # FULL
    asyncio.run(sink.aclose())
    assert not path.with_name("entries.db-wal").exists()
    sink([2])  # it opens again
    asyncio.run(sink.aclose())
    assert len(query(path, "SELECT * FROM log")) == 2


def test_calls_run_in_worker_threads_that_take_turns(path: Path) -> None:
    threads: set[int] = set()

    class Noting(SqliteSink[Any]):
        def __call__(self, batch: Any) -> None:
            threads.add(threading.get_ident())
            super().__call__(batch)

    async def main() -> None:
        sink = Noting(path, "log", ["a"])
        async with BackgroundDispatcher(
            sink, ms_delay=1, max_batch=10, max_in_flight=4
        ) as dispatcher:
            for number in range(200):
                assert dispatcher.enqueue((number,))

    asyncio.run(main())
    assert threading.get_ident() not in threads
    assert sorted(query(path, "SELECT a FROM log")) == [(n,) for n in range(200)]


WRITER = """
import sys
from ringdispatch import BackgroundDispatcher
from ringdispatch.sinks import SqliteSink, _sqlite

_sqlite._BUSY_SECONDS = 60  # a disk may stand for seconds
path, name = sys.argv[1:]
sink = SqliteSink(path, "log", ["writer", "number"])
print("ready", flush=True)
sys.stdin.readline()
with BackgroundDispatcher(sink, ms_delay=1, max_batch=20, on_full="raise") as each:
    for number in range(1000):
        each.enqueue((name, number))
    assert each.flush(40)
assert each.statistics().dispatched == 1000, each.statistics()
"""


def test_two_processes_write_to_one_file(path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", WRITER, str(path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    writers = [
        subprocess.Popen([*command, name], text=True, **pipes) for name in ("a", "b")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # both make the database in the same moment
        writer.communicate("go\n", timeout=50)
        assert writer.returncode == 0
    counts = query(path, "SELECT writer, count(DISTINCT number) FROM log GROUP BY 1")
    assert counts == [("a", 1000), ("b", 1000)]
    assert query(path, "SELECT count(*) FROM log") == [(2000,)]


@pytest.fixture
def held(path: Path) -> Iterator[sqlite3.Connection]:
    """A database that another writer holds."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE log (a)")
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def test_writer_that_holds_the_database_is_waited_for(
    path: Path, held: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringdispatch.sinks._sqlite._BUSY_SECONDS", 0.2)
    sink = SqliteSink(path, "log", ["a"])
    with pytest.raises(SinkError, match=r"locked \(another writer held it") as raised:
        sink([{"a": 1}])
    assert raised.value.retryable
    held.execute("COMMIT")
    sink([{"a": 2}])
    asyncio.run(sink.aclose())
    assert query(path, "SELECT a FROM log") == [(2,)]


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    sink = SqliteSink(tmp_path / "none" / "entries.db", "log")
    with pytest.raises(SinkError, match=r"none.entries\.db: unable to open"):
        sink([1])


def test_entry_without_columns_is_refused(path: Path) -> None:
    sink = SqliteSink(path, "log", ["a"])
    with pytest.raises(SinkError, match="an entry of type int has no columns"):
        sink([{"a": 1}, 5])
    assert not path.exists()


@needs_fork
def test_forked_child_opens_its_own_connection(path: Path) -> None:
    run_snippet(
        f"""
        from ringdispatch.sinks import SqliteSink, _sqlite
        _sqlite._BUSY_SECONDS = 60  # a disk may stand for seconds

        dispatcher = BackgroundDispatcher(
            SqliteSink({str(path)!r}, "log", ["who"]), ms_delay=1
        )
        dispatcher.enqueue(("parent",))
        assert dispatcher.flush()
        if (child := os.fork()) == 0:
            dispatcher.enqueue(("child",))
            assert dispatcher.close()
            sys.exit()
        os.waitpid(child, 0)
        dispatcher.enqueue(("parent again",))
        assert dispatcher.close()
        """,
        warnings=("ignore:.*fork:DeprecationWarning",),
    )
    assert query(path, "SELECT who FROM log") == [
        ("parent",),
        ("child",),
        ("parent again",),
    ]


@needs_fork
def test_fork_within_a_transaction_leaves_no_lock_to_the_child(path: Path) -> None:
    run_snippet(
        f"""
        from ringdispatch.sinks import SqliteSink, _sqlite
        _sqlite._BUSY_SECONDS = 60  # a disk may stand for seconds

        class Slow(SqliteSink):
            def _rows(self, batch):
                yield from super()._rows(batch)
                if batch == [("parent",)]:
                    began.set()
                    time.sleep(0.2)

        began = threading.Event()
        sink = Slow({str(path)!r}, "log", ["who"])
        thread = threading.Thread(target=sink, args=[[("parent",)]])
        thread.start()
        began.wait()
        if (child := os.fork()) == 0:
            sink([("child",)])
            asyncio.run(sink.aclose())
            os._exit(0)
        thread.join()
        assert os.waitpid(child, 0)[1] == 0
        asyncio.run(sink.aclose())
        """,
        warnings=("ignore:.*fork:DeprecationWarning",),
    )
    assert query(path, "SELECT who FROM log") == [("parent",), ("child",)]


@needs_fork
def test_parent_that_closes_leaves_the_log_to_its_child(path: Path) -> None:
    run_snippet(
        f"""
        from ringdispatch.sinks import SqliteSink, _sqlite
        _sqlite._BUSY_SECONDS = 60  # a disk may stand for seconds

        sink = SqliteSink({str(path)!r}, "log", ["number"])
        sink([(1,)])
        theirs, ours = os.pipe()
        child_reads, parent_writes = os.pipe()
        if (child := os.fork()) == 0:
            sink([(2,)])
            os.write(ours, b"x")
            os.read(child_reads, 1)
            sink([(3,)])
            asyncio.run(sink.aclose())
            os._exit(0)
        os.read(theirs, 1)
        sink([(4,)])
        asyncio.run(sink.aclose())
        os.write(parent_writes, b"x")
        assert os.waitpid(child, 0)[1] == 0
        """,
        warnings=("ignore:.*fork:DeprecationWarning",),
    )
    assert sorted(query(path, "SELECT number FROM log")) == [(1,), (2,), (3,), (4,)]


def test_program_that_just_ends_stores_all(path: Path) -> None:
    run_snippet(
        f"""
        from ringdispatch.sinks import SqliteSink, _sqlite
        _sqlite._BUSY_SECONDS = 60  # a disk may stand for seconds

        sink = SqliteSink({str(path)!r}, "log", ["who"])
        dispatcher = BackgroundDispatcher(sink, ms_delay=60_000)

        async def main():
            dispatcher.enqueue(("in a loop",))

        asyncio.run(main())
        dispatcher.enqueue(("without",))
        """
    )
    assert query(path, "SELECT who FROM log") == [("in a loop",), ("without",)]


NAMED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"path": 1}, TypeError, "path=1: must be a path"),
    ({"path": ":memory:"}, ValueError, "path=':memory:': must be a file"),
    ({"path": "a\0b"}, ValueError, "must be a path"),
    ({"path": "\ud800"}, ValueError, "must be a path"),
    ({"table": "\ud800"}, ValueError, "must be a name"),
    ({"table": None}, TypeError, "table=None: must be a string"),
    ({"table": ""}, ValueError, "table='': must be a name"),
    ({"table": "a\0b"}, ValueError, "must be a name"),
    ({"columns": "abc"}, TypeError, "columns='abc': must be a list of names"),
    ({"columns": 5}, TypeError, "columns=5: must be a list of names"),
    ({"columns": []}, ValueError, "columns=[]: must have a name"),
    ({"columns": ["a", 1]}, TypeError, "columns=1: must be a string"),
    ({"columns": ["a", "A"]}, ValueError, "'A', 'a' more than once"),
]


@pytest.mark.parametrize(("given", "kind", "words"), NAMED)
def test_bad_input_is_refused_by_its_own_message(
    path: Path, given: dict[str, Any], kind: type[Exception], words: str
) -> None:
    options: dict[str, Any] = {"path": path, "table": "log", **given}
    with pytest.raises(kind) as raised:
        SqliteSink(**options)
    assert words in str(raised.value)


def test_columns_that_do_not_fit_the_layout_are_refused(path: Path) -> None:
    sink: SqliteSink[Any] = SqliteSink(path, "log", ["status", "nope"])
    with pytest.raises(ValueError, match=r"columns=.*: entries of Bytes are encoded"):
        BackgroundDispatcher(sink, ms_delay=1, layout=Bytes())
    pytest.importorskip("numpy")
    with pytest.raises(ValueError, match=r"'nope' not among the fields of Records: st"):
        BackgroundDispatcher(sink, ms_delay=1, layout=Records([("status", "u2")]))
    layout, sink = Records([("a", "u2"), ("A", "u2")]), SqliteSink(path, "log")
    with pytest.raises(ValueError, match="more than once"):
        BackgroundDispatcher(sink, ms_delay=1, layout=layout)
