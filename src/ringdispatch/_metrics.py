"""What metrics there are of a dispatcher, for any system of metrics."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from ._statistics import Statistics

Values = dict[
    str | None, float
]  # by the value of the metric's own label, if it has one


class Metric(NamedTuple):
    """One metric, read from a snapshot.

    Attributes:
        name: With dots, without a unit and without `_total`.
        unit: `s`, `By`, or what is counted.
        about: What it counts or measures.
        kind: A counter only grows; a level may be added to others, a gauge may not.
        label: Its own label, beside `dispatcher`.
        read: The values of a snapshot; none where the layout has no such figure.
    """

    name: str
    unit: str
    about: str
    kind: Literal["counter", "level", "gauge"]
    label: str | None
    read: Callable[[Statistics], Values]


def _field(name: str) -> Callable[[Statistics], Values]:
    def read(seen: Statistics) -> Values:
        value = getattr(seen, name)
        return {} if value is None else {None: value}

    return read


def _dropped(seen: Statistics) -> Values:
    return {
        "evicted": seen.evicted,
        "abandoned": seen.abandoned,
        "rejected_full": seen.rejected_full,
        "rejected_closed": seen.rejected_closed,
        "rejected_oversized": seen.rejected_oversized,
    }


def _batches(seen: Statistics) -> Values:
    return {"dispatched": seen.dispatched_batches, "failed": seen.failed_batches}


def _recovered(seen: Statistics) -> Values:
    return {"dispatched": seen.recovered, "failed": seen.recovered_failed}


METRICS = (
    Metric(
        "entries.accepted",
        "{entry}",
        "Entries that went into the ring",
        "counter",
        None,
        _field("accepted"),
    ),
    Metric(
        "entries.dispatched",
        "{entry}",
        "Entries whose dispatch returned",
        "counter",
        None,
        _field("dispatched"),
    ),
    Metric(
        "entries.failed",
        "{entry}",
        "Entries whose dispatch raised, timed out or was cancelled",
        "counter",
        None,
        _field("failed"),
    ),
    Metric(
        "entries.dropped",
        "{entry}",
        "Entries that were dropped: accepted, then evicted or abandoned; or rejected",
        "counter",
        "reason",
        _dropped,
    ),
    Metric(
        "entries.left",
        "{entry}",
        "Entries that a close or exit left in a spool",
        "counter",
        None,
        _field("left"),
    ),
    Metric(
        "entries.recovered",
        "{entry}",
        "Entries of ended processes whose dispatch ended, by its outcome",
        "counter",
        "outcome",
        _recovered,
    ),
    Metric(
        "entries.kept",
        "{entry}",
        "Entries of failed batches that were kept in a spool as dead letters",
        "counter",
        None,
        _field("kept"),
    ),
    Metric(
        "entries.kept_dropped",
        "{entry}",
        "Entries in dead letters that were removed to make room for newer ones",
        "counter",
        None,
        _field("kept_dropped"),
    ),
    Metric(
        "batches",
        "{batch}",
        "Batches whose dispatch ended, by its outcome",
        "counter",
        "outcome",
        _batches,
    ),
    Metric(
        "dispatch",
        "s",
        "Seconds from the start of a dispatch until its batch was settled",
        "counter",
        None,
        _field("dispatch_seconds_total"),
    ),
    Metric(
        "entries.pending",
        "{entry}",
        "Entries in the ring",
        "level",
        None,
        _field("pending"),
    ),
    Metric(
        "entries.in_flight",
        "{entry}",
        "Entries handed to the dispatch function and not yet settled",
        "level",
        None,
        _field("in_flight"),
    ),
    Metric(
        "entries.capacity",
        "{entry}",
        "Most entries that can be pending at once",
        "level",
        None,
        _field("capacity"),
    ),
    Metric(
        "oldest_entry_age",
        "s",
        "Upper bound of the oldest pending entry's age",
        "gauge",
        None,
        _field("oldest_age_seconds"),
    ),
    Metric(
        "pending",
        "By",
        "Bytes of the pending entries, where the layout counts them",
        "level",
        None,
        _field("pending_bytes"),
    ),
    Metric(
        "capacity",
        "By",
        "Most bytes that can be pending at once, where the layout counts them",
        "level",
        None,
        _field("max_bytes"),
    ),
)
