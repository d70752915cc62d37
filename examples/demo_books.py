"""The demo's books: what the clients saw, what the gateway says, what is stored."""

import contextlib
import math
import secrets
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from demo_view import LOSSES, Statistics


@dataclass
class Tally:
    """What the clients saw."""

    answered: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    until: float = math.inf
    # Begins the name of each request: a spool may have some of an earlier run.
    run: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def ending(self) -> bool:
        return self.until < math.inf


@dataclass
class Store:
    """What the collector has stored of a run."""

    rows: int
    stored: dict[str, int]  # distinct entries of each request
    split: int = 0  # entries that arrived in batches of more than one id

    @property
    def distinct(self) -> int:
        return sum(self.stored.values())

    @property
    def doubles(self) -> int:
        return self.rows - self.distinct


def read_store(database: Path, run: str) -> Store:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        stored = connection.execute(
            """
            SELECT request_id, sum(times), count(*), sum(ids > 1) FROM (
                SELECT request_id, count(*) AS times, count(DISTINCT batch) AS ids
                FROM entries WHERE request_id LIKE ? GROUP BY request_id, number
            ) GROUP BY request_id
            """,
            [f"{run}-%"],
        ).fetchall()
    return Store(
        sum(times for _, times, _, _ in stored),
        {request: distinct for request, _, distinct, _ in stored},
        sum(split for _, _, _, split in stored),
    )


@dataclass
class Books:
    """What the clients saw, what the gateway says, and what is in the store."""

    entries: int  # to a request
    tally: Tally
    after_signal: int  # responses
    statistics: Statistics | None  # at the end of the gateway
    store: Store

    @property
    def owed(self) -> int:
        return len(self.tally.answered) * self.entries

    def disagreements(self) -> list[str]:
        if self.statistics is None:
            return ["the gateway left no final statistics"]
        incomplete = sum(
            self.store.stored.get(request) != self.entries
            for request in self.tally.answered
        )
        found = self.miscounts(self.statistics)
        if incomplete:
            found.append(f"{incomplete:,} responses without all their entries")
        return found + self.tally.wrong[:10] + ([] if self.owed else ["no response"])

    def miscounts(self, seen: Statistics) -> list[str]:
        """Numbers that differ and should not: every entry arrives once."""
        counts = {
            "accepted": seen["accepted"],
            "dispatched": seen["dispatched"],
            "rows": self.store.rows,
            "distinct rows": self.store.distinct,
        }
        found = [
            f"{owed:,} entries owed for the responses, but {count:,} {name}"
            for name, count in counts.items()
            if count != (owed := self.owed)
        ]
        uncounted = self.store.stored.keys() - self.tally.answered
        if uncounted:
            found.append(f"{len(uncounted):,} requests stored that no client counted")
        return found

    def lines(self, seen: Statistics) -> dict[str, float | None]:
        """What is shown, by name."""
        return {
            "responses counted by the clients": len(self.tally.answered),
            "  of these, after the SIGTERM": self.after_signal,
            "requests without a response": len(self.tally.unanswered),
            f"entries owed, {self.entries} to a response": self.owed,
            "entries accepted": seen.get("accepted"),
            "entries dispatched": seen.get("dispatched"),
            "rows in SQLite": self.store.rows,
            "distinct rows": self.store.distinct,
            "batches": seen.get("batches"),
            "failed, evicted, abandoned or rejected": lost(seen),
        }

    def show(self, console: Console) -> None:
        table = Table(box=None, show_header=False)
        table.add_column()
        table.add_column(justify="right", style="bold")
        for name, count in self.lines(self.statistics or {}).items():
            table.add_row(name, "unknown" if count is None else f"{count:,}")
        console.print(table)
        disagreements = self.disagreements()
        for disagreement in disagreements:
            console.print(disagreement, style="red")
        if disagreements:
            console.print("The books do not agree.", style="bold red")
        else:
            console.print("The books agree.", style="bold green")


class BooksOfKill(Books):
    """The same where a gateway was killed: the statistics are its successor's.

    An entry may arrive twice, under one id; and entries of requests that got no
    response may arrive, too.
    """

    def miscounts(self, seen: Statistics) -> list[str]:
        found = []
        if seen["accepted"] != seen["dispatched"]:
            found.append(
                f"{seen['accepted']:,} accepted after the SIGKILL, but "
                f"{seen['dispatched']:,} dispatched"
            )
        if seen["recovered_failed"]:
            found.append(f"{seen['recovered_failed']:,} recovered entries failed")
        if self.store.split:
            found.append(f"{self.store.split:,} doubles without their first one's id")
        sent = self.tally.answered | self.tally.unanswered
        unknown = self.store.stored.keys() - sent
        if unknown:
            found.append(f"{len(unknown):,} requests stored that no client sent")
        return found

    def lines(self, seen: Statistics) -> dict[str, float | None]:
        store = self.store
        unanswered = sum(store.stored.get(name, 0) for name in self.tally.unanswered)
        return {
            "responses counted by the clients": len(self.tally.answered),
            "  of these, after the SIGKILL": self.after_signal,
            "requests without a response": len(self.tally.unanswered),
            f"entries owed, {self.entries} to a response": self.owed,
            "entries of requests without one": unanswered,
            "distinct rows in SQLite": store.distinct,
            "doubles with their first one's id": store.doubles - store.split,
            "doubles with another id": store.split,
            "recovered from the spool": seen.get("recovered"),
            "failed, evicted, abandoned or rejected": lost(seen),
        }


def lost(seen: Statistics) -> float:
    return sum(seen.get(name, 0) for name in LOSSES)
