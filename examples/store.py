"""A service behind a relay that stores each entry once, however often it comes.

    DATABASE=entries.sqlite python -m ringdispatch relay --from redis://127.0.0.1 \
        --stream S --to store:in_sqlite
    DATABASE=postgresql://localhost/shop python -m ringdispatch relay ... \
        --to store:in_postgresql

An entry's id is the same whenever it comes again: the table's key drops the second. The
transaction ends before the function returns, and only then the relay acknowledges.
Entries that are older than anything in the stream, and in gateways' spools, may be
removed.
"""

import functools
import json
import os
import sqlite3
from collections.abc import Sequence
from typing import Any

MAKE = "CREATE TABLE IF NOT EXISTS entries (id text PRIMARY KEY, entry {json} NOT NULL)"


def as_json(record: Any) -> str:
    """An entry of the layout Objects, or of Bytes if these are JSON."""
    return record.decode() if isinstance(record, bytes) else json.dumps(record)


@functools.cache
def sqlite() -> sqlite3.Connection:
    """The relay calls an ordinary function always in the same thread."""
    connection = sqlite3.connect(os.environ["DATABASE"])
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(MAKE.format(json="text"))
    return connection


def in_sqlite(records: Sequence[Any], ids: list[str]) -> None:
    """Store what is not there yet."""
    rows = zip(ids, map(as_json, records), strict=True)
    with sqlite() as connection:  # one transaction
        connection.executemany(
            "INSERT INTO entries VALUES (?, ?) ON CONFLICT DO NOTHING", rows
        )


def in_postgresql(records: Sequence[Any], ids: list[str]) -> None:
    """The same by one statement; a connection that was lost is made anew."""
    import psycopg

    try:
        with postgresql().transaction():
            postgresql().execute(
                "INSERT INTO entries SELECT * FROM unnest(%s::text[], %s::jsonb[]) "
                "ON CONFLICT DO NOTHING",
                [ids, [*map(as_json, records)]],
            )
    except psycopg.OperationalError:
        postgresql.cache_clear()
        raise  # the relay calls again


@functools.cache
def postgresql() -> Any:
    """A connection, with the table."""
    import psycopg

    connection = psycopg.connect(os.environ["DATABASE"], autocommit=True)
    connection.execute(MAKE.format(json="jsonb"))
    return connection
